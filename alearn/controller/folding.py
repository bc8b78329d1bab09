"""``state = apply(state, event)``: how each event changes the state of a study.

What no order of arrival can explain is refused, and the state is then unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alearn import events as ev
from alearn.controller.member import SCORES_KEPT, Copy, Record, Settled, late, pack, require, value_ratio
from alearn.controller.ranking import Ranking
from alearn.controller.state import BUDGET, StudyState
from alearn.errors import IllegalEvent
from alearn.types import MemberState

PACE_WEIGHT = 0.2
REASONS_KEPT = 200


def apply(state: StudyState, event: ev.Event) -> StudyState:
    """Fold one event into the state; returns the same object.

    Raises:
        IllegalEvent: no order of arrival explains the event; the state is unchanged.
    """
    if not state.started and not isinstance(event, ev.StudyStarted):
        raise IllegalEvent(f"The first event of a study is StudyStarted, not {type(event).__name__}.")
    _HANDLERS[type(event)](state, event)
    state.events += 1
    state.at = event.at if math.isnan(state.at) else max(state.at, event.at)
    return state


def fold(events: Iterable[ev.Event]) -> StudyState:
    """The state after all of ``events``."""
    state = StudyState()
    for event in events:
        apply(state, event)
    return state


def _check_budget(budget: Mapping[str, float]) -> dict[str, float]:
    for name, limit in budget.items():
        if name not in BUDGET or not limit >= 0:
            raise IllegalEvent(f"The budget has {name}={limit}; it takes non-negative limits for {', '.join(BUDGET)}.")
    return {name: float(limit) for name, limit in budget.items()}


def _study_started(s: StudyState, e: ev.StudyStarted) -> None:
    if s.started:
        raise IllegalEvent(f"The study {s.study} was started already.")
    s.budget = _check_budget(e.budget)
    s.started, s.study, s.arm, s.seed = True, e.study, e.arm, e.seed
    s.started_at = s._clock_since = e.at


def _study_resumed(s: StudyState, e: ev.StudyResumed) -> None:
    if not math.isnan(s._clock_since):
        s._clock_used += max(0.0, s.at - s._clock_since)
    s._clock_since = math.nan if s.paused else e.at
    s._abandon_copies()
    for record in list(s.active.values()):
        s._abandon(record)
    s.ended = s.end_state = ""
    s.lost_in_a_row = 0


def _study_paused(s: StudyState, e: ev.StudyPaused) -> None:
    s._clock_used, s._clock_since = s.wall_clock(e.at), math.nan
    s.paused = e.reason or "paused"


def _study_continued(s: StudyState, e: ev.StudyContinued) -> None:
    if math.isnan(s._clock_since):
        s._clock_since = e.at
    s.paused = ""
    s.lost_in_a_row = 0


def _budget_changed(s: StudyState, e: ev.BudgetChanged) -> None:
    s.budget.update(_check_budget(e.budget))


def _study_ended(s: StudyState, e: ev.StudyEnded) -> None:
    s._clock_used, s._clock_since = s.wall_clock(e.at), math.nan
    s.ended, s.end_state = e.reason or e.state, e.state


def _capacity(s: StudyState, e: ev.CapacityChanged) -> None:
    if e.slots < 0:
        raise IllegalEvent(f"The launcher's capacity cannot be {e.slots}.")
    s.slots = e.slots


def _queued(s: StudyState, e: ev.MemberQueued) -> None:
    if e.member in s.records or e.member in s._settled:
        raise IllegalEvent(f"Member {e.member} was queued before; a lost one comes back by MemberRequeued.")
    record = Record(e.member, e.parameters, e.x, e.origin, e.round, e.score, e.score, e.at)
    s.records[e.member] = record
    s.counts[MemberState.QUEUED] += 1
    s.queued_total += 1
    s.origins[e.origin] += 1
    s.outbid.setdefault(e.origin, Ranking())
    s.acquired += e.origin in ("acquisition", "holdout")
    s._enqueue(record)


def _rescored(s: StudyState, e: ev.MemberRescored) -> None:
    record = s.look(e.member)
    if not isinstance(record, Record) or record.state is not MemberState.QUEUED:
        s.late += 1
        return
    if not e.withdrawn:
        record.score = e.score
        s._enqueue(record)
        return
    s._dequeue(e.member)
    s._move(record, MemberState.KILLED)
    s.withdrawn += record.attempt == 0  # a lost member that is not tried again was launched, and may have data
    del s.records[e.member]
    s._settled[e.member] = pack(Settled(MemberState.KILLED, record.attempt, record.steps, withdrawn=record.attempt == 0))


def _requeued(s: StudyState, e: ev.MemberRequeued) -> None:
    record = s.look(e.member)
    require(record, e.member, MemberState.QUEUED, "MemberRequeued")
    assert isinstance(record, Record)
    s.lost.discard(e.member)
    record.adoptable = False
    s._move(record, MemberState.QUEUED)
    s._enqueue(record)


def _launched(s: StudyState, e: ev.MemberLaunched) -> None:
    record = s.look(e.member)
    require(record, e.member, MemberState.STARTING, "MemberLaunched")
    assert isinstance(record, Record)
    if e.attempt != record.attempt + 1:
        raise IllegalEvent(f"MemberLaunched names attempt {e.attempt} of member {e.member}; the next one is {record.attempt + 1}.")
    s._dequeue(e.member)
    s._move(record, MemberState.STARTING)
    s.launched_total += record.attempt == 0
    s.attempts += 1
    record.attempt = e.attempt
    record.launched_at, record.running_at, record.last_step_at, record.pace_s = e.at, math.nan, math.nan, math.nan
    record.scores, record.remaining_value, record.best_value, record.surprise = (), math.nan, math.nan, math.nan
    record.monitor = record.alarm = record.kill = record.kill_cause = ""
    record.fault = record.kill_fault = record.copied = record.won = False
    record.kill_saves = 0
    s._hold(record)


def _running(s: StudyState, e: ev.MemberRunning) -> None:
    record = s.look(e.member)
    if isinstance(record, Record) and record.adoptable and e.attempt == record.attempt:
        s._adopt(record)
        s._settle_estimate(record, e.attempt)
        record.running_at = e.at if math.isnan(record.running_at) else record.running_at
    elif late(record, e.member, e.attempt, "MemberRunning"):
        s.late += 1
        return
    assert isinstance(record, Record)
    if e.steps_total and not record.steps_total:
        s._announced = (s._announced[0] + 1, s._announced[1] + e.steps_total)
    record.steps_total = e.steps_total or record.steps_total
    if record.state is MemberState.RUNNING:  # the stream broke and opened again
        return
    s._move(record, MemberState.RUNNING)
    record.running_at = e.at
    if record.origin != "data":  # one that ran before the study tells nothing of what a member costs
        s._startup = (s._startup[0] + 1, s._startup[1] + max(0.0, e.at - record.launched_at))


def _stored(s: StudyState, e: ev.SamplesStored) -> None:
    record = s.look(e.member)
    fenced = late(record, e.member, e.attempt, "SamplesStored")
    if fenced and e.attempt < record.attempt:
        s.late += 1
        return
    if record.state is MemberState.STARTING:
        raise IllegalEvent(f"SamplesStored for member {e.member}, whose stream has not opened (attempt {record.attempt}).")
    new = min(e.steps, e.last + 1 - record.steps)
    if e.steps < 0 or e.last + 1 - e.steps > record.steps:
        raise IllegalEvent(f"SamplesStored leaves a gap: member {e.member} has {record.steps} steps and got {e.steps} up to step {e.last}.")
    new = max(new, 0)
    s.duplicates += e.duplicates + e.steps - new
    s.steps += new
    s.with_data += record.steps == 0 and new > 0
    if not isinstance(record, Record):  # the tail of an attempt whose end was seen first
        s._done_steps += new if record.state is MemberState.DONE else 0
        s._settled[e.member] = pack(Settled(record.state, record.attempt, record.steps + new, record.withdrawn))
        return
    record.steps += new
    if new:
        record.t = e.t
    if e.member not in s.active:
        return
    s._active_steps += new
    if new and record.origin != "data":
        since = record.running_at if math.isnan(record.last_step_at) else record.last_step_at
        pace = max(0.0, e.at - since) / new
        record.pace_s = pace if math.isnan(record.pace_s) else (1 - PACE_WEIGHT) * record.pace_s + PACE_WEIGHT * pace
        s._pace = (s._pace[0] + new, s._pace[1] + pace * new)
    record.last_step_at = e.at


def _scored(s: StudyState, e: ev.MemberScored) -> None:
    record = s.look(e.member)
    if not isinstance(record, Record) or not record.state.active:
        s.late += 1
        return
    record.remaining_value, record.best_value = e.remaining_value, e.best_value
    record.remaining_steps, record.surprise = e.remaining_steps, e.surprise
    if math.isfinite(e.surprise):
        s.surprising.set(e.member, -e.surprise)
    ratio = value_ratio(e.remaining_value, e.best_value)
    if record.scores and record.scores[-1][0] >= e.step:  # nothing new was seen: not one more confirmation
        record.scores = (*record.scores[:-1], (record.scores[-1][0], ratio))
    else:
        record.scores = (*record.scores[1 - SCORES_KEPT :], (e.step, ratio))
    if len(record.scores) >= 2 and not record.ghost and not record.kill:
        s.outbid[record.origin].set(e.member, max(r for _, r in record.scores[-2:]))


def _alarm(s: StudyState, e: ev.MonitorAlarm) -> None:
    record = s.look(e.member)
    if not isinstance(record, Record) or not record.state.active:
        s.late += 1
        return
    if not record.alarm:
        record.monitor, record.alarm, record.fault = e.monitor, e.reason or e.monitor, e.fault
    if not record.kill:
        s.alarmed[e.member] = record


def _kill_requested(s: StudyState, e: ev.KillRequested) -> None:
    record = s.look(e.member)
    if not e.reason:
        raise IllegalEvent(f"KillRequested for member {e.member} without a reason.")
    if late(record, e.member, e.attempt, "KillRequested"):
        s.late += 1
        return
    assert isinstance(record, Record)
    if record.kill:
        s.late += 1
        return
    record.kill, record.kill_saves, record.kill_fault, record.kill_cause = e.reason, e.saved_steps, e.fault, e.cause
    s.alarmed.pop(e.member, None)
    s.outbid[record.origin].discard(e.member)


def _copy_launched(s: StudyState, e: ev.CopyLaunched) -> None:
    record = s.look(e.member)
    if not isinstance(record, Record) or not record.state.active or record.attempt != e.attempt or record.copied or e.member in s.copies:
        raise IllegalEvent(f"CopyLaunched for attempt {e.attempt} of member {e.member}, which does not run alone.")
    record.copied = True
    s.copies[e.member] = Copy(e.attempt, e.at)
    s.attempts += 1


def _copy_cut(s: StudyState, e: ev.CopyCut) -> None:
    copy = s.copies.get(e.member)
    if copy is None or copy.attempt != e.attempt or copy.cut:
        s.late += 1
        return
    copy.cut = e.reason or "cut"


def _copy_ended(s: StudyState, e: ev.CopyEnded) -> None:
    copy = s.copies.get(e.member)
    if copy is None or copy.attempt != e.attempt:
        s.late += 1
        return
    del s.copies[e.member]
    s.core_s += e.core_s if math.isfinite(e.core_s) else 0.0
    s.wall_s += e.wall_s if math.isfinite(e.wall_s) else 0.0
    record = s.active.get(e.member)
    if e.state == MemberState.DONE and record is not None and record.attempt == e.attempt and not record.kill:
        record.won = True
        s.won[e.member] = record


def _steer_requested(s: StudyState, e: ev.SteerRequested) -> None:
    record = s.look(e.member)
    if isinstance(record, Record):
        record.steered = True


def _noted(s: StudyState, e: ev.Event) -> None:
    """For the record: nothing is decided from it."""


def _spared(s: StudyState, e: ev.GhostSpared) -> None:
    record = s.look(e.member)
    if not isinstance(record, Record) or not record.state.active or record.ghost:
        s.late += 1
        return
    record.ghost, record.ghost_step = True, e.step
    s.ghosts += 1
    s.outbid[record.origin].discard(e.member)


def _ended(s: StudyState, e: ev.MemberEnded) -> None:
    record = s.look(e.member)
    try:
        to = MemberState(e.state)
    except ValueError:
        to = MemberState.QUEUED
    if not to.final:
        raise IllegalEvent(f"MemberEnded says that member {e.member} is {e.state!r}; an attempt ends done, killed, failed or lost.")
    cost = e.core_s if math.isfinite(e.core_s) else 0.0
    adopted = isinstance(record, Record) and record.adoptable and e.attempt == record.attempt
    if not adopted and late(record, e.member, e.attempt, "MemberEnded"):
        s.late += 1
        if cost and isinstance(record, Record) and s._settle_estimate(record, e.attempt):  # given up, it still cost what it cost
            s.core_s += cost
            s.wall_s += e.wall_s if math.isfinite(e.wall_s) else 0.0
        return
    assert isinstance(record, Record)
    reason = e.reason or record.kill
    if to is MemberState.KILLED and not reason:
        raise IllegalEvent(f"MemberEnded says that member {e.member} was killed, and nobody gave a reason.")
    if adopted:
        s._adopt(record)
        if cost:  # else the estimate is all that will ever be known
            s._settle_estimate(record, e.attempt)
    require(record, e.member, to, "MemberEnded")
    s._retire(record)
    s.core_s += cost
    s.wall_s += e.wall_s if math.isfinite(e.wall_s) else 0.0
    s._move(record, to)
    s.lost_in_a_row = s.lost_in_a_row + 1 if to is MemberState.LOST else 0
    if to is MemberState.LOST:
        if not cost:
            record.estimates = {**(record.estimates or {}), e.attempt: (0.0, 0.0)}
        record.lost_at, record.lost_by = e.at, e.cause
        s.lost.set(e.member, record.tries)
        return
    if to in (MemberState.DONE, MemberState.FAILED) and e.cause != "launch":
        s.recent.append((record.x, to is MemberState.FAILED))
    if to is MemberState.DONE:
        s._done_steps += record.steps
    elif to is MemberState.KILLED:
        unmade = max(0, round(s.length(record)) - record.steps)  # it went on between the decision and its end
        s.saved_steps += min(record.kill_saves, unmade)
        s.kills_by_value += 1
    else:
        s.failures[e.cause or record.kill_cause or "unknown"] += 1
        blank = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", reason or "no reason given")[:160]
        if blank in s.failure_reasons or len(s.failure_reasons) < REASONS_KEPT:
            s.failure_reasons[blank] += 1
    s._settled[e.member] = pack(Settled(to, record.attempt, record.steps))
    del s.records[e.member]


def _revoked(s: StudyState, e: ev.MemberRevoked) -> None:
    s.look(e.member)
    if e.member in s.revoked:
        s.late += 1
        return
    s.revoked.add(e.member)
    s.steps_at_refit = s.steps_at_last_refit = 0  # what was trained before was trained on it too
    s.outdated = True


def _round(s: StudyState, e: ev.RoundDecided) -> None:
    s.rounds += e.round > 0
    s.refits_at_round, s.steps_at_round = s.refits, s.steps


def _refitted(s: StudyState, e: ev.Refitted) -> None:
    s.refits += 1
    s.updates = max(s.updates, e.updates)
    s.lead = e.lead
    s.steps_at_refit, s.settled_at_refit = s.steps, s.settled
    if e.last is not False:
        s.steps_at_last_refit = s.steps
    s.surprising = Ranking()  # the next scores are against what it knows now


def _evaluated(s: StudyState, e: ev.Evaluated) -> None:
    s.evaluations.append(e)
    s.evaluations_total += 1
    s.refits_at_evaluation = s.refits


def _snapshot(s: StudyState, e: ev.SnapshotWritten) -> None:
    s.snapshot_at, s.snapshot_updates = e.at, e.updates
    s.outdated = False


_HANDLERS: dict[type[ev.Event], Callable[[StudyState, Any], None]] = {
    ev.StudyStarted: _study_started,
    ev.StudyResumed: _study_resumed,
    ev.StudyPaused: _study_paused,
    ev.StudyContinued: _study_continued,
    ev.BudgetChanged: _budget_changed,
    ev.StudyEnded: _study_ended,
    ev.CapacityChanged: _capacity,
    ev.MemberQueued: _queued,
    ev.MemberRescored: _rescored,
    ev.MemberRequeued: _requeued,
    ev.MemberLaunched: _launched,
    ev.MemberRunning: _running,
    ev.SamplesStored: _stored,
    ev.MemberScored: _scored,
    ev.MonitorAlarm: _alarm,
    ev.KillRequested: _kill_requested,
    ev.CopyLaunched: _copy_launched,
    ev.CopyCut: _copy_cut,
    ev.CopyEnded: _copy_ended,
    ev.SteerRequested: _steer_requested,
    ev.MemberSteered: _noted,
    ev.GhostSpared: _spared,
    ev.MemberEnded: _ended,
    ev.MemberRevoked: _revoked,
    ev.RoundDecided: _round,
    ev.Refitted: _refitted,
    ev.Evaluated: _evaluated,
    ev.SnapshotWritten: _snapshot,
}
