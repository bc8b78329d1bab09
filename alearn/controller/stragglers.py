"""Members that are far slower than their kind: wait for them, kill them, or start them again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from alearn.controller.decisions import Decision, Kill
from alearn.controller.state import StudyState
from alearn.errors import ConfigError, UnknownName
from alearn.types import MemberState

ACTIONS = ("wait", "kill", "restart")
RESTART = "straggler"
"""The cause of a kill after which the member is tried again."""


class Deciding(Protocol):
    """The rule that decides about kills otherwise."""

    def decide(self, state: StudyState, now: float) -> Sequence[Decision]:
        """What to do at ``now`` (Unix s)."""
        ...


class Stragglers:
    """Adds to another kill rule what shall become of members that take far longer than those before them.

    An attempt is a straggler when the time since its launch exceeds ``factor`` times the expected time of a member (mean start-up
    plus mean pace times the length of its own trajectory). "kill" ends it and keeps what it streamed; "restart" ends it too, but
    its next attempt starts from anew, on another host where the launcher has several. Running both copies at once is not offered:
    an attempt fences the earlier ones off, so that no sample is ever counted twice.

    Args:
        inner: the kill rule that decides otherwise.
        action: "wait", "kill" or "restart".
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
        if self.action == "wait" or state.counts[MemberState.DONE] < self.least or math.isnan(state.seconds_per_step):
            return decisions
        startup = 0.0 if math.isnan(state.startup_s) else state.startup_s
        doomed = {d.member for d in decisions if isinstance(d, Kill)}
        for r in state.active.values():  # in the order of launch, so the first that is young ends the search
            taken = now - r.launched_at
            if taken < self.least_s:
                break
            if r.kill or r.ghost or r.id in doomed:
                continue
            expected = startup + state.seconds_per_step * state.length(r)
            if expected > 0 and taken > max(self.least_s, self.factor * expected):
                reason = f"a straggler: {taken:.0f} s so far, where {expected:.1f} s are expected of a member like it"
                if self.action == "restart":
                    decisions.append(Kill(r.id, r.attempt, f"{reason}; started again", cause=RESTART))
                else:
                    decisions.append(Kill(r.id, r.attempt, reason, max(0, round(state.length(r)) - r.steps)))
        return decisions
