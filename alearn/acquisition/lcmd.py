"""LCMD: the farthest point of the largest cluster."""

from __future__ import annotations

import torch
from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, selection
from alearn.acquisition.features import network_features
from alearn.acquisition.pool import CHUNK, sobol_pool
from alearn.acquisition.scores import prospects
from alearn.space import Space


class Lcmd:
    """Largest-cluster maximum-distance selection over the networks' features (Holzmuller et al. 2023, JMLR 24): known points
    and picks are cluster centres, each candidate belongs to the nearest, a cluster's size is the sum of its squared
    distances, and the next pick is the farthest member of the largest cluster.

    Args:
        pool: candidates compared.
    """

    def __init__(self, *, pool: int = 8192) -> None:
        check_positive("pool", pool)
        self.pool = pool

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        found = prospects(surrogate, sobol_pool(space, self.pool, context), context)
        known = torch.cat([context.X, context.pending]).double()
        n = len(found.X)
        features = network_features(surrogate, torch.cat([found.X, known]))
        features, centres = features[:n], features[n:]
        square = features.new_full((n,), torch.inf)
        owner = torch.zeros(n, dtype=torch.long)
        if len(centres):
            nearest = [torch.cdist(part, centres).min(dim=1) for part in features.split(CHUNK)]
            square, owner = torch.cat([f.values for f in nearest]) ** 2, torch.cat([f.indices for f in nearest])
        elif n:
            square = (features - features.mean(dim=0)).square().sum(dim=1) + 1e-12
        open_ = torch.ones(n, dtype=torch.bool)
        rows: list[int] = []
        scores: list[float] = []
        for turn in range(min(q, n)):
            weighed = torch.where(open_, square * found.worth, 0.0)
            size = torch.zeros(len(centres) + turn + 1, dtype=weighed.dtype).index_add_(0, owner, weighed)
            inside = open_ & (owner == int(size.argmax()))
            row = int(weighed.masked_fill(~(inside if inside.any() else open_), -torch.inf).argmax())
            rows.append(row)
            scores.append(float(square[row].sqrt()))
            open_[row] = False
            to_pick = (features - features[row]).square().sum(dim=1)
            owner = torch.where(to_pick < square, len(centres) + turn, owner)
            square = torch.minimum(square, to_pick)
        lines = explain(found, rows, context)
        return selection(
            found.X[rows],
            scores,
            [f"farthest of the largest cluster, {s:.2g} in features; {line}" for s, line in zip(scores, lines, strict=True)],
        )
