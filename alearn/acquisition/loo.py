"""Where a surrogate is wrong by its own data: leave-one-out errors, and the field that they make over the space."""

from __future__ import annotations

import math

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context
from alearn.acquisition.pool import EXACT, chunked
from alearn.acquisition.scores import moments

NEIGHBOURS = 5
MOST = 1000
"""Members whose errors are computed (the cost grows with the cube); of more, so many evenly from the first to the last."""
COMPONENTS = 3
"""Principal components of the outputs that count (a trajectory has hundreds of outputs, and few that differ)."""


def leave_one_out(X: Tensor, Y: Tensor) -> Tensor:
    """Leave-one-out errors of a Matern-5/2 interpolation in closed form (Dubrule 1983), in units of the outputs' spread.

    The length scale, the same along all axes, is the one with the smallest errors out of eight.

    Args:
        X: ``n x d``.
        Y: ``n x m``.

    Returns:
        ``n``, the root mean square over outputs.
    """
    n, d = X.shape
    spread = Y.std(dim=0, correction=0)
    Y = (Y - Y.mean(dim=0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    distance = torch.cdist(X, X, compute_mode=EXACT)
    least = math.inf
    best = X.new_zeros(n)
    for length in torch.logspace(-1.0, 0.75, 8, dtype=torch.float64) * math.sqrt(d):
        r = distance * math.sqrt(5.0) / length
        kernel = (1 + r + r**2 / 3) * torch.exp(-r) + 1e-6 * torch.eye(n, dtype=torch.float64)
        inverse = torch.linalg.inv(kernel)
        errors = (inverse @ Y) / inverse.diagonal()[:, None]
        total = float((errors**2).mean())
        if total < least:
            least, best = total, (errors**2).mean(dim=1).sqrt()
    return best


def local_error(surrogate: Model, X: Tensor, context: Context) -> Tensor:
    """How wrong the surrogate is around each of ``N x d`` points, ``N``, in units of its mean error.

    The leave-one-out errors of the nearest members, weighted by distance, over the surrogate's own values there: they are
    of this moment, while an error that was seen when a member arrived is that of a surrogate long gone.
    """
    known = context.X.double()
    if len(known) <= NEIGHBOURS:
        return torch.ones(len(X), dtype=torch.float64)
    known = known[torch.linspace(0, len(known) - 1, min(len(known), MOST)).round().long()]
    mean, _ = moments(surrogate, known)
    errors = leave_one_out(known, _principal(mean))

    def around(part: Tensor) -> Tensor:
        distance, index = torch.cdist(part, known, compute_mode=EXACT).topk(NEIGHBOURS, dim=1, largest=False)
        weight = 1.0 / (distance + 1e-3)
        return ((errors[index] ** 2 * weight).sum(dim=1) / weight.sum(dim=1)).sqrt()

    return chunked(around, X) / errors.mean().clamp_min(1e-300)


def _principal(Y: Tensor) -> Tensor:
    """The leading principal components of ``n x m`` standardised outputs."""
    if Y.shape[1] <= COMPONENTS:
        return Y
    spread = Y.std(dim=0, correction=0)
    Z = (Y - Y.mean(dim=0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    scores: Tensor = Z @ torch.linalg.svd(Z, full_matrices=False).Vh[:COMPONENTS].T
    return scores
