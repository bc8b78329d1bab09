"""Prequential error: every arriving sample is a test before it is training data (Dawid 1984)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from alearn.trainer.evaluate import summary
from alearn.types import Array, Floats

RECENT = 64
"""The running error is that of so many members that were met last; older ones were met by a younger surrogate."""
LATEST = 0.5
"""Weight of a member's newest step in its surprise, a moving average of |z|."""


@final
class Prequential:
    """Sums for each member: six numbers a member, whatever streams."""

    def __init__(self) -> None:
        self._n: Floats = np.zeros(0)
        self._square: Floats = np.zeros(0)
        self._surprise: Floats = np.zeros(0)
        self._latest: Floats = np.zeros(0)
        self._inside: Floats = np.zeros(0)
        self._order: Array = np.zeros(0, np.int64)
        self._clock = 0

    def add(self, groups: Array, error: Floats, z: Floats) -> None:
        """Take in predictions that have met the truth.

        Args:
            groups: the members' numbers, ``n``.
            error: prediction minus truth over the output's standard deviation, ``n x m``.
            z: prediction minus truth over the predicted standard deviation, ``n x m``.
        """
        self._grow(int(groups.max()) + 1)
        np.add.at(self._n, groups, 1.0)
        np.add.at(self._square, groups, (error**2).mean(axis=1))
        np.add.at(self._inside, groups, (np.abs(z) <= 1.96).mean(axis=1))
        for g, value, square in zip(groups.tolist(), np.abs(z).mean(axis=1).tolist(), (error**2).mean(axis=1).tolist(), strict=True):
            before, squared = self._surprise[g], self._latest[g]
            self._surprise[g] = value if np.isnan(before) else (1 - LATEST) * before + LATEST * value
            self._latest[g] = square if np.isnan(squared) else (1 - LATEST) * squared + LATEST * square
            self._clock += 1
            self._order[g] = self._clock

    def residuals(self, groups: Array) -> Floats:
        """RMS normalised error of each member, NaN where nothing was predicted yet."""
        out = np.full(len(groups), np.nan)
        known = (groups >= 0) & (groups < len(self._n))
        n = self._n[groups[known]]
        out[known] = np.where(n > 0, np.sqrt(self._square[groups[known]] / np.maximum(n, 1)), np.nan)
        return out

    def surprise(self, group: int) -> float:
        """Mean |z| of the member's latest steps, NaN if none was predicted."""
        return float(self._surprise[group]) if 0 <= group < len(self._surprise) else float("nan")

    def latest(self, group: int) -> float:
        """Mean square error of the member's latest steps, normalised; NaN if none was predicted."""
        return float(self._latest[group]) if 0 <= group < len(self._latest) else float("nan")

    def summary(self) -> dict[str, float]:
        """Mean, rmse, p95, p99 and max over the members met last (see ``summary`` in evaluate.py) and their coverage95."""
        met = np.flatnonzero(self._n)
        if not len(met):
            return {}
        recent = met[np.argsort(self._order[met])[-RECENT:]]
        out = summary(self.residuals(recent))
        out["coverage95"] = float((self._inside[recent] / self._n[recent]).mean())
        return out

    def state_dict(self) -> dict[str, Any]:
        return {
            "n": self._n,
            "square": self._square,
            "surprise": self._surprise,
            "latest": self._latest,
            "inside": self._inside,
            "order": self._order,
            "clock": self._clock,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._n, self._square = np.array(state["n"], dtype=np.float64), np.array(state["square"], dtype=np.float64)
        self._surprise, self._inside = np.array(state["surprise"], dtype=np.float64), np.array(state["inside"], dtype=np.float64)
        self._latest = np.array(state.get("latest", np.full(len(self._surprise), np.nan)), dtype=np.float64)
        self._order, self._clock = np.array(state["order"], dtype=np.int64), int(state["clock"])

    def _grow(self, size: int) -> None:
        more = size - len(self._n)
        if more <= 0:
            return
        self._n = np.concatenate([self._n, np.zeros(more)])
        self._square = np.concatenate([self._square, np.zeros(more)])
        self._inside = np.concatenate([self._inside, np.zeros(more)])
        self._surprise = np.concatenate([self._surprise, np.full(more, np.nan)])
        self._latest = np.concatenate([self._latest, np.full(more, np.nan)])
        self._order = np.concatenate([self._order, np.zeros(more, np.int64)])
