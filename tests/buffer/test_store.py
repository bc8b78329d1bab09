import sys

import numpy as np

from alearn.buffer import Reservoir, RowStore


def test_work_does_not_grow_with_what_is_stored(rows):
    """Counts the interpreter's line events of numpy-free work: the same number of lines whatever is stored."""

    def lines(size: int) -> int:
        buffer = Reservoir(capacity=size, watermark=0)
        buffer.insert(rows(0, size))
        buffer.draw(16)
        count = 0

        def tracer(frame, event, arg):
            nonlocal count
            count += 1
            return tracer

        previous = sys.gettrace()
        sys.settrace(tracer)
        buffer.insert(rows(size, 8))
        buffer.draw(16)
        sys.settrace(previous)
        return count

    assert lines(200) == lines(50_000)


def test_arrays_that_are_touched_have_the_size_of_the_batch(rows, monkeypatch):
    """Every slot array that an insert or a draw reads or writes is as long as the batch, not as the store."""
    store = RowStore(20_000, None)
    store.append(rows(0, 10_000))
    touched = []
    slot = RowStore._slot

    def watch(self, positions):
        touched.append(len(positions))
        return slot(self, positions)

    monkeypatch.setattr(RowStore, "_slot", watch)
    store.append(rows(10_000, 8))
    store.use(np.arange(5000, 5016))
    store.overwrite(np.array([3, 7]), rows(20_000, 2))
    assert touched
    assert max(touched) <= 16


def test_front_pops_in_order_round_the_end(rows):
    store = RowStore(5, None)
    got = []
    for start in range(0, 30, 3):
        store.append(rows(start, 3))
        got.append(store.pop_front(3).step)
    np.testing.assert_array_equal(np.concatenate(got), np.arange(30))
