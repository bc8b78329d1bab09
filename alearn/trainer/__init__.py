"""Online training: from samples to a calibrated surrogate, with snapshots from which it goes on exactly."""

from __future__ import annotations

from alearn.trainer.evaluate import Truth, judge, summary
from alearn.trainer.features import Features
from alearn.trainer.inline import InlineTrainer
from alearn.trainer.snapshots import read_snapshot, write_snapshot
from alearn.trainer.weights import ImportanceWeights, density_weights, survival

__all__ = [
    "Features",
    "ImportanceWeights",
    "InlineTrainer",
    "Truth",
    "density_weights",
    "judge",
    "read_snapshot",
    "summary",
    "survival",
    "write_snapshot",
]
