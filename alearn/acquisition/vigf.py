"""VIGF: variance of the improvement for a global fit."""

from __future__ import annotations

import torch
from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, greedy, known_distance, selection
from alearn.acquisition.pool import EXACT, sobol_pool
from alearn.acquisition.scores import moments, prospects
from alearn.space import Space


class Vigf:
    """Picks the largest variance of the global fit's improvement, ``variance x (variance / 2 + (mean - nearest)^2)`` up to a
    factor, where ``nearest`` is the value at the nearest member (Mohammadi and Challenor 2022, "Sequential adaptive
    design for emulating costly computer codes"); picks repel one another.

    Args:
        pool: candidates compared.
        repulsion: exponent of the distance to what is known and picked.
    """

    def __init__(self, *, pool: int = 8192, repulsion: float = 1.0) -> None:
        check_positive("pool", pool)
        check_positive("repulsion", repulsion)
        self.pool, self.repulsion = pool, repulsion

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        found = prospects(surrogate, sobol_pool(space, self.pool, context), context)
        score = found.std**2 * (found.std**2 / 2 + self._step(surrogate, found.X, context) ** 2)
        # the fourth root makes it a length, like the distance that multiplies it
        rows, scores = greedy(found.X, score**0.25 * found.worth, known_distance(found.X, context), q, self.repulsion)
        return selection(
            found.X[rows], scores, [f"global-fit gain {s:.3g}; {r}" for s, r in zip(scores, explain(found, rows, context), strict=True)]
        )

    def _step(self, surrogate: Model, X: torch.Tensor, context: Context) -> torch.Tensor:
        """Difference between the prediction and the nearest member's value, in units of the outputs' spread, ``N``."""
        known = context.X.double()
        if not len(known) or not len(X):
            return X.new_zeros(len(X))
        mean, variance = moments(surrogate, X)
        values, _ = moments(surrogate, known)
        spread = (mean.var(dim=0, correction=0) + variance.mean(dim=0)).clamp_min(1e-300).sqrt()
        index = torch.cat([torch.cdist(part, known, compute_mode=EXACT).argmin(dim=1) for part in X.split(2048)])
        return (((mean - values[index]) / spread) ** 2).mean(dim=1).sqrt()
