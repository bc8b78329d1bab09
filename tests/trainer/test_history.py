import numpy as np

from alearn.buffer import Rows
from alearn.trainer.history import History


def numbered(first: int, n: int) -> Rows:
    ids = np.arange(first, first + n)
    return Rows(ids[:, None] * np.ones(3), -ids[:, None] * np.ones(2), np.ones(n), ids, ids)


def test_keeps_all_rows_in_order_while_they_fit():
    history = History(1.0, seed=0)
    assert history.rows() is None
    for start in range(0, 1000, 7):
        history.add(numbered(start, 7))
    rows = history.rows()
    assert rows is not None
    np.testing.assert_array_equal(rows.step, np.arange(1001))
    np.testing.assert_array_equal(rows.y[:, 0], -rows.step)


def test_beyond_the_budget_it_is_a_uniform_sample():
    kept = np.zeros(2000)
    for seed in range(60):
        history = History(0.0064, seed=seed)  # 100 rows of 64 bytes
        for start in range(0, 2000, 50):
            history.add(numbered(start, 50))
        rows = history.rows()
        assert rows is not None
        assert len(rows) == 100
        assert len(set(rows.step.tolist())) == 100
        np.testing.assert_array_equal(rows.x[:, 0], rows.step)
        kept[rows.step] += 1
    # each of 20 blocks of 100 rows expects 300 of 6,000; four standard deviations are about 67
    assert np.abs(kept.reshape(20, 100).sum(axis=1) - 300).max() < 70


def test_goes_on_exactly_after_a_restore():
    a, b = History(0.0064, seed=1), History(0.0064, seed=2)
    a.add(numbered(0, 150))
    b.load_state_dict(a.state_dict())
    for h in (a, b):
        h.add(numbered(150, 200))
    left, right = a.rows(), b.rows()
    assert left is not None
    assert right is not None
    np.testing.assert_array_equal(left.step, right.step)
