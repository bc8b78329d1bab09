"""Virtual time: what is going to happen, in order."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any


class Agenda:
    """A clock that jumps from one appointment to the next; ties go in the order in which they were made.

    Attributes:
        now: the virtual time, s.
        pending: appointments that are not mere heartbeats.
    """

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self.pending = 0
        self._heap: list[tuple[float, int, bool, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def after(self, seconds: float, call: Callable[..., None], *args: Any, idle: bool = False) -> None:
        """Call something ``seconds`` from now; ``idle`` marks what happens although nothing is going on."""
        self._made += 1
        self.pending += not idle
        heapq.heappush(self._heap, (self.now + seconds, self._made, idle, call, args))

    def next(self) -> float:
        """When the next appointment is; infinite without one."""
        return self._heap[0][0] if self._heap else math.inf

    def run_until(self, at: float) -> None:
        """Keep all appointments up to ``at``, then stand there."""
        heap = self._heap
        while heap and heap[0][0] <= at:
            when, _, idle, call, args = heapq.heappop(heap)
            self.pending -= not idle
            if when > self.now:
                self.now = when
            call(*args)
        self.now = max(self.now, at)
