"""What a member will cost, learned from those that ran: so that a point counts by what it teaches per core-second."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alearn.acquisition.base import PoolFunction
from alearn.acquisition.pool import EXACT

NEIGHBOURS = 8
FEW = 12
"""Members below which no cost is believed."""
RIDGE = 0.1
"""Penalty of the trend's slopes, in members: the unit interval has the variance of a twelfth."""
ALIKE = 1.5
"""Costs whose middle four fifths lie within this factor are all alike."""


def expected_cost(points: Sequence[tuple[float, ...]], core_s: Sequence[float]) -> PoolFunction | None:
    """Expected core-seconds of a member at each of a pool's points: a trend along each parameter, corrected by the nearest members.

    The trend (a grid of twice the cells costs so many times more) is linear in the logarithm, and the mean is taken of the
    logarithm too, so that a member that waited for a slow disk does not count for many. A member that failed belongs in here
    with what it cost: the odds of success are weighed by themselves.

    Args:
        points: of members that ran to their end, in the unit cube.
        core_s: what each took.

    Returns:
        The function, or None where costs are few or all alike.
    """
    if len(core_s) < FEW:
        return None
    cost = torch.tensor(list(core_s), dtype=torch.float64)
    known = torch.tensor(list(points), dtype=torch.float64).reshape(len(cost), -1)
    sound = torch.isfinite(cost) & (cost > 0)
    cost, known = cost[sound].log(), known[sound]
    if len(cost) < FEW:
        return None
    low, high = torch.quantile(cost, torch.tensor([0.1, 0.9], dtype=torch.float64)).exp().tolist()
    if high < ALIKE * low:
        return None

    trend = _trend(known, cost)
    rest = cost - _terms(known) @ trend

    def expected(X: Tensor) -> Tensor:
        distance, index = torch.cdist(X.double(), known, compute_mode=EXACT).topk(min(NEIGHBOURS, len(known)), largest=False)
        weight = 1.0 / (distance + 0.05)
        near: Tensor = (weight * rest[index]).sum(dim=-1) / weight.sum(dim=-1)
        return (_terms(X.double()) @ trend + near).exp()

    return expected


def _terms(X: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(X[:, :1]), X - 0.5], dim=1)


def _trend(known: Tensor, cost: Tensor) -> Tensor:
    """Level and slopes of the logarithmic cost, ``1 + d``, the slopes held back where members are few (ridge regression)."""
    terms = _terms(known)
    penalty = torch.full((terms.shape[1],), RIDGE, dtype=torch.float64)
    penalty[0] = 0.0
    slopes: Tensor = torch.linalg.solve(terms.T @ terms + penalty.diag(), terms.T @ cost)
    return slopes
