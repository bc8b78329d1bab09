"""The life of a member: what a small record holds, and which events are legal when.

::

    QUEUED ──► STARTING ──► RUNNING ──► DONE | KILLED | FAILED | LOST
      ▲            └────────────────────►          (an attempt may end before its stream opens)
      └──────────────────────────────────────────── LOST  (the next attempt)

A new controller calls every active attempt LOST; one that still runs or has ended meanwhile is taken up again by
``MemberRunning`` or ``MemberEnded`` of the same attempt (the record is *adoptable* until the next attempt).

Every attempt has a number. What arrives from an earlier attempt than the present one, or from one that is over,
is *late*: it is counted and changes nothing. What no order of arrival can explain is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alearn.errors import IllegalEvent
from alearn.types import MemberState

NEXT: Mapping[MemberState, frozenset[MemberState]] = {
    MemberState.QUEUED: frozenset({MemberState.STARTING}),
    MemberState.STARTING: frozenset({MemberState.RUNNING, MemberState.DONE, MemberState.KILLED, MemberState.FAILED, MemberState.LOST}),
    MemberState.RUNNING: frozenset({MemberState.DONE, MemberState.KILLED, MemberState.FAILED, MemberState.LOST}),
    MemberState.LOST: frozenset({MemberState.QUEUED}),
    MemberState.DONE: frozenset(),
    MemberState.KILLED: frozenset(),
    MemberState.FAILED: frozenset(),
}
"""The legal transitions."""

SCORES_KEPT = 8


@dataclass(slots=True)
class Record:
    """A member that is queued, active or lost, as the policies see it. Only ``apply`` changes it.

    Args:
        id: the member's id.
        parameters: in the user's units.
        x: the point in the unit cube, ``(d,)``.
        origin: "design", "acquisition", "holdout" or "user".
        round: the acquisition round it came from.
        score: the acquisition's present score; ``first_score`` the one at its choice.
        state: where it is in its life.
        attempt: the present or last attempt; 0 before the first.
        steps: time steps stored, over all attempts.
        steps_total: length of the trajectory as the simulation announced it; 0 if unknown.
        t: simulation time of the last step stored.
        queued_at, launched_at, running_at, last_step_at: Unix time, s; NaN before.
        pace_s: seconds a step of this attempt, smoothed; NaN before the second commit.
        scores: the last few (step, ratio of remaining to best value), oldest first; a ratio is infinite where
            the surrogate could not tell.
        remaining_value, best_value, remaining_steps, surprise: of the latest score.
        monitor, alarm, fault: the monitor's alarm that stands, if any.
        kill: the reason of the kill that was requested, if any; ``kill_fault``, ``kill_cause`` and
            ``kill_saves`` belong to it.
        ghost: it was condemned and runs on as a control; ``ghost_step`` says since when.
        adoptable: it is lost only because the controller died.
        excused: attempts that are lost only because the controller died: they are not held against the member.
        lost_at, lost_by: when and by which cause its last attempt was lost, while it is.
        copied: a copy of the present attempt was started; ``won``: the copy was done first.
        steered: the user changed it while it ran, so that a copy would be another simulation.
        estimates: core- and wall seconds by attempt that were abandoned and of whose end nobody has heard.
    """

    id: str
    parameters: Mapping[str, Any] = field(repr=False)
    x: tuple[float, ...] = field(repr=False)
    origin: str
    round: int
    score: float
    first_score: float
    queued_at: float
    state: MemberState = MemberState.QUEUED
    attempt: int = 0
    steps: int = 0
    steps_total: int = 0
    t: float = math.nan
    launched_at: float = math.nan
    running_at: float = math.nan
    last_step_at: float = math.nan
    pace_s: float = math.nan
    scores: tuple[tuple[int, float], ...] = ()
    remaining_value: float = math.nan
    best_value: float = math.nan
    remaining_steps: int = 0
    surprise: float = math.nan
    monitor: str = ""
    alarm: str = ""
    fault: bool = False
    kill: str = ""
    kill_fault: bool = False
    kill_cause: str = ""
    kill_saves: int = 0
    ghost: bool = False
    ghost_step: int = 0
    adoptable: bool = False
    estimates: dict[int, tuple[float, float]] | None = None
    excused: int = 0
    lost_at: float = math.nan
    lost_by: str = ""
    copied: bool = False
    won: bool = False
    steered: bool = False

    @property
    def tries(self) -> int:
        """Attempts that count against the member."""
        return self.attempt - self.excused


@dataclass(slots=True)
class Copy:
    """The copy of an attempt: since when it runs, and why it is to end, if it is."""

    attempt: int
    launched_at: float
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is left of a member that is done, killed, failed or withdrawn."""

    state: MemberState
    attempt: int
    steps: int
    withdrawn: bool = False


_CODES = (MemberState.DONE, MemberState.KILLED, MemberState.FAILED)


def pack(settled: Settled) -> int:
    """One integer for a settled member, so that a million of them stay small."""
    return settled.steps << 16 | min(settled.attempt, 0x1FFF) << 3 | settled.withdrawn << 2 | _CODES.index(settled.state)


def unpack(code: int) -> Settled:
    """Inverse of ``pack``."""
    return Settled(_CODES[code & 3], code >> 3 & 0x1FFF, code >> 16, bool(code & 4))


def require(record: Record | Settled, member: str, to: MemberState, what: str) -> None:
    """Refuse a transition that is not legal.

    Raises:
        IllegalEvent: it is not.
    """
    if to not in NEXT[record.state]:
        legal = ", ".join(sorted(NEXT[record.state])) or "nothing"
        raise IllegalEvent(
            f"{what} would take member {member} from {record.state} to {to} (attempt {record.attempt}); "
            f"from there it can only become {legal}."
        )


def late(record: Record | Settled, member: str, attempt: int, what: str) -> bool:
    """True if an event of ``attempt`` comes too late to change the member's life.

    Raises:
        IllegalEvent: the attempt was never launched.
    """
    if attempt > record.attempt or attempt < 1:
        raise IllegalEvent(f"{what} names attempt {attempt} of member {member}, which was launched {record.attempt} times.")
    return attempt < record.attempt or not record.state.active


def value_ratio(remaining: float, best: float) -> float:
    """Remaining value over best value; infinite where either is unknown or nothing better is at hand."""
    if not (math.isfinite(remaining) and math.isfinite(best)) or best <= 0.0:
        return math.inf
    return max(remaining, 0.0) / best
