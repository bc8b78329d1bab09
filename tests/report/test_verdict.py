from __future__ import annotations

import math

import numpy as np
import pytest

from alearn.events import Evaluated, GhostSpared, KillRequested, MemberScored, SamplesStored
from alearn.report import ArmData, KillAudit, audit_kills, judge, kill_sentences
from alearn.report.verdict import error_at, expense_to_reach


def arm_of(name: str, errors: list[tuple[float, float, float, float]], steps: int = 100, members: int = 10) -> ArmData:
    """An arm evaluated after every 10 members with the given (mean, p95, p99, max)."""
    return ArmData(
        name,
        "Sobol" if name == "control" else "std",
        evaluations=[
            Evaluated(
                at=float(k), simulated_steps=steps * k, members=members * k, error=dict(zip(("mean", "p95", "p99", "max"), e, strict=True))
            )
            for k, e in enumerate(errors, 1)
        ],
    )


WORSE, BETTER = (0.2, 0.4, 0.6, 0.8), (0.1, 0.1, 0.1, 0.1)


def test_a_win_says_by_how_much_on_each_metric() -> None:
    verdict = judge(arm_of("active", [WORSE, BETTER]), arm_of("control", [(1, 1, 1, 1), WORSE]))
    assert verdict.outcome == "won"
    assert verdict.headline == (
        "Active learning won. With the same 20 members, its error is smaller than that of the Sobol control by a factor of "
        "2.00 on the mean, 4.00 on p95, 6.00 on p99 and 8.00 on the maximum."
    )
    assert verdict.members is not None
    assert verdict.members.ratios == pytest.approx({"mean": 2.0, "p95": 4.0, "p99": 6.0, "max": 8.0})
    assert "mean 0.100 against 0.200" in " ".join(verdict.sentences)
    assert "reached the final mean error of the Sobol control (0.200) with 10 members (50 % of the control's 20)" in " ".join(
        verdict.sentences
    )
    assert "100 simulated steps (50 % of its 200)" in " ".join(verdict.sentences)


def test_a_loss_is_said_plainly() -> None:
    verdict = judge(arm_of("active", [WORSE, WORSE]), arm_of("control", [WORSE, BETTER]))
    assert verdict.outcome == "lost"
    assert verdict.headline.startswith("Active learning is not helping here. With the same 20 members, its error is larger")
    assert "2.00 on the mean, 4.00 on p95, 6.00 on p99 and 8.00 on the maximum" in verdict.headline
    assert "Active learning never reached the final mean error of the Sobol control (0.100)." in verdict.sentences


def test_a_draw_is_within_five_percent() -> None:
    verdict = judge(arm_of("active", [WORSE]), arm_of("control", [(0.204, 0.39, 0.6, 0.8)]))
    assert verdict.outcome == "draw"
    assert "active learning is not helping here" in verdict.headline
    assert "within 5.0 % of each other on the mean, p95, p99 and the maximum" in verdict.headline


def test_a_win_on_the_tail_and_a_loss_on_the_mean_is_mixed() -> None:
    verdict = judge(arm_of("active", [(0.22, 0.4, 0.3, 0.2)]), arm_of("control", [WORSE]))
    assert verdict.outcome == "mixed"
    assert verdict.headline == (
        "Mixed. With the same 10 members, the error of active learning is smaller than that of the Sobol control by a factor of "
        "2.00 on p99 and 4.00 on the maximum, but larger by a factor of 1.10 on the mean, and is even on p95."
    )


def test_steps_saved_by_kills_count_when_both_arms_simulated_as_much() -> None:
    active = arm_of("active", [(0.4,) * 4, (0.2,) * 4], steps=50)
    control = arm_of("control", [(0.4,) * 4, (0.2,) * 4], steps=100)
    verdict = judge(active, control)
    assert verdict.outcome == "draw"
    assert verdict.steps is not None
    assert verdict.steps.at == 100
    assert verdict.steps.ratios["mean"] == pytest.approx(2.0)
    assert "Counted in simulated steps, which kills save, active learning is ahead." in verdict.sentences


def test_a_budget_of_steps_compares_what_each_arm_ended_with() -> None:
    """Kills leave one arm more members and a few steps less; neither may be judged by an older measurement."""
    active = arm_of("active", [(0.4,) * 4, (0.3,) * 4, (0.1,) * 4], steps=990, members=14)
    control = arm_of("control", [(0.8,) * 4, (0.4,) * 4, (0.15,) * 4], steps=1000, members=10)
    verdict = judge(active, control)
    assert verdict.outcome == "won"
    assert verdict.headline.startswith("Active learning won. With the same 2,970 simulated steps, its error is smaller")
    assert verdict.steps is not None
    assert verdict.steps.ratios["mean"] == pytest.approx(1.5)


def test_arms_of_unlike_length_meet_where_both_have_been() -> None:
    verdict = judge(arm_of("active", [(0.4,) * 4, (0.1,) * 4], members=10), arm_of("control", [(0.4,) * 4], members=15))
    assert verdict.members is not None
    assert verdict.members.at == 15
    assert verdict.members.active["mean"] == pytest.approx(0.2)  # halfway on a logarithmic scale


def test_nan_errors_are_left_out_and_never_printed() -> None:
    nan = math.nan
    verdict = judge(arm_of("active", [WORSE, (0.1, nan, nan, 0.1)]), arm_of("control", [(nan, nan, nan, nan), (0.2, nan, 0.6, nan)]))
    text = " ".join([verdict.headline, *verdict.sentences])
    assert verdict.outcome == "won"
    assert "nan" not in text.lower()
    assert "p95" not in verdict.headline


def test_without_a_figure_nobody_won() -> None:
    nan = math.nan
    for active, control in (
        (arm_of("active", []), arm_of("control", [WORSE])),
        (arm_of("active", [(nan,) * 4]), arm_of("control", [WORSE])),
        (arm_of("active", []), arm_of("control", [])),
    ):
        verdict = judge(active, control)
        assert verdict.outcome == "unknown"
        assert verdict.headline.startswith("Who won is not known: no error of the active")
    lonely = judge(arm_of("active", [WORSE]), None)
    assert lonely.headline == "The surrogate's error after 10 members: mean 0.200, p95 0.400, p99 0.600, maximum 0.800."
    assert "no control arm" in lonely.sentences[0]
    assert judge(arm_of("active", []), None).headline == "The surrogate's error was not measured."


@pytest.mark.parametrize(("active", "control", "outcome"), [(0.0, 0.0, "draw"), (0.0, 0.1, "won"), (0.1, 0.0, "lost")])
def test_an_error_of_zero_has_a_verdict_too(active: float, control: float, outcome: str) -> None:
    verdict = judge(arm_of("active", [(active,) * 4]), arm_of("control", [(control,) * 4]))
    assert verdict.outcome == outcome
    assert verdict.headline


def test_errors_between_evaluations() -> None:
    x, error = np.asarray([10.0, 20.0, 30.0]), np.asarray([1.0, math.nan, 0.01])
    assert error_at(x, error, 20.0) == pytest.approx(0.1)
    assert error_at(x, error, 99.0) == 0.01
    assert math.isnan(error_at(x, error, 9.0))
    assert math.isnan(error_at(np.zeros(0), np.zeros(0), 1.0))
    assert expense_to_reach(x, error, 0.5) == 30.0
    assert math.isnan(expense_to_reach(x, error, 0.001))
    assert math.isnan(expense_to_reach(x, error, math.nan))


def test_kills_are_audited_from_the_events() -> None:
    events = [
        SamplesStored(at=1, member="m0", attempt=1, steps=10, last=9, t=1.0),
        KillRequested(at=2, member="m0", attempt=1, reason="nothing left to teach: value 0.04", saved_steps=30),
        KillRequested(at=3, member="m1", attempt=1, reason="nothing left to teach: value 0.02", saved_steps=20),
        KillRequested(at=3, member="m1", attempt=1, reason="nothing left to teach: value 0.02", saved_steps=20),
        KillRequested(at=4, member="m2", attempt=1, reason="diverging at step 3", saved_steps=0),
        SamplesStored(at=1, member="m3", attempt=1, steps=5, last=4, t=1.0),
        GhostSpared(at=5, member="m3", step=4, reason="nothing left to teach"),
        MemberScored(at=5, member="m3", step=4, remaining_value=0.0, best_value=1.0, surprise=9.0),
        SamplesStored(at=6, member="m3", attempt=1, steps=15, last=19, t=2.0),
        MemberScored(at=6, member="m3", step=19, remaining_value=0.0, best_value=1.0, surprise=0.9),
    ]
    audit = audit_kills(events)
    assert audit == KillAudit(3, 50, 30, {"nothing left to teach": 2, "diverging at step": 1}, 1, 15, 0.9)
    said = " ".join(kill_sentences(audit))
    assert "Kills saved 50 time steps, 62 % of what would have been simulated: 3 members ended early." in said
    assert "nothing left to teach (2), diverging at step (1)" in said
    assert "1 condemned member ran on as a ghost" in said
    assert "too few to judge" in said


def test_kill_sentences_when_something_was_lost_or_nothing_is_known() -> None:
    assert kill_sentences(None) == ()
    assert kill_sentences(audit_kills([])) == ("No member was killed.",)
    assert "threw away something" in " ".join(kill_sentences(KillAudit(1, 5, 5, {}, 6, 9, 3.0)))
    assert "was not scored" in " ".join(kill_sentences(KillAudit(1, 5, 5, {}, 2, 9)))
    assert "what the kills lost is not known" in " ".join(kill_sentences(KillAudit(1, 0, 0)))
