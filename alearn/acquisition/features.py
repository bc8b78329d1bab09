"""Points as vectors in which similar ones are near and errors are correlated: what batch methods compare."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from botorch.models.model import Model
from botorch.posteriors.ensemble import EnsemblePosterior
from torch import Tensor
from torch.func import functional_call

from alearn.acquisition.pool import CHUNK
from alearn.acquisition.scores import moments
from alearn.surrogate import AutoSurrogate, DeepEnsemble, OverTime
from alearn.surrogate.stacked import StackedMLP

ANCHORS = 256
"""Points whose covariance with a candidate is its feature vector, for a surrogate that is no ensemble (Nystrom)."""
WIDEST = 512
"""Features kept; more are projected at random, which keeps inner products (Johnson and Lindenstrauss 1984)."""
OUTPUTS = 3
"""Outputs of a Gaussian posterior whose covariance is looked at, at most."""
TIMES = 4
"""Times of a trajectory at which network features are taken."""


@runtime_checkable
class Featured(Protocol):
    """A surrogate that has features of its own."""

    def features(self, X: Tensor) -> Tensor:
        """Features of ``N x d`` points, ``N x F``."""
        ...


@torch.no_grad()
def error_features(surrogate: Model, X: Tensor) -> Tensor:
    """Vectors whose inner products are the posterior covariance, summed over outputs in units of their spread.

    Of an ensemble they are the estimators' deviations from their mean (rank ``K m``); of a Gaussian posterior the
    covariances with ``ANCHORS`` of the points, whitened (Williams and Seeger 2001).

    Args:
        surrogate: any BoTorch model.
        X: ``N x d``.

    Returns:
        ``N x F``.
    """
    probe: Any = surrogate.posterior(X[:1].unsqueeze(0))
    if isinstance(probe, EnsemblePosterior):
        mean, variance = moments(surrogate, X)
        spread = (mean.var(dim=0, correction=0) + variance.mean(dim=0)).clamp_min(1e-300).sqrt()
        parts = [_deviations(surrogate, part, spread) for part in X.split(CHUNK)]
        return narrowed(torch.cat(parts))
    views = _views(surrogate)
    return narrowed(torch.cat([_nystrom(view, output, X) for view, output in views], dim=1)) / math.sqrt(len(views))


def network_features(surrogate: Model, X: Tensor) -> Tensor:
    """What the networks' last hidden layers make of ``N x d`` points, ``N x F``, scaled to a mean square norm of 1.

    A surrogate without networks (and without ``features``) gives its ``error_features``. Over t, features are those at
    a few times of the trajectory, side by side.
    """
    times: Tensor | None = None
    inner = surrogate
    if isinstance(surrogate, OverTime):
        inner = surrogate.surrogate
        if inner.over_t:
            grid = surrogate.t_grid
            times = grid[torch.linspace(len(grid) - 1, 0, min(TIMES, len(grid))).round().long()]
    if isinstance(inner, AutoSurrogate):  # whoever leads, an ensemble beside it sees more than a process
        inner = next((c for c in inner.candidates.values() if isinstance(c, DeepEnsemble)), inner.leader)
    if not isinstance(inner, Featured) and _network(inner) is None:
        found = error_features(surrogate, X)
    else:
        parts = []
        for part in X.split(CHUNK):
            views = [part] if times is None else [torch.cat([part, part.new_full((len(part), 1), float(t))], dim=1) for t in times]
            parts.append(torch.cat([_of(inner, view) for view in views], dim=1))
        found = narrowed(torch.cat(parts).double()) if parts else X.new_empty(0, 1)
    return found / (found**2).sum(dim=1).mean().sqrt().clamp_min(1e-300) if len(found) else found


def narrowed(features: Tensor) -> Tensor:
    """At most ``WIDEST`` features: a random projection with a fixed seed."""
    width = features.shape[1]
    if width <= WIDEST:
        return features
    draw = torch.randn(width, WIDEST, generator=torch.Generator().manual_seed(width), dtype=features.dtype)
    return features @ draw / math.sqrt(WIDEST)


@torch.no_grad()
def _of(inner: Model, X: Tensor) -> Tensor:
    if isinstance(inner, Featured):
        return inner.features(X)
    net = _network(inner)
    assert net is not None
    assert isinstance(inner, DeepEnsemble)
    # with the identity in place of the last layer a network, whatever its body, gives its last hidden layer
    last = len(net.weights) - 1
    width = net.weights[last].shape[1]
    eye = torch.eye(width).expand(net.estimators, width, width)
    exchanged = {f"weights.{last}": eye.to(net.weights[last]), f"biases.{last}": torch.zeros(net.estimators, 1, width).to(eye)}
    hidden: Tensor = functional_call(net, exchanged, (inner.scaling.inputs(X).float(),))
    return hidden.movedim(0, 1).flatten(1)


def _network(inner: Model) -> StackedMLP | None:
    """The averaged networks of an ensemble, if they are of the kind whose last layer can be taken off."""
    average = inner.average if isinstance(inner, DeepEnsemble) else None
    return average if isinstance(average, StackedMLP) else None


def _deviations(surrogate: Model, X: Tensor, spread: Tensor) -> Tensor:
    posterior: Any = surrogate.posterior(X.unsqueeze(1))
    values = posterior.values.squeeze(-2).double() / spread
    centred: Tensor = values - values.mean(dim=1, keepdim=True)
    return (centred / math.sqrt(max(1, centred.shape[1] - 1) * centred.shape[2])).flatten(1)


def _views(surrogate: Model) -> list[tuple[Model, int]]:
    """At most a few single outputs of a Gaussian surrogate, at the middle and the end of the trajectory: the covariance of
    thousands of points at all times and outputs does not fit into memory."""
    views = [surrogate]
    if isinstance(surrogate, OverTime) and surrogate.T > 1:
        views = [OverTime(surrogate.surrogate, surrogate.t_grid[k : k + 1]) for k in (surrogate.T // 2, surrogate.T - 1)]
    m = views[0].num_outputs
    outputs = sorted({round(i * (m - 1) / max(1, OUTPUTS - 1)) for i in range(OUTPUTS)})
    return [(view, j) for view in views for j in outputs]


def _nystrom(surrogate: Model, output: int, X: Tensor) -> Tensor:
    rows = torch.linspace(0, len(X) - 1, min(ANCHORS, len(X))).round().long().unique()
    Z = X[rows]
    which = [output] if surrogate.num_outputs > 1 else None
    mean, own = (moment[:, output] for moment in moments(surrogate, X))
    spread = float((mean.var(correction=0) + own.mean()).clamp_min(1e-300))
    parts = []
    for part in X.split(CHUNK // 4):
        posterior: Any = surrogate.posterior(torch.cat([part, Z]), output_indices=which)
        covariance = posterior.distribution.covariance_matrix.double() / spread
        parts.append(covariance[: len(part), len(part) :])
        at = covariance[len(part) :, len(part) :]
    jitter = 1e-6 * float(at.diagonal().mean())
    root = torch.linalg.cholesky(at + jitter * torch.eye(len(Z), dtype=at.dtype))
    features = torch.linalg.solve_triangular(root, torch.cat(parts).T, upper=False).T
    # what the anchors miss of a point's variance is its own: one more column would be needed for each point
    scale: Tensor = (own / spread / (features**2).sum(dim=1).clamp_min(1e-300)).sqrt().clamp(max=10.0)
    scaled: Tensor = features * scale[:, None]
    return scaled
