"""The typed events of a study: the facts from which the controller's state and every decision follow.

An event is a frozen dataclass; its kind is its class name. ``encode`` and ``decode`` turn it into one JSON
line and back. ``at`` is Unix time in seconds (the only clock the controller ever sees).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alearn.errors import LedgerCorrupt

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, at a time."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStarted(Event):
    """The study was created. ``budget`` holds only the limits that are set."""

    study: str
    arm: str
    seed: int
    budget: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResumed(Event):
    """A controller took the study up again; every attempt that was active is lost unless re-adopted."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPaused(Event):
    """Nothing more is launched until the study is continued."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContinued(Event):
    """A pause ended."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChanged(Event):
    """New limits replace the named ones."""

    budget: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyEnded(Event):
    """state is done, stopped or failed."""

    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberQueued(Event):
    """A candidate became a member. ``x`` is the point in the unit cube."""

    member: str
    parameters: Mapping[str, Any]
    x: tuple[float, ...]
    origin: str
    score: float = math.nan
    why: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRescored(Event):
    """A queued member's score changed because the surrogate did; it may be withdrawn."""

    member: str
    score: float
    withdrawn: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRequeued(Event):
    """A lost member waits for its next attempt (state QUEUED). ``attempt`` is the one that was lost."""

    member: str
    attempt: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityChanged(Event):
    """The launcher runs up to ``slots`` members at a time from now on."""

    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLaunched(Event):
    """An attempt was handed to the launcher (state STARTING)."""

    member: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRunning(Event):
    """The attempt's stream opened (state RUNNING)."""

    member: str
    attempt: int
    steps_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesStored(Event):
    """Steps of one member became durable in one commit. ``steps`` counts the new ones, ``last`` is the
    highest step stored, ``t`` its time; ``duplicates`` were recognised and dropped."""

    member: str
    attempt: int
    steps: int
    last: int
    t: float
    duplicates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberScored(Event):
    """The surrogate's view of a running member, for the kill policy.

    Args:
        member: the member.
        step: the last step that the view knows of.
        remaining_value: what its remaining steps would still teach, per core-second.
        best_value: what the best candidate would teach in its slot, per core-second, start-up included.
        remaining_steps: expected number of steps still to come.
        surprise: mean |z| of its latest steps against the prediction made before they were learned.
        error: root mean square of the same differences, in units of the outputs' spread.
        taught: what those steps taught, per core-second, in the unit of ``remaining_value``.
    """

    member: str
    step: int
    remaining_value: float
    best_value: float
    remaining_steps: int = 0
    surprise: float = math.nan
    error: float = math.nan
    taught: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorAlarm(Event):
    """A monitor condemns a running member (diverging, stalled, infeasible, …).

    ``fault`` says that the member misbehaves: it will end as failed, not as killed.
    """

    member: str
    monitor: str
    reason: str
    fault: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KillRequested(Event):
    """The policy decided to kill; the member ends when its supervisor says so."""

    member: str
    attempt: int
    reason: str
    saved_steps: int = 0
    fault: bool = False
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerRequested(Event):
    """The user wants a running simulation to go on with new values of its knobs (numbers, texts, truth values)."""

    member: str
    attempt: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSteered(Event):
    """The simulation took the values; they hold from step number ``step`` on."""

    member: str
    attempt: int
    step: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostSpared(Event):
    """A condemned member runs on as the kill policy's control."""

    member: str
    step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEnded(Event):
    """An attempt is over. ``state`` is done, killed, failed or lost; a lost one may be queued again."""

    member: str
    attempt: int
    state: str
    reason: str = ""
    cause: str = ""
    core_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLaunched(Event):
    """A straggler's attempt runs a second time beside itself, under a name of its own (``alearn.types.copy_name``)."""

    member: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyCut(Event):
    """The copy of an attempt is to end."""

    member: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyEnded(Event):
    """The copy of an attempt is over. If its ``state`` is done, so is its member; otherwise it has only cost something."""

    member: str
    attempt: int
    state: str
    reason: str = ""
    core_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRevoked(Event):
    """The user takes a member's samples back: they stay in the ledger, and leave training and the archive's views."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundDecided(Event):
    """An acquisition round chose ``q`` points (each follows as MemberQueued)."""

    round: int
    q: int
    acquisition: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refitted(Event):
    """The surrogate was trained: ``updates`` and ``samples`` are totals so far; ``lead`` says in words which of several
    candidates answers now, and by how much it leads; ``busy_s`` is how long the learner was at work since the time before;
    ``last`` says whether this was the training to convergence at the end (None: written before that was told)."""

    updates: int
    samples: int
    loss: float = math.nan
    seconds: float = 0.0
    lead: str = ""
    busy_s: float = math.nan
    last: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """The surrogate was measured. ``error`` has mean, rmse, p95, p99, max, n_test; ``prequential`` the same of
    the arriving members; ``calibration`` has coverage95 and more; ``std`` has quantiles of the surrogate's standard
    deviation over the feasible part of the box (q50, q80, q90, q95, q99, q100), in units of the outputs' spread."""

    simulated_steps: int
    members: int
    error: Numbers
    prequential: Numbers = field(default_factory=dict)
    calibration: Numbers = field(default_factory=dict)
    std: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotWritten(Event):
    """A snapshot of the surrogate is on disk."""

    name: str
    updates: int


KINDS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        StudyStarted, StudyResumed, StudyPaused, StudyContinued, BudgetChanged, StudyEnded,
        MemberQueued, MemberRescored, MemberRequeued, MemberLaunched, MemberRunning, SamplesStored, MemberScored, MonitorAlarm,
        CapacityChanged, KillRequested, SteerRequested, MemberSteered,
        GhostSpared, MemberEnded, CopyLaunched, CopyCut, CopyEnded, MemberRevoked, RoundDecided, Refitted, Evaluated, SnapshotWritten,
    )
}  # fmt: skip


def encode(event: Event) -> str:
    """One JSON object: the kind under "kind", then the fields. NaN is written as null."""
    raw: dict[str, Any] = {"kind": type(event).__name__}
    for f in dataclasses.fields(event):
        raw[f.name] = _plain(getattr(event, f.name))
    return json.dumps(raw, separators=(",", ":"), allow_nan=False)


def decode(text: str) -> Event:
    """Inverse of ``encode``.

    Raises:
        LedgerCorrupt: the text is not an event of a known kind.
    """
    try:
        raw = json.loads(text)
        cls = KINDS[raw.pop("kind")]
        floats = {f.name for f in dataclasses.fields(cls) if f.type == "float"}
        for name, value in raw.items():
            if value is None and name in floats:
                raw[name] = math.nan
            elif isinstance(value, list):
                raw[name] = tuple(value)
            elif isinstance(value, dict):
                raw[name] = {k: math.nan if v is None else v for k, v in value.items()}
        return cls(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerCorrupt(f"This is not an event: {text[:120]!r} ({error}).") from error


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if math.isnan(value) else math.copysign(1.7976931348623157e308, value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        return _plain(value.item())
    return value
