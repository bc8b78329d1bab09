"""What is reported about a surrogate: error summaries and calibration. numpy only.

Arrays are ``n`` or ``n x m``; a standardised residual is ``z = (truth - mean) / std``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alearn.types import Array, Floats

LEVELS = (0.5, 0.8, 0.9, 0.95)
_ERF = np.frompyfunc(math.erf, 1, 1)
_MEDIAN_ABS = 0.6744897501960817


def normal_cdf(z: Any) -> Floats:
    """The standard normal distribution function."""
    return 0.5 * (1.0 + np.asarray(_ERF(np.asarray(z, dtype=np.float64) / math.sqrt(2.0)), dtype=np.float64))


def normal_quantile(level: float) -> float:
    """The half-width, in standard deviations, of the central interval that holds ``level`` of a normal variable."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + 0.5 * level)


def normalised_error(prediction: Any, truth: Any, scale: Any) -> Floats:
    """One error for each point: the root mean square over outputs of ``(prediction - truth) / scale``, ``n``.

    Args:
        prediction: ``n`` or ``n x m``.
        truth: the same shape.
        scale: each output's scale (its standard deviation over the data), ``m`` or a number.
    """
    e = (np.asarray(prediction, dtype=np.float64) - np.asarray(truth, dtype=np.float64)) / np.asarray(scale, dtype=np.float64)
    return np.abs(e) if e.ndim == 1 else np.sqrt((e**2).reshape(len(e), -1).mean(axis=1))


def output_scales(truth: Any) -> Floats:
    """Each output's standard deviation over a test set ``n x T x m``, by which errors are normalised; one where it is constant, ``m``."""
    y = np.asarray(truth, dtype=np.float64)
    scale = y.std(axis=(0, 1))
    return np.where(scale > 1e-12 * np.abs(y).max(axis=(0, 1), initial=0.0), scale, 1.0)


def trajectory_errors(mean: Any, truth: Any) -> Floats:
    """One error for each test member, ``n``: the root mean square, over times and outputs, of prediction minus truth, both
    ``n x T x m``, each output in units of its ``output_scales``."""
    y = np.asarray(truth, dtype=np.float64)
    n = len(y)
    return normalised_error(np.asarray(mean).reshape(n, -1), y.reshape(n, -1), np.tile(output_scales(y), y.shape[1]))


def error_summary(errors: Any) -> dict[str, float]:
    """rmse, mean, median, p95, p99 and max of normalised errors ``n``, and how many there were; NaN if there are none."""
    e = np.asarray(errors, dtype=np.float64).ravel()
    if e.size == 0:
        return {**dict.fromkeys(("rmse", "mean", "median", "p95", "p99", "max"), math.nan), "n": 0.0}
    median, p95, p99 = np.quantile(e, [0.5, 0.95, 0.99])
    return {
        "rmse": float(np.sqrt((e**2).mean())),
        "mean": float(e.mean()),
        "median": float(median),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(e.max()),
        "n": float(e.size),
    }


def _weighted(z: Any, weights: Any) -> tuple[Floats, Floats]:
    a = np.asarray(z, dtype=np.float64).ravel()
    if weights is None:
        return a, np.full(a.size, 1.0 / max(a.size, 1))
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim == 1 and np.ndim(z) == 2:
        w = np.repeat(w[:, None], np.shape(z)[1], axis=1)
    w = w.ravel()
    return a, w / w.sum()


def coverage(z: Any, levels: Sequence[float] = LEVELS, weights: Any = None) -> dict[float, float]:
    """Share of residuals inside the central interval of each level; calibrated means equal to the level.

    Args:
        z: standardised residuals.
        levels: of the intervals.
        weights: of the rows (so that a long trajectory counts as one member).
    """
    a, w = _weighted(z, weights)
    if a.size == 0:
        return dict.fromkeys(levels, math.nan)
    return {level: float(w[np.abs(a) <= normal_quantile(level)].sum()) for level in levels}


def calibration_curve(z: Any, n: int = 99, weights: Any = None) -> tuple[Floats, Floats]:
    """Expected level and observed coverage at ``n`` levels between 0 and 1: the calibration plot (Kuleshov et al. 2018)."""
    a, w = _weighted(z, weights)
    expected = np.arange(1, n + 1) / (n + 1.0)
    if a.size == 0:
        return expected, np.full(n, math.nan)
    inside = 2.0 * normal_cdf(np.abs(a)) - 1.0
    order = np.argsort(inside)
    cumulative = np.concatenate([[0.0], np.cumsum(w[order])])
    return expected, cumulative[np.searchsorted(inside[order], expected, side="right")]


def miscalibration_area(z: Any, weights: Any = None) -> float:
    """Area between the calibration curve and the diagonal; 0 is calibrated, 0.5 the worst."""
    expected, observed = calibration_curve(z, weights=weights)
    return float(np.abs(expected - observed).mean())


def crps_gaussian(mean: Any, std: Any, truth: Any) -> Floats:
    """Continuous ranked probability score of normal predictions (Gneiting and Raftery 2007), elementwise; lower is better."""
    mu, s, y = (np.asarray(v, dtype=np.float64) for v in (mean, std, truth))
    safe = np.where(s > 0, s, 1.0)
    z = (y - mu) / safe
    pdf = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return np.where(s > 0, safe * (z * (2.0 * normal_cdf(z) - 1.0) + 2.0 * pdf - 1.0 / math.sqrt(math.pi)), np.abs(y - mu))


def weighted_quantile(values: Any, q: float, weights: Any = None) -> float:
    """The ``q`` quantile of weighted values."""
    a, w = _weighted(values, weights)
    if a.size == 0:
        return math.nan
    order = np.argsort(a)
    at = np.cumsum(w[order]) - 0.5 * w[order]
    return float(np.interp(q, at, a[order]))


def robust_scale(z: Any, weights: Any = None) -> float:
    """The factor by which standard deviations must grow so that half of the residuals fall inside the 50 % interval.

    The median does not chase the few huge residuals of localised responses, as a plain variance does.
    """
    return weighted_quantile(np.abs(np.asarray(z, dtype=np.float64)), 0.5, weights) / _MEDIAN_ABS


def regions(x: Any, bins: int = 2) -> Array:
    """Number of the box cell of each point of ``n x d``: every axis of the unit cube is cut in ``bins``, first axis slowest, ``n``."""
    a = np.asarray(x, dtype=np.float64)
    cells = np.clip((a * bins).astype(np.int64), 0, bins - 1)
    return cells @ (bins ** np.arange(a.shape[1])[::-1])


def coverage_by_region(z: Any, x: Any, level: float = 0.95, bins: int = 2, weights: Any = None) -> dict[int, tuple[float, int]]:
    """Coverage and number of points in each cell of the box that holds any (see ``regions``)."""
    z = np.asarray(z, dtype=np.float64)
    cell = regions(x, bins)
    w = None if weights is None else np.asarray(weights, dtype=np.float64)
    return {
        int(c): (coverage(z[cell == c], (level,), None if w is None else w[cell == c])[level], int((cell == c).sum()))
        for c in np.unique(cell)
    }
