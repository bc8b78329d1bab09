"""Costs fitted from events are the costs that the events came from."""

from __future__ import annotations

import math
import statistics
from random import Random

import pytest

from alearn import events as ev
from alearn.controller import ValueOfContinuing
from alearn.errors import ConfigError
from alearn.launcher.virtual import CostModel, Faults, LearnerModel, Life, ValueModel
from alearn.testing.virtual import VirtualStudy


@pytest.fixture
def truth() -> CostModel:
    given = CostModel.given(startup_s=3.0, step_s=0.5, steps=40, spread=0.3, fail=0.15)
    value = ValueModel(start=2.0, decay=4.0, spread=0.8, noise=0.1)
    return CostModel(given.lives, given.fail, value, LearnerModel(refit_s=2.5, acquire_s=0.2, errors={"mean": (0.5, 0.3)}))


def run(truth: CostModel, make_policy, **parts) -> CostModel:
    study = VirtualStudy(make_policy(**parts), truth, nodes=6, budget={"members": 300.0}, burst=2, monitors={}, heartbeat_s=0.2)
    assert study.run().state == "done"
    return CostModel.fit(study.ledger.events)


def test_a_fit_finds_the_costs_that_were_given(truth, make_policy):
    fitted = run(truth, make_policy, kill=ValueOfContinuing(threshold=0.0))
    for what in ("startup_s", "step_s"):
        mean = statistics.fmean(getattr(life, what) for life in truth.lives)
        assert statistics.fmean(getattr(life, what) for life in fitted.lives) == pytest.approx(mean, rel=0.12)
    assert {life.steps for life in fitted.lives} == {40}
    assert fitted.fail == pytest.approx(0.15, abs=0.06)
    assert fitted.learner.refit_s == 2.5
    assert fitted.learner.acquire_s == pytest.approx(0.2)
    assert fitted.learner.errors["mean"] == pytest.approx((0.5, 0.3))
    assert fitted.value.start == pytest.approx(2.0, rel=0.35)
    assert fitted.value.decay == pytest.approx(4.0, rel=0.2)
    assert fitted.value.spread == pytest.approx(0.8, rel=0.3)


def test_kills_do_not_make_members_look_short_or_quick(truth, make_policy):
    fitted = run(truth, make_policy, kill=ValueOfContinuing(threshold=1.0, spare=()))
    assert {life.steps for life in fitted.lives} == {40}
    mean = statistics.fmean(life.step_s for life in truth.lives)
    assert statistics.fmean(life.step_s for life in fitted.lives) == pytest.approx(mean, rel=0.12)


def test_without_an_announced_length_the_killed_count_as_long_as_the_finished(make_policy):
    at = dict.fromkeys(("a", "b"), 0.0)
    events: list[ev.Event] = []
    for m, steps, state in (("a", 10, "done"), ("b", 4, "killed")):
        events += [
            ev.MemberLaunched(at=at[m], member=m, attempt=1),
            ev.MemberRunning(at=at[m] + 1.0, member=m, attempt=1),
            ev.SamplesStored(at=at[m] + 1.0 + steps, member=m, attempt=1, steps=steps, last=steps - 1, t=1.0),
            ev.MemberEnded(at=at[m] + 1.5 + steps, member=m, attempt=1, state=state, reason="x", core_s=2.0, wall_s=1.0),
        ]
    fitted = CostModel.fit(events)
    assert fitted.lives == (Life(1.0, 1.0, 10, 2.0, 0.5), Life(1.0, 1.0, 10, 2.0, 0.0))
    assert not fitted.announced


def test_a_member_costs_the_same_whenever_it_is_asked_for():
    costs = CostModel.given()
    assert costs.draw(1, "m0007") == costs.draw(1, "m0007")
    drawn = [costs.draw(1, f"m{n:04d}").step_s for n in range(2000)]
    assert statistics.median(drawn) == pytest.approx(1.0, rel=0.05)
    assert costs.wall_s == pytest.approx(statistics.fmean(life.wall_s for life in costs.lives))


def test_the_value_falls_along_the_trajectory_and_the_error_with_the_steps():
    value = ValueModel(start=1.0, decay=2.0, spread=0.5, noise=0.0)
    assert value.ratio(0.0, 0.0) == 1.0
    assert value.ratio(0.5, 0.0) == pytest.approx(math.exp(-1.0))
    assert value.ratio(0.5, 2.0) == pytest.approx(1.0)
    assert LearnerModel(errors={"mean": (0.0, 0.5)}).error(100) == pytest.approx({"mean": 0.1})


def test_nonsense_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match="let a short run"):
        CostModel.fit([])
    with pytest.raises(ConfigError, match="step_s positive"):
        CostModel((Life(0.0, 0.0, 1),))
    with pytest.raises(ConfigError, match=r"in \[0, 1\]"):
        CostModel.given(fail=2.0)
    with pytest.raises(ConfigError, match="hang=2"):
        Faults(hang=2.0)
    with pytest.raises(ConfigError, match="not negative"):
        Faults(delay_s=-1.0)


def test_drawn_faults_are_legal_and_tell_what_is_on():
    told = [Faults.draw(Random(seed), nodes=4, horizon_s=100.0, commits=50).told() for seed in range(50)]
    assert len(set(told)) > 45
    assert any("NodeLoss" in line for line in told)
    assert any("Crash" in line for line in told)
    assert Faults().told() == "none"
