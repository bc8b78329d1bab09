"""What a member executes: how the user's simulation becomes one command line with a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from alearn.space import Space
from alearn.types import Parameters


@dataclass(frozen=True, slots=True)
class Command:
    """A command line and the variables it needs; the launcher adds those of the stream.

    Args:
        argv: the program and its arguments.
        env: variables added to the launcher's environment.
        warm: for a Python function, the arguments of ``alearn.simulation.drive``, with which a process that has imported
            the function already does the same as ``argv``; empty where only a fresh process will do.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    warm: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """A point as it will be simulated: ``x`` in the unit cube, shape ``(d,)``, the parameters, and what to add to the why."""

    x: tuple[float, ...]
    parameters: Parameters
    why: str = ""


@runtime_checkable
class Recorded(Protocol):
    """A simulation that can run at some points only: those that were recorded."""

    def available(self, space: Space) -> int:
        """How many of them lie in the space."""
        ...

    def settle(self, points: Sequence[Sequence[float]], taken: Sequence[Parameters], space: Space) -> list[Settled]:
        """Which of them, not taken yet, stand for these points (``n x d`` in the unit cube); fewer when they run out."""
        ...


class Simulation(Protocol):
    """The user's simulation, ready to be started at any point."""

    def command(self, parameters: Parameters) -> Command:
        """The command of one member at ``parameters``."""
        ...

    def describe(self) -> str:
        """One line for people: what runs."""
        ...
