"""MaxDet: the batch whose joint covariance has the largest determinant, found greedily."""

from __future__ import annotations

from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.joint import networks_of, pick_largest
from alearn.space import Space


class MaxDet:
    """Picks one by one the largest variance given data and picks, over the networks' features (Holzmuller et al. 2023,
    "A framework and benchmark for deep batch active learning for regression", JMLR 24).

    Args:
        pool: candidates compared.
        noise: variance of an observation as a share of the features' mean square norm.
    """

    def __init__(self, *, pool: int = 8192, noise: float = 1e-4) -> None:
        check_positive("pool", pool)
        check_positive("noise", noise)
        self.pool, self.noise = pool, noise

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        field = networks_of(surrogate, space, context, self.pool, self.noise)
        rows, scores = pick_largest(field.features, field.found.worth, q, field.noise)
        return field.choose(rows, scores, "conditional variance", context)
