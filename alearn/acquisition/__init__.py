"""acquisition: what to simulate next: a batch of points, each with a score and a reason. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.acquisition.base import Acquisition, Context, PoolFunction, Selection
    from alearn.acquisition.baselines import Maximin, Random, Sobol
    from alearn.acquisition.bridge import BoTorchAcquisition
    from alearn.acquisition.python import PythonAcquisition
    from alearn.acquisition.uncertainty import PosteriorStd, StdDistance, StochasticBatch

_WHERE = {
    "Acquisition": "base",
    "BoTorchAcquisition": "bridge",
    "Context": "base",
    "Maximin": "baselines",
    "PoolFunction": "base",
    "PosteriorStd": "uncertainty",
    "PythonAcquisition": "python",
    "Random": "baselines",
    "Selection": "base",
    "Sobol": "baselines",
    "StdDistance": "uncertainty",
    "StochasticBatch": "uncertainty",
}

__all__ = [
    "Acquisition",
    "BoTorchAcquisition",
    "Context",
    "Maximin",
    "PoolFunction",
    "PosteriorStd",
    "PythonAcquisition",
    "Random",
    "Selection",
    "Sobol",
    "StdDistance",
    "StochasticBatch",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
