"""EPIG: the points whose outcomes tell most about the predictions that matter."""

from __future__ import annotations

import torch
from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.joint import NEVER, conditioned, errors_of
from alearn.space import Space

TARGETS = 512
"""Points that stand for where predictions will be asked, at the fidelity wanted in the end."""


class Epig:
    """Picks one by one the largest expected information about predictions all over the space, the mean over targets of
    ``-log(1 - correlation^2) / 2`` (Bickford Smith et al. 2023, "Prediction-oriented Bayesian active learning"; the
    posterior is taken to be Gaussian), given the picks.

    Args:
        pool: candidates compared.
        noise: variance of an observation as a share of the candidates' mean variance.
    """

    def __init__(self, *, pool: int = 4096, noise: float = 0.1) -> None:
        check_positive("pool", pool)
        check_positive("noise", noise)
        self.pool, self.noise = pool, noise

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        field = errors_of(surrogate, space, context, self.pool, self.noise, TARGETS)
        features, targets = field.features, field.targets
        open_ = torch.ones(len(features), dtype=torch.bool)
        rows: list[int] = []
        scores: list[float] = []
        for _ in range(min(q, len(features))):
            own = (features**2).sum(dim=1, keepdim=True) + field.noise
            theirs = (targets**2).sum(dim=1) + field.noise
            correlation = (features @ targets.T) ** 2 / (own * theirs)
            gain = -(-correlation.clamp(max=1 - 1e-9)).log1p().mean(dim=1) / 2 * field.found.worth
            row = int(gain.masked_fill(~open_, NEVER).argmax())
            rows.append(row)
            scores.append(float(gain[row]))
            open_[row] = False
            chosen = features[row].clone()
            features, targets = conditioned(features, chosen, field.noise), conditioned(targets, chosen, field.noise)
        return field.choose(rows, scores, "information about predictions (nats)", context)
