"""A Gaussian process whose noise differs from place to place: for stochastic simulations that are calm here and wild there.

Two processes: one of the function, one of the logarithm of the noise's variance, which learns from the squared errors of
the first, left out one by one (Kersting et al. 2007, "Most likely heteroscedastic Gaussian process regression").
"""

from __future__ import annotations

from typing import Any, final

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, Prediction, Surrogate
from alearn.surrogate.gaussian import normal_posterior
from alearn.surrogate.gp import F64, ExactGP
from alearn.surrogate.rows import thin
from alearn.surrogate.scaling import check_batch

LOG_CHI = 1.2704
"""By how much the expected logarithm of a squared standard normal is under zero."""
FEWEST = 8
"""Fewer rows than this do not tell how their noise differs."""
LEAST = 1e-3
"""The smallest noise, in units of the mean squared error: a row that was hit by chance is not free of noise."""


@final
class HeteroscedasticGP(Surrogate):
    """Exact processes as ``ExactGP`` has, with a noise that is learned as a function of the inputs.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the choice of rows on which hyper-parameters are fitted.
        rounds: how often noise and function are fitted in turn.
        max_rows: the most rows that the processes hold.
        fit_rows: the most rows on which hyper-parameters are fitted.
        max_updates: the most L-BFGS steps of a fit that decides itself.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        rounds: int = 2,
        max_rows: int = 2000,
        fit_rows: int = 400,
        max_updates: int = 60,
    ) -> None:
        super().__init__()
        if rounds < 1:
            raise ConfigError(f"The heteroscedastic GP has rounds={rounds}; function and noise are fitted in turn at least once.")
        self.d, self.m, self.over_t, self.seed, self.rounds = d, m, over_t, seed, rounds
        self._options = {"rounds": rounds, "max_rows": max_rows, "fit_rows": fit_rows, "max_updates": max_updates}
        shared: dict[str, Any] = {"max_rows": max_rows, "fit_rows": fit_rows, "max_updates": max_updates}
        self.function = ExactGP(d, m, over_t, seed, **shared)
        self.spread = ExactGP(d, m, over_t, seed, **shared, noise=1e-2)

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    @property
    def output_scale(self) -> Tensor:
        return self.function.output_scale

    @property
    def batch_shape(self) -> torch.Size:
        return self.function.batch_shape

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        check_batch(data, self.d, self.m)
        few = data.take(thin(data, self.function.max_rows, self.over_t, self.seed))
        loss = self.function.fit(few, updates=updates)
        if len(few) < FEWEST:
            return loss
        for _ in range(self.rounds):
            error, share = self.function.left_out()
            squared = error**2 * share  # the rest of the error is that the function is not known there
            least = LEAST * squared.mean(dim=0).clamp_min(1e-12 * self.output_scale**2)
            self.spread.fit(Batch(few.X, torch.maximum(squared, least).log() + LOG_CHI, few.weights, few.groups), updates=updates)
            loss = self.function.fit_with(few, self._noise(few.X) ** 2, updates)
        return loss

    def _noise(self, X: Tensor) -> Tensor:
        """Standard deviation of the noise at ``n x d`` inputs, ``n x m``."""
        if self.spread.inner is None:
            return self.function.predict(X).aleatoric.to(F64)
        return torch.exp(0.5 * self.spread.predict(X.to(F64)).mean)

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The joint normal posterior; with ``observation_noise`` that of a new run, whose noise is that of its place."""
        if observation_noise is False:
            return self.function.posterior(X, output_indices, False, posterior_transform)
        outputs: list[Any] = [self.function.posterior(X, [j]) for j in range(self.m)]
        found = [posterior.distribution for posterior in outputs]
        noise = self._noise(X.reshape(-1, self.d)).reshape(*X.shape[:-1], self.m).movedim(-1, -2) ** 2
        mean = torch.stack([f.mean for f in found], dim=-2)
        covariance = torch.stack([f.covariance_matrix for f in found], dim=-3) + torch.diag_embed(noise.to(mean))
        return normal_posterior(mean, covariance, output_indices, posterior_transform)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        mean, epistemic, _ = self.function.predict(X)
        return Prediction(mean, epistemic, self._noise(X).to(mean) if len(X) else torch.zeros_like(mean))

    def scale_variance(self, factor: Tensor) -> None:
        self.function.scale_variance(factor)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        for name, part in (("function", self.function), ("spread", self.spread)):
            own = {k.removeprefix(f"{name}."): v for k, v in state_dict.items() if k.startswith(f"{name}.")}
            found = part.load_state_dict(own, strict=strict, assign=assign)
        return found
