"""Which rows a surrogate learns or is tested on: thinning to a bound, and folds that keep members whole."""

from __future__ import annotations

import torch
from torch import Tensor

from alearn.surrogate.base import Batch
from alearn.surrogate.bootstrap import uniforms

STEPS = 4
"""Members are left out only once each is down to so many time steps."""


def thin(data: Batch, most: int, over_t: bool, seed: int = 0) -> Tensor:
    """Rows that represent ``data`` when no more than ``most`` may be kept.

    Over t every member keeps as many evenly chosen time steps, its first and last among them; when not even four
    of each fit, members are left out, by a draw that depends on the seed and the member alone.

    Args:
        data: all rows.
        most: how many may be kept.
        over_t: whether the last column of ``X`` is simulation time.
        seed: of the draw.

    Returns:
        Their indices, ``n'``.
    """
    n = len(data)
    if n <= most:
        return torch.arange(n, device=data.X.device)
    groups, member = torch.unique(data.groups, return_inverse=True)
    sizes = torch.bincount(member)
    least = sizes.clamp_max(STEPS) if over_t else sizes
    draw = uniforms(seed, 1, groups)[0].argsort()
    chosen = draw[least[draw].cumsum(0) <= most]
    rows = torch.isin(member, chosen).nonzero()[:, 0]
    if len(rows) <= most:
        return rows
    keep = STEPS
    while int(sizes[chosen].clamp_max(keep + 1).sum()) <= most:
        keep += 1
    rows = rows[data.X[rows, -1].argsort(stable=True)]
    rows = rows[member[rows].argsort(stable=True)]
    parts = []
    for own in rows.split(sizes[chosen.sort().values].tolist()):
        parts.append(own[torch.linspace(0, len(own) - 1, min(keep, len(own)), dtype=torch.float64).round().long()])
    return torch.cat(parts)


def folds_of(groups: Tensor, count: int, seed: int) -> Tensor:
    """The fold of every row, ``n`` integers in ``[0, count)``: members stay whole, and folds have the same number of them."""
    names, member = torch.unique(groups, return_inverse=True)
    rank = uniforms(seed, 1, names)[0].argsort().argsort()
    return (rank % count)[member]
