"""What to do about attempts that ended badly: which are failures, which are tried again."""

from __future__ import annotations

from collections.abc import Sequence

from alearn.controller.decisions import Decision, Pause, Requeue
from alearn.controller.member import Record
from alearn.controller.state import StudyState
from alearn.errors import ConfigError
from alearn.types import Exit, ExitCause, MemberState

BAD_LUCK = (ExitCause.PREEMPTED, ExitCause.NODE_LOST, ExitCause.WALL_TIME)
"""Causes that say nothing about the member: it is lost, not failed, and may be tried again."""


class Retry:
    """Queue lost members again, up to a number of attempts; pause when everything is being lost.

    Args:
        max_attempts: launches of one member in all; those that died with the controller do not count.
        retry: further causes (out of ``ExitCause``) after which a member is tried again; exceptions, exit codes
            and bad values repeat themselves as a rule, so none by default.
        pause_after: attempts lost in a row after which the study pauses (a broken machine, not broken members).
    """

    def __init__(self, *, max_attempts: int = 3, retry: Sequence[str] = (), pause_after: int = 20) -> None:
        if max_attempts < 1 or pause_after < 1:
            raise ConfigError(f"max_attempts={max_attempts} and pause_after={pause_after} must be at least 1.")
        unknown = [c for c in retry if c not in set(ExitCause)]
        if unknown:
            raise ConfigError(f"retry names the causes {unknown}; valid are {', '.join(ExitCause)}.")
        self.max_attempts, self.pause_after = max_attempts, pause_after
        self.causes = frozenset(BAD_LUCK) | {ExitCause(c) for c in retry}

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        """Requeue what is lost, or pause."""
        if state.lost_in_a_row >= self.pause_after and not state.paused:
            return [Pause(f"the last {state.lost_in_a_row} attempts were all lost: look at the machine, then continue the study")]
        return [
            Requeue(m, f"lost in attempt {r.attempt} of at most {self.max_attempts + r.excused}; tried again")
            for m in state.lost.below(self.max_attempts)
            if (r := state.records[m]) and m not in state.revoked
        ]

    def classify(self, exit: Exit, record: Record) -> tuple[MemberState, str, str]:
        """How an attempt's end counts: the member's state, the reason in words, the cause.

        Args:
            exit: as the supervisor wrote it down.
            record: the member's record at that time.
        """
        cause = exit.cause
        whole = cause is ExitCause.DONE and 0 < record.steps_total <= record.steps
        if record.kill and not whole:  # a simulation that stops politely when asked also exits with 0
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
