"""What to do about attempts that ended badly: which are failures, which are tried again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alearn.controller.decisions import Decision, Pause, Requeue, Wait
from alearn.controller.member import Record
from alearn.controller.state import StudyState
from alearn.controller.stragglers import COPY, RESTART
from alearn.errors import ConfigError, UnknownName
from alearn.types import Exit, ExitCause, MemberState

BAD_LUCK = (ExitCause.PREEMPTED, ExitCause.NODE_LOST, ExitCause.WALL_TIME)
"""Causes that say nothing about the member: it is lost, not failed, and may be tried again."""
LONGEST_BACKOFF_S = 86400.0


class Retry:
    """Queue lost members again, up to a number of attempts; pause when everything is being lost.

    Args:
        max_attempts: launches of one member in all; those that died with the controller do not count.
        retry: further causes (out of ``ExitCause``) after which a member is tried again; exceptions, exit codes
            and bad values repeat themselves as a rule, so none by default.
        pause_after: attempts lost in a row after which the study pauses (a broken machine, not broken members).
        backoff_s: seconds before the next attempt, twice as many each time; one number, or one for each cause.
    """

    def __init__(
        self,
        *,
        max_attempts: int = 3,
        retry: Sequence[str] = (),
        pause_after: int = 20,
        backoff_s: float | Mapping[str, float] = 0.0,
    ) -> None:
        if max_attempts < 1 or pause_after < 1:
            raise ConfigError(f"max_attempts={max_attempts} and pause_after={pause_after} must be at least 1.")
        named = [*retry, *(backoff_s if isinstance(backoff_s, Mapping) else ())]
        for cause in named:
            if cause not in set(ExitCause):
                raise UnknownName("cause of a failure", cause, ExitCause)
        each = backoff_s if isinstance(backoff_s, Mapping) else dict.fromkeys(map(str, ExitCause), float(backoff_s))
        self.backoff_s: dict[str, float] = dict(each)
        if not all(0 <= s <= LONGEST_BACKOFF_S for s in self.backoff_s.values()):
            raise ConfigError(f"backoff_s is {backoff_s}; give seconds between 0 and {LONGEST_BACKOFF_S:g}.")
        self.max_attempts, self.pause_after = max_attempts, pause_after
        self.causes = frozenset(BAD_LUCK) | {ExitCause(c) for c in retry}

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        """Requeue what is lost, or pause."""
        if state.lost_in_a_row >= self.pause_after and not state.paused:
            return [Pause(f"the last {state.lost_in_a_row} attempts were all lost: look at the machine, then continue the study")]
        out: list[Decision] = []
        for m in state.lost.below(self.max_attempts):
            r = state.records[m]
            if m in state.revoked:
                continue
            delay = self.delay(r)
            due = r.lost_at + delay
            if delay and now < due:  # never of one whose controller died: nobody knows when it was lost
                out.append(Wait(m, f"lost in attempt {r.attempt} ({r.lost_by}); tried again in {due - now:.0f} s"))
            else:
                out.append(Requeue(m, f"lost in attempt {r.attempt} of at most {self.max_attempts + r.excused}; tried again"))
        return out

    def delay(self, record: Record) -> float:
        """Seconds to wait before a lost member's next attempt."""
        return min(LONGEST_BACKOFF_S, self.backoff_s.get(record.lost_by, 0.0) * 2.0 ** max(0, record.tries - 1))

    def classify(self, exit: Exit, record: Record) -> tuple[MemberState, str, str]:
        """How an attempt's end counts: the member's state, the reason in words, the cause.

        Args:
            exit: as the supervisor wrote it down.
            record: the member's record at that time.
        """
        cause = exit.cause
        if record.won:
            return MemberState.DONE, "its copy was done first", COPY
        whole = cause is ExitCause.DONE and 0 < record.steps_total <= record.steps
        if record.kill and not whole:  # a simulation that stops politely when asked also exits with 0
            if record.kill_cause == RESTART and record.tries < self.max_attempts:
                return MemberState.LOST, record.kill, RESTART
            if record.kill_fault:
                return MemberState.FAILED, record.kill, record.kill_cause or "monitor"
            return MemberState.KILLED, record.kill, "killed"
        if cause is ExitCause.DONE:
            return MemberState.DONE, "", cause.value
        detail = f": {exit.detail}" if exit.detail else ""
        words = {
            ExitCause.EXIT_CODE: f"exit code {exit.code}",
            ExitCause.SIGNAL: f"ended by signal {exit.signal}",
        }.get(cause, cause.value)
        if cause is ExitCause.CANCELLED:
            return MemberState.LOST, f"cancelled from outside{detail}", cause.value
        if cause in self.causes and (record.tries < self.max_attempts or cause in (ExitCause.PREEMPTED, ExitCause.NODE_LOST)):
            return MemberState.LOST, f"{words}{detail}", cause.value
        return MemberState.FAILED, f"{words}{detail}", cause.value
