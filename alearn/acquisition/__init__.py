"""acquisition: what to simulate next: a batch of points, each with a score and a reason. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.acquisition.bait import Bait
    from alearn.acquisition.bald import Bald
    from alearn.acquisition.base import Acquisition, Context, PoolFunction, Selection
    from alearn.acquisition.baselines import LatinHypercube, Maximin, Random, Sobol
    from alearn.acquisition.breed import Breed
    from alearn.acquisition.bridge import BoTorchAcquisition
    from alearn.acquisition.core_set import CoreSet
    from alearn.acquisition.deficit import Deficit
    from alearn.acquisition.epig import Epig
    from alearn.acquisition.goal import GoalWeighted
    from alearn.acquisition.inverse import Inverse
    from alearn.acquisition.ivr import WeightedIVR
    from alearn.acquisition.lcmd import Lcmd
    from alearn.acquisition.maxdet import MaxDet
    from alearn.acquisition.mixture import Mixture, Schedule
    from alearn.acquisition.nehvi import Nehvi
    from alearn.acquisition.portfolio import Portfolio
    from alearn.acquisition.python import PythonAcquisition
    from alearn.acquisition.straddle import Straddle
    from alearn.acquisition.uncertainty import PosteriorStd, StdDistance, StochasticBatch
    from alearn.acquisition.vigf import Vigf

_WHERE = {
    "Acquisition": "base",
    "Bait": "bait",
    "Bald": "bald",
    "BoTorchAcquisition": "bridge",
    "Breed": "breed",
    "Context": "base",
    "CoreSet": "core_set",
    "Deficit": "deficit",
    "Epig": "epig",
    "GoalWeighted": "goal",
    "Inverse": "inverse",
    "LatinHypercube": "baselines",
    "Lcmd": "lcmd",
    "MaxDet": "maxdet",
    "Maximin": "baselines",
    "Mixture": "mixture",
    "Nehvi": "nehvi",
    "PoolFunction": "base",
    "Portfolio": "portfolio",
    "PosteriorStd": "uncertainty",
    "PythonAcquisition": "python",
    "Random": "baselines",
    "Schedule": "mixture",
    "Selection": "base",
    "Sobol": "baselines",
    "StdDistance": "uncertainty",
    "StochasticBatch": "uncertainty",
    "Straddle": "straddle",
    "Vigf": "vigf",
    "WeightedIVR": "ivr",
}

__all__ = [
    "Acquisition",
    "Bait",
    "Bald",
    "BoTorchAcquisition",
    "Breed",
    "Context",
    "CoreSet",
    "Deficit",
    "Epig",
    "GoalWeighted",
    "Inverse",
    "LatinHypercube",
    "Lcmd",
    "MaxDet",
    "Maximin",
    "Mixture",
    "Nehvi",
    "PoolFunction",
    "Portfolio",
    "PosteriorStd",
    "PythonAcquisition",
    "Random",
    "Schedule",
    "Selection",
    "Sobol",
    "StdDistance",
    "StochasticBatch",
    "Straddle",
    "Vigf",
    "WeightedIVR",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
