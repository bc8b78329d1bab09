"""Integrated variance, weighted by where the surrogate is seen to be wrong."""

from __future__ import annotations

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.joint import errors_of, pick_by_integral
from alearn.acquisition.loo import local_error
from alearn.space import Space

TARGETS = 1024
"""Points over which the variance is integrated, at the fidelity wanted in the end."""


class WeightedIVR:
    """Picks one by one the point that most lowers the integral of variance times squared local error.

    A stationary variance knows where points are, not where the function is hard; the leave-one-out error says that (in
    the spirit of Le Gratiet and Cannamela 2015 and of Mohammadi et al. 2022). Without weight it is the integrated
    variance of Sacks et al. 1989. Where the space has a fidelity, the integral is at the one wanted in the end and the
    candidates are of all, so that under a budget of core-hours a cheap simulation is taken when it tells enough about a dear
    one (in the spirit of Le Gratiet and Cannamela 2015, and of Stroh et al. 2022).

    Args:
        pool: candidates compared.
        power: exponent of the local error; 0 leaves plain integrated variance.
        noise: variance of an observation as a share of the candidates' mean variance.
    """

    def __init__(self, *, pool: int = 4096, power: float = 1.0, noise: float = 0.01) -> None:
        check_positive("pool", pool)
        check_positive("noise", noise)
        self.pool, self.power, self.noise = pool, power, noise

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        field = errors_of(surrogate, space, context, self.pool, self.noise, TARGETS)
        hard: Tensor = local_error(surrogate, field.aims, context) if self.power else torch.ones(len(field.aims)).double()
        rows, scores = pick_by_integral(field.features, field.targets, hard ** (2 * self.power), field.found.worth, q, field.noise)
        return field.choose(rows, scores, "share of the weighted variance removed", context)
