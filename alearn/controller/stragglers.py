"""Members that are far slower than their kind: wait for them, kill them, start them again, or run them a second time beside themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from alearn.controller.decisions import Cut, Decision, Duplicate, Kill
from alearn.controller.state import StudyState
from alearn.errors import ConfigError, UnknownName
from alearn.types import MemberState

ACTIONS = ("wait", "kill", "restart", "duplicate")
RESTART = "straggler"
"""The cause of a kill after which the member is tried again."""
COPY = "copy"
"""The cause of the end of a member whose copy was done first."""


class Deciding(Protocol):
    """The rule that decides about kills otherwise."""

    def decide(self, state: StudyState, now: float) -> Sequence[Decision]:
        """What to do at ``now`` (Unix s)."""
        ...


class Stragglers:
    """Adds to another kill rule what shall become of members that take far longer than those before them.

    An attempt is a straggler when the time since its launch exceeds ``factor`` times the expected time of a member (mean start-up
    plus mean pace times the length of its own trajectory). "kill" ends it and keeps what it streamed; "restart" ends it too, but
    its next attempt starts from anew, on another host where the launcher has several. "duplicate" lets it run on and starts the same
    attempt a second time in a free slot, before anything new is launched (speculative execution, as Dean and Ghemawat's MapReduce
    has it, OSDI 2004): whichever copy is done first is taken, the other is ended. A step that both send is stored once, by its
    (member, step). Each attempt is copied at most once; one that a user has steered is not, its copy would be another simulation.

    Args:
        inner: the kill rule that decides otherwise.
        action: "wait", "kill", "restart" or "duplicate".
        factor: how many times the expected time, above 1.
        least: members that must be done before anything is expected.
        least_s: seconds that an attempt may always take.
    """

    def __init__(self, inner: Deciding, *, action: str = "wait", factor: float = 5.0, least: int = 5, least_s: float = 5.0) -> None:
        if action not in ACTIONS:
            raise UnknownName("way to treat stragglers", action, ACTIONS)
        if not 1 < factor < math.inf or least < 1 or not least_s >= 0:
            given = f"factor={factor}, least={least} and least_s={least_s} were given"
            raise ConfigError(f"Stragglers need a factor above 1, least ≥ 1 and least_s ≥ 0; {given}.")
        self.inner = inner
        self.action, self.factor, self.least, self.least_s = action, factor, least, least_s

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        """The inner rule's decisions, and what becomes of stragglers."""
        decisions = list(self.inner.decide(state, now))
        doomed = {d.member for d in decisions if isinstance(d, Kill)}
        decisions += self._conclude(state, doomed)
        if self.action == "wait" or state.counts[MemberState.DONE] < self.least or math.isnan(state.seconds_per_step):
            return decisions
        startup = 0.0 if math.isnan(state.startup_s) else state.startup_s
        free = (state.slots or 0) - state.busy
        for r in state.active.values():  # in the order of launch, so the first that is young ends the search
            taken = now - r.launched_at
            if taken < self.least_s:
                break
            if r.kill or r.ghost or r.won or r.id in doomed:
                continue
            expected = startup + state.seconds_per_step * state.length(r)
            if expected > 0 and taken > max(self.least_s, self.factor * expected):
                reason = f"a straggler: {taken:.0f} s so far, where {expected:.1f} s are expected of a member like it"
                if self.action == "duplicate":
                    if free > 0 and not (r.copied or r.steered or r.id in state.copies):
                        free -= 1
                        decisions.append(Duplicate(r.id, f"{reason}; run a second time beside itself"))
                elif self.action == "restart":
                    decisions.append(Kill(r.id, r.attempt, f"{reason}; started again", cause=RESTART))
                else:
                    decisions.append(Kill(r.id, r.attempt, reason, max(0, round(state.length(r)) - r.steps)))
        return decisions

    @staticmethod
    def _conclude(state: StudyState, doomed: set[str]) -> list[Decision]:
        """End what has lost against its copy, and copies that nobody needs any more."""
        lost = [r for r in state.won.values() if not r.kill and r.id not in doomed]
        out: list[Decision] = [Kill(r.id, r.attempt, "its copy was done first", cause=COPY) for r in lost]
        for member, copy in state.copies.items():
            record = state.active.get(member)
            if copy.cut or (record is not None and record.attempt == copy.attempt and not record.kill):
                continue
            why = f"ended: {record.kill}" if record is not None and record.attempt == copy.attempt else "over"
            out.append(Cut(member, copy.attempt, f"what it copies is {why}"))
        return out
