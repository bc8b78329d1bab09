import numpy as np
import pytest

from alearn.buffer import Paired, Rows
from alearn.errors import ConfigError
from alearn.testing.buffer import BufferConformance


class TestPaired(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return Paired(capacity=capacity, watermark=watermark, seed=seed)


class TestStretches(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return Paired(capacity=capacity, watermark=watermark, gaps=(1, 3), length=3, seed=seed)


def trajectory(group, steps):
    steps = np.asarray(steps)
    x = np.stack([np.full(len(steps), float(group)), steps.astype(float)], axis=1)
    return Rows(x, x[:, 1:] ** 2, np.ones(len(steps)), np.full(len(steps), group), steps)


def filled(members=20, steps=12, **options):
    buffer = Paired(**{"watermark": 0, **options})
    for group in range(members):
        buffer.insert(trajectory(group, range(steps)))
    return buffer


@pytest.mark.parametrize("gaps", [(1,), (2,), (1, 4)])
def test_pairs_are_of_one_member_and_a_gap_apart(gaps):
    buffer = filled(gaps=gaps)
    seen = set()
    for _ in range(40):
        earlier, later = buffer.draw_pairs(16)
        assert (earlier.group == later.group).all()
        apart = (later.step - earlier.step).tolist()
        assert set(apart) <= set(gaps)
        seen |= set(apart)
        np.testing.assert_array_equal(later.y[:, 0], later.step.astype(float) ** 2)
    assert seen == set(gaps)


def test_a_mini_batch_is_made_of_stretches():
    buffer = filled(length=4)
    lengths = []
    for _ in range(40):
        rows = buffer.draw(16)
        assert len(rows) >= 15  # one row that is left over has no partner
        follows = (np.diff(rows.group) == 0) & (np.diff(rows.step) == 1)
        ends = np.flatnonzero(~np.append(follows, False)) + 1
        lengths += np.diff(ends, prepend=0).tolist()
    assert min(lengths) >= 2  # shorter than asked for only where a neighbour was in the mini-batch already, or at an end
    assert np.mean(np.array(lengths) >= 4) > 0.7


def test_gaps_and_trajectories_are_used_evenly():
    buffer = filled(members=30, gaps=(1, 2, 5))
    gaps, groups = np.zeros(6), np.zeros(30)
    for _ in range(200):
        earlier, later = buffer.draw_pairs(12)
        np.add.at(gaps, later.step - earlier.step, 1)
        np.add.at(groups, earlier.group, 1)
    assert gaps[[1, 2, 5]].min() > 0.8 * gaps[[1, 2, 5]].max()
    assert groups.std() < 0.5 * np.sqrt(groups.mean())  # a uniform choice would leave the square root of the mean


def test_a_trajectory_that_came_late_is_favoured():
    buffer = filled(members=10)
    for _ in range(100):
        buffer.draw_pairs(8)
    buffer.insert(trajectory(99, range(12)))
    late = sum(int((buffer.draw_pairs(8)[0].group == 99).sum()) for _ in range(20))
    assert late > 2 * 160 / 11


def test_what_stays_of_a_trajectory_is_whole():
    buffer = filled(members=20, steps=12, capacity=120)
    assert buffer.counts.received == 120
    for group in range(20, 60):
        for _ in range(4):
            buffer.draw_pairs(16)
        assert buffer.insert(trajectory(group, range(12))) == 12
    kept = buffer.state_dict()["store"]
    for group in np.unique(kept["group"]).tolist():
        steps = np.sort(kept["step"][kept["group"] == group])
        assert (np.diff(steps) == 1).all()


def test_a_row_without_a_partner_waits_for_it_and_is_used_at_the_end():
    buffer = Paired(watermark=0)
    buffer.insert(trajectory(0, [0]))
    assert buffer.draw(4) is None
    buffer.insert(trajectory(0, [1]))
    assert buffer.draw(4).step.tolist() == [0, 1]
    buffer.insert(trajectory(1, [0]))
    buffer.finish()
    drawn = []
    while (rows := buffer.draw(4)) is not None:
        drawn += list(zip(rows.group.tolist(), rows.step.tolist(), strict=True))
    assert sorted(drawn) == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("options", [{"gaps": ()}, {"gaps": (0,)}, {"gaps": (2, 2)}, {"length": 1}])
def test_impossible_pairs_are_named(options):
    with pytest.raises(ConfigError, match=r"gaps=.*length="):
        Paired(**options)
