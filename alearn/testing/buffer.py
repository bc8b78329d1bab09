"""What every buffer must do: derive from ``BufferConformance`` in your tests and say how yours is made.

Nothing is assumed of the order or the number of draws. What is asked for: a row comes out as it went in, a mini-batch holds
no row twice, what ``insert`` did not accept never comes out, every accepted row is drawn at least once before the buffer is
empty, and a restored buffer goes on as the saved one would have.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from alearn.buffer import Buffer, Rows
from alearn.trainer.snapshots import from_plain, to_plain
from alearn.types import Array

CAPACITY, WATERMARK = 14, 3
STEPS = 5
"""Rows of one member in a row; members come two at a time."""


def stream_rows(first: int, n: int) -> Rows:
    """The rows number ``first … first + n - 1`` of a stream of members that come two at a time, every column telling its number."""
    ids = np.arange(first, first + n)
    pair, within = ids // (2 * STEPS), ids % (2 * STEPS)
    x = ids[:, None] * np.ones((1, 2)) + 0.25
    return Rows(x, -x[:, :1], np.ones(n), 2 * pair + within % 2, within // 2)


def numbers_of(rows: Rows) -> Array:
    """The numbers of such rows.

    Raises:
        AssertionError: a column belongs to another row.
    """
    ids = (rows.x[:, 0] - 0.25).round().astype(np.int64)
    pair, within = ids // (2 * STEPS), ids % (2 * STEPS)
    np.testing.assert_array_equal(rows.x, (ids + 0.25)[:, None] * np.ones((1, 2)), "A drawn row's x is not what was inserted.")
    np.testing.assert_array_equal(rows.y[:, 0], -(ids + 0.25), "A drawn row's y belongs to another row.")
    np.testing.assert_array_equal(rows.group, 2 * pair + within % 2, "A drawn row's group belongs to another row.")
    np.testing.assert_array_equal(rows.step, within // 2, "A drawn row's step belongs to another row.")
    assert np.isfinite(rows.weight).all(), "A drawn row's weight is not finite."
    assert (rows.weight > 0).all(), "A drawn row's weight is not positive."
    return ids


def saved(buffer: Buffer) -> dict[str, Any]:
    """The buffer's state through a file, as a snapshot holds it."""
    file = io.BytesIO()
    torch.save(to_plain(buffer.state_dict()), file)
    file.seek(0)
    state: dict[str, Any] = from_plain(torch.load(file, weights_only=True))
    return state


class BufferConformance(ABC):
    """The conformance suite."""

    @abstractmethod
    def make(self, capacity: int, watermark: int, seed: int = 0) -> Buffer:
        """A buffer of at most ``capacity`` rows that holds its draws until ``watermark`` is exceeded."""

    def test_state_machine(self) -> None:
        make = self.make

        class Machine(RuleBasedStateMachine):
            def __init__(self) -> None:
                super().__init__()
                self.buffer = make(CAPACITY, WATERMARK)
                self.next = 0
                self.finished = False
                self.uses: Counter[int] = Counter()

            @precondition(lambda self: not self.finished)
            @rule(n=st.integers(0, 2 * CAPACITY))
            def insert(self, n: int) -> None:
                taken = self.buffer.insert(stream_rows(self.next, n))
                assert 0 <= taken <= n, f"insert accepted {taken} of {n} rows."
                self.next += taken

            @rule(n=st.integers(1, CAPACITY + 3))
            def draw(self, n: int) -> None:
                rows = self.buffer.draw(n)
                if rows is not None:
                    ids = numbers_of(rows).tolist()
                    assert 0 < len(ids) <= n, f"{len(ids)} rows were drawn where at most {n} were asked for."
                    assert len(set(ids)) == len(ids), "A mini-batch holds a row twice."
                    assert max(ids) < self.next, "A row came out that was never accepted."
                    self.uses.update(ids)

            @rule()
            def finish(self) -> None:
                self.buffer.finish()
                self.finished = True

            @rule(seed=st.integers(0, 3))
            def save_and_restore(self, seed: int) -> None:
                state = saved(self.buffer)
                one, other = make(CAPACITY, WATERMARK, seed), make(CAPACITY, WATERMARK, seed + 1)
                one.load_state_dict(state)
                other.load_state_dict(saved(self.buffer))
                for n in (3, 5):
                    a, b = self.buffer.draw(n), other.draw(n)
                    assert (a is None) == (b is None), "A restored buffer gives where the saved one holds, or the reverse."
                    if a is not None and b is not None:
                        np.testing.assert_array_equal(a.x, b.x, "A restored buffer draws other rows than the saved one.")
                        np.testing.assert_allclose(a.weight, b.weight, rtol=1e-9, err_msg="A restored buffer gives other weights.")
                self.buffer = one

            def teardown(self) -> None:
                self.buffer.finish()
                for _ in range(100 * CAPACITY + 10 * self.next):
                    rows = self.buffer.draw(4)
                    if rows is None:
                        break
                    self.uses.update(numbers_of(rows).tolist())
                else:
                    raise AssertionError("The buffer does not become empty after finish().")
                never = set(range(self.next)) - set(self.uses)
                assert not never, f"The accepted rows {sorted(never)} were never drawn."

        run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=20, deadline=None, database=None))

    def test_every_row_is_trained_on_though_the_producer_is_faster(self) -> None:
        buffer = self.make(40, 4)
        uses: Counter[int] = Counter()
        sent = 0
        for _ in range(5000):
            if sent < 400:
                sent += buffer.insert(stream_rows(sent, min(30, 400 - sent)))
            else:
                buffer.finish()
            rows = buffer.draw(10)
            if rows is not None:
                uses.update(numbers_of(rows).tolist())
            elif sent == 400:
                break
        assert sent == 400, "The buffer stopped accepting rows for good."
        assert set(uses) == set(range(400))

    def test_one_seed_one_order(self) -> None:
        orders = []
        for seed in (3, 3):
            buffer = self.make(60, 4, seed)
            buffer.insert(stream_rows(0, 60))
            orders.append([rows.x[:, 0].tolist() for _ in range(5) if (rows := buffer.draw(8)) is not None])
        assert orders[0] == orders[1]
        assert orders[0]
