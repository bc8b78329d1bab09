"""Preallocated storage that the buffers share: rows in slots, and an order that sorts them into seen and unseen.

The order is one array of slot numbers, ``[seen | unseen | free]``. Every change of a row's class is a swap of two
entries, so inserting, drawing, overwriting and dropping ``k`` rows costs O(k), however many rows are stored. The order
is read as a ring that starts at a head, so that a queue can drop from its front without moving what stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alearn.buffer.base import Rows
from alearn.errors import ConfigError
from alearn.types import Array

MEGABYTE = 1_000_000


class RowStore:
    """Slots for at most ``capacity`` rows and at most ``max_mb`` of memory, whichever is less.

    Args:
        capacity: the most rows, or None for a bound in bytes alone.
        max_mb: the most memory, in 10^6 bytes, or None for a bound in rows alone.

    Raises:
        ConfigError: no bound is given, or one is not positive.
    """

    def __init__(self, capacity: int | None, max_mb: float | None) -> None:
        if capacity is None and max_mb is None:
            raise ConfigError("A buffer must be bounded: give capacity (rows), max_mb (10^6 bytes) or both.")
        if capacity is not None and capacity < 1:
            raise ConfigError(f"A buffer's capacity is {capacity} rows; give at least 1.")
        if max_mb is not None and not max_mb > 0:
            raise ConfigError(f"A buffer's max_mb is {max_mb}; give a positive number of megabytes.")
        self._limit_rows = capacity
        self._limit_bytes = None if max_mb is None else int(max_mb * MEGABYTE)
        self._slots: Rows | None = None
        self._uses = np.empty(0, np.int64)
        self._order = np.empty(0, np.int64)
        self._place = np.empty(0, np.int64)
        self._head = 0
        self.capacity = capacity if capacity is not None else 0
        self.seen = 0
        self.unseen = 0

    @property
    def size(self) -> int:
        """How many rows are stored."""
        return self.seen + self.unseen

    @property
    def free(self) -> int:
        """How many rows fit in without dropping any. Before the first row, a bound in bytes is not yet one in rows."""
        return self.capacity - self.size

    @property
    def nbytes(self) -> int:
        """Bytes reserved for rows."""
        s = self._slots
        if s is None:
            return 0
        return sum(a.nbytes for a in (s.x, s.y, s.weight, s.group, s.step, self._uses, self._order, self._place))

    def append(self, rows: Rows) -> None:
        """Store rows as unseen; the caller has made sure that they fit."""
        self._reserve(rows)
        n = len(rows)
        self._write(self._slot(np.arange(self.size, self.size + n)), rows)
        self.unseen += n

    def overwrite(self, positions: Array, rows: Rows) -> None:
        """Replace the seen rows at these distinct positions by new, unseen ones."""
        k = len(rows)
        self._gather(positions, self.seen - k, self.seen)
        self._write(self._slot(np.arange(self.seen - k, self.seen)), rows)
        self.seen -= k
        self.unseen += k

    def drop(self, positions: Array) -> None:
        """Forget the rows at these distinct positions, seen or unseen."""
        seen = positions[positions < self.seen]
        k = len(seen)
        unseen = positions[positions >= self.seen]
        # Unseen ones first: their positions are still right then.
        self._gather(unseen, self.size - len(unseen), self.size)
        self.unseen -= len(unseen)
        self._gather(seen, self.seen - k, self.seen)
        self.seen -= k
        self.unseen += k
        last = np.arange(self.seen, self.seen + k)
        self._gather(last, self.size - k, self.size)
        self.unseen -= k

    def pop_front(self, n: int) -> Rows:
        """Copy out and forget the first ``n`` rows, in order. For a store whose rows are all unseen."""
        rows = self.at(np.arange(n))
        self._head = (self._head + n) % self.capacity
        self.unseen -= n
        return rows

    def use(self, positions: Array) -> Rows:
        """Copy out the rows at these distinct positions, count the use, and make them seen."""
        slots = self._slot(positions)
        rows = self._read(slots)
        self._uses[slots] += 1
        fresh = positions[positions >= self.seen]
        self._gather(fresh, self.seen, self.seen + len(fresh))
        self.seen += len(fresh)
        self.unseen -= len(fresh)
        return rows

    def uses(self, positions: Array) -> Array:
        """How often each of the rows at these positions has been drawn."""
        return self._uses[self._slot(positions)]

    def recount(self, positions: Array, uses: Array) -> None:
        """Say of the rows at these distinct, unseen positions how often they were drawn before they came (back) in."""
        self._uses[self._slot(positions)] = uses
        known = positions[uses > 0]
        self._gather(known, self.seen, self.seen + len(known))
        self.seen += len(known)
        self.unseen -= len(known)

    def keys(self, positions: Array) -> tuple[Array, Array]:
        """Group and step of the rows at these positions."""
        assert self._slots is not None
        slots = self._slot(positions)
        return self._slots.group[slots], self._slots.step[slots]

    def slots(self, positions: Array) -> Array:
        """Where the rows at these positions lie. A row keeps its slot for as long as it is stored."""
        return self._slot(positions)

    def positions(self, slots: Array) -> Array:
        """Inverse of ``slots``."""
        return (self._place[slots] - self._head) % self.capacity

    def at(self, positions: Array) -> Rows:
        """Copies of the rows at these positions, without counting a use."""
        return self._read(self._slot(positions))

    def state_dict(self) -> dict[str, Any]:
        """The stored rows in their order, with their use counts."""
        state: dict[str, Any] = {"seen": self.seen, "unseen": self.unseen}
        if self._slots is not None:
            rows = self.at(np.arange(self.size))
            state |= {"x": rows.x, "y": rows.y, "weight": rows.weight, "group": rows.group, "step": rows.step}
            state["uses"] = self.uses(np.arange(self.size)).copy()
            state["slots"] = self.slots(np.arange(self.size)).copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ConfigError: this store is too small for it.
        """
        self._slots, self._head, self.seen, self.unseen = None, 0, 0, 0
        if self._limit_rows is not None:
            self.capacity = self._limit_rows
        if "x" not in state:
            return
        x, y = np.asarray(state["x"]), np.asarray(state["y"])
        rows = Rows(x, y, np.asarray(state["weight"]), np.asarray(state["group"]), np.asarray(state["step"]))
        self._reserve(rows)
        if len(rows) > self.capacity:
            raise ConfigError(f"The saved buffer holds {len(rows)} rows and this one at most {self.capacity}; give it as large a capacity.")
        if "slots" in state:  # where rows lie decides what a sum over slots finds
            slots = np.asarray(state["slots"])
            free = np.ones(self.capacity, bool)
            free[slots] = False
            self._order = np.concatenate([slots, np.flatnonzero(free)])
            self._place[self._order] = np.arange(self.capacity)
        self.append(rows)
        self._uses[self._slot(np.arange(self.size))] = np.asarray(state["uses"])
        self.seen, self.unseen = int(state["seen"]), int(state["unseen"])

    def prepare(self, rows: Rows) -> None:
        """Fix the rows' widths, and with them the capacity, at the first rows that come."""
        self._reserve(rows)

    def _reserve(self, rows: Rows) -> None:
        if self._slots is not None:
            have, got = (self._slots.x.shape[1], self._slots.y.shape[1]), (rows.x.shape[1], rows.y.shape[1])
            if have != got:
                raise ConfigError(
                    f"The buffer holds rows with {have} columns of x and y, and rows with {got} came; use one schema a buffer."
                )
            return
        dx, dy = rows.x.shape[1], rows.y.shape[1]
        row_bytes = 8 * (dx + dy + 1 + 2 + 3)
        limits = [n for n in (self._limit_rows, None if self._limit_bytes is None else self._limit_bytes // row_bytes) if n is not None]
        capacity = min(limits)
        if capacity < 1:
            raise ConfigError(f"One row takes {row_bytes} bytes, more than the buffer's max_mb allows; raise max_mb.")
        # np.empty reserves address space; the pages come as they are first written.
        self._slots = Rows(
            np.empty((capacity, dx)),
            np.empty((capacity, dy)),
            np.empty(capacity),
            np.empty(capacity, np.int64),
            np.empty(capacity, np.int64),
        )
        self._uses = np.zeros(capacity, np.int64)
        self._order = np.arange(capacity)
        self._place = np.arange(capacity)
        self.capacity = capacity

    def _write(self, slots: Array, rows: Rows) -> None:
        s = self._slots
        assert s is not None
        s.x[slots], s.y[slots], s.weight[slots], s.group[slots], s.step[slots] = rows.x, rows.y, rows.weight, rows.group, rows.step
        self._uses[slots] = 0

    def _read(self, slots: Array) -> Rows:
        assert self._slots is not None
        return self._slots.take(slots)

    def _gather(self, positions: Array, low: int, high: int) -> None:
        """Swap entries of the order so that those at ``positions`` fill ``[low, high)``; as many as fit exactly."""
        inside = (positions >= low) & (positions < high)
        outside = positions[~inside]
        vacant = np.ones(high - low, bool)
        vacant[positions[inside] - low] = False
        goal = np.flatnonzero(vacant) + low
        to, of = self._ring(goal), self._ring(outside)
        moved = self._order[to]
        self._order[to] = self._order[of]
        self._order[of] = moved
        self._place[self._order[to]] = to
        self._place[moved] = of

    def _ring(self, positions: Array) -> Array:
        return (positions + self._head) % self.capacity

    def _slot(self, positions: Array) -> Array:
        return self._order[self._ring(positions)]
