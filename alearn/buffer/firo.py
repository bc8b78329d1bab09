"""FIRO: first in, random out. Every row is used a fixed number of times, in random order."""

from __future__ import annotations

from typing import final

from alearn.buffer.base import Rows
from alearn.buffer.queue import BoundedBuffer
from alearn.errors import ConfigError
from alearn.types import Array


@final
class FIRO(BoundedBuffer):
    """First in, random out (Meyer et al., SC'23): uniform random draws while more than a watermark of rows is stored.

    A row leaves at its ``pseudo_epochs``-th draw, so every row is used exactly so often. A full buffer refuses.

    Args:
        capacity: the most rows, or None.
        max_mb: the most memory in 10^6 bytes, or None.
        watermark: rows that always stay behind until ``finish``, so that a mini-batch mixes old and new.
        pseudo_epochs: how often each row is used.
        seed: of the random draws.

    Raises:
        ConfigError: ``pseudo_epochs`` is less than 1.
    """

    def __init__(
        self, *, capacity: int | None = 200_000, max_mb: float | None = 512.0, watermark: int = 64, pseudo_epochs: int = 1, seed: int = 0
    ) -> None:
        super().__init__(capacity, max_mb, watermark, seed)
        if pseudo_epochs < 1:
            raise ConfigError(f"FIRO's pseudo_epochs is {pseudo_epochs}; a row must be used at least once.")
        self._pseudo_epochs = pseudo_epochs

    def _accept(self, rows: Rows) -> int:
        return self._append(rows)

    def _choose(self, n: int) -> Array | None:
        k = self._full_batch(n)
        return self._rng.choice(len(self), k, replace=False, shuffle=True) if k else None

    def _take(self, positions: Array) -> Rows:
        last = self._store.uses(positions) + 1 >= self._pseudo_epochs
        rows = self._store.at(positions)
        if self._pseudo_epochs == 1:
            self._store.drop(positions)
            return rows
        # A row that leaves was drawn before, so it lies among the seen ones, and counting the use of the others,
        # which moves unseen rows only, does not shift it.
        self._store.use(positions[~last])
        self._store.drop(positions[last])
        return rows
