import dataclasses
import math

import pytest

from alearn import events as ev
from alearn.controller import Record, Settled, StudyState, apply, fold
from alearn.errors import IllegalEvent
from alearn.types import MemberState


def test_a_member_lives_and_every_count_follows(story):
    s = story(members=3)
    a, b, c = s.queue(3)
    s.launch(a, steps_total=20)
    s.steps(a, 5)
    record = s.state.look(a)
    assert isinstance(record, Record)
    assert (record.state, record.steps, record.t) == (MemberState.RUNNING, 5, 5.0)
    assert s.state.expected_steps == 20
    assert s.state.outstanding_steps == 15
    s.steps(a, 15)
    s.end(a, core_s=3.0, wall_s=4.0)
    s.launch(b)
    s.end(b, "failed", reason="exit code 3", cause="exit code")
    counts = {k.value: v for k, v in s.state.counts.items() if v}
    assert counts == {"queued": 1, "done": 1, "failed": 1}
    assert s.state.look(a) == Settled(MemberState.DONE, 1, 20)
    assert (s.state.steps, s.state.core_s, s.state.with_data, s.state.launched_total) == (20, 3.0, 1, 2)
    assert s.state.failures == {"exit code": 1}
    assert s.state.common_failure() == "exit code #"
    assert set(s.state.records) == {c}
    assert s.state.queue.first(5) == [c]


def test_the_same_events_give_the_same_state(story):
    s = story()
    s.whole()
    s.whole(state="failed", cause="exception")
    again = fold(s.events)
    assert again.counts == s.state.counts
    assert (again.steps, again.at, again.events) == (s.state.steps, s.state.at, s.state.events)


def test_queue_order_is_retries_design_round_score(story):
    s = story()
    (poor,) = s.queue(score=0.1, round=2)
    (rich,) = s.queue(score=0.9, round=2)
    (early,) = s.queue(score=0.0, round=1)
    (design,) = s.queue(origin="design", round=0, score=math.nan)
    (lost,) = s.queue(score=0.0, round=9)
    s.launch(lost)
    s.end(lost, "lost")
    s.tell(ev.MemberRequeued, member=lost, attempt=1)
    assert s.state.queue.first(9) == [lost, design, early, rich, poor]
    s.tell(ev.MemberRescored, member=poor, score=5.0)
    assert s.state.queue.first(5)[-2:] == [poor, rich]


def test_late_events_of_a_fenced_attempt_are_counted_and_change_nothing(story):
    s = story()
    (m,) = s.queue()
    s.launch(m)
    s.steps(m, 3)
    s.end(m, "lost")
    s.tell(ev.MemberRequeued, member=m, attempt=1)
    s.launch(m, attempt=2)
    before = (s.state.steps, s.state.look(m).state, dict(s.state.counts))
    s.tell(ev.SamplesStored, member=m, attempt=1, steps=2, last=4, t=5.0)
    s.tell(ev.MemberRunning, member=m, attempt=1)
    s.tell(ev.KillRequested, member=m, attempt=1, reason="too slow")
    s.tell(ev.MemberEnded, member=m, attempt=1, state="failed", core_s=2.0)
    assert (s.state.steps, s.state.look(m).state, dict(s.state.counts)) == before
    assert s.state.late == 4
    assert s.state.core_s == 2.0  # it was spent all the same


def test_the_tail_of_an_attempt_whose_end_was_seen_first_counts_once(story):
    s = story()
    m = s.whole(steps=4)
    s.tell(ev.SamplesStored, member=m, attempt=1, steps=2, last=5, t=6.0)
    s.tell(ev.SamplesStored, member=m, attempt=1, steps=2, last=5, t=6.0)
    assert (s.state.steps, s.state.look(m).steps, s.state.duplicates) == (6, 6, 2)
    assert s.state.expected_steps == 6


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (ev.StudyStarted, {"study": "s", "arm": "a", "seed": 0}, "started already"),
        (ev.BudgetChanged, {"budget": {"euros": 5.0}}, "it takes non-negative limits for members"),
        (ev.MemberQueued, {"member": "m0000", "parameters": {}, "x": (), "origin": "user"}, "queued before"),
        (ev.MemberLaunched, {"member": "m0000", "attempt": 2}, "from running to starting"),
        (ev.MemberLaunched, {"member": "m0001", "attempt": 3}, "the next one is 1"),
        (ev.MemberLaunched, {"member": "m9999", "attempt": 1}, "never queued"),
        (ev.MemberRunning, {"member": "m0001", "attempt": 1}, "launched 0 times"),
        (ev.MemberEnded, {"member": "m0000", "attempt": 1, "state": "running"}, "ends done, killed, failed or lost"),
        (ev.MemberEnded, {"member": "m0000", "attempt": 1, "state": "killed"}, "nobody gave a reason"),
        (ev.KillRequested, {"member": "m0000", "attempt": 1, "reason": ""}, "without a reason"),
        (ev.SamplesStored, {"member": "m0000", "attempt": 1, "steps": 1, "last": 7, "t": 1.0}, "leaves a gap"),
        (ev.SamplesStored, {"member": "m0000", "attempt": 2, "steps": 1, "last": 2, "t": 1.0}, "launched 1 times"),
        (ev.MemberRequeued, {"member": "m0000", "attempt": 1}, "from running to queued"),
        (ev.CapacityChanged, {"slots": -1}, "cannot be -1"),
    ],
)
def test_illegal_events_are_refused_and_change_nothing(story, kind, fields, words):
    s = story()
    s.queue(2)
    s.launch("m0000")
    s.steps("m0000", 2)
    record = s.state.look("m0000")
    assert isinstance(record, Record)
    before = (dict(s.state.counts), s.state.steps, s.state.events, dataclasses.replace(record))
    with pytest.raises(IllegalEvent, match=words):
        apply(s.state, kind(at=99.0, **fields))
    assert (dict(s.state.counts), s.state.steps, s.state.events, s.state.look("m0000")) == before


def test_a_study_begins_with_its_start():
    with pytest.raises(IllegalEvent, match="StudyStarted"):
        apply(StudyState(), ev.StudyPaused(at=0.0, reason="x"))


def test_a_new_controller_calls_the_active_lost_and_may_adopt_or_collect_them(story):
    s = story()
    a, b, c = s.queue(3)
    for m in (a, b, c):
        s.launch(m)
        s.steps(m, 2)
    s.tell(ev.StudyResumed)
    assert s.state.counts[MemberState.LOST] == 3
    assert not s.state.active
    assert [r.id for r in s.state.adoptable] == [a, b, c]
    s.tell(ev.MemberRunning, member=a, attempt=1)
    s.tell(ev.MemberEnded, member=b, attempt=1, state="done")
    s.tell(ev.MemberRequeued, member=c, attempt=1)
    assert list(s.state.active) == [a]
    assert s.state.look(b).state is MemberState.DONE
    assert s.state.queue.first(1) == [c]
    assert s.state.adoptable == []
    assert not s.state.lost
    s.tell(ev.MemberEnded, member=c, attempt=1, state="done")
    assert s.state.late == 1
    assert s.state.queue.first(1) == [c]


def test_pauses_and_crashes_do_not_count_as_wall_time(story):
    s = story()  # starts at 1
    s.now = 10.0
    s.tell(ev.StudyPaused, reason="lunch")  # 11: 10 s used
    s.now = 99.0
    s.tell(ev.StudyContinued)  # 100
    s.now = 104.0
    s.queue(1)  # 105: 15 s used, then the controller dies
    s.now = 999.0
    s.tell(ev.StudyResumed)  # 1000
    assert s.state.wall_clock(1002.0) == pytest.approx(17.0)


def test_a_withdrawn_member_is_no_longer_in_the_budget(story):
    s = story(members=2)
    a, _ = s.queue(2)
    s.tell(ev.MemberRescored, member=a, score=0.0, withdrawn=True)
    assert (s.state.members, s.state.withdrawn, len(s.state.queue), s.state.settled) == (1, 1, 1, 0)
    with pytest.raises(IllegalEvent, match="from killed to starting"):
        s.tell(ev.MemberLaunched, member=a, attempt=1)


def test_pace_and_startup_are_learned(story):
    s = story()
    (m,) = s.queue()
    s.launch(m)
    for _ in range(4):
        s.steps(m, 2)
    assert s.state.seconds_per_step == pytest.approx(0.5)
    assert s.state.startup_s == pytest.approx(1.0)


def test_failure_reasons_stay_bounded(story):
    s = story()
    for n in range(300):
        s.whole(state="failed", reason="bad " + "ab"[n % 2] * (n // 2 + 1))
    assert s.state.counts[MemberState.FAILED] == 300
    assert len(s.state.failure_reasons) <= 200


def test_attempts_that_died_with_the_controller_cost_what_they_ran(story):
    """Else a study that crashes often spends more core-seconds than its budget."""
    s = story(core_s=100.0)
    s.whole(core_s=2.0, wall_s=1.0)  # two cores
    (m,) = s.queue()
    s.launch(m)
    s.steps(m, 1)  # two seconds after the launch
    s.tell(ev.StudyResumed)
    assert s.state.core_s == 2.0 + 2.0 * 2.0
    assert s.state.core_seconds(s.now) == s.state.core_s


def test_an_adopted_attempt_is_charged_once(story):
    s = story()
    (m,) = s.queue()
    s.launch(m)
    s.tell(ev.StudyResumed)
    assert s.state.core_s > 0
    s.tell(ev.MemberRunning, member=m, attempt=1)
    assert s.state.core_s == 0.0
    s.end(m, core_s=7.0, wall_s=7.0)
    assert s.state.core_s == 7.0


def test_a_given_up_attempt_that_reports_late_is_charged_once(story):
    s = story()
    (m,) = s.queue()
    s.launch(m)
    s.tell(ev.StudyResumed)
    s.tell(ev.MemberRequeued, member=m, attempt=1)
    s.launch(m, attempt=2)
    s.end(m, "lost", attempt=1, core_s=7.0, wall_s=7.0)
    assert s.state.core_s == 7.0
    s.end(m, "lost", attempt=1, core_s=7.0, wall_s=7.0)
    assert s.state.core_s == 7.0


def test_an_attempt_adopted_before_its_stream_was_heard_of_has_a_pace(story):
    s = story()
    (m,) = s.queue()
    s.tell(ev.MemberLaunched, member=m, attempt=1)
    s.tell(ev.StudyResumed)
    s.tell(ev.MemberRunning, member=m, attempt=1, steps_total=8)
    assert s.state.expected_steps == 8
    s.now += 9.0
    s.steps(m, 2)
    assert s.state.seconds_per_step == 5.0


def test_an_abandoned_attempt_whose_end_tells_no_cost_keeps_its_estimate(story):
    s = story()
    (m,) = s.queue()
    s.launch(m)
    s.tell(ev.KillRequested, member=m, attempt=1, reason="nothing left to teach")
    s.tell(ev.StudyResumed)
    estimate = s.state.core_s
    assert estimate > 0
    s.end(m, "killed")
    assert s.state.core_s == estimate
