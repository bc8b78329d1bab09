"""What training draws from: a bounded replay memory of rows ``(x, y, weight, group)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from alearn.types import Array, Floats


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows: ``x`` is ``n x d'``, ``y`` ``n x m``, ``weight`` ``n``, ``group`` ``n`` (member number), ``step`` ``n``."""

    x: Floats
    y: Floats
    weight: Floats
    group: Array
    step: Array

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def take(self, index: Array) -> Rows:
        return Rows(self.x[index], self.y[index], self.weight[index], self.group[index], self.step[index])

    @classmethod
    def concatenate(cls, parts: list[Rows]) -> Rows:
        return cls(
            np.concatenate([p.x for p in parts]),
            np.concatenate([p.y for p in parts]),
            np.concatenate([p.weight for p in parts]),
            np.concatenate([p.group for p in parts]),
            np.concatenate([p.step for p in parts]),
        )


class Buffer(Protocol):
    """A bounded memory between reception and training."""

    def insert(self, rows: Rows) -> int:
        """Take rows in; returns how many were accepted. Fewer than given means: hold the reception (back-pressure)."""
        ...

    def draw(self, n: int) -> Rows | None:
        """A mini-batch of at most ``n`` rows, or None when the buffer may not be drawn from now (watermark, empty)."""
        ...

    def finish(self) -> None:
        """Reception is over: drain semantics begin."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Everything needed to go on exactly as before, as arrays and numbers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Prioritised(Protocol):
    """A buffer that draws by what training makes of its rows."""

    @property
    def by(self) -> str:
        """What it wants to be told of each row: "error" (root mean square over outputs, normalised) or "std" (likewise)."""
        ...

    def prioritise(self, values: Floats) -> None:
        """Tell it for each row of the last mini-batch, in its order."""
        ...


class Recall(Protocol):
    """Reads rows back."""

    def __call__(self, group: Array, step: Array) -> Rows:
        """The rows of these members and steps, in any order; those that are no longer there are left out."""
        ...


@runtime_checkable
class Recalling(Protocol):
    """A buffer that lets rows go and reads them back."""

    def recall_from(self, recall: Recall) -> None:
        """Say where from; before that it lets nothing go that it could not lose."""
        ...
