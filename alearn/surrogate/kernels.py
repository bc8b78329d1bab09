"""Covariance functions that gpytorch does not have, and the marginal predictions of a Gaussian process at very many points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

CHUNK = 4096
"""Points predicted at a time: the covariance with the rows stays small."""
WORTH = 4e9
"""A prediction of so many multiplications is worth the question whether single precision will do."""
TRIED = 128
"""Points at which single precision is compared with double before it is trusted with the others."""
CLOSE = 0.02
"""It is trusted if standard deviation and mean are off by at most this share of the standard deviation at nearly all of them."""


@final
class TanimotoKernel(Kernel):
    """Similarity of fingerprints, the share of the bits that two have in common: ``<x, y> / (|x|^2 + |y|^2 - <x, y>)``.

    Positive definite on vectors without negative entries, counts as well as bits (Ralaivola et al. 2005); two empty fingerprints are
    alike. It has no length scale.
    """

    is_stationary = False
    has_lengthscale = False

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: Any) -> Tensor:
        """``… x n x d`` and ``… x n' x d`` to ``… x n x n'``; with ``diag`` the pairs of equal place, ``… x n``."""
        if diag:
            both = (x1 * x2).sum(dim=-1)
            one, two = (x1**2).sum(dim=-1), (x2**2).sum(dim=-1)
        else:
            both = x1 @ x2.transpose(-1, -2)
            one, two = (x1**2).sum(dim=-1)[..., :, None], (x2**2).sum(dim=-1)[..., None, :]
        union = one + two - both
        return torch.where(union > 0, both / union.clamp_min(1e-300), torch.ones_like(union))


def matern52(a: Tensor, b: Tensor, amplitude: float) -> Tensor:
    """Matern-5/2 covariance of points in units of the length scales, ``n x d`` and ``n' x d`` to ``n x n'``, with few temporaries."""
    r = torch.cdist(a, b).mul_(math.sqrt(5.0))
    found = r.mul(1.0 / 3.0).add_(1.0).mul_(r).add_(1.0)
    return found.mul_(r.neg_().exp_()).mul_(amplitude)


Covariance = Callable[[Tensor, torch.dtype], Tensor]
"""Points ``N x d`` to their covariance with the rows, ``n x N``, in that precision."""


def marginals(covariance: Covariance, prior: float, chol: Tensor, alpha: Tensor, constant: float, X: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of one process at ``N x d`` points, each ``N``, in double precision.

    The variance takes a triangular solve of the rows' order for every point. In single precision that is twice as fast, and right unless
    the function is so smooth that nearly all of the prior variance cancels; whether it is so here is found out on a few of
    the points, and then single precision does the others or is left alone.

    Args:
        covariance: with the rows.
        prior: variance of the process before data.
        chol: Cholesky factor of the rows' covariance, ``n x n``.
        alpha: weights of the mean, ``n``.
        constant: mean before data.
        X: the points.
    """

    def exact(x: Tensor) -> tuple[Tensor, Tensor]:
        cross = covariance(x, torch.float64)
        mean = constant + cross.T @ alpha
        return mean, prior - (torch.linalg.solve_triangular(chol, cross, upper=False) ** 2).sum(dim=0)

    rough = (chol.float(), alpha.float())

    def single(x: Tensor) -> tuple[Tensor, Tensor]:
        cross = covariance(x, torch.float32)
        mean = constant + (cross.T @ rough[1]).double()
        return mean, prior - torch.linalg.solve_triangular(rough[0], cross, upper=False).pow_(2).sum(dim=0).double()

    way = exact
    if len(X) * len(chol) ** 2 > WORTH:
        some = X[torch.linspace(0, len(X) - 1, min(TRIED, len(X)), dtype=torch.float64).round().long()]
        (mean, variance), (mean1, variance1) = exact(some), single(some)
        std, std1 = (v.clamp_min(1e-12).sqrt() for v in (variance, variance1))
        off = torch.maximum((std1 - std).abs(), (mean1 - mean).abs()) / std
        if float(torch.quantile(off, 0.98)) <= CLOSE:
            way = single
    parts = [way(x) for x in X.split(CHUNK)]
    means, variances = (torch.cat(p) for p in zip(*parts, strict=True))
    return means, variances
