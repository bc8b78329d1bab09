import numpy as np
import pytest

from alearn.trainer.prequential import RECENT, Prequential


def test_members_have_their_own_error_and_surprise():
    p = Prequential()
    p.add(np.array([0, 0, 2]), np.array([[3.0], [4.0], [1.0]]), np.array([[1.0], [3.0], [-2.0]]))
    np.testing.assert_allclose(p.residuals(np.array([0, 1, 2, 9, -1])), [np.sqrt(12.5), np.nan, 1.0, np.nan, np.nan])
    assert p.surprise(0) == pytest.approx(2.0)  # 0.5 * 1 + 0.5 * 3
    assert p.surprise(2) == pytest.approx(2.0)
    assert np.isnan(p.surprise(1))
    out = p.summary()
    assert out["n_test"] == 2
    assert out["max"] == pytest.approx(np.sqrt(12.5))
    assert out["coverage95"] == pytest.approx(0.25)


def test_the_running_error_is_that_of_recent_members():
    p = Prequential()
    p.add(np.array([0]), np.array([[100.0]]), np.array([[1.0]]))
    for g in range(1, RECENT + 1):
        p.add(np.array([g]), np.array([[1.0]]), np.array([[1.0]]))
    assert p.summary()["max"] == 1.0
    assert p.summary()["n_test"] == RECENT


def test_empty_says_nothing_and_state_returns():
    p, q = Prequential(), Prequential()
    assert p.summary() == {}
    p.add(np.array([1]), np.array([[2.0]]), np.array([[0.5]]))
    q.load_state_dict(p.state_dict())
    for each in (p, q):
        each.add(np.array([1, 3]), np.array([[1.0], [5.0]]), np.array([[2.5], [0.1]]))
    assert p.summary() == q.summary()
    assert p.surprise(1) == q.surprise(1)
