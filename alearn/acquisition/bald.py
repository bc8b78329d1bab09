"""BALD: the points whose outcomes tell most about the surrogate itself."""

from __future__ import annotations

import torch
from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.joint import errors_of, pick_largest
from alearn.space import Space


class Bald:
    """Picks one by one the largest information gain ``log(1 + variance / noise) / 2`` given the picks (Houlsby et al. 2011;
    jointly over the batch as in Kirsch et al. 2019, BatchBALD; the posterior is taken to be Gaussian).

    Args:
        pool: candidates compared.
        noise: variance of an observation as a share of the candidates' mean variance. The smaller, the more a pick
            silences its neighbours.
    """

    def __init__(self, *, pool: int = 8192, noise: float = 0.1) -> None:
        check_positive("pool", pool)
        check_positive("noise", noise)
        self.pool, self.noise = pool, noise

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        field = errors_of(surrogate, space, context, self.pool, self.noise)
        rows, variance = pick_largest(field.features, field.found.worth, q, field.noise)
        gains = (torch.tensor(variance, dtype=torch.float64) / field.noise).log1p() / 2
        return field.choose(rows, gains.tolist(), "information gain (nats)", context)
