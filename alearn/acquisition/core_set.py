"""Core-set: cover what the networks see as different."""

from __future__ import annotations

import torch
from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, greedy, selection
from alearn.acquisition.features import network_features
from alearn.acquisition.pool import chunked, sobol_pool
from alearn.acquisition.scores import prospects
from alearn.space import Space


class CoreSet:
    """Picks one by one the point farthest, in the networks' features, from everything known and picked: the greedy
    k-centre solution (Sener and Savarese 2018, "Active learning for convolutional neural networks: a core-set approach").

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
        features = network_features(surrogate, torch.cat([found.X, known]))
        n = len(found.X)
        distance = to_nearest(features[:n], features[n:])
        rows, scores = greedy(features[:n], found.worth, distance, q, 1.0)
        lines = explain(found, rows, context)
        return selection(found.X[rows], scores, [f"feature distance {s:.2g}; {line}" for s, line in zip(scores, lines, strict=True)])


def to_nearest(features: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Distance of ``N x F`` features to the nearest of ``M x F`` centres, ``N``; 1 if there are none."""
    if not len(centres):
        return features.new_ones(len(features))
    return chunked(lambda part: torch.cdist(part, centres).amin(dim=1), features)
