"""Where members start. A launcher decides where the member supervisor runs; the supervisor does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from alearn.types import Exit


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one member, ready to start.

    Args:
        member: the member's id.
        attempt: which attempt (1 is the first).
        argv: the command, never through a shell.
        env: variables added to the launcher's environment.
        directory: the attempt's own working directory (created by the launcher if absent); its stdout, stderr
            and exit record are written there.
        cores: CPU cores.
        gpus: GPUs.
        memory_mb: memory limit of the process tree; None is no limit.
        wall_s: wall-time limit; None is no limit.
        output_mb: bound on stdout and stderr together.
        disk_mb: limit of what the attempt's directory holds; None is no limit.
        warm: what a process that has imported the simulation may run instead of ``argv``; see ``Command.warm``.
    """

    member: str
    attempt: int
    argv: tuple[str, ...]
    directory: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1
    gpus: int = 0
    memory_mb: int | None = None
    wall_s: float | None = None
    output_mb: float = 16.0
    disk_mb: float | None = None
    warm: tuple[str, ...] = ()


class Launcher(Protocol):
    """Starts and cancels members. Not thread-safe; owned by the study's loop."""

    @property
    def slots(self) -> int:
        """How many members may run at a time (may change while a study runs)."""
        ...

    def submit(self, job: Job) -> None:
        """Start an attempt.

        Raises:
            LaunchError: it cannot be started at all (no such program, no permission, no slot).
        """
        ...

    def poll(self) -> Sequence[Exit]:
        """The attempts that ended since the last call. Returns at once."""
        ...

    def cancel(self, member: str, attempt: int, grace_s: float = 2.0) -> None:
        """End an attempt: SIGTERM to its tree, SIGKILL after the grace. Returns at once; the Exit follows by poll."""
        ...

    def close(self, deadline_s: float = 10.0) -> None:
        """End everything that still runs, wait until it is gone, release all."""
        ...


class Waitable(Protocol):
    """What a launcher may offer beside ``Launcher``: sleeping until something happens instead of polling."""

    def fileno(self) -> int:
        """A file descriptor that becomes readable when ``poll`` may have something."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until an attempt has ended, at most ``timeout_s``; True if ``poll`` has something."""
        ...


@runtime_checkable
class Elastic(Protocol):
    """What a launcher offers whose slots can be added and removed while a study runs."""

    def resize(self, slots: int) -> None:
        """Run up to ``slots`` members at a time from now on; those that run are left alone.

        Raises:
            ConfigError: so many do not fit.
        """
        ...


@runtime_checkable
class Adopting(Protocol):
    """What a launcher offers whose members outlive their controller (see docs/running-on-a-cluster.md)."""

    def adopt(self, directory: Path) -> Sequence[tuple[str, int]]:
        """Take over the members of the study in ``directory`` that still run; returns (member, attempt) of each."""
        ...

    def leave(self) -> None:
        """Close without ending the members, for a controller that comes back soon."""
        ...
