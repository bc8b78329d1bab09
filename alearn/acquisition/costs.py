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
ALIKE = 1.5
"""Costs whose middle four fifths lie within this factor are all alike."""


def expected_cost(points: Sequence[tuple[float, ...]], core_s: Sequence[float]) -> PoolFunction | None:
    """Expected core-seconds of a member at each of a pool's points, from those of the nearest members.

    The mean is taken of the logarithm, so that one that waited for a slow disk does not count for many. A member that
    failed belongs in here with what it cost: the odds of success are weighed by themselves.

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

    def expected(X: Tensor) -> Tensor:
        distance, index = torch.cdist(X.double(), known, compute_mode=EXACT).topk(min(NEIGHBOURS, len(known)), largest=False)
        weight = 1.0 / (distance + 0.05)
        mean: Tensor = (weight * cost[index]).sum(dim=-1) / weight.sum(dim=-1)
        return mean.exp()

    return expected
