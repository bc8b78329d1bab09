"""Whether one arm's errors are really smaller than the other's, on the same test members."""

from __future__ import annotations

import math

import numpy as np

from alearn.report.words import plural
from alearn.types import Floats

ENOUGH = 0.05
"""Largest p-value at which a difference counts as shown."""
DRAWS = 9999
FEW = 6
"""From fewer test members than this no test is made."""


def mean_gain(active: Floats, control: Floats) -> float:
    """One-sided p-value that active learning's mean error is no smaller: Fisher's randomisation test (1935) on the pairs.

    Under the null either error of a test member could have been either arm's, so the signs of the differences are drawn at
    random. It is the mean that is tested, as in the headline: a rank test would let many small losses hide a few large gains.

    Args:
        active: error of each test member, ``n``.
        control: the same members' errors with the control arm, ``n``.

    Returns:
        p; NaN with fewer than ``FEW`` members that differ.
    """
    gain = np.asarray(control, dtype=np.float64) - np.asarray(active, dtype=np.float64)
    gain = gain[np.isfinite(gain) & (gain != 0)]
    if len(gain) < FEW:
        return math.nan
    signs = np.random.default_rng(0).integers(0, 2, size=(DRAWS, len(gain))) * 2 - 1
    return float((1 + np.count_nonzero(signs @ gain >= gain.sum())) / (1 + DRAWS))


def evidence(active: Floats, control: Floats) -> str:
    """One sentence on whether active learning helped on the test members; "" if too few were measured."""
    p = mean_gain(active, control)
    if math.isnan(p):
        return ""
    n = plural(len(active), "test member")
    said = f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
    smaller = float(np.mean(np.asarray(active) < np.asarray(control)))
    share = f"of which {100 * smaller:.0f} % have a smaller error"
    basis = f"paired randomisation test of the mean over {n}, {share}; of these two runs, not of others"
    if p <= ENOUGH:
        return f"Active learning is better than the control here ({said}; {basis})."
    if np.mean(active) < np.mean(control):
        return f"Whether active learning helps here is open ({said}; {basis})."
    return f"Active learning is not helping here ({said}; {basis})."
