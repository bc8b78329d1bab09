import pytest

from alearn import events as ev
from alearn.controller import BudgetSpent, ErrorGoal, FailureBudget, Kill, NoProgress, Stop
from alearn.errors import ConfigError


def test_hard_budgets_kill_what_runs_and_say_why(story, make_policy):
    s = story(steps=20)
    s.queue(2)
    s.launch("m0000")
    s.launch("m0001")
    s.steps("m0000", 12)
    assert BudgetSpent().verdict(s.state, s.now) is None
    s.steps("m0001", 8)
    kills = make_policy().decide(s.state, s.now)
    assert [k.member for k in kills if isinstance(k, Kill)] == ["m0000", "m0001"]
    assert kills[0].reason == "the study ends: the budget of 20 time steps is spent"
    for k in kills:
        assert isinstance(k, Kill)
        s.tell(ev.KillRequested, member=k.member, attempt=1, reason=k.reason, saved_steps=k.saved_steps)
    assert make_policy().decide(s.state, s.now) == []


@pytest.mark.parametrize(("budget", "words"), [({"wall_s": 50.0}, "50 seconds of wall time"), ({"core_s": 30.0}, "30 core-seconds")])
def test_time_budgets(story, budget, words):
    s = story(**budget)
    s.whole(core_s=10.0, wall_s=5.0)
    s.queue(1)
    s.launch("m0001")
    assert BudgetSpent().verdict(s.state, s.now) is None
    ending = BudgetSpent().verdict(s.state, s.now + 99.0)
    assert ending is not None
    assert (ending.state, ending.kill) == ("done", True)
    assert words in ending.reason


def test_an_empty_budget_ends_at_once(story, make_policy):
    assert make_policy().decide(story(members=0).state, 1.0) == [Stop("done", "the budget of 0 members is spent")]


def test_room_for_no_further_member_ends_too(story):
    s = story(steps=25)
    s.whole(steps=20)
    ending = BudgetSpent().verdict(s.state, s.now)
    assert ending is not None
    assert ending.reason == "the budget of 25 time steps leaves no room for another member"


def test_a_goal_must_hold_several_times_in_a_row(story, make_policy):
    goal = ErrorGoal(metric="p95", threshold=0.1, evaluations=2)
    s = story()
    s.queue(1)
    s.launch("m0000")
    for p95, reached in ((0.05, False), (0.2, False), (0.09, False), (0.08, True)):
        s.evaluate(p95=p95)
        assert (goal.verdict(s.state, s.now) is not None) is reached
    (kill,) = make_policy(stop=[goal]).decide(s.state, s.now)
    assert isinstance(kill, Kill)
    assert "the goal is reached: p95 error 0.08, wanted 0.1" in kill.reason
    s.evaluate(mean=0.0)  # no p95 at all
    assert goal.verdict(s.state, s.now) is None


def test_the_prequential_error_can_be_the_goal(story):
    s = story()
    s.tell(ev.Evaluated, simulated_steps=1, members=1, error={}, prequential={"mean": 0.1})
    assert ErrorGoal(metric="mean", threshold=0.2, evaluations=1, source="prequential").verdict(s.state, 0.0)


def test_no_progress(story):
    s = story()
    rule = NoProgress(metric="mean", evaluations=3, improvement=0.05)
    for mean in (1.0, 0.5, 0.49, 0.51):
        s.evaluate(mean=mean)
        assert rule.verdict(s.state, 0.0) is None
    s.evaluate(mean=0.48)
    ending = rule.verdict(s.state, 0.0)
    assert ending is not None
    assert ending.state == "stopped"
    assert ending.reason == "no progress: the mean error was 0.5, and the last 3 measurements gave 0.48 at best"
    assert NoProgress().verdict(s.state, 0.0) is None


def test_too_many_failures_end_the_study_with_the_commonest_reason(story, make_policy):
    s = story()
    for n in range(8):
        s.whole(state="failed", reason=f"exit code 3: step {n}", cause="exit code")
    s.whole(state="done")
    s.whole(state="failed", reason="MemoryError", cause="exception")
    (stop,) = [d for d in make_policy().decide(s.state, s.now) if isinstance(d, Stop)]
    assert stop == Stop("failed", "9 of 10 members failed; most often: exit code #: step #")
    assert FailureBudget(at_least=10).verdict(s.state, 0.0) is None
    assert FailureBudget(share=0.95).verdict(s.state, 0.0) is None


def test_failures_in_a_hard_region_do_not_end_a_study(story):
    s = story()
    for n in range(40):
        s.whole(state="failed" if n % 3 == 0 else "done", reason="NaN")
    assert FailureBudget().verdict(s.state, 0.0) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: ErrorGoal(metric="p50"),
        lambda: ErrorGoal(source="guess"),
        lambda: ErrorGoal(evaluations=0),
        lambda: NoProgress(evaluations=500),
        lambda: FailureBudget(share=2.0),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ConfigError, match="must"):
        make()
