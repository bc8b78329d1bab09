"""When a running member is killed: a monitor's alarm at once, or the value of continuing."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from alearn.controller.decisions import Decision, Kill, Spare
from alearn.controller.member import Record
from alearn.controller.policy import room
from alearn.controller.state import StudyState
from alearn.errors import ConfigError
from alearn.types import MemberState


class NeverKill:
    """Kill only what a monitor condemns.

    Args:
        alarms: whether alarms kill; False lets everything run to its end.
    """

    def __init__(self, *, alarms: bool = True) -> None:
        self.alarms = alarms

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        """The kills that alarms ask for."""
        return _alarms(state) if self.alarms else []


class ValueOfContinuing:
    """Kill a member whose remaining steps teach less per core-second than the best candidate would in its slot.

    The ratio of the two values comes with ``MemberScored``. It must stay under the threshold for several scores in a
    row, each after new steps. A share of the condemned, drawn by a hash of seed and member, runs on as ghosts: what
    they still teach tells what the kills cost.

    Args:
        threshold: kill under this ratio of remaining value to the best candidate's.
        hysteresis: how many scores in a row must be under it, at least 2.
        min_steps: steps that a member may always make.
        min_share: share of its expected trajectory that a member may always make.
        min_saved: steps that a kill must save.
        ghosts: share of the condemned that runs on, in [0, 1].
        spare: origins that are never killed for their value; the initial design and the hold-out stay whole
            trajectories, so that they are unbiased data.
        replace: kill only if a waiting member or the budget can use the slot.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.2,
        hysteresis: int = 2,
        min_steps: int = 3,
        min_share: float = 0.1,
        min_saved: int = 1,
        ghosts: float = 0.1,
        spare: Sequence[str] = ("design", "holdout"),
        replace: bool = True,
    ) -> None:
        if threshold < 0 or not 0 <= ghosts <= 1 or not 0 <= min_share <= 1:
            raise ConfigError(f"threshold={threshold} must not be negative, ghosts={ghosts} and min_share={min_share} lie in [0, 1].")
        if not 2 <= hysteresis <= 8:
            raise ConfigError(f"hysteresis={hysteresis} must lie between 2 and 8 scores: one alone is noise.")
        self.threshold, self.hysteresis = threshold, hysteresis
        self.min_steps, self.min_share, self.min_saved = min_steps, min_share, min_saved
        self.ghosts, self.spare, self.replace = ghosts, frozenset(spare), replace

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        """Kills and spared ghosts, of each origin the least valuable first."""
        out = _alarms(state)
        origins = [ranking for origin, ranking in state.outbid.items() if origin not in self.spare]
        outbid = [m for ranking in origins for m in ranking.below(self.threshold) if m not in state.alarmed]
        if not outbid or (self.replace and not state.queue and room(state, now)[0] < 1):
            return out
        for member in outbid:
            record = state.active[member]
            saved = self._saved(state, record)
            if not self._condemned(state, record, saved):
                continue
            length = round(state.length(record))
            about = f" of about {length}" if length > record.steps else ""
            why = (
                f"nothing left to teach: remaining value {record.scores[-1][1]:.2g} of the best candidate's, at step {record.steps}{about}"
            )
            if is_ghost(state.seed, member, self.ghosts):
                out.append(Spare(member, f"runs on as a ghost, though {why}"))
            else:
                out.append(Kill(member, record.attempt, f"{why}; {saved} steps saved", saved))
        return out

    def _saved(self, state: StudyState, record: Record) -> int:
        length = state.length(record)
        if record.steps_total or length > record.steps:
            return max(0, round(length) - record.steps)
        seen = record.scores[-1][0] + 1  # no length is known but the surrogate's guess, made when it had seen so many steps
        return max(0, record.remaining_steps - (record.steps - seen))

    def _condemned(self, state: StudyState, record: Record, saved: int) -> bool:
        if record.state is not MemberState.RUNNING or saved < self.min_saved:
            return False
        if record.steps < self.min_steps or record.steps < self.min_share * state.length(record):
            return False
        latest = record.scores[-self.hysteresis :]
        return len(latest) == self.hysteresis and all(ratio < self.threshold for _, ratio in latest)


def is_ghost(seed: int, member: str, share: float) -> bool:
    """Whether this member is one of the share that runs on; the same answer every time it is asked."""
    digest = blake2b(f"ghost:{seed}:{member}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def _alarms(state: StudyState) -> list[Decision]:
    out: list[Decision] = []
    for r in state.alarmed.values():
        saved = max(0, round(state.length(r)) - r.steps)
        out.append(Kill(r.id, r.attempt, f"{r.monitor}: {r.alarm}", saved, fault=r.fault, cause=r.monitor))
    return out
