"""How much a point has to teach: the surrogate's standard deviation, corrected where it is known to mislead."""

from __future__ import annotations

from collections.abc import Callable

import torch
from botorch.models.model import Model
from botorch.posteriors.ensemble import EnsemblePosterior
from torch import Tensor

from alearn.acquisition.base import Context
from alearn.acquisition.loo import local_error
from alearn.acquisition.scores import Uncertainty
from alearn.surrogate import AutoSurrogate, DeepEnsemble, OverTime, Surrogate


class Difficulty:
    """A surrogate's standard deviation as an acquisition should read it.

    An ensemble's spread is large where the function is hard, and is taken as it is. A Gaussian process's is the same
    wherever data are equally dense, so it is multiplied by the leave-one-out error around the point. Where a process leads
    a competition (``surrogate=auto``) and an ensemble stands by, both have a word: the geometric mean of the two.

    The first points measured set the units, so give a whole pool first.

    Args:
        surrogate: over parameters.
        context: what is known.
    """

    def __init__(self, surrogate: Model, context: Context) -> None:
        self._surrogate = surrogate
        self._context = context
        self._voices: list[Callable[[Tensor], Tensor]] = []
        self._units: list[float] = []

    def __call__(self, X: Tensor) -> Tensor:
        """The difficulty at ``N x d`` points, ``N``.

        Raises:
            ConfigError: the surrogate's variance is not finite.
        """
        if not len(X):
            return X.new_empty(0)
        if not self._voices:
            self._voices = [self._voice(model, X) for model in _opinions(self._surrogate, X)]
        said = [voice(X) for voice in self._voices]
        if len(said) == 1:
            return said[0]
        self._units = self._units or [max(float(s.mean()), 1e-300) for s in said]
        logs = [(s / unit).clamp_min(1e-300).log() for s, unit in zip(said, self._units, strict=True)]
        return self._units[0] * torch.stack(logs).mean(dim=0).exp()

    def _voice(self, model: Model, X: Tensor) -> Callable[[Tensor], Tensor]:
        std = Uncertainty(model)
        if _is_ensemble(model, X):
            return std
        return lambda points: std(points) * local_error(model, points, self._context)


def _opinions(surrogate: Model, X: Tensor) -> list[Model]:
    """Whom to ask: the surrogate; of a competition led by a process, the leader and the ensembles beside it."""
    over_time = surrogate if isinstance(surrogate, OverTime) else None
    inner = surrogate if over_time is None else over_time.surrogate
    if not isinstance(inner, AutoSurrogate) or _is_ensemble(surrogate, X):
        return [surrogate]
    beside: list[Model] = []
    for candidate in inner.candidates.values():
        assert isinstance(candidate, Surrogate)
        if isinstance(candidate, DeepEnsemble):
            beside.append(candidate if over_time is None else OverTime(candidate, over_time.t_grid, over_time.weights))
    return [surrogate, *beside]


@torch.no_grad()
def _is_ensemble(model: Model, X: Tensor) -> bool:
    return isinstance(model.posterior(X[:1].unsqueeze(1)), EnsemblePosterior)
