"""FIFO: every row once, in the order in which it came."""

from __future__ import annotations

from typing import final

import numpy as np

from alearn.buffer.base import Rows
from alearn.buffer.queue import BoundedBuffer
from alearn.types import Array


@final
class FIFO(BoundedBuffer):
    """First in, first out: training in the order of arrival, every row exactly once. A full buffer refuses.

    The plainest form of online learning, and the most biased one: neighbouring rows come from the same members.
    See Meyer et al. (SC'23) for what that costs against random draws.

    Args:
        capacity: the most rows, or None.
        max_mb: the most memory in 10^6 bytes, or None.
        watermark: rows that stay behind until ``finish``.
        seed: accepted so that all buffers are made alike; a queue draws nothing at random.
    """

    def __init__(self, *, capacity: int | None = 200_000, max_mb: float | None = 512.0, watermark: int = 0, seed: int = 0) -> None:
        super().__init__(capacity, max_mb, watermark, seed)

    def _accept(self, rows: Rows) -> int:
        return self._append(rows)

    def _choose(self, n: int) -> Array | None:
        k = self._full_batch(n)
        return np.arange(k) if k else None

    def _take(self, positions: Array) -> Rows:
        return self._store.pop_front(len(positions))
