"""Spill: a reservoir whose memory is a window on everything that came; what it lets go is read back from the archive."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from alearn.buffer.base import Recall, Rows
from alearn.buffer.queue import BoundedBuffer
from alearn.errors import ConfigError
from alearn.types import Array


@final
class _Away:
    """First in, first out: (group, step, uses) of rows that are not in memory, 24 bytes each."""

    def __init__(self) -> None:
        self._parts: deque[Array] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, group: Array, step: Array, uses: Array) -> None:
        if len(group):
            self._parts.append(np.stack([group, step, uses], axis=1).astype(np.int64))
            self._size += len(group)

    def pop(self, n: int) -> Array:
        """The first ``n`` at most, ``n x 3``."""
        taken = [np.empty((0, 3), np.int64)]
        while n and self._parts:
            part = self._parts.popleft()
            if len(part) > n:
                self._parts.appendleft(part[n:])
                part = part[:n]
            taken.append(part)
            n -= len(part)
            self._size -= len(part)
        return np.concatenate(taken)

    def whole(self) -> Array:
        return np.concatenate([np.empty((0, 3), np.int64), *self._parts])


@final
class Spill(BoundedBuffer):
    """A reservoir that never refuses and loses nothing: rows beyond its memory stay in the archive and come back from there.

    Mini-batches are uniform random choices of the rows in memory, above the watermark. A new row of a full buffer takes the place
    of a random seen one; where all are unseen, the new row itself is let go. What is let go is remembered by member and
    step with how often it was drawn, and ``refresh`` of the rows drawn are exchanged, ``block`` at a time: rows
    never drawn come back first, then those that have been away longest. So training passes over everything that came, in a random
    order on the scale of the memory, and a row counts as drawn for the first time exactly once.

    Without an archive to read from (``recall_from`` was not called) it is the plain Reservoir. After ``finish`` a drawn row leaves,
    and only rows never drawn are read back.

    Args:
        capacity: the most rows in memory, or None.
        max_mb: the most memory in 10^6 bytes, or None; what is away takes 24 bytes a row besides.
        watermark: rows that must be exceeded before anything is drawn.
        refresh: rows read back for each row drawn, while any are away.
        block: rows read back at a time.
        seed: of the random draws.

    Raises:
        ConfigError: ``refresh`` is not in (0, 1], or ``block`` under 1.
    """

    def __init__(
        self,
        *,
        capacity: int | None = 200_000,
        max_mb: float | None = 512.0,
        watermark: int = 64,
        refresh: float = 0.1,
        block: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(capacity, max_mb, watermark, seed)
        if not 0 < refresh <= 1 or block < 1:
            raise ConfigError(f"The spilling buffer has refresh={refresh} and block={block}; give a share in (0, 1] and at least 1 row.")
        self._refresh, self._block = refresh, block
        self._recall: Recall | None = None
        self._unseen_away, self._seen_away = _Away(), _Away()
        self._owed = 0.0

    @property
    def away(self) -> int:
        """Rows that are not in memory and will be read back."""
        return len(self._unseen_away) + len(self._seen_away)

    def recall_from(self, recall: Recall) -> None:
        """Say where rows are read back from."""
        self._recall = recall

    def _accept(self, rows: Rows) -> int:
        fit, over = self._bring_in(rows)
        rest = rows.take(np.arange(fit + over, len(rows)))
        if self._recall is None or not len(rest):
            return fit + over
        self._unseen_away.push(rest.group, rest.step, np.zeros(len(rest), np.int64))
        self.counts.spilled += len(rest)
        return len(rows)

    def _bring_in(self, rows: Rows) -> tuple[int, int]:
        """Put rows in free places, and then in those of random seen rows; returns how many in each."""
        fit = self._append(rows)
        over = min(len(rows) - fit, self.seen)
        if over:
            positions = self._rng.choice(self.seen, over, replace=False, shuffle=False)
            if self._recall is not None:
                self._seen_away.push(*self._store.keys(positions), self._store.uses(positions))
                self.counts.spilled += over
            else:
                self.counts.overwritten += over
            self._store.overwrite(positions, rows.take(np.arange(fit, fit + over)))
        return fit, over

    def _choose(self, n: int) -> Array | None:
        if not self._finished and len(self) <= self.watermark:
            return None
        return self._rng.choice(len(self), min(n, len(self)), replace=False, shuffle=True)

    def _take(self, positions: Array) -> Rows:
        if not self._finished:
            rows = self._store.use(positions)
            self._owed += self._refresh * len(rows)
            if self._owed >= self._block:
                self._owed -= self._block
                self._read_back(min(self._block, self._store.free + self.seen), self.away)
            return rows
        rows = self._store.at(positions)
        self._store.drop(positions)
        while len(self._unseen_away) and not self._read_back(min(self._block, self._store.free), len(self._unseen_away)):
            pass
        return rows

    def _read_back(self, n: int, most: int) -> int:
        """Bring rows back into memory, those never drawn first; returns how many came."""
        if self._recall is None:
            return 0
        wanted = self._unseen_away.pop(min(n, most))
        wanted = np.concatenate([wanted, self._seen_away.pop(min(n, most) - len(wanted))])
        if not len(wanted):
            return 0
        rows = self._recall(wanted[:, 0], wanted[:, 1])
        self.counts.recalled += len(rows)
        self.counts.lost += len(wanted) - len(rows)
        if not len(rows):
            return 0
        uses = {(g, s): u for g, s, u in wanted.tolist()}
        came = self._newest(*self._bring_in(rows))
        drawn = np.array([uses[key] for key in zip(*(k.tolist() for k in self._store.keys(came)), strict=True)], dtype=np.int64)
        self._store.recount(came, drawn)
        return len(rows)

    def _more_state(self) -> dict[str, Any]:
        return {"unseen_away": self._unseen_away.whole(), "seen_away": self._seen_away.whole(), "owed": self._owed}

    def _load_more(self, state: Mapping[str, Any]) -> None:
        self._unseen_away, self._seen_away = _Away(), _Away()
        for queue, name in ((self._unseen_away, "unseen_away"), (self._seen_away, "seen_away")):
            queue.push(*np.asarray(state[name], dtype=np.int64).reshape(-1, 3).T)
        self._owed = float(state["owed"])
