import numpy as np

from alearn.trainer.grid import TimeGrid


def test_means_and_extrapolates_at_the_mean_pace():
    grid = TimeGrid()
    grid.observe(np.array([0, 1, 2]), np.array([0.0, 1.0, 2.0]))
    grid.observe(np.array([0, 1, 2, 3]), np.array([0.0, 1.2, 2.4, 3.0]))
    assert len(grid) == 4
    np.testing.assert_allclose(grid.times(0, 4, 10), [0, 1.1, 2.2, 3.0])
    np.testing.assert_allclose(grid.times(4, 6, 10), [4.0, 5.0])


def test_thins_evenly_and_keeps_both_ends():
    grid = TimeGrid()
    grid.observe(np.arange(100), np.arange(100.0))
    times = grid.times(10, 100, 5)
    assert len(times) == 5
    assert (times[0], times[-1]) == (10.0, 99.0)


def test_a_gap_is_bridged_and_nothing_seen_is_zero():
    grid = TimeGrid()
    assert grid.times(0, 3, 5).tolist() == [0, 0, 0]
    grid.observe(np.array([0, 4]), np.array([0.0, 8.0]))
    np.testing.assert_allclose(grid.times(0, 5, 9), [0, 2, 4, 6, 8])
    assert len(grid.times(5, 5, 9)) == 0
