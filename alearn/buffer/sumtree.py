"""A sum tree in one array: draw among n numbers in proportion to them, and change them, in O(log n) a piece, many at a time."""

from __future__ import annotations

from typing import final

import numpy as np

from alearn.types import Array, Floats


@final
class SumTree:
    """``n`` numbers that are not negative, and the sums over them as a binary heap: node ``i`` is the sum of ``2 i`` and ``2 i + 1``.

    Args:
        n: how many; all are zero at first.
    """

    def __init__(self, n: int) -> None:
        self._depth = max(1, (n - 1).bit_length())
        self._leaf = 1 << self._depth
        self._sums = np.zeros(2 * self._leaf)

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._sums[1])

    @property
    def nbytes(self) -> int:
        return self._sums.nbytes

    def __getitem__(self, index: Array) -> Floats:
        values: Floats = self._sums[self._leaf + index]
        return values

    def set(self, index: Array, values: Floats) -> None:
        """Let the numbers at these distinct places be ``values``."""
        nodes = self._leaf + index
        self._sums[nodes] = values
        for _ in range(self._depth):
            # nodes that share a parent write the same sum to it twice
            nodes = nodes >> 1
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, at: Floats) -> Array:
        """For each ``u`` in [0, total) the place where the running sum passes it, never one whose number is zero."""
        left = at.copy()
        nodes = np.ones(len(at), dtype=np.int64)
        for _ in range(self._depth):
            nodes *= 2
            below = self._sums[nodes]
            # rounding may leave u at the very end of a subtree: an empty right half must not be entered
            right = (left >= below) & (self._sums[nodes + 1] > 0)
            left -= np.where(right, below, 0.0)
            nodes += right
        return nodes - self._leaf
