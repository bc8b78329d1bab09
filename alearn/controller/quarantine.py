"""Regions of the space where everything fails: points in them are taken back from the queue."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from alearn.controller.decisions import Decision, Withdraw
from alearn.controller.state import StudyState
from alearn.errors import ConfigError
from alearn.types import MemberState


class Quarantine:
    """Withdraws queued members around which every member has failed.

    A queued point is in quarantine when at least ``failures`` of the latest members lie within ``radius`` of it (the largest
    difference of a coordinate in the unit cube) and all of them failed. Every ``probe``-th is let through, so that a quarantine
    whose cause is mended ends by the first success, and so that a study never stands still because of it.

    Args:
        failures: how many failures make a quarantine; 0 is off.
        radius: how far around a failed point, in the unit cube.
        probe: one of so many points is simulated all the same.
    """

    def __init__(self, *, failures: int = 0, radius: float = 0.1, probe: int = 4) -> None:
        if failures < 0 or not 0 < radius <= 1 or probe < 2:
            given = f"failures={failures}, radius={radius} and probe={probe} were given"
            raise ConfigError(f"A quarantine needs failures ≥ 0, a radius in (0, 1] and probe ≥ 2; {given}.")
        self.failures, self.radius, self.probe = failures, radius, probe
        self._seen: tuple[int, int] = (-1, -1)
        self._points, self._failed = np.zeros((0, 0)), np.zeros(0, dtype=bool)

    def decide(self, state: StudyState, now: float) -> list[Decision]:
        """Which of the members that would be launched next are taken back."""
        free = (state.slots or 1) - state.busy
        if not self.failures or free < 1 or state.counts[MemberState.FAILED] < self.failures:
            return []
        self._read(state)
        out: list[Decision] = []
        for member in state.queue.first(free):
            record = state.records[member]
            if record.attempt or record.origin == "user" or crc32(member.encode()) % self.probe == 0:
                continue
            near = np.abs(self._points - np.asarray(record.x)).max(axis=1) <= self.radius
            if near.sum() >= self.failures and self._failed[near].all():
                why = f"in quarantine: all {near.sum()} members within {self.radius:g} of it failed"
                out.append(Withdraw(member, f"{why} (mostly: {state.common_failure()})" if state.common_failure() else why))
        return out

    def _read(self, state: StudyState) -> None:
        """Keep the latest members as arrays: ``n x d`` points, and ``n`` truths."""
        now = (len(state.recent), state.settled)
        if now != self._seen:
            self._seen = now
            self._points = np.array([x for x, _ in state.recent])
            self._failed = np.array([failed for _, failed in state.recent])
