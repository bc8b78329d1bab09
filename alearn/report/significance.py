"""Whether one arm's errors are really smaller than the other's, on the same test members."""

from __future__ import annotations

import math

import numpy as np

from alearn.report.words import plural
from alearn.types import Floats

ENOUGH = 0.05
"""Largest p-value at which a difference counts as shown."""
FEW = 6
"""From fewer test members than this no test is made."""


def signed_rank(active: Floats, control: Floats) -> float:
    """One-sided p-value that active learning's errors are no smaller: Wilcoxon's signed-rank test (1945) on log ratios.

    Args:
        active: error of each test member, ``n``.
        control: the same members' errors with the control arm, ``n``.

    Returns:
        p; NaN with fewer than ``FEW`` members that differ.
    """
    from scipy.stats import wilcoxon

    a, c = np.asarray(active, dtype=np.float64), np.asarray(control, dtype=np.float64)
    good = np.isfinite(a) & np.isfinite(c) & (a > 0) & (c > 0) & (a != c)
    if good.sum() < FEW:
        return math.nan
    return float(wilcoxon(np.log(a[good]) - np.log(c[good]), alternative="less").pvalue)


def evidence(active: Floats, control: Floats) -> str:
    """One sentence on whether active learning helped on the test members; "" if too few were measured."""
    p = signed_rank(active, control)
    if math.isnan(p):
        return ""
    n = plural(len(active), "test member")
    said = f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
    smaller = float(np.mean(np.asarray(active) < np.asarray(control)))
    basis = f"signed-rank test over {n}, of which {100 * smaller:.0f} % have a smaller error; of this one pair of runs, not of others"
    if p <= ENOUGH:
        return f"Active learning is better than the control here ({said}; {basis})."
    return f"Active learning is not helping here ({said}; {basis})."
