"""When a study ends: budget spent, goal reached, no progress, too many failures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from alearn.config import SHARES
from alearn.controller.policy import Ending, room
from alearn.controller.state import StudyState
from alearn.errors import ConfigError
from alearn.events import Evaluated
from alearn.types import MemberState

METRICS = ("mean", "rmse", "p95", "p99", "max")
SOURCES = ("error", "prequential")


class BudgetSpent:
    """End when a limit of the study's budget is reached.

    A spent budget of members lets the running ones finish. Steps, core-seconds and wall time are hard: what still
    runs at the limit is killed; before that nothing is started that is not expected to fit.
    """

    def verdict(self, state: StudyState, now: float) -> Ending | None:
        """The ending, once a limit binds."""
        used = {"steps": float(state.steps), "core_s": state.core_seconds(now), "wall_s": state.wall_clock(now)}
        for name, spent in used.items():
            limit = state.budget.get(name, math.inf)
            if spent >= limit:
                return Ending("done", f"the budget of {_amount(name, limit)} is spent", kill=True)
        free, binding = room(state, now)
        retry = binding != "wall_s" and any(state.records[m].attempt for m in state.queue.first(1))  # retries wait at the head
        if state.busy or retry or free >= 1:
            return None
        rest = "is spent" if binding == "members" else "leaves no room for another member"
        return Ending("done", f"the budget of {_amount(binding, state.budget[binding])} {rest}")


class ErrorGoal:
    """End when an error is small enough, several measurements in a row.

    Args:
        metric: one of mean, rmse, p95, p99, max.
        threshold: the goal, in the outputs' own unit.
        evaluations: how many measurements in a row must meet it.
        source: "error" (the test set) or "prequential" (the arriving members, before they were learned).
    """

    def __init__(self, *, metric: str = "p95", threshold: float = 0.0, evaluations: int = 2, source: str = "error") -> None:
        _check(metric, source)
        if evaluations < 1:
            raise ConfigError(f"evaluations={evaluations} must be at least 1.")
        self.metric, self.threshold, self.evaluations, self.source = metric, threshold, evaluations, source

    def verdict(self, state: StudyState, now: float) -> Ending | None:
        """The ending, once the goal is met."""
        values = _history(state, self.source, self.metric, self.evaluations)
        if len(values) < self.evaluations or not all(v <= self.threshold for v in values):
            return None
        return Ending("done", f"the goal is reached: {self.metric} error {values[-1]:.3g}, wanted {self.threshold:.3g}", kill=True)


class CoverageGoal:
    """End when the surrogate is sure over enough of the box: "95 % of it has a standard deviation under 0.05".

    The standard deviation is calibrated on members that the surrogate had not seen; the part of the box where members
    fail does not count.

    Args:
        share: of the box, one of ``SHARES``.
        std: the goal, in units of each output's spread.
        evaluations: how many measurements in a row must meet it.
    """

    def __init__(self, *, share: float = 0.95, std: float = 0.05, evaluations: int = 2) -> None:
        if share not in SHARES or not std > 0 or evaluations < 1:
            raise ConfigError(
                f"share={share} must be one of {', '.join(map(str, SHARES))}, std={std} positive and evaluations={evaluations} at least 1."
            )
        self.share, self.std, self.evaluations = share, std, evaluations

    def verdict(self, state: StudyState, now: float) -> Ending | None:
        """The ending, once the goal is met."""
        values = _history(state, "std", quantile_name(self.share), self.evaluations)
        if len(values) < self.evaluations or not all(v <= self.std for v in values):
            return None
        reached = f"{100 * self.share:g} % of the box has a standard deviation of at most {values[-1]:.3g}, wanted {self.std:.3g}"
        return Ending("done", f"the goal is reached: {reached}", kill=True)


class NoProgress:
    """End when the best error of the last measurements is no better than the best before them.

    Args:
        metric: one of mean, rmse, p95, p99, max.
        evaluations: how many measurements may pass without progress; 0 switches the rule off.
        improvement: relative improvement that counts as progress.
        source: "error" or "prequential".
    """

    def __init__(self, *, metric: str = "mean", evaluations: int = 0, improvement: float = 0.01, source: str = "error") -> None:
        _check(metric, source)
        if evaluations < 0 or not 0 <= improvement < 1 or evaluations > 128:
            raise ConfigError(f"evaluations={evaluations} must lie in [0, 128] and improvement={improvement} in [0, 1).")
        self.metric, self.evaluations, self.improvement, self.source = metric, evaluations, improvement, source

    def verdict(self, state: StudyState, now: float) -> Ending | None:
        """The ending, once nothing has improved for long enough."""
        if not self.evaluations:
            return None
        values = _history(state, self.source, self.metric, len(state.evaluations))
        before, recent = values[: -self.evaluations], values[-self.evaluations :]
        if not before or len(recent) < self.evaluations or min(recent) < (1 - self.improvement) * min(before):
            return None
        return Ending(
            "done",
            f"no progress: the {self.metric} error was {min(before):.3g}, and the last {self.evaluations} measurements gave "
            f"{min(recent):.3g} at best",
        )


class FailureBudget:
    """Give up when too many members fail.

    Args:
        share: largest tolerated share of failed members among those that ended.
        at_least: failures below this number never end a study.
    """

    def __init__(self, *, share: float = 0.5, at_least: int = 8) -> None:
        if not 0 <= share <= 1 or at_least < 1:
            raise ConfigError(f"share={share} must lie in [0, 1] and at_least={at_least} be at least 1.")
        self.share, self.at_least = share, at_least

    def verdict(self, state: StudyState, now: float) -> Ending | None:
        """The ending, once the failures are too many."""
        failed, ended = state.counts[MemberState.FAILED], state.settled
        if failed < self.at_least or failed <= self.share * ended:
            return None
        reason = f"{failed} of {ended} members failed; most often: {state.common_failure()}"
        return Ending("failed", reason, kill=True, train=False)


def quantile_name(share: float) -> str:
    """The key of a share in ``Evaluated.std``: q95."""
    return f"q{round(100 * share)}"


def _amount(name: str, limit: float) -> str:
    return f"{limit:g} " + {"members": "members", "steps": "time steps", "core_s": "core-seconds", "wall_s": "seconds of wall time"}[name]


def _check(metric: str, source: str) -> None:
    if metric not in METRICS or source not in SOURCES:
        raise ConfigError(f"metric={metric!r} must be one of {', '.join(METRICS)} and source={source!r} one of {', '.join(SOURCES)}.")


def _history(state: StudyState, source: str, metric: str, last: int) -> list[float]:
    """The latest finite values of a metric, oldest first; a measurement without it breaks a row."""
    out = []
    for event in list(state.evaluations)[-last:] if last else []:
        value = _numbers(event, source).get(metric, math.nan)
        out.append(value if math.isfinite(value) else math.inf)
    return out


def _numbers(event: Evaluated, source: str) -> Mapping[str, float]:
    return {"error": event.error, "prequential": event.prequential, "std": event.std}[source]
