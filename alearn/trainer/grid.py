"""The times at which steps come, as seen so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from alearn.types import Array, Floats


def evenly(first: int, end: int, most: int) -> Array:
    """Steps ``first … end - 1``, or at most ``most`` of them, evenly chosen, the first and the last among them."""
    if end <= first:
        return np.zeros(0, np.int64)
    return np.unique(np.linspace(first, end - 1, min(most, end - first)).round().astype(np.int64))


@final
class TimeGrid:
    """The mean simulation time of every step number over all members."""

    def __init__(self) -> None:
        self._sum: Floats = np.zeros(0)
        self._count: Floats = np.zeros(0)

    def __len__(self) -> int:
        return len(self._sum)

    def observe(self, steps: Array, t: Floats) -> None:
        """Take in the steps' numbers and times, each ``n``."""
        if not len(steps):
            return
        more = int(steps.max()) + 1 - len(self._sum)
        if more > 0:
            self._sum = np.concatenate([self._sum, np.zeros(more)])
            self._count = np.concatenate([self._count, np.zeros(more)])
        np.add.at(self._sum, steps, t)
        np.add.at(self._count, steps, 1.0)

    def times(self, first: int, end: int, most: int) -> Floats:
        """Times of the steps that ``evenly`` chooses; beyond what was seen by the mean pace."""
        steps = evenly(first, end, most)
        seen = np.flatnonzero(self._count)
        if not len(seen):
            return np.zeros(len(steps))
        t = self._sum[seen] / self._count[seen]
        pace = (t[-1] - t[0]) / (seen[-1] - seen[0]) if len(seen) > 1 else 0.0
        times: Floats = np.where(steps > seen[-1], t[-1] + pace * (steps - seen[-1]), np.interp(steps, seen, t))
        return times

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sum, self._count = np.array(state["sum"], dtype=np.float64), np.array(state["count"], dtype=np.float64)
