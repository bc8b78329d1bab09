"""What the buffers have in common: the bound, the counters, the random state, and saving all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from alearn.buffer.base import Rows
from alearn.buffer.store import RowStore
from alearn.errors import ConfigError
from alearn.types import Array

_MASK = (1 << 64) - 1


@dataclass(slots=True)
class Counts:
    """What has passed through a buffer since it was made.

    Args:
        received: rows accepted.
        refused: rows that ``insert`` did not accept (each refusal of the same row counts).
        drawn: rows handed out, with repetition.
        first: rows handed out for the first time. The exact number of different rows that training has seen.
        overwritten: seen rows that gave way to new ones.
        spilled: rows that left the memory to be read back from the archive later (each time).
        recalled: rows read back.
        lost: rows that could not be read back, because they are no longer there.
    """

    received: int = 0
    refused: int = 0
    drawn: int = 0
    first: int = 0
    overwritten: int = 0
    spilled: int = 0
    recalled: int = 0
    lost: int = 0


class BoundedBuffer(ABC):
    """A bounded buffer over a ``RowStore``. Subclasses say which rows are drawn, kept and dropped.

    Args:
        capacity: the most rows, or None.
        max_mb: the most memory in 10^6 bytes, or None.
        watermark: no mini-batch is drawn while so many rows or fewer are stored, until ``finish``.
        seed: of the buffer's own random generator.

    Raises:
        ConfigError: a bound is missing or wrong.
    """

    def __init__(self, capacity: int | None, max_mb: float | None, watermark: int, seed: int) -> None:
        if watermark < 0 or (capacity is not None and watermark >= capacity):
            raise ConfigError(f"The buffer's watermark is {watermark} rows; it must be at least 0 and less than the capacity ({capacity}).")
        self._store = RowStore(capacity, max_mb)
        self._watermark = watermark
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._finished = False
        self.counts = Counts()

    def __len__(self) -> int:
        return self._store.size

    @property
    def capacity(self) -> int:
        """The most rows. 0 until the first rows came, where only ``max_mb`` was given."""
        return self._store.capacity

    @property
    def watermark(self) -> int:
        """The watermark in force: never so high that a full buffer could not be drawn from."""
        return min(self._watermark, max(self._store.capacity - 1, 0)) if self._store.nbytes else self._watermark

    @property
    def seen(self) -> int:
        """How many stored rows have been drawn at least once."""
        return self._store.seen

    @property
    def unseen(self) -> int:
        """How many stored rows have never been drawn."""
        return self._store.unseen

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the rows."""
        return self._store.nbytes

    @property
    def finished(self) -> bool:
        """True once reception is over."""
        return self._finished

    @final
    def insert(self, rows: Rows) -> int:
        """Take rows in, in order; returns how many were accepted.

        Raises:
            ConfigError: the rows' widths differ from those stored, or reception was declared over.
        """
        if self._finished:
            raise ConfigError(
                "Rows came after the buffer was told that reception is over; call finish() only when no member streams any more."
            )
        if not len(rows):
            return 0
        self._store.prepare(rows)
        n = self._accept(rows)
        self.counts.received += n
        self.counts.refused += len(rows) - n
        return n

    @final
    def draw(self, n: int) -> Rows | None:
        """A mini-batch of at most ``n`` distinct rows, or None when the buffer may not be drawn from now."""
        if n < 1:
            raise ConfigError(f"A mini-batch of {n} rows was asked for; ask for at least 1.")
        if not len(self):
            return None
        positions = self._choose(n)
        if positions is None:
            return None
        fresh = int((positions >= self._store.seen).sum())
        rows = self._take(positions)
        self.counts.drawn += len(rows)
        self.counts.first += fresh
        return rows

    @final
    def finish(self) -> None:
        """Reception is over: the watermark no longer holds, and the buffer drains."""
        self._finished = True

    @final
    def state_dict(self) -> Mapping[str, Any]:
        """Everything needed to go on exactly as before: rows, counters, random state."""
        return {
            "kind": type(self).__name__,
            "finished": self._finished,
            "store": self._store.state_dict(),
            "counts": asdict(self.counts),
            "random": generator_state(self._rng),
            **self._more_state(),
        }

    @final
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ConfigError: it is another buffer's state, or this buffer is too small for it.
        """
        if state["kind"] != type(self).__name__:
            raise ConfigError(f"The saved buffer is a {state['kind']} and this one a {type(self).__name__}; resume with the same buffer.")
        self._store.load_state_dict(state["store"])
        self._finished = bool(state["finished"])
        self.counts = Counts(**{k: int(v) for k, v in state["counts"].items()})
        set_generator_state(self._rng, state["random"])
        self._load_more(state)

    def _more_state(self) -> dict[str, Any]:
        """What a buffer knows besides; rows are listed in the order of their positions."""
        return {}

    def _load_more(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``_more_state``; the rows are in their places."""
        return

    @abstractmethod
    def _accept(self, rows: Rows) -> int:
        """Store as many of the first rows as may be stored; returns how many."""

    @abstractmethod
    def _choose(self, n: int) -> Array | None:
        """Distinct positions of the next mini-batch, or None."""

    @abstractmethod
    def _take(self, positions: Array) -> Rows:
        """Copy the rows out and do with them what this buffer does after a draw."""

    def _append(self, rows: Rows) -> int:
        k = min(len(rows), self._store.free)
        if k:
            self._store.append(rows if k == len(rows) else rows.take(np.arange(k)))
        return k

    def _newest(self, appended: int, overwritten: int) -> Array:
        """Positions of the rows that came last: those that were appended, and then those that overwrote others."""
        return np.concatenate([np.arange(len(self) - appended, len(self)), np.arange(self.seen, self.seen + overwritten)])

    def _full_batch(self, n: int) -> int:
        """The size of a draw that removes rows: a full batch above the watermark, the rest when finished; 0 is none."""
        if self._finished:
            return min(n, len(self))
        n = min(n, self.capacity - self.watermark)  # a larger batch could never come together
        return n if len(self) - self.watermark >= n else 0


def generator_state(rng: np.random.Generator) -> dict[str, int]:
    """A PCG64 generator's state as numbers below 2^64, which any format can hold."""
    state = rng.bit_generator.state
    out = {"has_uint32": int(state["has_uint32"]), "uinteger": int(state["uinteger"])}
    for name in ("state", "inc"):
        out[f"{name}_high"], out[f"{name}_low"] = int(state["state"][name]) >> 64, int(state["state"][name]) & _MASK
    return out


def set_generator_state(rng: np.random.Generator, saved: Mapping[str, int]) -> None:
    """Put a PCG64 generator where ``generator_state`` found it."""
    words = {name: (int(saved[f"{name}_high"]) << 64) | int(saved[f"{name}_low"]) for name in ("state", "inc")}
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": words,
        "has_uint32": int(saved["has_uint32"]),
        "uinteger": int(saved["uinteger"]),
    }
