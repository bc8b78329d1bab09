"""All rows so far, or a uniform random choice of them once they no longer fit: what bursts and the final fit train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from alearn.buffer import Rows
from alearn.buffer.queue import generator_state, set_generator_state


@final
class History:
    """Keeps every row within a byte budget, and beyond it a uniform sample (algorithm R: Vitter 1985).

    Args:
        max_mb: the budget, in 10^6 bytes.
        seed: of the choice once the budget is spent.
    """

    def __init__(self, max_mb: float, seed: int) -> None:
        self._max_bytes = int(max_mb * 1e6)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._rows: Rows | None = None
        self._size = 0
        self.received = 0

    def __len__(self) -> int:
        return self._size

    def add(self, rows: Rows) -> None:
        """Remember rows."""
        n = len(rows)
        if not n:
            return
        capacity = max(1, self._max_bytes // (8 * (rows.x.shape[1] + rows.y.shape[1] + 3)))
        fit = min(n, capacity - self._size)
        store = self._grow(rows, min(capacity, self._size + fit))
        _write(store, np.arange(self._size, self._size + fit), rows, np.arange(fit))
        self._size += fit
        over = np.arange(fit, n)
        if len(over):
            place = np.floor(self._rng.random(len(over)) * (self.received + over + 1)).astype(np.int64)
            kept = place < capacity
            _write(store, place[kept], rows, over[kept])
        self.received += n

    def rows(self) -> Rows | None:
        """The rows remembered (views; do not write), or None."""
        return None if self._rows is None else self._rows.take(slice(0, self._size))  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"received": self.received, "random": generator_state(self._rng)}
        rows = self.rows()
        if rows is not None:
            state |= {"x": rows.x, "y": rows.y, "weight": rows.weight, "group": rows.group, "step": rows.step}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows, self._size = None, 0
        if "x" in state:
            self._rows = Rows(*(np.array(state[k]) for k in ("x", "y", "weight", "group", "step")))
            self._size = len(self._rows)
        self.received = int(state["received"])
        set_generator_state(self._rng, state["random"])

    def _grow(self, rows: Rows, needed: int) -> Rows:
        have = 0 if self._rows is None else len(self._rows)
        if self._rows is None or have < needed:
            room = max(needed, 2 * have, 256)
            new = Rows(
                np.empty((room, rows.x.shape[1])),
                np.empty((room, rows.y.shape[1])),
                np.empty(room),
                np.empty(room, np.int64),
                np.empty(room, np.int64),
            )
            if self._rows is not None:
                _write(new, np.arange(self._size), self._rows, np.arange(self._size))
            self._rows = new
        return self._rows


def _write(to: Rows, at: Any, rows: Rows, index: Any) -> None:
    to.x[at], to.y[at], to.weight[at] = rows.x[index], rows.y[index], rows.weight[index]
    to.group[at], to.step[at] = rows.group[index], rows.step[index]
