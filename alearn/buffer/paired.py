"""Paired: rows of one member a time step apart, for operators that learn to take a state to the next."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from alearn.buffer.base import Rows
from alearn.buffer.queue import BoundedBuffer
from alearn.errors import ConfigError
from alearn.types import Array

LOOKS = 4
"""Trajectories compared before one is taken: the least used of few is nearly the least used of all, at a fixed price
(the power of two choices: Mitzenmacher 2001, doi:10.1109/71.963420)."""


@final
class _Trajectory:
    """What is stored of one member: slot of each step, the steps in order, those never drawn, and how often each gap was used."""

    __slots__ = ("fresh", "gaps", "slot", "steps", "uses")

    def __init__(self, gaps: int) -> None:
        self.slot: dict[int, int] = {}
        self.steps: list[int] = []
        self.fresh: list[int] = []
        self.gaps = [0] * gaps
        self.uses = 0

    def add(self, step: int, slot: int) -> None:
        self.slot[step] = slot
        if self.steps and self.steps[-1] >= step:
            insort(self.steps, step)
            insort(self.fresh, step)
        else:
            self.steps.append(step)
            self.fresh.append(step)

    def remove(self, step: int) -> None:
        del self.slot[step]
        del self.steps[bisect_left(self.steps, step)]
        self.see(step)

    def see(self, step: int) -> None:
        """The step has been drawn."""
        at = bisect_left(self.fresh, step)
        if at < len(self.fresh) and self.fresh[at] == step:
            del self.fresh[at]


@final
class Paired(BoundedBuffer):
    """A reservoir of trajectories: ``draw`` gives stretches of rows ``t, t + gap, …`` of one member, for next-state operators.

    Half of the stretches start at rows never drawn, as long as there are any; the others come from the least used of a few
    random trajectories. Of the gaps that fit, the one least used in that trajectory is taken. Rows of a stretch lie next to
    each other in the mini-batch, earliest first; no row comes twice in one. A new row of a full buffer overwrites the earliest
    *seen* row of the most used of a few random trajectories, so that what stays of a trajectory is whole; it is refused
    only when no stored row was seen. A row without a partner (a member of one step) is given by itself, but
    only once the buffer is full or ``finish`` was called, for until then its partner may come. The idea of pairs
    from little-used trajectories is the paired reservoir's of Meyer et al. (ICML 2023) and its successors.

    Args:
        capacity: the most rows, or None.
        max_mb: the most memory in 10^6 bytes, or None.
        watermark: rows that must be exceeded before anything is drawn.
        gaps: steps from a row to the next one of its stretch, any of these.
        length: rows of a stretch; 2 is pairs. A trajectory with fewer gives what it has, if that is at least 2.
        seed: of the random draws.

    Raises:
        ConfigError: a gap is under 1 or named twice, or a stretch shorter than 2.
    """

    def __init__(
        self,
        *,
        capacity: int | None = 200_000,
        max_mb: float | None = 512.0,
        watermark: int = 64,
        gaps: Sequence[int] = (1,),
        length: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(capacity, max_mb, watermark, seed)
        if not gaps or min(gaps) < 1 or len(set(gaps)) < len(gaps) or length < 2:
            raise ConfigError(
                f"The paired buffer has gaps={list(gaps)} and length={length}; give different gaps of at least 1 step, and at least 2 rows."
            )
        self._gaps = tuple(int(g) for g in gaps)
        self._length = length
        self._tracks: dict[int, _Trajectory] = {}
        self._groups: list[int] = []
        self._fresh: list[int] = []
        self._ends: list[int] = []

    def draw_pairs(self, n: int) -> tuple[Rows, Rows] | None:
        """At most ``n`` pairs of rows, the earlier and the later of each, or None when nothing may be drawn now.

        Consecutive rows of every stretch of a mini-batch of ``2 n`` rows; rows without a partner are left out.
        """
        rows = self.draw(2 * n)
        if rows is None:
            return None
        inner = np.setdiff1d(np.arange(len(rows)), [e - 1 for e in self._ends], assume_unique=True)
        return rows.take(inner), rows.take(inner + 1)

    def _accept(self, rows: Rows) -> int:
        fit = self._append(rows)
        self._know(np.arange(len(self) - fit, len(self)))
        over = min(len(rows) - fit, self.seen)
        if over:
            slots = np.array([self._evict() for _ in range(over)], dtype=np.int64)
            self._store.overwrite(self._store.positions(slots), rows.take(np.arange(fit, fit + over)))
            self._know(self._store.positions(slots))
            self.counts.overwritten += over
        return fit + over

    def _know(self, positions: Array) -> None:
        """Enter newly stored rows into their trajectories."""
        if not len(positions):
            return
        slots = self._store.slots(positions)
        groups, steps = self._store.keys(positions)
        for group, step, slot in zip(groups.tolist(), steps.tolist(), slots.tolist(), strict=True):
            track = self._tracks.get(group)
            if track is None:
                track = self._tracks[group] = _Trajectory(len(self._gaps))
                insort(self._groups, group)
            if not track.fresh:
                insort(self._fresh, group)
            track.add(step, slot)

    def _evict(self) -> int:
        """Forget a seen row; returns its slot."""
        looked = [g for g in self._look() if len(self._tracks[g].fresh) < len(self._tracks[g].steps)]
        if not looked:  # rare: most trajectories are wholly unseen
            looked = [g for g in self._groups if len(self._tracks[g].fresh) < len(self._tracks[g].steps)]
        group = max(looked, key=lambda g: self._tracks[g].uses / len(self._tracks[g].steps))
        track = self._tracks[group]
        fresh = set(track.fresh) if track.fresh and track.fresh[0] == track.steps[0] else ()
        step = next(s for s in track.steps if s not in fresh) if fresh else track.steps[0]
        slot = track.slot[step]
        self._forget(group, step)
        return slot

    def _forget(self, group: int, step: int) -> None:
        track = self._tracks[group]
        was_fresh = bool(track.fresh)
        track.remove(step)
        if was_fresh and not track.fresh:
            del self._fresh[bisect_left(self._fresh, group)]
        if not track.steps:
            del self._tracks[group]
            del self._groups[bisect_left(self._groups, group)]

    def _look(self) -> list[int]:
        return [self._groups[int(u * len(self._groups))] for u in self._rng.random(LOOKS).tolist()]

    def _choose(self, n: int) -> Array | None:
        if not self._finished and len(self) <= self.watermark:
            return None
        chosen: dict[tuple[int, int], int] = {}
        self._ends = []
        alone = self._finished or not self._store.free
        n = min(n, len(self))
        misses = 0
        while len(chosen) < n and misses < 2 * LOOKS + n and (alone or n - len(chosen) > 1):
            stretch = self._stretch(chosen, n - len(chosen), alone, new=bool(self._fresh) and (misses + len(self._ends)) % 2 == 0)
            if stretch is None:
                misses += 1
                continue
            group, steps = stretch
            track = self._tracks[group]
            chosen |= {(group, step): track.slot[step] for step in steps}
            self._ends.append(len(chosen))
        if not chosen and alone:
            chosen = self._any(n)
        if not chosen:
            return None
        return self._store.positions(np.fromiter(chosen.values(), np.int64, len(chosen)))

    def _any(self, n: int) -> dict[tuple[int, int], int]:
        """Rows by themselves, unseen ones first, when luck found nothing."""
        rows = ((g, s) for g in (self._fresh or self._groups) for s in (self._tracks[g].fresh or self._tracks[g].steps))
        chosen = {(g, s): self._tracks[g].slot[s] for _, (g, s) in zip(range(n), rows, strict=False)}
        self._ends = list(range(1, len(chosen) + 1))
        return chosen

    def _stretch(self, chosen: Mapping[tuple[int, int], int], most: int, alone: bool, new: bool) -> tuple[int, list[int]] | None:
        """A trajectory and some of its steps, none among those ``chosen``; None if this look found none."""
        if new:
            group = self._fresh[int(self._rng.random() * len(self._fresh))]
        else:
            group = min(self._look(), key=lambda g: self._tracks[g].uses / len(self._tracks[g].steps))
        track = self._tracks[group]
        starts = track.fresh if new else track.steps
        start = starts[int(self._rng.random() * len(starts))]
        if (group, start) in chosen:
            return None
        best: list[int] = []
        at = -1
        for i in sorted(range(len(self._gaps)), key=lambda i: track.gaps[i]):
            found = self._reach(track, group, chosen, start, self._gaps[i], min(self._length, most))
            if len(found) > len(best):
                best, at = found, i
            if len(best) >= min(self._length, most):
                break
        if len(best) >= 2:
            track.gaps[at] += 1
            return group, best
        partnerless = not any(start + sign * gap in track.slot for gap in self._gaps for sign in (1, -1))
        return (group, [start]) if alone and (partnerless or most == 1) else None

    def _reach(self, track: _Trajectory, group: int, chosen: Mapping[tuple[int, int], int], start: int, gap: int, length: int) -> list[int]:
        """The stretch of this gap around ``start``: forwards as far as it goes, then backwards."""
        found = [start]
        for sign in (1, -1):
            step = start + sign * gap
            while len(found) < length and step in track.slot and (group, step) not in chosen:
                found.append(step)
                step += sign * gap
        return sorted(found)

    def _take(self, positions: Array) -> Rows:
        groups, steps = self._store.keys(positions)
        pairs = list(zip(groups.tolist(), steps.tolist(), strict=True))
        if self._finished:
            rows = self._store.at(positions)
            self._store.drop(positions)
            for group, step in pairs:
                self._forget(group, step)
            return rows
        for group, step in pairs:
            track = self._tracks[group]
            track.uses += 1
            if track.fresh:
                track.see(step)
                if not track.fresh:
                    del self._fresh[bisect_left(self._fresh, group)]
        return self._store.use(positions)

    def _more_state(self) -> dict[str, Any]:
        tracks = [self._tracks[g] for g in self._groups]
        return {
            "groups": np.array(self._groups, dtype=np.int64),
            "group_uses": np.array([t.uses for t in tracks], dtype=np.int64),
            "gap_uses": np.array([t.gaps for t in tracks], dtype=np.int64).reshape(len(tracks), len(self._gaps)),
        }

    def _load_more(self, state: Mapping[str, Any]) -> None:
        self._tracks, self._groups, self._fresh = {}, [], []
        if len(self):
            positions = np.arange(len(self))
            self._know(positions)
            groups, steps = self._store.keys(positions[: self.seen])
            for group, step in zip(groups.tolist(), steps.tolist(), strict=True):
                track = self._tracks[group]
                track.see(step)
                if not track.fresh:
                    del self._fresh[bisect_left(self._fresh, group)]
        gap_uses = np.asarray(state["gap_uses"])
        if gap_uses.size and gap_uses.shape[1] != len(self._gaps):
            raise ConfigError(f"The saved buffer has {gap_uses.shape[1]} gaps, this one {len(self._gaps)}; resume with the same.")
        for group, uses, gaps in zip(state["groups"].tolist(), state["group_uses"].tolist(), gap_uses.tolist(), strict=True):
            self._tracks[group].uses, self._tracks[group].gaps = uses, gaps
