import math

import pytest

from alearn import events as ev
from alearn.controller import Kill, NeverKill, Record, Spare, ValueOfContinuing
from alearn.controller.kill import is_ghost
from alearn.errors import ConfigError


def running(story, origin="acquisition", steps=14, total=40, seed_budget=None):
    s = story(**(seed_budget or {}))
    (m,) = s.queue(origin=origin)
    s.launch(m, steps_total=total)
    s.steps(m, steps)
    return s, m


def rule(**options) -> ValueOfContinuing:
    return ValueOfContinuing(**{"ghosts": 0.0, **options})


def test_a_member_with_nothing_left_to_teach_is_killed_and_the_reason_says_so(story):
    s, m = running(story, steps=12)
    s.score(m, 0.03)
    assert rule().decide(s.state, s.now) == []
    s.steps(m, 2)
    s.score(m, 0.02)
    (kill,) = rule().decide(s.state, s.now)
    assert kill == Kill(
        m, 1, "nothing left to teach: remaining value 0.02 of the best candidate's, at step 14 of about 40; 26 steps saved", 26
    )


def test_a_score_without_new_steps_confirms_nothing(story):
    s, m = running(story)
    for _ in range(5):
        s.score(m, 0.01)
    assert rule().decide(s.state, s.now) == []


def test_one_good_score_starts_the_row_again(story):
    s, m = running(story, steps=10)
    for value in (0.01, 0.5, 0.01):
        s.steps(m, 1)
        s.score(m, value)
        assert rule().decide(s.state, s.now) == []
    s.steps(m, 1)
    s.score(m, 0.01)
    assert rule(hysteresis=3).decide(s.state, s.now) == []
    assert len(rule(hysteresis=2).decide(s.state, s.now)) == 1


@pytest.mark.parametrize(("remaining", "best"), [(math.nan, 1.0), (0.0, math.nan), (0.0, 0.0), (0.0, math.inf)])
def test_without_knowledge_or_a_better_use_nothing_is_killed(story, remaining, best):
    s, m = running(story)
    for _ in range(3):
        s.steps(m, 1)
        s.score(m, remaining, best)
    assert rule().decide(s.state, s.now) == []


@pytest.mark.parametrize(
    ("options", "origin", "total"),
    [({"min_steps": 20}, "acquisition", 40), ({"min_share": 0.5}, "acquisition", 40), ({"min_saved": 30}, "acquisition", 40)]
    + [({}, origin, 40) for origin in ("design", "holdout")],
)
def test_the_young_the_nearly_done_and_the_unbiased_are_left_alone(story, options, origin, total):
    s, m = running(story, origin=origin, steps=12, total=total)
    for _ in range(3):
        s.steps(m, 1)
        s.score(m, 0.0)
    assert rule(**options).decide(s.state, s.now) == []
    assert len(rule(spare=()).decide(s.state, s.now)) == 1


def test_a_kill_needs_something_that_can_use_the_slot(story):
    s, m = running(story, seed_budget={"members": 1.0})
    for _ in range(2):
        s.steps(m, 1)
        s.score(m, 0.0)
    assert rule().decide(s.state, s.now) == []
    assert len(rule(replace=False).decide(s.state, s.now)) == 1
    s.tell(ev.BudgetChanged, budget={"members": 2.0})
    assert len(rule().decide(s.state, s.now)) == 1


def test_a_requested_kill_is_not_asked_for_again(story):
    s, m = running(story)
    for _ in range(2):
        s.steps(m, 1)
        s.score(m, 0.0)
    (kill,) = rule().decide(s.state, s.now)
    assert isinstance(kill, Kill)
    s.tell(ev.KillRequested, member=m, attempt=1, reason=kill.reason, saved_steps=kill.saved_steps)
    s.steps(m, 1)
    s.score(m, 0.0)
    assert rule().decide(s.state, s.now) == []
    assert s.state.saved_steps == 0
    s.end(m, "killed")
    assert s.state.saved_steps == kill.saved_steps - 1  # a step arrived between the decision and the end
    assert s.state.kills_by_value == 1


def test_ghosts_run_on_whatever_they_are_worth_but_not_with_a_fault(story):
    s, m = running(story)
    policy = rule(ghosts=1.0)
    for _ in range(2):
        s.steps(m, 1)
        s.score(m, 0.0)
    (spare,) = policy.decide(s.state, s.now)
    assert isinstance(spare, Spare)
    assert spare.reason.startswith("runs on as a ghost, though nothing left to teach")
    s.tell(ev.GhostSpared, member=m, step=15, reason=spare.reason)
    s.steps(m, 1)
    s.score(m, 0.0)
    assert policy.decide(s.state, s.now) == []
    record = s.state.look(m)
    assert isinstance(record, Record)
    assert (record.ghost, record.ghost_step, s.state.ghosts) == (True, 15, 1)
    s.tell(ev.MonitorAlarm, member=m, monitor="nonfinite", reason="NaN in field 'u'")
    (kill,) = policy.decide(s.state, s.now)
    assert kill == Kill(m, 1, "nonfinite: NaN in field 'u'", 23, fault=True, cause="nonfinite")


def test_the_share_of_ghosts_is_kept_and_never_changes_its_mind():
    chosen = [is_ghost(7, f"m{n:04d}", 0.1) for n in range(5000)]
    assert 400 < sum(chosen) < 600
    assert chosen == [is_ghost(7, f"m{n:04d}", 0.1) for n in range(5000)]
    assert chosen != [is_ghost(8, f"m{n:04d}", 0.1) for n in range(5000)]
    assert not any(is_ghost(7, f"m{n}", 0.0) for n in range(99))
    assert all(is_ghost(7, f"m{n}", 1.0) for n in range(99))


def test_an_alarm_kills_at_once_even_before_the_first_step(story):
    s = story()
    (m,) = s.queue(origin="design")
    s.tell(ev.MemberLaunched, member=m, attempt=1)
    s.tell(ev.MonitorAlarm, member=m, monitor="stall", reason="no step for 99 s")
    for policy in (NeverKill(), rule()):
        (kill,) = policy.decide(s.state, s.now)
        assert isinstance(kill, Kill)
        assert kill.reason == "stall: no step for 99 s"
    assert NeverKill(alarms=False).decide(s.state, s.now) == []
    s.tell(ev.KillRequested, member=m, attempt=1, reason="stall", fault=True, cause="stall")
    assert NeverKill().decide(s.state, s.now) == []


@pytest.mark.parametrize("options", [{"threshold": -1}, {"ghosts": 1.5}, {"min_share": 2}, {"hysteresis": 1}, {"hysteresis": 9}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match="must"):
        ValueOfContinuing(**options)


def test_a_member_that_has_made_its_last_step_is_not_killed(story):
    """Its last scores condemn it, but they are older than its last steps: there is nothing left to save."""
    s, m = running(story)
    length = s.state.records[m].steps_total or round(s.state.length(s.state.records[m]))
    for _ in range(2):
        s.steps(m, 1)
        s.score(m, 0.0)
    assert rule().decide(s.state, s.now)
    s.steps(m, length - s.state.records[m].steps)
    assert rule().decide(s.state, s.now) == []
