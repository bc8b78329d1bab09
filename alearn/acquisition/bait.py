"""BAIT: the batch that lowers the last layer's Fisher risk over the whole space the most, found greedily."""

from __future__ import annotations

from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.joint import networks_of, pick_by_integral
from alearn.space import Space

TARGETS = 1024
"""Points of the pool over which the variance is integrated."""


class Bait:
    """Picks one by one the point that most lowers the mean variance of a Bayesian last layer over the space: for
    regression that is the trace criterion of BAIT (Ash et al. 2021, "Gone fishing", NeurIPS), without its backward pass.

    Args:
        pool: candidates compared.
        noise: variance of an observation as a share of the features' mean square norm.
    """

    def __init__(self, *, pool: int = 4096, noise: float = 1e-4) -> None:
        check_positive("pool", pool)
        check_positive("noise", noise)
        self.pool, self.noise = pool, noise

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        field = networks_of(surrogate, space, context, self.pool, self.noise)
        targets = field.features[:TARGETS]
        rows, scores = pick_by_integral(field.features, targets, targets.new_ones(len(targets)), field.found.worth, q, field.noise)
        return field.choose(rows, scores, "share of the Fisher risk removed", context)
