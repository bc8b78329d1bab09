"""Prequential calibration: every arriving sample is scored before it is learned, and the scores set the variance's factor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alearn import metrics
from alearn.errors import ConfigError
from alearn.types import Array, Floats


class Calibrator:
    """Keeps the latest standardised residuals and turns them into a factor for the standard deviation.

    Residuals are taken against the *uncalibrated* standard deviation, so that the factor does not chase itself:
    ``add`` divides by the factor that was in force.

    Args:
        outputs: m.
        window: how many groups (members) are remembered; the surrogate changes, so old residuals lose their meaning.
        rows_per_group: residuals kept of one group, thinned evenly.
        prior_groups: the factor is shrunk towards 1 as if so many groups had been perfectly calibrated.
        quantile: the central interval that is matched, once the evidence supports it: with few members a smaller one
            is (at least the median), because the tail of a few says nothing.
        limits: the factor stays between these.
    """

    def __init__(
        self,
        outputs: int,
        *,
        window: int = 200,
        rows_per_group: int = 64,
        prior_groups: float = 4.0,
        quantile: float = 0.9,
        limits: tuple[float, float] = (0.1, 20.0),
    ) -> None:
        if outputs < 1 or window < 1 or rows_per_group < 1 or not 0 < quantile < 1 or prior_groups < 0:
            raise ConfigError(
                f"The calibrator has outputs={outputs}, window={window}, rows_per_group={rows_per_group}, quantile={quantile}, "
                f"prior_groups={prior_groups}; counts must be at least 1 and the quantile inside (0, 1)."
            )
        self.outputs, self.window, self.rows_per_group = outputs, window, rows_per_group
        self.prior_groups, self.quantile, self.limits = prior_groups, quantile, limits
        self._groups: dict[int, Floats] = {}
        self._weight: dict[int, float] = {}

    def add(self, mean: Any, std: Any, truth: Any, groups: Any, factor: Any = 1.0, weight: float = 1.0) -> Floats:
        """Score predictions made before their truth was learned.

        Args:
            mean: ``n x m``.
            std: the standard deviation that was predicted, ``n x m``.
            truth: ``n x m``.
            groups: ``n`` integers, one for each member.
            factor: the calibration factor contained in ``std``, ``m`` or a number.
            weight: what each of these members counts, against one that stands for the whole box.

        Returns:
            The standardised residuals ``n x m`` with the factor in force.
        """
        mu, s, y = (np.asarray(v, dtype=np.float64).reshape(-1, self.outputs) for v in (mean, std, truth))
        floor = 1e-12 * (np.fmax.reduce(np.abs(y), axis=0, initial=0.0) + 1e-280)
        z = (y - mu) / np.maximum(s, floor)
        raw = z * np.asarray(factor, dtype=np.float64)
        ids = np.asarray(groups).ravel()
        for g in np.unique(ids):
            rows = raw[(ids == g) & np.isfinite(raw).all(axis=1)]
            if not len(rows):
                continue
            before = self._groups.pop(int(g), np.empty((0, self.outputs)))
            rows = np.vstack([before, rows])
            if len(rows) > self.rows_per_group:
                rows = rows[np.linspace(0, len(rows) - 1, self.rows_per_group).astype(int)]
            self._groups[int(g)] = rows
            self._weight[int(g)] = weight
        while len(self._groups) > self.window:
            oldest = next(iter(self._groups))
            del self._groups[oldest], self._weight[oldest]
        return np.asarray(z)

    @property
    def groups(self) -> int:
        """How many members' residuals are remembered."""
        return len(self._groups)

    def residuals(self) -> tuple[Floats, Floats]:
        """Raw standardised residuals ``n x m`` and row weights ``n`` that let every member count by its weight, whatever its length."""
        if not self._groups:
            return np.empty((0, self.outputs)), np.empty(0)
        rows = list(self._groups.values())
        return np.vstack(rows), np.concatenate([np.full(len(r), self._weight[g] / len(r)) for g, r in self._groups.items()])

    @property
    def evidence(self) -> float:
        """How many members of full weight the remembered ones are worth."""
        return sum(self._weight.values())

    def factor(self) -> Floats:
        """The factor of the standard deviation for each output, ``m``; ones while nothing is known."""
        z, w = self.residuals()
        if not len(z):
            return np.ones(self.outputs)
        level = min(self.quantile, max(0.5, 1.0 - 2.0 / (self.evidence + 1.0)))
        target = metrics.normal_quantile(level)
        raw = np.array([metrics.weighted_quantile(np.abs(z[:, j]), level, w) / target for j in range(self.outputs)])
        share = self.evidence / (self.evidence + self.prior_groups)
        return np.asarray(np.exp(share * np.log(np.clip(raw, *self.limits))))

    def half_width(self, level: float = 0.95) -> Floats:
        """Half-width, in calibrated standard deviations, of the interval that held ``level`` of what was predicted, ``m``.

        A conformal interval (Vovk et al. 2005; weighted by member: Tibshirani et al. 2019): whatever the distribution of
        the errors, ``mean ± half_width * std`` holds a new member's values as often as it held those remembered. Infinite
        while fewer members are remembered than such a promise takes.
        """
        z, w = self.residuals()
        n = self.evidence
        corrected = level * (n + 1.0) / n if n > 0 else math.inf
        if not len(z) or corrected >= 1.0:
            return np.full(self.outputs, np.inf)
        f = self.factor()
        return np.array([metrics.weighted_quantile(np.abs(z[:, j]) / f[j], corrected, w) for j in range(self.outputs)])

    def report(self, factor: Any = None) -> dict[str, Any]:
        """Coverage, miscalibration area and factor of the remembered residuals.

        Args:
            factor: the factor in force; None is the present ``factor()``.
        """
        f = self.factor() if factor is None else np.asarray(factor, dtype=np.float64)
        z, w = self.residuals()
        covered = metrics.coverage(z / f, weights=w if len(z) else None)
        return {
            "factor": [float(v) for v in np.broadcast_to(f, (self.outputs,))],
            "coverage": {f"{level:g}": value for level, value in covered.items()},
            "miscalibration_area": metrics.miscalibration_area(z / f, w if len(z) else None),
            "half_width95": [float(v) for v in self.half_width()],
            "groups": self.groups,
        }

    def state_dict(self) -> dict[str, Array]:
        """Arrays from which ``load_state_dict`` restores the memory."""
        rows = list(self._groups.values())
        return {
            "ids": np.array(list(self._groups), dtype=np.int64),
            "weights": np.array(list(self._weight.values()), dtype=np.float64),
            "sizes": np.array([len(r) for r in rows], dtype=np.int64),
            "z": np.vstack(rows) if rows else np.empty((0, self.outputs)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        ends = np.cumsum(np.asarray(state["sizes"], dtype=np.int64))
        z = np.asarray(state["z"], dtype=np.float64).reshape(-1, self.outputs)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        self._groups = {int(g): z[a:b].copy() for g, a, b in zip(np.asarray(state["ids"]), starts, ends, strict=True)}
        self._weight = dict(zip(self._groups, np.asarray(state["weights"], dtype=np.float64).tolist(), strict=True))
