"""Back-off before a retry, regions in quarantine, and stragglers."""

import dataclasses

import pytest

from alearn import events as ev
from alearn.config import Config
from alearn.controller import Kill, Launch, NeverKill, Requeue, Retry
from alearn.controller.decisions import Cut, Duplicate, Wait, Withdraw
from alearn.controller.quarantine import Quarantine
from alearn.controller.stragglers import COPY, RESTART, Stragglers
from alearn.errors import ConfigError, IllegalEvent, UnknownName
from alearn.types import Exit, ExitCause, MemberState


def lose(s, member, attempt, cause="node lost"):
    s.launch(member, attempt)
    s.end(member, "lost", attempt, cause=cause)


# --- back-off ---------------------------------------------------------------------------------------------------------


def test_back_off_doubles_and_depends_on_the_cause(story):
    s = story()
    (m,) = s.queue()
    rule = Retry(max_attempts=5, backoff_s={"node lost": 10.0})
    for attempt, delay in ((1, 10), (2, 20), (3, 40)):
        lose(s, m, attempt)
        assert [type(d) for d in rule.decide(s.state, s.now + delay - 1)] == [Wait]
        assert [type(d) for d in rule.decide(s.state, s.now + delay)] == [Requeue]
        s.tell(ev.MemberRequeued, member=m, attempt=attempt)
    lose(s, m, 4, cause="preempted")
    assert [type(d) for d in rule.decide(s.state, s.now)] == [Requeue]


def test_what_the_controllers_own_death_lost_waits_for_nothing(story):
    s = story()
    (m,) = s.queue()
    s.launch(m)
    s.tell(ev.StudyResumed)
    assert [type(d) for d in Retry(backoff_s=1000.0).decide(s.state, s.now)] == [Requeue]


def test_a_study_does_not_end_while_a_member_waits_for_its_back_off(story, make_policy):
    s = story(members=1)
    (m,) = s.queue()
    lose(s, m, 1)
    policy = make_policy(failure=Retry(backoff_s=100.0))
    assert not [d for d in policy.decide(s.state, s.now) if type(d).__name__ == "Stop"]
    assert [type(d) for d in policy.decide(s.state, s.now + 101)][:1] == [Requeue]


def test_new_members_start_while_another_waits_for_its_back_off(story, make_policy):
    s = story(members=3)
    a, b = s.queue(2)
    lose(s, a, 1)
    decided = make_policy(failure=Retry(backoff_s=100.0)).decide(s.state, s.now)
    assert [d.member for d in decided if isinstance(d, Launch)] == [b]


@pytest.mark.parametrize(("backoff", "error"), [(-1.0, ConfigError), ({"node lots": 1.0}, UnknownName), (float("inf"), ConfigError)])
def test_bad_back_off(backoff, error):
    with pytest.raises(error):
        Retry(backoff_s=backoff)


# --- quarantine -------------------------------------------------------------------------------------------------------


def at(s, member, x, ending):
    s.tell(ev.MemberQueued, member=member, parameters={"a": x}, x=(x,), origin="acquisition", score=1.0, round=1)
    if ending:
        s.launch(member)
        s.steps(member, 2)
        s.end(member, ending, reason="ValueError: diverged" if ending == "failed" else "", cause="exception")


def refused(rule, s):
    s.state.slots = 8
    return [d.member for d in rule.decide(s.state, s.now) if isinstance(d, Withdraw)]


def test_a_point_among_failures_is_taken_back(story):
    s = story()
    for n, x in enumerate((0.10, 0.12, 0.14, 0.9)):
        at(s, f"m{n:04d}", x, "failed" if x < 0.5 else "done")
    for n, x in ((10, 0.11), (11, 0.5), (13, 0.95)):
        at(s, f"m{n:04d}", x, "")
    rule = Quarantine(failures=3, radius=0.1)
    assert refused(rule, s) == ["m0010"]
    (decision,) = rule.decide(s.state, s.now)
    assert decision.reason == "in quarantine: all 3 members within 0.1 of it failed (mostly: ValueError: diverged)"
    assert refused(Quarantine(failures=4, radius=0.1), s) == []
    assert refused(Quarantine(failures=0), s) == []


def test_one_success_ends_it(story):
    s = story()
    for n, x in enumerate((0.10, 0.12, 0.14)):
        at(s, f"m{n:04d}", x, "failed")
    at(s, "m0010", 0.11, "")
    rule = Quarantine(failures=3, radius=0.1)
    assert refused(rule, s) == ["m0010"]
    at(s, "m0004", 0.13, "done")
    assert refused(rule, s) == []


def test_some_are_let_through(story):
    s = story()
    for n in range(3):
        at(s, f"m{n:04d}", 0.1, "failed")
    for n in range(100, 140):
        at(s, f"m{n:04d}", 0.1, "")
    s.state.slots = 100
    taken = len(Quarantine(failures=3, probe=4).decide(s.state, s.now))
    assert 20 <= taken <= 36


def test_the_policy_does_not_launch_what_it_takes_back(story, make_policy):
    s = story(members=50)
    for n in range(3):
        at(s, f"m{n:04d}", 0.1, "failed")
    for n in range(100, 108):
        at(s, f"m{n:04d}", 0.1, "")
    s.tell(ev.CapacityChanged, slots=8)
    decided = make_policy(screen=Quarantine(failures=3)).decide(s.state, s.now)
    launched = {d.member for d in decided if isinstance(d, Launch)}
    withdrawn = {d.member for d in decided if isinstance(d, Withdraw)}
    assert withdrawn
    assert not launched & withdrawn
    assert len(launched | withdrawn) == 8


@pytest.mark.parametrize("options", [{"failures": -1}, {"radius": 0.0}, {"probe": 1}])
def test_bad_quarantine(options):
    with pytest.raises(ConfigError):
        Quarantine(**options)


# --- stragglers -------------------------------------------------------------------------------------------------------


def with_a_slow_one(story):
    """Five members of about 14 s each, and one that has just begun."""
    s = story()
    for _ in range(5):
        (m,) = s.queue()
        s.launch(m)
        for _ in range(10):
            s.steps(m, 1)
        s.end(m)
    (slow,) = s.queue()
    s.launch(slow)
    s.steps(slow, 1)
    return s, slow


@pytest.mark.parametrize(("action", "cause"), [("kill", ""), ("restart", RESTART)])
def test_a_straggler(story, action, cause):
    s, slow = with_a_slow_one(story)
    rule = Stragglers(NeverKill(), action=action, factor=5.0)
    assert rule.decide(s.state, s.now + 20) == []
    (kill,) = rule.decide(s.state, s.now + 100)
    assert isinstance(kill, Kill)
    assert (kill.member, kill.attempt, kill.cause, kill.fault) == (slow, 1, cause, False)
    assert "a straggler: 1" in kill.reason
    assert Stragglers(NeverKill(), action="wait").decide(s.state, s.now + 1000) == []


def test_a_restarted_straggler_is_lost_and_tried_again(story):
    s, slow = with_a_slow_one(story)
    (kill,) = Stragglers(NeverKill(), action="restart").decide(s.state, s.now + 100)
    s.tell(ev.KillRequested, member=slow, attempt=1, reason=kill.reason, cause=kill.cause)
    assert Stragglers(NeverKill(), action="restart").decide(s.state, s.now + 200) == []
    state, reason, cause = Retry().classify(Exit(slow, 1, ExitCause.CANCELLED), s.state.look(slow))
    assert (state, cause) == (MemberState.LOST, RESTART)
    s.end(slow, state.value, 1, reason=reason, cause=cause)
    assert [type(d) for d in Retry().decide(s.state, s.now)] == [Requeue]


def copied(story):
    """A straggler and its copy."""
    s, slow = with_a_slow_one(story)
    s.tell(ev.CapacityChanged, slots=2)
    rule = Stragglers(NeverKill(), action="duplicate", factor=5.0)
    s.now += 100
    (decision,) = rule.decide(s.state, s.now)
    assert isinstance(decision, Duplicate)
    s.tell(ev.CopyLaunched, member=slow, attempt=1, reason=decision.reason)
    assert s.state.busy == 2
    assert rule.decide(s.state, s.now + 100) == []
    return s, slow, rule


def test_a_copy_needs_a_free_slot(story):
    s, _ = with_a_slow_one(story)
    s.tell(ev.CapacityChanged, slots=1)
    assert Stragglers(NeverKill(), action="duplicate").decide(s.state, s.now + 100) == []


def test_a_copy_takes_the_slot_before_anything_new(story, make_policy):
    s, slow = with_a_slow_one(story)
    s.tell(ev.CapacityChanged, slots=2)
    policy = dataclasses.replace(make_policy(), kill=Stragglers(NeverKill(), action="duplicate"))
    decided = policy.decide(s.state, s.now + 100)
    assert [d.member for d in decided if isinstance(d, Duplicate)] == [slow]
    assert s.queue()
    assert not [d for d in decided if isinstance(d, Launch)]


def test_a_copy_that_is_done_first_makes_its_member_done(story):
    s, slow, rule = copied(story)
    s.tell(ev.CopyEnded, member=slow, attempt=1, state="done", core_s=3.0, wall_s=4.0)
    (kill,) = rule.decide(s.state, s.now)
    assert (kill.member, kill.attempt, kill.cause) == (slow, 1, COPY)
    s.tell(ev.KillRequested, member=slow, attempt=1, reason=kill.reason, cause=kill.cause)
    assert rule.decide(s.state, s.now) == []
    for cause in (ExitCause.CANCELLED, ExitCause.EXIT_CODE, ExitCause.NODE_LOST):
        assert Retry().classify(Exit(slow, 1, cause), s.state.look(slow))[0] is MemberState.DONE
    s.end(slow, "done", 1, reason="its copy was done first", cause=COPY)
    assert s.state.busy == 0
    assert s.state.kills_by_value == 0


@pytest.mark.parametrize("how", ["done", "killed"])
def test_a_copy_that_nobody_needs_any_more_is_cut_once(story, how):
    s, slow, rule = copied(story)
    if how == "done":
        s.end(slow, "done", 1)
    else:
        s.tell(ev.KillRequested, member=slow, attempt=1, reason="it teaches nothing")
    (cut,) = rule.decide(s.state, s.now)
    assert isinstance(cut, Cut)
    assert ("over" in cut.reason) == (how == "done")
    s.tell(ev.CopyCut, member=slow, attempt=1, reason=cut.reason)
    assert rule.decide(s.state, s.now) == []
    s.tell(ev.CopyEnded, member=slow, attempt=1, state="lost", core_s=3.0)
    assert not s.state.copies


def test_a_copy_that_fails_leaves_its_member_alone(story):
    s, slow, rule = copied(story)
    before = s.state.core_s
    s.tell(ev.CopyEnded, member=slow, attempt=1, state="failed", reason="no such program", core_s=3.0)
    assert s.state.core_s == before + 3.0
    assert s.state.look(slow).state is MemberState.RUNNING
    assert rule.decide(s.state, s.now + 100) == []
    with pytest.raises(IllegalEvent, match="does not run alone"):
        s.tell(ev.CopyLaunched, member=slow, attempt=1, reason="once more")


def test_what_was_steered_is_not_copied(story):
    s, slow = with_a_slow_one(story)
    s.tell(ev.CapacityChanged, slots=2)
    s.tell(ev.SteerRequested, member=slow, attempt=1, values={"dt": 0.1})
    assert Stragglers(NeverKill(), action="duplicate").decide(s.state, s.now + 100) == []


def test_nothing_is_slow_before_enough_are_done(story):
    s, _ = with_a_slow_one(story)
    assert Stragglers(NeverKill(), action="kill", least=6).decide(s.state, s.now + 1000) == []


@pytest.mark.parametrize("options", [{"factor": 1.0}, {"least": 0}, {"least_s": -1.0}, {"action": "twice"}])
def test_bad_stragglers(options):
    with pytest.raises(ConfigError):
        Stragglers(NeverKill(), **options)


# --- the configuration ------------------------------------------------------------------------------------------------

BASE = {"space": {"a": [0, 1]}, "simulation": {"name": "python", "target": "f.py:g"}}


def test_from_the_configuration():
    config = Config.from_mapping({**BASE, "failure": {"retry": ["out_of_memory"], "backoff_s": {"node_lost": 5}, "quarantine": 3}})
    assert config.failure.causes() == ["out of memory"]
    assert config.failure.backoff() == {"node lost": 5}
    assert Config.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"retry": ["sginal"]}, "Did you mean 'signal'"),
        ({"backoff_s": {"node_lots": 3}}, "Did you mean 'node lost'"),
        ({"backoff_s": -3}, r"failure\.backoff_s is -3"),
        ({"stragglers": "kil"}, "Did you mean 'kill'"),
        ({"quarantine": 1.5}, r"failure\.quarantine is 1\.5"),
    ],
)
def test_bad_configuration(entries, said):
    with pytest.raises(ConfigError, match=said):
        Config.from_mapping({**BASE, "failure": entries})
