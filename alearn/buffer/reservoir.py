"""Reservoir: random draws with re-use above a watermark; new rows overwrite rows that training has seen."""

from __future__ import annotations

from typing import final

import numpy as np

from alearn.buffer.base import Rows
from alearn.buffer.queue import BoundedBuffer
from alearn.types import Array


@final
class Reservoir(BoundedBuffer):
    """The training reservoir of Meyer et al., "High Throughput Training of Deep Surrogates from Large Ensemble
    Runs" (SC'23) and "Training Deep Surrogate Models with Large Scale Online Learning" (ICML 2023).

    A mini-batch is a uniform random choice of the stored rows, above the watermark, and the rows stay. When the
    buffer is full, a new row overwrites a random *seen* one; it is refused only when every stored row is unseen.
    So no row is ever lost before training saw it once. After ``finish`` a drawn row leaves, and the buffer drains.

    Args:
        capacity: the most rows, or None.
        max_mb: the most memory in 10^6 bytes, or None.
        watermark: rows that must be exceeded before anything is drawn.
        seed: of the random draws.
    """

    def __init__(self, *, capacity: int | None = 200_000, max_mb: float | None = 512.0, watermark: int = 64, seed: int = 0) -> None:
        super().__init__(capacity, max_mb, watermark, seed)

    def _accept(self, rows: Rows) -> int:
        fit = self._append(rows)
        over = min(len(rows) - fit, self.seen)
        if over:
            positions = self._rng.choice(self.seen, over, replace=False, shuffle=False)
            self._store.overwrite(positions, rows.take(np.arange(fit, fit + over)))
            self.counts.overwritten += over
        return fit + over

    def _choose(self, n: int) -> Array | None:
        if not self._finished and len(self) <= self.watermark:
            return None
        return self._rng.choice(len(self), min(n, len(self)), replace=False, shuffle=True)

    def _take(self, positions: Array) -> Rows:
        if not self._finished:
            return self._store.use(positions)
        rows = self._store.at(positions)
        self._store.drop(positions)
        return rows
