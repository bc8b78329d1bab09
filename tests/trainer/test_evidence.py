"""Forecasts are judged by what came, and kills are earned by members that were seen to their end."""

import math

import numpy as np
import pytest

from alearn.trainer.evidence import APART, LEAST, NEAREST, Evidence

STEPS = np.arange(4, 12)


def lived(evidence, group, *, predicted, off, age=0.05, best=1.0, killed=False, steps=STEPS):
    """A member of two outputs, forecast once and ``off`` by so much in its steps to come."""
    scale = np.array([2.0, 4.0])
    evidence.forecast(group, age, predicted, best, steps, np.zeros((len(steps), 2)), scale)
    evidence.arrived(np.full(len(steps), group), steps, np.full((len(steps), 2), off) * scale)
    evidence.ended(group, killed)


def test_a_forecast_is_worth_what_those_like_it_came_to():
    evidence = Evidence()
    for g in range(8):  # the ensemble is sure and wrong about these
        lived(evidence, g, predicted=0.01, off=1.0)
    for g in range(8, 16):  # and unsure and right about these
        lived(evidence, g, predicted=0.5, off=0.1)
    assert evidence.worth(0.01, 1.0) == pytest.approx(1.0)
    assert evidence.worth(0.5, 1.0) == pytest.approx(0.01)
    assert evidence.fresh() == pytest.approx((1.0 + 0.01) / 2)


def test_values_are_in_units_of_the_best_candidate_of_their_time():
    evidence = Evidence()
    for g in range(LEAST):
        lived(evidence, g, predicted=0.4, off=2.0, best=4.0)
    assert evidence.worth(0.1, 1.0) == pytest.approx(1.0)


def test_one_surprise_among_the_nearest_is_enough_to_spare_the_others():
    evidence = Evidence()
    for g in range(NEAREST - 1):
        lived(evidence, g, predicted=0.01, off=0.0)
    assert evidence.worth(0.01, 1.0) == 0.0
    lived(evidence, 99, predicted=0.01, off=2.0)
    assert evidence.worth(0.01, 1.0) == pytest.approx(4.0 / NEAREST + 4.0 / NEAREST)  # the mean, and its standard error


def test_nobody_knows_before_enough_members_were_seen_to_their_end():
    evidence = Evidence()
    for g in range(LEAST - 1):
        lived(evidence, g, predicted=0.1, off=0.1)
    for g in range(10, 20):
        lived(evidence, g, predicted=0.1, off=0.1, killed=True)  # what these would have shown, nobody knows
    evidence.forecast(30, 0.1, 0.1, 1.0, STEPS, np.zeros((len(STEPS), 2)), np.ones(2))
    evidence.ended(30, killed=False)  # none of its steps came
    assert math.isnan(evidence.worth(0.1, 1.0))
    assert math.isnan(evidence.fresh())
    lived(evidence, 50, predicted=0.1, off=0.1, age=0.5)
    assert evidence.worth(0.1, 1.0) == pytest.approx(0.01)
    assert math.isnan(evidence.fresh())  # it was not met when it was young


def test_a_member_is_forecast_now_and_then_on_its_way():
    evidence = Evidence()
    asked = []
    for step in range(5 * APART - 1):
        if evidence.wants(3, step, 5 * APART):
            asked.append(step)
            evidence.forecast(3, 0.0, 1.0, 1.0, np.arange(step + 1, 5 * APART), np.zeros((5 * APART - step - 1, 1)), np.ones(1))
    assert asked == list(range(0, 5 * APART - 1, 5))


def test_steps_that_were_not_asked_about_and_outputs_that_changed_do_not_count():
    evidence = Evidence()
    for g in range(LEAST):
        evidence.forecast(g, 0.0, 1.0, 1.0, np.array([3, 9]), np.zeros((2, 1)), np.ones(1))
        evidence.arrived(np.full(3, g), np.array([2, 3, 4]), np.array([[9.0], [1.0], [9.0]]))
        evidence.arrived(np.array([g]), np.array([9]), np.array([[5.0, 5.0]]))  # a field has one coefficient more since
        evidence.ended(g, killed=False)
    assert evidence.worth(1.0, 1.0) == pytest.approx(1.0)


def test_what_is_settled_survives_a_snapshot():
    one, other = Evidence(), Evidence()
    for g in range(6):
        lived(one, g, predicted=0.1 * (g + 1), off=0.1 * g)
    other.load_state_dict(one.state_dict())
    assert other.worth(0.3, 1.0) == one.worth(0.3, 1.0)
    assert other.fresh() == one.fresh()
