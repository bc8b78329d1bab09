"""Pre-processing in the stream: transforms that run at the writer or at the reader, and codecs that the study learns.

Loaded lazily, because a member that transforms its steps passes through here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.transform.base import Codec, Learning, Transform
    from alearn.transform.diagnostics import DIAGNOSTICS
    from alearn.transform.pipeline import Pipeline
    from alearn.transform.planner import Costs, Planner, predict

_LAZY = {
    "Codec": "base", "Costs": "planner", "DIAGNOSTICS": "diagnostics", "Learning": "base", "Pipeline": "pipeline", "Planner": "planner",
    "Transform": "base", "predict": "planner",
}  # fmt: skip

__all__ = ["Codec", "Costs", "DIAGNOSTICS", "Learning", "Pipeline", "Planner", "Transform", "predict"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'alearn.transform' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"alearn.transform.{_LAZY[name]}"), name)
