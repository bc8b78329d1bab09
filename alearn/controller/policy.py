"""``decide(state, now)``: what the study should do now, composed of small policies.

A policy is a pure function of the state and the time. Plug-ins implement ``Rule`` (anything that decides) or
``StopRule`` (when to end); the parts below are the standard ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from alearn.controller.decisions import Acquire, Checkpoint, Decision, Duplicate, Evaluate, Kill, Launch, Refit, Stop, Wait, Withdraw
from alearn.controller.state import StudyState
from alearn.errors import ConfigError


class Rule(Protocol):
    """A part of the policy."""

    def decide(self, state: StudyState, now: float) -> Sequence[Decision]:
        """What to do at ``now`` (Unix s); must not change the state."""
        ...


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the study should end.

    Args:
        state: done, stopped or failed.
        reason: one sentence.
        kill: end what still runs; otherwise it may finish.
        train: train and measure once more on the last samples before the end.
    """

    state: str
    reason: str
    kill: bool = False
    train: bool = True


class StopRule(Protocol):
    """Says when a study is over."""

    def verdict(self, state: StudyState, now: float) -> Ending | None:
        """The ending, or None to go on."""
        ...


def room(state: StudyState, now: float) -> tuple[float, str]:
    """How many more members the budget lets start now (infinite without a limit), and which limit binds.

    Members that run count with what they are still expected to use, so that the budget is not overrun by
    what is on its way. Retries of lost members are not new members.
    """
    free, binding = math.inf, ""
    for name, limit in state.budget.items():
        if name == "members":
            left = limit - state.launched_total
        elif name == "steps":
            each = max(state.expected_steps, 1.0)
            left = (limit - state.steps - state.outstanding_steps) / each
        elif name == "core_s":
            each = state.member_core_s()
            rest = limit - max(state.core_seconds(now), state.core_s + each * state.busy)
            left = rest / each if each > 0 else math.copysign(math.inf, rest or -1.0)
        else:
            rest = limit - state.wall_clock(now)
            needed = state.member_wall_s
            left = math.inf if rest > (0.0 if math.isnan(needed) else needed) else 0.0
        if left < free:
            free, binding = left, name
    return (max(0.0, free if math.isinf(free) else math.floor(free)), binding)


@dataclass(slots=True)
class KeepSlotsFull:
    """Launch from the queue while slots are free: retries and the initial design first, then by round, best score first.

    Args:
        slots: members at a time, until the launcher says its own number.
        withdraw_below: take a queued member back when its score has fallen below this share of the score it
            was chosen for; 0 never does.
    """

    slots: int = 2
    withdraw_below: float = 0.0

    def __post_init__(self) -> None:
        if self.slots < 1 or not 0 <= self.withdraw_below < 1:
            raise ConfigError(f"slots={self.slots} must be at least 1 and withdraw_below={self.withdraw_below} in [0, 1).")

    def capacity(self, state: StudyState) -> int:
        """Members that may run at a time now."""
        return self.slots if state.slots is None else state.slots

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        out: list[Decision] = []
        gone = set()
        for member in state.faded.below(self.withdraw_below):
            record = state.records[member]
            if not record.attempt:
                gone.add(member)
                why = f"its score fell from {record.first_score:.3g} to {record.score:.3g} since it was chosen"
                out.append(Withdraw(member, f"withdrawn: {why}"))
        free = self.capacity(state) - state.busy
        if free <= 0:
            return out
        fresh, binding = room(state, now)
        late = binding == "wall_s" and fresh < 1  # not even a retry could finish any more
        for member in state.queue.first(free + len(gone)):
            record = state.records[member]
            if member in gone or free == 0 or late:
                continue
            if record.attempt == 0:
                if fresh < 1:
                    continue
                fresh -= 1
            free -= 1
            score = f", score {record.score:.3g}" if math.isfinite(record.score) else ""
            again = f", attempt {record.attempt + 1}" if record.attempt else ""
            out.append(Launch(member, f"a slot is free; next is {record.origin} of round {record.round}{score}{again}"))
        return out


@dataclass(slots=True)
class Rounds:
    """Choose the initial design, then a round of ``q`` points whenever the queue runs low and something was learned.

    Args:
        design: number of points of the initial design.
        q: points a round.
        low_water: a round is due when fewer members than this wait.
        holdout: share of the points that comes from a Sobol stream instead of the acquisition: an honest
            hold-out and a fallback.
        new_steps: time steps that must have arrived since the last round.
    """

    design: int = 16
    q: int = 4
    low_water: int = 2
    holdout: float = 0.1
    new_steps: int = 1

    def __post_init__(self) -> None:
        if self.design < 1 or self.q < 1 or self.low_water < 1 or not 0 <= self.holdout <= 1:
            raise ConfigError(
                f"design={self.design}, q={self.q} and low_water={self.low_water} must be at least 1, holdout={self.holdout} in [0, 1]."
            )

    def left(self, state: StudyState) -> float:
        """How many more members may be queued within the members budget."""
        return state.budget.get("members", math.inf) - state.members

    def due(self, state: StudyState, now: float) -> bool:
        """True if a round is wanted, whether or not the surrogate is ready for it."""
        return state.queued_total > 0 and len(state.queue) < self.low_water and self.left(state) >= 1 and room(state, now)[0] >= 1

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        left = self.left(state)
        if left < 1:
            return []
        if state.queued_total == 0:
            q = int(min(self.design, left))
            return [Acquire(q, f"the initial design: {q} points spread over the box", origin="design")]
        if not self.due(state, now):
            return []
        q = int(min(self.q, left))
        learned = state.refits > state.refits_at_round and state.steps - state.steps_at_round >= self.new_steps
        if not learned:
            if state.idle:
                if state.refits:
                    return [self._round(state, q, "nothing runs, waits or is left to learn from")]
                return [Acquire(q, "no member has given any data yet: further points spread over the box", origin="design")]
            return []
        return [self._round(state, q, f"{len(state.queue)} members wait, and the surrogate has learned since the last round")]

    def _round(self, state: StudyState, q: int, why: str) -> Acquire:
        held = math.floor((state.acquired + q) * self.holdout) - math.floor(state.acquired * self.holdout)
        return Acquire(q, f"round {state.rounds + 1}: {why}", holdout=held)


@dataclass(slots=True)
class Learn:
    """Train after every so many new members or steps, and measure after every so many trainings.

    Args:
        members: members that ended since the last training; 0 is off.
        steps: time steps that arrived since; 0 is off.
        first_steps: time steps before the first training.
        evaluate_every: trainings between two measurements.
        snapshot_s: seconds between snapshots.
        surprise: train at once when the latest steps of a running member lie more than so many predicted standard
            deviations off on average (0.8 is chance); 0 is off.
        surprise_steps: time steps that must have arrived since the last training for that.
    """

    members: int = 4
    steps: int = 0
    first_steps: int = 2
    evaluate_every: int = 1
    snapshot_s: float = 60.0
    surprise: float = 5.0
    surprise_steps: int = 16

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        new_steps = state.steps - state.steps_at_refit
        new_members = state.settled - state.settled_at_refit
        if new_steps > 0 and state.steps >= self.first_steps:
            if self.members and new_members >= self.members:
                return [Refit(f"{new_members} members ended since the last training")]
            if self.steps and new_steps >= self.steps:
                return [Refit(f"{new_steps} time steps arrived since the last training")]
            if self.surprise and state.refits and new_steps >= self.surprise_steps:
                for member in state.surprising.first(1):
                    off = state.records[member].surprise
                    if off > self.surprise:
                        return [Refit(f"{member} runs {off:.1f} predicted standard deviations off what the surrogate expects")]
        if state.refits - state.refits_at_evaluation >= self.evaluate_every:
            return [Evaluate(f"{state.refits - state.refits_at_evaluation} trainings since the last measurement")]
        since = state.started_at if math.isnan(state.snapshot_at) else state.snapshot_at
        if state.updates > state.snapshot_updates and now - since >= self.snapshot_s:
            return [Checkpoint(f"{state.updates - state.snapshot_updates} updates since the last snapshot")]
        return []


@dataclass(slots=True)
class Policy:
    """The whole policy. ``decide`` is a pure function of the state and the time. ``screen`` takes back what shall not be launched.

    The decisions come in the order in which to carry them out. They are asked for again until the event that
    answers them is applied.
    """

    launch: KeepSlotsFull
    kill: Rule
    acquire: Rounds
    learn: Learn
    stop: Sequence[StopRule]
    failure: Rule
    screen: Rule | None = None

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        """What to do at ``now`` (Unix s)."""
        if not state.started or state.ended:
            return []
        wanted = self.kill.decide(state, now)
        kills = [d for d in wanted if not isinstance(d, Duplicate)]
        copies = [] if state.paused else [d for d in wanted if isinstance(d, Duplicate)]
        retries = self.failure.decide(state, now)
        again = [] if state.paused else [d for d in retries if not isinstance(d, Wait)]
        ending = self.ending(state, now)
        if ending is not None and (ending.kill or not retries):  # what a pause holds back is not over
            return [
                *kills,
                *([] if ending.kill else copies),
                *self._wind_down(state, now, ending, {d.member for d in kills if isinstance(d, Kill)}),
            ]
        out = [*kills, *again, *copies]
        learn = self.learn.decide(state, now)
        if not state.paused:
            refused = self.screen.decide(state, now) if self.screen is not None else []
            taken_back = {d.member for d in refused if isinstance(d, Withdraw)}
            out += refused
            launches = self.launch.decide(state, now)
            launches = [d for d in launches if not (isinstance(d, (Launch, Withdraw)) and d.member in taken_back)]
            out += _leave_room(launches, self.launch.capacity(state) - state.busy - len(copies))
            starving = state.busy < self.launch.capacity(state) and not state.queue and not learn
            if starving and state.steps > max(state.steps_at_refit, self.learn.first_steps - 1) and self.acquire.due(state, now):
                learn = [Refit("slots are free and the next round waits for the surrogate")]
        out += learn
        if not state.paused and not again and not any(isinstance(d, Refit) for d in learn):
            out += self.acquire.decide(state, now)
        return out

    def ending(self, state: StudyState, now: float) -> Ending | None:
        """The first ending that a stop rule sees."""
        for rule in self.stop:
            verdict = rule.verdict(state, now)
            if verdict is not None:
                return verdict
        return None

    def _wind_down(self, state: StudyState, now: float, ending: Ending, doomed: set[str]) -> list[Decision]:
        if state.busy:
            if not ending.kill:
                return list(self.learn.decide(state, now))
            return [
                Kill(r.id, r.attempt, f"the study ends: {ending.reason}", max(0, round(state.length(r)) - r.steps))
                for r in state.active.values()
                if not r.kill and r.id not in doomed
            ]
        if waiting := state.queue.first(len(state.queue)):
            return [
                Withdraw(m, f"never launched: {ending.reason}" if not state.records[m].attempt else f"not tried again: {ending.reason}")
                for m in waiting
            ]
        if ending.train and state.steps > max(state.steps_at_last_refit, self.learn.first_steps - 1):
            return [Refit("the last samples of the study have arrived", last=True)]
        if ending.train and state.refits > state.refits_at_evaluation:
            return [Evaluate("the last measurement of the study")]
        if state.updates > state.snapshot_updates:
            return [Checkpoint("the end of the study")]
        return [Stop(ending.state, ending.reason)]


def _leave_room(decisions: Sequence[Decision], free: int) -> list[Decision]:
    """These decisions with no more launches than there are free slots."""
    launches = [d for d in decisions if isinstance(d, Launch)]
    late = launches[max(0, free) :]
    return [d for d in decisions if d not in late]
