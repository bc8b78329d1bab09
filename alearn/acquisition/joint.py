"""Joint batches in a linear-Gaussian picture: every point chosen is conditioned on before the next is compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.batch import explain, selection
from alearn.acquisition.features import error_features, network_features
from alearn.acquisition.pool import sobol_pool
from alearn.acquisition.scores import Prospects, prospects
from alearn.space import Space

NEVER = -torch.inf


@dataclass(frozen=True, slots=True)
class Field:
    """A pool with its features, conditioned on what is known and on its way.

    Args:
        found: the candidates and what is believed of them.
        features: of the candidates, ``N x F``.
        aims: the points where predictions will be asked, ``M x d``: the first candidates, at the fidelity wanted in the end.
        targets: features of these, ``M x F``.
        noise: variance of an observation in the features' units squared.
    """

    found: Prospects
    features: Tensor
    aims: Tensor
    targets: Tensor
    noise: float

    def choose(self, rows: list[int], scores: list[float], name: str, context: Context) -> Selection:
        """The picked rows as a selection, each with its score and its reason."""
        lines = explain(self.found, rows, context)
        return selection(self.found.X[rows], scores, [f"{name} {s:.3g}; {line}" for s, line in zip(scores, lines, strict=True)])


def errors_of(surrogate: Model, space: Space, context: Context, pool: int, noise: float, targets: int = 0) -> Field:
    """A pool in the features of the posterior's errors. The posterior knows the data; pending members are conditioned on.

    Args:
        surrogate: gives the covariance.
        space: where candidates come from.
        context: what is known.
        pool: how many candidates.
        noise: variance of an observation as a share of the candidates' mean variance.
        targets: how many.
    """
    found = prospects(surrogate, sobol_pool(space, pool, context), context)
    aims = torch.from_numpy(space.at_target(found.X[:targets].numpy()))
    known = context.pending.double()
    return _field(error_features, surrogate, found, aims, known, noise, lambda f, k, s: _pending(f, k, context.progress, s))


def networks_of(surrogate: Model, space: Space, context: Context, pool: int, noise: float) -> Field:
    """A pool in the features of the networks, conditioned on data and pending members as a Bayesian last layer is.

    Args:
        surrogate: gives the features.
        space: where candidates come from.
        context: what is known.
        pool: how many candidates.
        noise: variance of an observation as a share of the features' mean square norm.
    """
    found = prospects(surrogate, sobol_pool(space, pool, context), context)

    def all_known(features: Tensor, known: Tensor, variance: float) -> Tensor:
        n = len(context.X)
        return _pending(given(features, known[:n], variance), given(known[n:], known[:n], variance), context.progress, variance)

    known = torch.cat([context.X, context.pending]).double()
    return _field(network_features, surrogate, found, found.X[:0], known, noise, all_known)


def _field(
    features_of: Callable[[Model, Tensor], Tensor],
    surrogate: Model,
    found: Prospects,
    aims: Tensor,
    known: Tensor,
    noise: float,
    condition: Callable[[Tensor, Tensor, float], Tensor],
) -> Field:
    n, wanted = len(found.X), len(found.X) + len(aims)
    features = features_of(surrogate, torch.cat([found.X, aims, known]))
    variance = noise * max(float((features[:n] ** 2).sum(dim=1).mean()) if n else 0.0, 1e-300)
    given_known = condition(features[:wanted], features[wanted:], variance)
    return Field(found, given_known[:n], aims, given_known[n:], variance)


def _pending(features: Tensor, pending: Tensor, progress: Tensor, noise: float) -> Tensor:
    """Candidates given members on their way: half known at their start, wholly at their end."""
    for i, share in enumerate(progress.double().clamp(0, 1).tolist()):
        row = pending[i].clone()
        vague = noise + (1.0 - share) / 2 * float(row @ row)
        features, pending = conditioned(features, row, vague), conditioned(pending, row, vague)
    return features


def conditioned(features: Tensor, row: Tensor, noise: float) -> Tensor:
    """The features after an observation: their inner products are the posterior covariance given one more point.

    With ``f(x) = phi(x) w``, ``w ~ N(0, I)`` and an observation at ``phi`` with noise variance ``s``, the covariance of
    ``w`` becomes ``I - phi phi' / (phi' phi + s)``; its square root is applied to the features.

    Args:
        features: ``N x F``.
        row: features of the point observed, ``F``.
        noise: variance of the observation, in the features' units squared.
    """
    square = float(row @ row)
    if square <= 0:
        return features
    shrink = 1.0 - math.sqrt(noise / (square + noise))
    return features - torch.outer(features @ row, row) * (shrink / square)


def given(features: Tensor, known: Tensor, noise: float) -> Tensor:
    """Features of ``N`` candidates conditioned on ``n`` known points at once, ``N x F``.

    Args:
        features: ``N x F``, with a standard normal prior over the weights.
        known: features of what is known, ``n x F``.
        noise: variance of an observation.
    """
    if not len(known):
        return features
    precision = torch.eye(known.shape[1], dtype=known.dtype) + known.T @ known / noise
    root = torch.linalg.cholesky(precision)
    whitened: Tensor = torch.linalg.solve_triangular(root, features.T, upper=False).T
    return whitened


def pick_largest(features: Tensor, weight: Tensor, q: int, noise: float) -> tuple[list[int], list[float]]:
    """Greedily the largest conditional variance times weight: the greedy maximum of the batch's determinant.

    Args:
        features: ``N x F``.
        weight: factor on each candidate's variance, ``N``; 0 or less is never taken.
        q: how many.
        noise: variance of an observation.

    Returns:
        The rows, and for each its conditional variance (times weight) when it was taken.
    """
    rows: list[int] = []
    scores: list[float] = []
    open_ = weight > 0
    for _ in range(min(q, int(open_.sum()))):
        score = ((features**2).sum(dim=1) * weight).masked_fill(~open_, NEVER)
        row = int(score.argmax())
        rows.append(row)
        scores.append(float(score[row]))
        open_[row] = False
        features = conditioned(features, features[row], noise)
    return rows, scores


def pick_by_integral(
    features: Tensor, targets: Tensor, importance: Tensor, weight: Tensor, q: int, noise: float
) -> tuple[list[int], list[float]]:
    """Greedily the largest fall of the targets' weighted variance.

    Args:
        features: of the candidates, ``N x F``.
        targets: features of the points whose variance counts, ``M x F``.
        importance: of each target, ``M``.
        weight: factor on each candidate's gain, ``N``; 0 or less is never taken.
        q: how many.
        noise: variance of an observation.

    Returns:
        The rows, and for each the share of the integral by which it lowers it (times weight).
    """
    rows: list[int] = []
    scores: list[float] = []
    open_ = weight > 0
    total = max(float(((targets**2).sum(dim=1) * importance).sum()), 1e-300)
    for _ in range(min(q, int(open_.sum()))):
        inner = targets.T @ (targets * importance[:, None])
        gain = ((features @ inner) * features).sum(dim=1) / ((features**2).sum(dim=1) + noise) / total
        score = (gain * weight).masked_fill(~open_, NEVER)
        row = int(score.argmax())
        rows.append(row)
        scores.append(float(score[row]))
        open_[row] = False
        chosen = features[row].clone()
        features, targets = conditioned(features, chosen, noise), conditioned(targets, chosen, noise)
    return rows, scores
