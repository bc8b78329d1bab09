"""Sparse variational Gaussian process: the GP for many samples, optionally on features that a network learns (a deep kernel).

Hensman et al. 2013 (stochastic variational GPs), Wilson et al. 2016 (deep kernels).
"""

from __future__ import annotations

from typing import Any, final

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.mlls import PredictiveLogLikelihood, VariationalELBO
from gpytorch.models import ApproximateGP
from gpytorch.variational import CholeskyVariationalDistribution, VariationalStrategy
from torch import Tensor, nn

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, OnlineSurrogate, Prediction
from alearn.surrogate.gaussian import normal_posterior
from alearn.surrogate.scaling import Scaling, check_batch, check_factor

CHUNK = 8192


class _Process(ApproximateGP):
    """m independent processes with a common set of inducing points for each."""

    def __init__(self, points: Tensor, m: int, dimensions: int) -> None:
        batch = torch.Size([m])
        inducing = points.expand(m, *points.shape).clone()
        distribution = CholeskyVariationalDistribution(len(points), batch_shape=batch, mean_init_std=0.0)  # seeded by the points alone
        super().__init__(VariationalStrategy(self, inducing, distribution, learn_inducing_locations=True))
        self.mean_module = ConstantMean(batch_shape=batch)
        self.covar_module = ScaleKernel(MaternKernel(2.5, ard_num_dims=dimensions, batch_shape=batch), batch_shape=batch)
        self.covar_module.base_kernel.lengthscale = 0.6 * dimensions**0.5

    def forward(self, x: Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean_module(x), self.covar_module(x))


@final
class SparseGP(OnlineSurrogate):
    """m independent sparse GPs, Matern-5/2 with a length scale for each input; learns from mini-batches, so from any number of rows.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the inducing points, the network and mini-batches.
        inducing: how many inducing points; the cost of an update grows with their cube.
        deep: features that a network of two hidden layers learns in place of the inputs (a deep kernel); 0 is none.
        objective: "elbo", or "predictive" (calibrated noise where the function is rough: Jankowiak et al. 2020).
        lr: Adam's learning rate.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: updates of a fit that decides itself.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        inducing: int = 128,
        deep: int = 0,
        objective: str = "elbo",
        lr: float = 0.05,
        batch_size: int = 256,
        max_updates: int = 800,
    ) -> None:
        super().__init__()
        if inducing < 2 or deep < 0 or lr <= 0 or batch_size < 1 or max_updates < 1 or objective not in ("elbo", "predictive"):
            raise ConfigError(
                f"The sparse GP has inducing={inducing}, deep={deep}, objective={objective!r}, lr={lr}, batch_size={batch_size}, "
                f"max_updates={max_updates}; the objective is elbo or predictive, lr positive, inducing at least 2, the others at least 1."
            )
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self.lr, self.batch_size, self.max_updates = lr, batch_size, max_updates
        self._inducing, self._deep, self._objective = inducing, deep, objective
        self._generator = torch.Generator().manual_seed(seed)
        self.scaling = Scaling(d, m, over_t)
        self.register_buffer("factor", torch.ones(m, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("placed", torch.zeros((), dtype=torch.bool))
        self.factor: Tensor
        self.updates: Tensor
        self.placed: Tensor
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(d, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, deep)) if deep else None
            self.process = _Process(2 * torch.rand(inducing, deep or d) - 1, m, deep or d)
        self.likelihood = GaussianLikelihood(batch_shape=torch.Size([m]))
        self.likelihood.noise = 1e-2
        params = [p for n, p in self.named_parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(params, lr=lr)

    def options(self) -> dict[str, Any]:
        return {
            "inducing": self._inducing,
            "deep": self._deep,
            "objective": self._objective,
            "lr": self.lr,
            "batch_size": self.batch_size,
            "max_updates": self.max_updates,
        }

    @property
    def output_scale(self) -> Tensor:
        return self.scaling.scale

    def observe(self, data: Batch) -> None:
        check_batch(data, self.d, self.m)
        if (grown := self.scaling.grown_range(data.X)) is not None:
            self.scaling.t_range.copy_(torch.tensor(grown, dtype=torch.float64))
        self.scaling.observe(data.Y)
        if self.scaling.moved():
            self._normalise()

    def _normalise(self) -> None:
        mean, scale = self.scaling.target()
        self.scaling.mean.copy_(mean)
        self.scaling.scale.copy_(scale)

    def update(self, batch: Batch) -> float:
        check_batch(batch, self.d, self.m)
        if float(self.scaling.count) == 0:
            self.observe(batch)
        return self._step(*self._prepare(batch), rate=self.lr)

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        check_batch(data, self.d, self.m)
        self.scaling.reset_moments()
        if (grown := self.scaling.grown_range(data.X)) is not None:
            self.scaling.t_range.copy_(torch.tensor(grown, dtype=torch.float64))
        self.scaling.observe(data.Y)
        self._normalise()
        x, y, w = self._prepare(data)
        steps = self.max_updates if updates is None else updates
        loss = 0.0
        for i in range(steps):
            rows = torch.randint(len(x), (min(self.batch_size, len(x)),), generator=self._generator)
            if len(x) <= self.batch_size:
                rows = torch.arange(len(x))
            loss = self._step(x[rows], y[rows], w[rows], rate=self.lr * min(1.0, 2.0 * (1.0 - i / steps) + 0.02))
        return loss

    def _prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return self.scaling.inputs(batch.X).float(), self.scaling.outputs(batch.Y.double()).float(), batch.weights.float()

    def _step(self, x: Tensor, y: Tensor, w: Tensor, *, rate: float) -> float:
        if not bool(self.placed):
            self._place(x)
        self.process.train()
        self.likelihood.train()
        rows = max(float(self.scaling.count), float(len(x)))
        kind = VariationalELBO if self._objective == "elbo" else PredictiveLogLikelihood
        bound = kind(self.likelihood, self.process, num_data=rows, combine_terms=False)
        self._optimizer.zero_grad(set_to_none=True)
        features = x if self.body is None else self.body(x)
        terms = bound(self.process(features.expand(self.m, *features.shape)), y.T)
        loss = -(terms[0] - terms[1]).mean()
        loss.backward()
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self.updates += 1
        return float(loss.detach())

    @torch.no_grad()
    def _place(self, x: Tensor) -> None:
        """Start the inducing points at rows of the data where there are enough."""
        features = x if self.body is None else self.body(x)
        chosen = torch.randperm(len(x), generator=self._generator)[: self._inducing]
        points = self.process.variational_strategy.inducing_points
        points[:, : len(chosen)] = features[chosen]
        self.placed.fill_(True)

    def _distribution(self, X: Tensor) -> MultivariateNormal:
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        self.process.eval()
        self.likelihood.eval()
        x = self.scaling.inputs(X).float()
        features = x if self.body is None else self.body(x)
        return self.process(features.unsqueeze(-3).expand(*features.shape[:-2], self.m, *features.shape[-2:]))

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The joint normal posterior over ``batch_shape x q x m``, its standard deviation scaled by the calibration factor."""
        found = self._distribution(X)
        dtype = X.dtype if X.is_floating_point() else torch.float64
        scale = self.scaling.scale.to(dtype)[:, None]
        mean = found.mean.to(dtype) * scale + self.scaling.mean.to(dtype)[:, None]
        covariance = found.covariance_matrix.to(dtype) * ((scale * self.factor.to(dtype)[:, None]) ** 2)[..., None]
        if observation_noise is not False:
            noise = self.likelihood.noise.to(dtype) * scale**2
            covariance = covariance + torch.diag_embed(noise.expand(*covariance.shape[:-1]))
        return normal_posterior(mean, covariance, output_indices, posterior_transform)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        if len(X) == 0:
            return Prediction(*(X.new_empty(0, self.m) for _ in range(3)))
        dtype = X.dtype if X.is_floating_point() else torch.float64
        scale = self.scaling.scale.to(dtype)
        parts = []
        for x in X.split(CHUNK):
            found = self._distribution(x.unsqueeze(-2))
            mean, std = found.mean[..., 0].to(dtype), found.variance[..., 0].clamp_min(1e-12).sqrt().to(dtype)
            parts.append((mean * scale + self.scaling.mean.to(dtype), std * scale * self.factor.to(dtype)))
        mean, std = (torch.cat(p) for p in zip(*parts, strict=True))
        noise = self.likelihood.noise.reshape(self.m).sqrt().to(dtype) * scale
        return Prediction(mean, std, noise.expand_as(mean).clone())

    def scale_variance(self, factor: Tensor) -> None:
        self.factor.copy_(check_factor(factor, self.m))

    def training_state(self) -> dict[str, Any]:
        """What training needs besides ``state_dict`` to go on exactly: Adam's moments and the mini-batch generator."""
        return {"optimizer": self._optimizer.state_dict(), "generator": self._generator.get_state()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up a training that ``training_state`` described (after ``load_state_dict``)."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
