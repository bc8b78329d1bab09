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
    factors = []
    for steps in (5, 5000):
        c = Calibrator(1, prior_groups=0)
        stream(c, 50, np.array([1.0]), steps=5)
        stream(c, 3, np.array([30.0]), steps=steps, first=100)
        factors.append(c.factor()[0])
    assert factors == pytest.approx([1.15, 1.15], abs=0.25)


def test_few_members_say_nothing_of_the_tail():
    """Five wild residuals in a hundred count once there are enough members to know the tail."""
    few, many = Calibrator(1, prior_groups=0), Calibrator(1, prior_groups=0)
    for c, members in ((few, 3), (many, 150)):
        truth = np.where(np.arange(20) % 6 == 0, 8.0, 1.0)[:, None] * 0.6745
        for g in range(members):
            c.add(np.zeros_like(truth), np.ones_like(truth), truth, np.full(20, g))
    assert few.factor() == pytest.approx([1.0], rel=0.1)
    assert many.factor()[0] > 3


def test_members_count_by_their_weight():
    c = Calibrator(1, prior_groups=0, quantile=0.5)
    rng = np.random.default_rng(0)
    for g in range(60):
        wild = g % 3 > 0  # two thirds of the members, of little weight
        y = rng.standard_normal((10, 1)) * (5.0 if wild else 1.0)
        c.add(np.zeros_like(y), np.ones_like(y), y, np.full(10, g), weight=0.05 if wild else 1.0)
    assert c.evidence == pytest.approx(22)
    assert c.factor()[0] < 1.3


def test_the_conformal_interval_holds_what_it_promises():
    rng = np.random.default_rng(3)
    c = Calibrator(1)
    assert np.isinf(c.half_width(0.95)).all()

    def heavy(members):
        return rng.standard_t(2, (members, 1))  # far from normal

    y = heavy(200)
    c.add(np.zeros_like(y), np.ones_like(y), y, np.arange(200))
    new = heavy(4000)
    for level in (0.5, 0.8, 0.95):
        inside = np.abs(new) <= c.half_width(level) * c.factor()
        assert inside.mean() == pytest.approx(level, abs=0.06)


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
