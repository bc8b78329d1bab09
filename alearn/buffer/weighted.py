"""Weighted: rows that training errs on, or is unsure of, are drawn more often, with the weights that keep the mean honest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from alearn.buffer.base import Rows
from alearn.buffer.queue import BoundedBuffer
from alearn.buffer.sumtree import SumTree
from alearn.errors import ConfigError, UnknownName
from alearn.types import Array, Floats

BY = ("error", "std")
RANKING = ("proportional", "rank")
FLOOR = 1e-12


@final
class Weighted(BoundedBuffer):
    """Prioritised replay: Schaul, Quan, Antonoglou and Silver, "Prioritized Experience Replay" (ICLR 2016), for a regression on a stream.

    Of a mini-batch of ``n``, ``k = min(unseen, ceil(fresh n))`` rows are uniform among those never drawn, so that none waits for
    ever; each of the other ``n - k`` draws is uniform over all ``N`` rows with probability ``uniform``, else row ``i`` with the
    probability ``p_i ~ priority_i^alpha`` (or ``1 / rank_i^alpha``). A row that is drawn several times comes once, with its
    multiplicity in its weight, and

        weight_i *= multiplicity_i * (1 / (N q_i))^beta,    q_i = mean draws of row i over n,

    so that at ``beta = 1`` the weighted mean over mini-batches of ``n`` draws is that over the stored rows, exactly. ``beta`` rises
    linearly from its first value to 1 over ``anneal`` mini-batches. ``uniform`` bounds the weight of a draw by ``1 / uniform``
    (defensive mixture: Hesterberg 1995, doi:10.1080/00401706.1995.10484303). A row has the largest priority so far until
    ``prioritise`` tells its own. What a full buffer overwrites, and what ``finish`` does, is as in Reservoir.

    Args:
        capacity: the most rows, or None.
        max_mb: the most memory in 10^6 bytes, or None.
        watermark: rows that must be exceeded before anything is drawn.
        by: the priority: error (root mean square over outputs, normalised) or std (predicted standard deviation, likewise).
        ranking: proportional to the priority, or by its rank (robust against outliers; ranks are renewed once as many priorities have
            changed as rows are stored).
        alpha: exponent of the priority; 0 draws uniformly.
        beta: exponent of the correction at the start.
        anneal: mini-batches until it is 1.
        uniform: share of the draws that is uniform over all rows.
        fresh: most of a mini-batch that is given to rows never drawn.
        seed: of the random draws.

    Raises:
        ConfigError: an exponent or a share is out of range.
        UnknownName: no such priority or ranking.
    """

    def __init__(
        self,
        *,
        capacity: int | None = 200_000,
        max_mb: float | None = 512.0,
        watermark: int = 64,
        by: str = "error",
        ranking: str = "proportional",
        alpha: float = 0.6,
        beta: float = 0.4,
        anneal: int = 5000,
        uniform: float = 0.2,
        fresh: float = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__(capacity, max_mb, watermark, seed)
        if by not in BY:
            raise UnknownName("priority", by, BY)
        if ranking not in RANKING:
            raise UnknownName("ranking", ranking, RANKING)
        if not (alpha >= 0 and 0 <= beta <= 1 and anneal >= 0 and 0 < uniform <= 1 and 0 < fresh <= 1):
            raise ConfigError(
                f"The weighted buffer has alpha={alpha}, beta={beta}, anneal={anneal}, uniform={uniform}, fresh={fresh}; alpha and "
                "anneal are not negative, beta is in [0, 1], and the shares are above 0 and at most 1."
            )
        self._by, self._ranked = by, ranking == "rank"
        self._alpha, self._beta, self._anneal, self._uniform, self._fresh = alpha, beta, anneal, uniform, fresh
        self._batches = 0
        self._tree: SumTree | None = None
        self._priority: Floats = np.empty(0)
        self._largest = 0.0
        self._sorted: Floats = np.empty(0)
        self._changed = 0
        self._last: tuple[Array, Array, Array] | None = None
        self._times: Floats = np.ones(0)

    @property
    def by(self) -> str:
        """What ``prioritise`` wants to be told: "error" or "std"."""
        return self._by

    @property
    def beta(self) -> float:
        """The correction's exponent now."""
        done = 1.0 if self._anneal == 0 else min(1.0, self._batches / self._anneal)
        return self._beta + (1.0 - self._beta) * done

    def prioritise(self, values: Floats) -> None:
        """Tell the priority of each row of the last mini-batch, in its order; rows that are stored no more are passed over.

        Raises:
            ConfigError: they are not as many as its rows, or not finite.
        """
        if self._last is None:
            return
        slots, groups, steps = self._last
        if len(values) != len(slots) or not np.isfinite(values).all() or (np.asarray(values) < 0).any():
            raise ConfigError(f"The last mini-batch had {len(slots)} rows; give as many finite priorities of at least 0.")
        positions = self._store.positions(slots)
        held = positions < len(self)
        slots, values = slots[held], np.asarray(values, dtype=np.float64)[held]
        if not len(slots):
            return
        now = self._store.keys(positions[held])
        same = (now[0] == groups[held]) & (now[1] == steps[held])
        self._largest = max(self._largest, float(values.max()), FLOOR)
        self._set(slots[same], values[same])

    def _set(self, slots: Array, priorities: Floats) -> None:
        tree = self._grown()
        self._priority[slots] = priorities
        self._changed += len(slots)
        if self._ranked and self._changed > max(len(self), 2 * len(self._sorted)):
            self._rank_again()
        tree.set(slots, self._share(priorities))

    def _grown(self) -> SumTree:
        if self._tree is None:
            self._tree = SumTree(self.capacity)
            self._priority = np.ones(self.capacity)
        return self._tree

    def _share(self, priorities: Floats) -> Floats:
        if not self._ranked:
            share: Floats = np.maximum(priorities, FLOOR) ** self._alpha
            return share
        above = len(self._sorted) - np.searchsorted(self._sorted, priorities, side="left")
        rank: Floats = 1.0 / np.maximum(above, 1.0) ** self._alpha
        return rank

    def _rank_again(self) -> None:
        """Sort all priorities and draw by the new ranks: n log n, once in n changes."""
        slots = self._store.slots(np.arange(len(self)))
        self._sorted = np.sort(self._priority[slots])
        self._changed = 0
        self._grown().set(slots, self._share(self._priority[slots]))

    def _accept(self, rows: Rows) -> int:
        fit = self._append(rows)
        over = min(len(rows) - fit, self.seen)
        if over:
            positions = self._rng.choice(self.seen, over, replace=False, shuffle=False)
            self._store.overwrite(positions, rows.take(np.arange(fit, fit + over)))
            self.counts.overwritten += over
        if fit + over:
            slots = self._store.slots(self._newest(fit, over))
            self._set(slots, np.full(len(slots), self._largest or 1.0))
        return fit + over

    def _choose(self, n: int) -> Array | None:
        if not self._finished and len(self) <= self.watermark:
            return None
        size = len(self)
        n = min(n, size)
        fresh = min(self.unseen, math.ceil(self._fresh * n))
        chosen = [self.seen + self._rng.choice(self.unseen, fresh, replace=False, shuffle=False)] if fresh else []
        rest = n - fresh
        flat = int((self._rng.random(rest) < self._uniform).sum())
        chosen.append(self._rng.integers(size, size=flat))
        tree = self._grown()
        if rest > flat:
            # one draw from each of equal parts of the sum: fewer repetitions (Schaul et al. 2016, B.2.1)
            at = (np.arange(rest - flat) + self._rng.random(rest - flat)) / (rest - flat) * tree.total
            chosen.append(self._store.positions(tree.find(at)))
        positions, times = np.unique(np.concatenate(chosen), return_counts=True)
        order = self._rng.permutation(len(positions))
        positions, times = positions[order], times[order]
        each = self._uniform / size + (1.0 - self._uniform) * tree[self._store.slots(positions)] / tree.total
        q = rest * each + np.where(positions >= self.seen, fresh / max(self.unseen, 1), 0.0)
        self._times = times * (n / (size * q)) ** self.beta * (len(positions) / n)
        self._batches += 1
        return positions

    def _take(self, positions: Array) -> Rows:
        slots = self._store.slots(positions)
        if self._finished:
            rows = self._store.at(positions)
            self._last = None
            self._store.drop(positions)
            self._grown().set(slots, np.zeros(len(slots)))
        else:
            rows = self._store.use(positions)
            self._last = (slots, rows.group, rows.step)
        return Rows(rows.x, rows.y, rows.weight * self._times, rows.group, rows.step)

    def _more_state(self) -> dict[str, Any]:
        slots = self._store.slots(np.arange(len(self))) if len(self) else np.empty(0, np.int64)
        return {
            "batches": self._batches,
            "largest": self._largest,
            "priority": self._priority[slots] if len(slots) else np.empty(0),
            "share": self._grown()[slots] if len(slots) else np.empty(0),
            "sorted": self._sorted,
            "changed": self._changed,
        }

    def _load_more(self, state: Mapping[str, Any]) -> None:
        self._tree, self._last = None, None
        self._batches, self._changed = int(state["batches"]), int(state["changed"])
        self._largest = float(state["largest"])
        self._sorted = np.asarray(state["sorted"], dtype=np.float64)
        if len(self):
            slots = self._store.slots(np.arange(len(self)))
            self._grown().set(slots, np.asarray(state["share"], dtype=np.float64))
            self._priority[slots] = np.asarray(state["priority"], dtype=np.float64)
