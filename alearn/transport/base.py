"""The sample protocol, whatever carries the bytes.

A *hello* carries member, attempt, parameters, schema and provenance; then steps; then an end. The identity of
a step is (member, step). The reader acknowledges steps only after they are durable; the writer keeps what is
not acknowledged inside a byte-bounded window, which is the back-pressure, and sends it again after a
reconnect; the reader's owner drops what it has. An acknowledgement may carry *stop*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from alearn.types import Parameters, Sample, Schema


@dataclass(frozen=True, slots=True)
class Hello:
    """A member's stream opened (or re-opened).

    Args:
        member: the member's id.
        attempt: which attempt is writing; lower attempts are fenced off from here on.
        parameters: as the simulation received them.
        schema: what every step will carry.
        steps_total: how many steps the simulation expects to send; 0 if it does not know.
        provenance: host, pid, versions.
    """

    member: str
    attempt: int
    parameters: Parameters
    schema: Schema
    steps_total: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class End:
    """A member's writer said that it is finished. ``status`` is "done", "stopped" or "failed"."""

    member: str
    attempt: int
    steps: int
    status: str = "done"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that arrived was refused, or a stream broke off. It costs that stream only.

    ``member`` is empty when the peer never introduced itself. ``final`` says that no other stream of this attempt will come
    and that the writer may not know it: what it still computes is lost, so the attempt cannot become complete. ``fault`` says
    that its steps themselves are wrong, so that no other attempt would do better.
    """

    member: str
    attempt: int
    reason: str
    final: bool = False
    fault: bool = False


@dataclass(frozen=True, slots=True)
class Steered:
    """A member's simulation took the values that it was steered to; they hold from step number ``step`` on."""

    member: str
    attempt: int
    step: int
    values: Mapping[str, Any]


Message = Hello | Sample | End | Broken | Steered


class Reader(Protocol):
    """The learner's end: one for a study, many members."""

    def address(self, member: str, attempt: int) -> Mapping[str, str]:
        """Environment variables with which this attempt's writer finds the reader (announces the attempt)."""
        ...

    def poll(self, timeout_s: float, max_messages: int = 256) -> Sequence[Message]:
        """What arrived, in order for each member and fair across members; waits at most ``timeout_s``."""
        ...

    def acknowledge(self, member: str, attempt: int, steps: int) -> None:
        """Tell the writer that its steps ``0 … steps-1`` are durable. Also the answer to a Hello (steps may be 0)."""
        ...

    def stop(self, member: str, attempt: int) -> None:
        """Ask the writer politely to stop: its next ``put`` raises ``Stopped``."""
        ...

    def close(self) -> None:
        """Close every stream and remove what was created."""
        ...


@runtime_checkable
class Steering(Protocol):
    """A reader that can hand new values to simulations while they run."""

    def steer(self, member: str, attempt: int, values: Mapping[str, Any]) -> None:
        """Hand over values by name (numbers, texts, truth values). A ``Steered`` message tells when they were taken."""
        ...


@runtime_checkable
class Following(Protocol):
    """What a carrier offers beside ``Reader`` if its writers may know nothing of us: ADIOS2, files.

    Such a writer is found by where it runs, and cannot wait until its steps have arrived.
    """

    def follow(self, member: str, attempt: int, parameters: Parameters, directory: Path) -> None:
        """Where an attempt will run and with which parameters; said before ``address``."""
        ...

    def ended(self, member: str, attempt: int) -> None:
        """The attempt's process is gone. What it left is still read; a last End or Broken follows unless one has come."""
        ...


class Writer(Protocol):
    """The simulation's end."""

    def put(self, t: float, values: Mapping[str, Any]) -> None:
        """Send the next step; blocks while the window of unacknowledged bytes is full.

        Raises:
            Stopped: the learner asked to stop.
            DeadlineExceeded: no room came within the deadline.
            SchemaError: the step is not as announced.
        """
        ...

    def close(self, status: str = "done", reason: str = "") -> None:
        """Flush until everything is acknowledged, then say the end."""
        ...
