import numpy as np
import pytest

from alearn.errors import ConfigError
from alearn.surrogate import Calibrator

RNG = np.random.default_rng(1)


def stream(calibrator, members, spread, steps=10, first=0, factor=1.0):
    for g in range(first, first + members):
        truth = RNG.standard_normal((steps, len(spread))) * spread
        calibrator.add(np.zeros_like(truth), np.ones_like(truth) * factor, truth, np.full(steps, g), factor)


def test_finds_each_outputs_factor():
    c = Calibrator(2)
    assert c.factor().tolist() == [1, 1]
    stream(c, 100, np.array([3.0, 0.5]))
    assert c.factor() == pytest.approx([3.0, 0.5], rel=0.12)
    assert c.report()["coverage"]["0.95"] == pytest.approx(0.95, abs=0.02)
    assert c.report(1.0)["coverage"]["0.95"] < 0.95


def test_the_factor_in_force_does_not_feed_back():
    c = Calibrator(1)
    stream(c, 100, np.array([3.0]), factor=3.0)
    assert c.factor() == pytest.approx([3.0], rel=0.12)


def test_few_members_move_it_little():
    c = Calibrator(1)
    stream(c, 1, np.array([10.0]))
    assert 1.0 < c.factor()[0] < 2.5


def test_the_window_forgets():
    c = Calibrator(1, window=40)
    stream(c, 60, np.array([10.0]))
    stream(c, 60, np.array([1.0]), first=100)
    assert c.groups == 40
    assert c.factor() == pytest.approx([1.0], rel=0.15)


def test_long_members_count_once():
    c = Calibrator(1, prior_groups=0)
    stream(c, 50, np.array([1.0]), steps=5)
    stream(c, 5, np.array([30.0]), steps=5000, first=100)
    assert c.factor()[0] < 1.4


def test_steps_of_one_member_may_arrive_apart():
    c = Calibrator(1, rows_per_group=16)
    for _ in range(10):
        stream(c, 1, np.array([1.0]), first=7)
    z, w = c.residuals()
    assert c.groups == 1
    assert len(z) == 16
    assert w.sum() == pytest.approx(1.0)


def test_certainty_and_nan_do_no_harm():
    c = Calibrator(1)
    z = c.add([[0.0], [0.0]], [[0.0], [1.0]], [[1.0], [np.nan]], [0, 1])
    assert np.isfinite(z[0]).all()
    assert np.isfinite(c.factor()).all()
    assert c.groups == 1


def test_state_round_trip():
    c = Calibrator(2)
    stream(c, 12, np.array([2.0, 1.0]))
    again = Calibrator(2)
    again.load_state_dict(c.state_dict())
    assert np.array_equal(again.factor(), c.factor())
    empty = Calibrator(2)
    empty.load_state_dict(Calibrator(2).state_dict())
    assert empty.groups == 0


def test_bad_options():
    with pytest.raises(ConfigError, match="quantile"):
        Calibrator(1, quantile=1.5)
