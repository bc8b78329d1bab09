"""A surrogate over (parameters, t), seen as a model over parameters whose outputs are the whole trajectory."""

from __future__ import annotations

from typing import Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import Model
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultitaskMultivariateNormal
from linear_operator import to_linear_operator
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.base import Prediction, Surrogate

CHUNK = 1 << 16


class OverTime(Model):
    """Wraps a surrogate so that ``posterior(X)`` takes parameters only.

    The ``T * m`` outputs are ordered by time, then output: output ``j`` at time ``i`` is column ``i * m + j``. A
    surrogate that is not over t passes through unchanged (T = 1).

    Args:
        surrogate: over (parameters, t), or over parameters only.
        t_grid: the times at which the trajectory is looked at, ``T``, in t's own unit; ignored if not over t.
        weights: how much each of the ``T`` times matters in ``trajectory_std``; None is all alike.
        scale: by what each of the ``m`` outputs is divided in ``trajectory_std``; None is the surrogate's ``output_scale``.
    """

    def __init__(self, surrogate: Surrogate, t_grid: Any = None, weights: Any = None, scale: Any = None) -> None:
        super().__init__()
        self.surrogate = surrogate
        if surrogate.over_t:
            grid = torch.as_tensor([] if t_grid is None else t_grid, dtype=torch.float64).reshape(-1)
            if len(grid) == 0 or not bool(torch.isfinite(grid).all()):
                raise ConfigError(f"The trajectory needs a grid of finite times; {grid.tolist()} was given.")
        else:
            grid = torch.zeros(1, dtype=torch.float64)
        w = torch.ones(len(grid), dtype=torch.float64) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if w.shape != grid.shape or bool((w < 0).any()) or float(w.sum()) <= 0:
            raise ConfigError(f"The weights of {len(grid)} times are {w.tolist()}; give one number of at least 0 for each.")
        self.register_buffer("t_grid", grid)
        self.register_buffer("weights", w / w.sum())
        self.register_buffer("scale", None if scale is None else torch.as_tensor(scale, dtype=torch.float64))
        self.t_grid: Tensor
        self.weights: Tensor
        self.scale: Tensor | None

    @property
    def T(self) -> int:
        """How many times the trajectory has."""
        return len(self.t_grid)

    @property
    def d(self) -> int:
        """Columns of X: the parameters'."""
        return self.surrogate.d - int(self.surrogate.over_t)

    @property
    def num_outputs(self) -> int:
        return self.T * self.surrogate.m

    @property
    def batch_shape(self) -> torch.Size:
        return self.surrogate.batch_shape

    @property
    def output_scale(self) -> Tensor:
        """Scale of each of the ``T * m`` outputs."""
        return self.surrogate.output_scale.repeat(self.T)

    def expand(self, X: Tensor) -> Tensor:
        """Parameters ``batch_shape x q x d`` with every time appended: ``batch_shape x (q T) x (d + 1)``."""
        if not self.surrogate.over_t:
            return X
        t = self.t_grid.to(X)
        points = X.unsqueeze(-2).expand(*X.shape[:-1], self.T, X.shape[-1])
        times = t[:, None].expand(*points.shape[:-1], 1)
        return torch.cat([points, times], dim=-1).flatten(-3, -2)

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The posterior over whole trajectories, ``batch_shape x q x (T m)``; correlations over t are kept."""
        if not self.surrogate.over_t:
            return self.surrogate.posterior(X, output_indices, observation_noise, posterior_transform)
        inner = self.surrogate.posterior(self.expand(X), observation_noise=observation_noise)
        q, outputs = X.shape[-2], self.num_outputs
        if isinstance(inner, EnsemblePosterior):
            values = inner.values.reshape(*inner.values.shape[:-2], q, outputs)
            posterior: Posterior = EnsemblePosterior(values if output_indices is None else values[..., output_indices])
        elif isinstance(inner, GPyTorchPosterior):
            posterior = self._joint(inner, q, output_indices)
        else:
            raise ConfigError(
                f"OverTime cannot regroup a {type(inner).__name__}; the surrogate must give an ensemble or Gaussian posterior."
            )
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def _joint(self, inner: GPyTorchPosterior, q: int, output_indices: list[int] | None) -> Posterior:
        mvn = inner.distribution
        n, m = q * self.T, self.surrogate.m
        covariance = mvn.covariance_matrix
        if m > 1 and not mvn._interleaved:
            shape = covariance.shape[:-2]
            covariance = covariance.reshape(*shape, m, n, m, n).movedim((-4, -2), (-3, -1)).reshape(*shape, n * m, n * m)
        mean = inner.mean.reshape(*inner.mean.shape[:-2], q, self.num_outputs)
        if output_indices is not None:
            keep = torch.as_tensor(output_indices)
            flat = (torch.arange(q)[:, None] * self.num_outputs + keep).reshape(-1)
            mean, covariance = mean[..., keep], covariance[..., flat, :][..., flat]
        # lazily: of many points a smooth process's covariance is singular to the last digit, and has no Cholesky factor
        return GPyTorchPosterior(MultitaskMultivariateNormal(mean, to_linear_operator(covariance)))

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        """Marginal prediction of the trajectories at ``n x d`` points; each part ``n x (T m)``."""
        parts = [self.surrogate.predict(self.expand(x)) for x in X.split(max(1, CHUNK // self.T))]
        columns = zip(*parts, strict=True)
        return Prediction(*(torch.cat(list(c)).reshape(len(X), self.num_outputs) for c in columns))

    @torch.no_grad()
    def trajectory_std(self, X: Tensor) -> Tensor:
        """One epistemic uncertainty for each point: ``n x d`` to ``n``.

        The root of the (weighted) mean over times and outputs of the variance normalised by each output's scale.
        Memory is bounded: 10^5 points and more are fine.
        """
        parts = []
        scale = (self.surrogate.output_scale if self.scale is None else self.scale).to(X)
        for x in X.split(max(1, CHUNK // self.T)):
            variance = (self.surrogate.predict(self.expand(x)).epistemic / scale) ** 2
            over_outputs = variance.mean(dim=-1).reshape(len(x), self.T)
            parts.append((over_outputs @ self.weights.to(over_outputs)).sqrt())
        return torch.cat(parts) if parts else X.new_empty(0)
