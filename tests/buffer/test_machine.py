"""State machines: each buffer against a plain model of its written semantics."""

import copy
from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from alearn.buffer import FIFO, FIRO, BoundedBuffer, Reservoir, Rows

CAPACITY, WATERMARK, EPOCHS = 12, 4, 3


def make_rows(first: int, n: int, width: int = 2) -> Rows:
    """Rows whose ``step`` is their identity and whose other columns follow from it."""
    ids = np.arange(first, first + n)
    x = ids[:, None] * np.ones((1, width)) + 0.25
    return Rows(x, -x[:, :1], np.ones(n) + ids, ids // 7, ids)


def assert_intact(rows: Rows) -> None:
    """Every column still belongs to its row."""
    ids = rows.step
    np.testing.assert_array_equal(rows.x[:, 0], ids + 0.25)
    np.testing.assert_array_equal(rows.y[:, 0], -(ids + 0.25))
    np.testing.assert_array_equal(rows.weight, 1.0 + ids)
    np.testing.assert_array_equal(rows.group, ids // 7)


class BufferMachine(RuleBasedStateMachine):
    def make(self, seed: int = 0) -> BoundedBuffer:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.buffer = self.make()
        self.next = 0
        self.uses: Counter[int] = Counter()
        self.stored: list[int] = []
        self.accepted: list[int] = []

    @precondition(lambda self: not self.buffer.finished)
    @rule(n=st.integers(0, 2 * CAPACITY))
    def insert(self, n: int) -> None:
        seen = [i for i in self.stored if self.uses[i]]
        taken = self.buffer.insert(make_rows(self.next, n))
        assert taken == min(n, self.may_accept(len(seen)))
        new = list(range(self.next, self.next + taken))
        now = set(self.content())
        lost = set(self.stored) - now
        assert lost <= set(seen)
        assert set(new) <= now
        self.stored = [i for i in self.stored if i not in lost] + new
        self.accepted += new
        self.next += taken

    @rule(n=st.integers(1, CAPACITY + 3))
    def draw(self, n: int) -> None:
        expected = self.batch_size(n)
        rows = self.buffer.draw(n)
        if expected == 0:
            assert rows is None
            return
        assert rows is not None
        ids = rows.step.tolist()
        assert len(ids) == len(set(ids)) == expected
        assert set(ids) <= set(self.stored)
        assert_intact(rows)
        self.uses.update(ids)
        self.after_draw(ids)

    @rule()
    def finish(self) -> None:
        self.buffer.finish()

    @rule(seed=st.integers(0, 5))
    def save_and_restore(self, seed: int) -> None:
        state = self.buffer.state_dict()
        other = self.make(seed)
        other.load_state_dict(copy.deepcopy(state))
        again = self.make(seed + 1)
        again.load_state_dict(state)
        a, b = self.buffer.draw(3), again.draw(3)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a.step, b.step)
        self.buffer = other

    @invariant()
    def counts_are_exact(self) -> None:
        seen = sum(1 for i in self.stored if self.uses[i])
        assert (self.buffer.seen, self.buffer.unseen) == (seen, len(self.stored) - seen)
        assert len(self.buffer) <= CAPACITY
        assert sorted(self.content()) == sorted(self.stored)
        assert self.buffer.counts.received == len(self.accepted)
        assert self.buffer.counts.drawn == self.uses.total()
        assert self.buffer.counts.first == len(self.uses)

    @invariant()
    def nothing_leaves_unseen(self) -> None:
        assert all(self.uses[i] for i in set(self.accepted) - set(self.stored))

    def content(self) -> list[int]:
        return np.asarray(self.buffer.state_dict()["store"].get("step", [])).tolist()

    def may_accept(self, seen: int) -> int:
        return CAPACITY - len(self.stored)

    def full_batch(self, n: int) -> int:
        if self.buffer.finished:
            return min(n, len(self.stored))
        n = min(n, CAPACITY - WATERMARK)
        return n if len(self.stored) - WATERMARK >= n else 0

    def batch_size(self, n: int) -> int:
        return self.full_batch(n)

    def after_draw(self, ids: list[int]) -> None:
        raise NotImplementedError


class FIFOMachine(BufferMachine):
    def make(self, seed: int = 0) -> BoundedBuffer:
        return FIFO(capacity=CAPACITY, watermark=WATERMARK, seed=seed)

    def after_draw(self, ids: list[int]) -> None:
        assert ids == self.stored[: len(ids)]
        self.stored = self.stored[len(ids) :]
        assert all(self.uses[i] == 1 for i in ids)


class FIROMachine(BufferMachine):
    def make(self, seed: int = 0) -> BoundedBuffer:
        return FIRO(capacity=CAPACITY, watermark=WATERMARK, pseudo_epochs=EPOCHS, seed=seed)

    def after_draw(self, ids: list[int]) -> None:
        self.stored = [i for i in self.stored if self.uses[i] < EPOCHS]
        assert all(self.uses[i] <= EPOCHS for i in ids)


class FIROOnceMachine(BufferMachine):
    def make(self, seed: int = 0) -> BoundedBuffer:
        return FIRO(capacity=CAPACITY, watermark=WATERMARK, seed=seed)

    def after_draw(self, ids: list[int]) -> None:
        self.stored = [i for i in self.stored if i not in ids]


class ReservoirMachine(BufferMachine):
    def make(self, seed: int = 0) -> BoundedBuffer:
        return Reservoir(capacity=CAPACITY, watermark=WATERMARK, seed=seed)

    def may_accept(self, seen: int) -> int:
        # the free slots, then the seen rows: only a buffer full of unseen rows refuses
        return CAPACITY - len(self.stored) + seen

    def batch_size(self, n: int) -> int:
        if not self.buffer.finished and len(self.stored) <= WATERMARK:
            return 0
        return min(n, len(self.stored))

    def after_draw(self, ids: list[int]) -> None:
        if self.buffer.finished:
            self.stored = [i for i in self.stored if i not in ids]


@pytest.mark.parametrize("machine", [FIFOMachine, FIROMachine, FIROOnceMachine, ReservoirMachine])
def test_state_machine(machine: type[BufferMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=80, stateful_step_count=25, deadline=None, database=None))
