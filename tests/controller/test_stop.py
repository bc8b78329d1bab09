import pytest

from alearn import events as ev
from alearn.controller import BudgetSpent, CoverageGoal, ErrorGoal, FailureBudget, KeepSlotsFull, Kill, NoProgress, Stop, Withdraw
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
    assert ending.state == "done"
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


def test_the_coverage_goal_is_about_a_share_of_the_box(story):
    s = story()
    goal = CoverageGoal(share=0.95, std=0.1)
    for q95, q99, reached in ((0.05, 0.5, False), (0.2, 0.3, False), (0.09, 0.4, False), (0.08, 0.4, True)):
        s.tell(ev.Evaluated, simulated_steps=1, members=1, error={}, std={"q95": q95, "q99": q99})
        assert (goal.verdict(s.state, s.now) is not None) == reached
    ending = goal.verdict(s.state, s.now)
    assert ending is not None
    assert ending.reason == "the goal is reached: 95 % of the box has a standard deviation of at most 0.08, wanted 0.1"
    assert CoverageGoal(share=0.99, std=0.1).verdict(s.state, s.now) is None
    s.evaluate(mean=1.0)  # a measurement that says nothing of the box breaks the row
    assert goal.verdict(s.state, s.now) is None


def test_a_coverage_goal_of_an_unknown_share_is_refused():
    with pytest.raises(ConfigError, match=r"one of 0\.5, 0\.8"):
        CoverageGoal(share=0.42)


def test_what_was_never_launched_is_said_at_the_end(story, make_policy):
    policy = make_policy(stop=[ErrorGoal(metric="mean", threshold=1.0, evaluations=1)], launch=KeepSlotsFull(slots=1))
    s = story()
    s.whole()
    s.refit()
    s.queue(2)
    s.evaluate(mean=0.5)
    found = policy.decide(s.state, s.now)
    assert [d.member for d in found if isinstance(d, Withdraw)] == ["m0001", "m0002"]
    assert all(isinstance(d, Withdraw) and d.reason.startswith("never launched: the goal is reached") for d in found)
    for d in found:
        assert isinstance(d, Withdraw)
        s.tell(ev.MemberRescored, member=d.member, score=0.0, withdrawn=True, why=d.reason)
    assert s.state.idle
    assert not any(isinstance(d, Withdraw) for d in policy.decide(s.state, s.now))


def test_a_retry_that_cannot_finish_in_the_wall_time_left_is_not_started(story, make_policy):
    s = story(wall_s=100.0)
    s.whole(steps=40)
    s.queue(1)
    s.launch("m0001")
    s.steps("m0001", 5)
    s.end("m0001", "lost")
    s.tell(ev.MemberRequeued, member="m0001", attempt=1)
    launch = KeepSlotsFull(slots=1)
    late = 100.0 - 0.5 * s.state.member_wall_s
    assert [d.member for d in launch.decide(s.state, s.now)] == ["m0001"]
    assert launch.decide(s.state, late) == []
    (given_up,) = make_policy().decide(s.state, late)
    assert given_up == Withdraw("m0001", "not tried again: the budget of 100 seconds of wall time leaves no room for another member")
    s.tell(ev.MemberRescored, member="m0001", score=0.0, withdrawn=True, why=given_up.reason)
    assert s.state.withdrawn == 0  # it was launched, and its steps stay
    assert s.state.look("m0001").steps == 5
