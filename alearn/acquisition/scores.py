"""What a surrogate says about candidates: predicted mean and standard deviation, in units of each output's spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context
from alearn.acquisition.pool import CHUNK
from alearn.errors import ConfigError


@runtime_checkable
class TrajectoryUncertainty(Protocol):
    """A model that sums up the uncertainty of a whole trajectory itself, in units of the outputs' spread."""

    def trajectory_std(self, X: Tensor) -> Tensor:
        """One standard deviation for each of ``N x d`` points, ``N``."""
        ...


@dataclass(frozen=True, slots=True)
class Prospects:
    """Candidates and what is believed of them.

    Args:
        X: ``N x d``.
        std: posterior standard deviation in units of the outputs' spread (root mean square over outputs), ``N``.
        worth: factor from feasibility and cost, ``N``; 1 where neither is known.
        odds: probability that a member succeeds, ``N``; None if nothing failed yet.
        cost: expected cost in units of the pool's median, ``N``; None if all cost alike.
    """

    X: Tensor
    std: Tensor
    worth: Tensor
    odds: Tensor | None = None
    cost: Tensor | None = None


@torch.no_grad()
def moments(surrogate: Model, X: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and variance at ``N x d`` points, each ``N x m``, in bounded memory.

    Every point is its own batch (``N x 1 x d``): a joint posterior over a pool would need its ``N x N`` covariance.
    """
    means, variances = [], []
    for part in X.split(CHUNK):
        posterior: Any = surrogate.posterior(part.unsqueeze(1))
        means.append(posterior.mean.squeeze(1))
        variances.append(posterior.variance.squeeze(1).clamp_min(0))
    return torch.cat(means).double(), torch.cat(variances).double()


class Uncertainty:
    """Measures a surrogate's standard deviation, one number a point, in units of the outputs' spread.

    The spread of each output is that over the first points measured (so give a whole pool first); a model with
    ``trajectory_std`` brings its own. Several outputs are joined by their root mean square.
    """

    def __init__(self, surrogate: Model) -> None:
        self.surrogate = surrogate
        self.spread: Tensor | None = None

    @torch.no_grad()
    def __call__(self, X: Tensor) -> Tensor:
        """The standard deviation at ``N x d`` points, ``N``.

        Raises:
            ConfigError: the surrogate's variance is not finite.
        """
        if not len(X):
            return X.new_empty(0)
        if isinstance(self.surrogate, TrajectoryUncertainty):
            std = torch.cat([self.surrogate.trajectory_std(part).double() for part in X.split(CHUNK)])
        else:
            mean, variance = moments(self.surrogate, X)
            if self.spread is None:
                self.spread = (mean.var(dim=0, correction=0) + variance.mean(dim=0)).clamp_min(1e-300)
            std = (variance / self.spread).mean(dim=1).sqrt()
        if not torch.isfinite(std).all():
            raise ConfigError(
                f"The surrogate's standard deviation is not finite at {int((~torch.isfinite(std)).sum())} of {len(X)} candidates; "
                "it has not been fitted, or its training diverged."
            )
        return std


def prospects(surrogate: Model, X: Tensor, context: Context) -> Prospects:
    """Everything that a selection needs to know about ``N x d`` candidates."""
    return Prospects(X, Uncertainty(surrogate)(X), *worth(X, context))


@torch.no_grad()
def worth(X: Tensor, context: Context) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The factor with which feasibility and cost weigh every score: the one place where they do.

    A score counts times the probability of success (not under 0.01, so that a wrong belief can be corrected),
    divided by the cost in units of the median (within a factor of 10 of it, so that a score is never all cost).

    Args:
        X: candidates, ``N x d``.
        context: brings the two functions.

    Returns:
        The factor, the probability of success or None, and the relative cost or None; each ``N``.
    """
    factor = X.new_ones(len(X))
    odds = cost = None
    if context.feasible is not None:
        odds = torch.cat([context.feasible(part).double() for part in X.split(CHUNK)]).clamp(0, 1)
        factor = factor * odds.clamp_min(0.01)
    if context.cost is not None:
        cost = torch.cat([context.cost(part).double() for part in X.split(CHUNK)])
        cost = cost / cost.median().clamp_min(1e-12)
        factor = factor / cost.clamp(0.1, 10)
    return factor, odds, cost
