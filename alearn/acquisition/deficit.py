"""Deficit filling: even coverage of every pair of parameters."""

from __future__ import annotations

import itertools

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import away, selection
from alearn.acquisition.pool import DUPLICATE, nearest, sobol_pool, taken
from alearn.acquisition.scores import worth
from alearn.space import Space

PAIRS = 120
"""Pairs of columns looked at, at most (all of them up to 16 columns)."""


class Deficit:
    """Picks one by one the candidate whose two-parameter cells hold the fewest members against what they should, so that
    no corner of any two parameters stays empty. The surrogate is not asked.

    Args:
        bins: cells along each axis.
        pool: candidates compared.
    """

    def __init__(self, *, bins: int = 6, pool: int = 8192) -> None:
        check_positive("bins", bins)
        check_positive("pool", pool)
        self.bins, self.pool = bins, pool

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        X = sobol_pool(space, self.pool, context)
        known = taken(context)
        cells = self._cells(X)
        # the pool, which is even, says how many members a cell should hold (constraints and labels included)
        pairs = cells.shape[1]
        expected = torch.zeros(pairs, self.bins**2, dtype=torch.float64)
        expected.scatter_add_(1, cells.T, torch.ones(pairs, len(X), dtype=torch.float64))
        expected = expected / max(len(X), 1)
        held = torch.zeros_like(expected)
        if len(known):
            held.scatter_add_(1, self._cells(known).T, torch.ones(pairs, len(known), dtype=torch.float64))
        weight = worth(X, context)[0]
        distance = nearest(X, known)
        rows: list[int] = []
        scores: list[float] = []
        total = len(known)
        columns = torch.arange(pairs)
        for _ in range(min(q, len(X))):
            total += 1
            deficit = (expected * total - held) / (expected * total).clamp_min(0.5)
            score = (deficit[columns, cells].mean(dim=1) + 10.0) * weight  # above zero, so that the weight is one
            score = score + 1e-6 * distance.clamp(max=1e3)  # among equals the loneliest
            score = score.masked_fill(distance <= DUPLICATE, -torch.inf)
            row = int(score.argmax())
            if not torch.isfinite(score[row]):
                break
            rows.append(row)
            scores.append(float(deficit[columns, cells[row]].mean()))
            held[columns, cells[row]] += 1
            distance = torch.minimum(distance, nearest(X, X[row : row + 1]))
        to_data = nearest(X[rows], context.X.double())
        why = [f"fills cells with {100 * s:.0f} % of their members missing; {away(float(d))}" for s, d in zip(scores, to_data, strict=True)]
        return selection(X[rows], scores, why)

    def _cells(self, X: Tensor) -> Tensor:
        """The number of the cell of each point in each pair of columns, ``N x pairs``."""
        d = X.shape[1]
        digits = (X * self.bins).long().clamp(0, self.bins - 1)
        pairs = list(itertools.combinations(range(d), 2))[:: max(1, -(-(d * (d - 1) // 2) // PAIRS))] or [(0, 0)]
        first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
        return digits[:, first] * self.bins + digits[:, second]
