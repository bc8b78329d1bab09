"""How the user's simulation becomes a member's process: a Python function, or a program.

Loaded lazily, because every member's process passes through here on its way to ``drive``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.simulation.base import Command, Recorded, Settled, Simulation
    from alearn.simulation.command import CommandSimulation
    from alearn.simulation.python import PythonSimulation, target_of
    from alearn.simulation.replay import ReplaySimulation

_LAZY = {"Command": "base", "Simulation": "base", "CommandSimulation": "command", "PythonSimulation": "python", "target_of": "python"}
_LAZY |= {"Recorded": "base", "Settled": "base", "ReplaySimulation": "replay"}

__all__ = ["Command", "CommandSimulation", "PythonSimulation", "Recorded", "ReplaySimulation", "Settled", "Simulation", "target_of"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'alearn.simulation' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"alearn.simulation.{_LAZY[name]}"), name)
