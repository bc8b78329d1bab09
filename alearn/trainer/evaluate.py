"""How good the surrogate is on a fixed test set: errors by member, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from scipy.stats import spearmanr

from alearn import metrics
from alearn.errors import ConfigError
from alearn.types import Array, Floats, Parameters

REGION = 4
"""A region of the box is judged if so many test members lie in it."""
MOST_SPLIT = 4
"""Boxes of more parameters have too many halves to be judged one by one."""


class Truth(Protocol):
    """A test set: trajectories that no study trains on."""

    @property
    def parameters(self) -> Sequence[Parameters]:
        """The members' parameters, ``n``."""
        ...

    @property
    def t(self) -> Array:
        """The times, ``T``, the same for all members."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs."""
        ...

    @property
    def values(self) -> Array:
        """The truth, ``n x T x m``."""
        ...


def summary(errors: Floats) -> dict[str, float]:
    """rmse, mean, median, p95, p99 and max of one normalised error a member, ``n``, and their number ``n_test``."""
    found = metrics.error_summary(errors)
    found["n_test"] = found.pop("n")
    return found


def judge(mean: Floats, std: Floats, truth: Floats, x: Floats | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """Errors and calibration on a test set.

    A member's error is the root mean square, over times and outputs, of prediction minus truth, each output divided by
    its standard deviation over the whole test set (an output that is constant there, by one). The summaries are over
    members.

    Args:
        mean: predicted means, ``n x T x m``.
        std: predicted standard deviations, ``n x T x m``.
        truth: ``n x T x m``.
        x: the members' points in the unit cube, ``n x d``, to judge the regions of the box too.

    Returns:
        The errors (see ``summary``), and the calibration: ``coverage95`` and ``coverage50`` (share of truths within the
        central interval of a normal distribution), ``z_median`` (median |z| over its normal value 0.6745: 1 is right,
        more is overconfident), ``sharpness`` (mean predicted standard deviation, normalised as the error),
        ``miscalibration_area`` (0 is calibrated, 0.5 the worst), ``crps`` (continuous ranked probability score of a normal distribution,
        normalised as the error) and ``rank_correlation`` (Spearman's, of a member's mean standard deviation with its error); with
        ``x`` also ``coverage95_region`` followed by the number of the region (``metrics.regions``), where it holds at least 4 members.
    """
    scale = metrics.output_scales(truth)
    n = len(truth)
    error = metrics.trajectory_errors(mean, truth)
    z = (truth - mean) / np.maximum(std, 1e-12 * scale)
    covered = metrics.coverage(z, (0.5, 0.95))
    spread = (std / scale).mean(axis=(1, 2))
    ranks = n > 2 and np.ptp(error) > 0 and np.ptp(spread) > 0
    calibration = {
        "coverage95": covered[0.95],
        "coverage50": covered[0.5],
        "z_median": metrics.robust_scale(z),
        "sharpness": float(spread.mean()),
        "miscalibration_area": metrics.miscalibration_area(z),
        "crps": float(metrics.crps_gaussian(mean / scale, std / scale, truth / scale).mean()),
        "rank_correlation": float(spearmanr(spread, error).statistic) if ranks else math.nan,
    }
    if x is not None and x.shape[1] <= MOST_SPLIT:
        found = metrics.coverage_by_region(z.reshape(n, -1), x)
        calibration |= {f"coverage95_region{c}": share for c, (share, members) in sorted(found.items()) if members >= REGION}
    return summary(error), calibration


def common_outputs(test: Truth, outputs: Sequence[str]) -> tuple[list[int], list[int]]:
    """Columns of the outputs that test set and surrogate share: in the test set, and in the surrogate.

    Raises:
        ConfigError: they share none.
    """
    shared = [name for name in test.outputs if name in outputs]
    if not shared:
        raise ConfigError(
            f"The test set has the outputs {', '.join(test.outputs)}, the surrogate learns {', '.join(outputs)}; they share none."
        )
    names: Mapping[str, int] = {name: i for i, name in enumerate(outputs)}
    return [list(test.outputs).index(name) for name in shared], [names[name] for name in shared]
