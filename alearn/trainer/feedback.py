"""What a buffer is told by the trainer, if it asks: how well its rows are predicted, and the rows that it let go of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from alearn.buffer import Buffer, Prioritised, Recalling, Rows
from alearn.surrogate import Batch, Surrogate
from alearn.trainer.features import Features
from alearn.types import Array, Floats, Sample

Read = Callable[[Mapping[str, Sequence[int]]], Sequence[Sample]]
"""From steps of members to their samples, those that are still there."""


def tell_priorities(buffer: Buffer, surrogate: Surrogate, batch: Batch, scale: Callable[[], Floats]) -> None:
    """Tell a buffer that draws by priority what the surrogate makes of its last mini-batch.

    Args:
        buffer: any.
        surrogate: as it is after the update.
        batch: of that mini-batch.
        scale: gives the outputs' scales, ``m``.
    """
    if not isinstance(buffer, Prioritised):
        return
    mean, epistemic, _ = surrogate.predict(batch.X)
    by = epistemic if buffer.by == "std" else mean - batch.Y
    values = np.sqrt(((by.double().cpu().numpy() / scale()) ** 2).mean(axis=1))
    buffer.prioritise(np.nan_to_num(values, posinf=1e30))


def let_recall(buffer: Buffer, features: Features, read: Read) -> None:
    """Let a buffer that lets rows go read them back."""
    if not isinstance(buffer, Recalling):
        return

    def recall(group: Array, step: Array) -> Rows:
        names = {number: name for name, number in features.members.items()}
        wanted: dict[str, list[int]] = defaultdict(list)
        for g, s in zip(group.tolist(), step.tolist(), strict=True):
            wanted[names[g]].append(s)
        rows, _ = features.rows(read(wanted))
        return rows

    buffer.recall_from(recall)
