"""Exact Gaussian process with dimension-scaled priors: the better learner where the response is smooth and data are few."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model import FantasizeMixin
from botorch.models.utils.gpytorch_modules import (
    get_covar_module_with_dim_scaled_prior,
    get_gaussian_likelihood_with_lognormal_prior,
)
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from gpytorch.kernels import ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from alearn.errors import AlearnError, ConfigError, UnknownName
from alearn.surrogate.base import Batch, Prediction, Surrogate
from alearn.surrogate.crossval import OutOfFold
from alearn.surrogate.kernels import TanimotoKernel, marginals, matern52
from alearn.surrogate.rows import thin
from alearn.surrogate.scaling import check_batch, check_factor

KERNELS = ("matern", "tanimoto")
F64 = torch.float64


class ExactGP(FantasizeMixin, Surrogate):
    """Independent exact GPs for every output, Matern-5/2 with a length scale for each input (ARD).

    The prior on the length scales grows with the square root of the dimension (Hvarfner et al. 2024). Outputs are
    standardised, t is mapped to [0, 1]. Importance weights are not used: a GP's mean does not depend on where data lie.

    Over t, with more rows than ``max_rows``, the time steps of every member are thinned evenly until they fit.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the choice of rows on which hyper-parameters are fitted.
        max_rows: the most rows that the GP holds (its cost grows with the cube).
        fit_rows: the most rows on which hyper-parameters are fitted; all rows are conditioned on.
        noise: the smallest noise variance, in units of the outputs' variance; learned above it.
        max_updates: the most L-BFGS steps of a fit that decides itself.
        kernel: matern, or tanimoto for fingerprints (a pool whose features are bits or counts, and nothing else).

    Raises:
        ConfigError: an option is out of range.
        UnknownName: no such kernel.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        max_rows: int = 2000,
        fit_rows: int = 400,
        noise: float = 1e-6,
        max_updates: int = 100,
        kernel: str = "matern",
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise UnknownName("kernel", kernel, KERNELS)
        if max_rows < 2 or fit_rows < 2 or noise <= 0 or max_updates < 1:
            raise ConfigError(
                f"The GP has max_rows={max_rows}, fit_rows={fit_rows}, noise={noise}, max_updates={max_updates}; "
                "rows must be at least 2, the noise positive and max_updates at least 1."
            )
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self.max_rows, self.fit_rows, self.noise, self.max_updates, self.kernel = max_rows, fit_rows, noise, max_updates, kernel
        self.register_buffer("train_X", torch.empty(0, d, dtype=F64))
        self.register_buffer("train_Y", torch.empty(0, m, dtype=F64))
        self.register_buffer("mean", torch.zeros(m, dtype=F64))
        self.register_buffer("scale", torch.ones(m, dtype=F64))
        self.register_buffer("t_range", torch.tensor([0.0, 1.0], dtype=F64))
        self.register_buffer("factor", torch.ones(m, dtype=F64))
        self.register_buffer("row_noise", torch.empty(0, m, dtype=F64))
        self.row_noise: Tensor
        self.train_X: Tensor
        self.train_Y: Tensor
        self.mean: Tensor
        self.scale: Tensor
        self.t_range: Tensor
        self.factor: Tensor
        self.inner: Any = None  # a SingleTaskGP once fitted; gpytorch's modules carry no types
        self._cache: tuple[Tensor, Tensor] | None = None

    def options(self) -> dict[str, Any]:
        own = {"max_rows": self.max_rows, "fit_rows": self.fit_rows, "noise": self.noise, "max_updates": self.max_updates}
        return {**own, "kernel": self.kernel}

    @property
    def output_scale(self) -> Tensor:
        return self.scale

    @property
    def batch_shape(self) -> torch.Size:
        if self.inner is None:
            return torch.Size()
        shape: torch.Size = self.inner.train_inputs[0].shape[:-2]
        return shape[:-1] if self.m > 1 else shape

    @property
    def likelihood(self) -> Any:
        """The inner GP's likelihood (its noise is in standardised units)."""
        return self._fitted().likelihood

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        return self.fit_with(data, None, updates)

    def fit_with(self, data: Batch, noise: Tensor | None, updates: int | None = None) -> float:
        """``fit``, with the noise variance of every row known (``n x m``, in the outputs' squared units) instead of one that is learned."""
        check_batch(data, self.d, self.m)
        rows = self._thin(data)
        X, Y = data.X[rows].to(F64), data.Y[rows].to(F64)
        if self.over_t:
            lo, hi = X[:, -1].min(), X[:, -1].max()
            self.t_range.copy_(torch.stack([lo, torch.where(hi > lo, hi, lo + 1.0)]))
        mean, std = Y.mean(dim=0), Y.std(dim=0, unbiased=False)
        floor = 1e-9 * mean.abs()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > floor, std, torch.where(floor > 0, floor, torch.ones_like(std))))
        self.train_X, self.train_Y = self._inputs(X), (Y - self.mean) / self.scale
        none = self.train_Y.new_empty(0, self.m)
        self.row_noise = none if noise is None else (noise[rows].to(F64) / self.scale**2).clamp_min(self.noise)
        before = None if self.inner is None else {k: v.clone() for k, v in self.inner.state_dict().items()}
        generator = torch.Generator().manual_seed(self.seed)
        n = len(X)
        subset = torch.randperm(n, generator=generator)[: self.fit_rows] if n > self.fit_rows else torch.arange(n)
        known = none if noise is None else self.row_noise[subset]
        trained = self._build(self.train_X[subset], self.train_Y[subset], known)
        if before is not None:
            mine = trained.state_dict()  # of a noise that is known nothing is taken over, and nothing to one
            trained.load_state_dict({**mine, **{k: v for k, v in before.items() if k in mine}})
        loss = self._train(trained, self.max_updates if updates is None else updates)
        if n > self.fit_rows:
            inner = self._build(self.train_X, self.train_Y, self.row_noise)
            inner.load_state_dict(trained.state_dict())
            self.inner = inner.eval()
        else:
            self.inner = trained.eval()
        self._cache = None
        return loss

    def _train(self, model: SingleTaskGP, steps: int) -> float:
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        if steps > 0:
            start = {k: v.clone() for k, v in model.state_dict().items()}
            with warnings.catch_warnings():
                # reaching the step limit is how a fit with a budget ends, not news for the user
                warnings.simplefilter("ignore")
                try:
                    fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": steps}})
                except ModelFittingError:
                    model.load_state_dict(start)
        model.train()
        with torch.no_grad():
            loss = -mll(model(*model.train_inputs), model.train_targets).mean()
        model.eval()
        return float(loss)

    def _thin(self, data: Batch) -> Tensor:
        n = len(data)
        if n <= self.max_rows:
            return torch.arange(n)
        if not self.over_t:
            raise ConfigError(
                f"The exact GP was given {n} rows and holds at most {self.max_rows}; use surrogate=ensemble, or raise max_rows "
                "(the cost grows with its cube)."
            )
        members = len(data.groups.unique())
        if members > self.max_rows:
            raise ConfigError(f"The exact GP was given {members} members and holds at most {self.max_rows} rows; use surrogate=ensemble.")
        return thin(data, self.max_rows, over_t=True, seed=self.seed)

    @torch.no_grad()
    def left_out(self) -> tuple[Tensor, Tensor]:
        """Of each row held the error of the prediction without it, and the share of noise in its variance, each ``n x m``."""
        chol, alpha = self._factorise(self._fitted())
        precision = torch.cholesky_inverse(chol).diagonal(dim1=-2, dim2=-1)
        noise = self.row_noise.T if len(self.row_noise) else self._fitted().likelihood.noise.reshape(self.m, 1)
        return (alpha[..., 0] / precision).T * self.scale, (noise * precision).T.clamp(0.0, 1.0)

    @torch.no_grad()
    def cross_validate(self, data: Batch, folds: Tensor, updates: int | None = None) -> OutOfFold:
        """Predictions without each fold, in closed form with the hyper-parameters as fitted (Sundararajan and Keerthi 2001;
        Ginsbourger and Schaerer 2025 for blocks); one factorisation serves all folds."""
        inner = self._fitted()
        held = ExactGP(self.d, self.m, self.over_t, self.seed, **{**self.options(), "max_rows": max(len(data), self.max_rows)})
        for name in ("mean", "scale", "t_range", "factor"):
            setattr(held, name, getattr(self, name))
        held.train_X, held.train_Y = self._inputs(data.X), (data.Y.to(F64) - self.mean) / self.scale
        chol, alpha = held._factorise(inner)
        inverse = torch.cholesky_inverse(chol)
        mean, variance = torch.empty(len(data), self.m, dtype=F64), torch.empty(len(data), self.m, dtype=F64)
        for fold in folds.unique().tolist():
            rows = (folds == fold).nonzero()[:, 0]
            block = torch.linalg.inv(inverse[:, rows][:, :, rows])
            mean[rows] = held.train_Y[rows] - (block @ alpha[:, rows]).squeeze(-1).T
            variance[rows] = block.diagonal(dim1=-2, dim2=-1).T
        return OutOfFold(mean * self.scale + self.mean, variance * (self.scale * self.factor) ** 2, torch.zeros_like(mean))

    def _inputs(self, X: Tensor) -> Tensor:
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        if not self.over_t:
            return X.to(F64)
        t = (X[..., -1:].to(F64) - self.t_range[0]) / (self.t_range[1] - self.t_range[0])
        return torch.cat([X[..., :-1].to(F64), t], dim=-1)

    def _build(self, X: Tensor, Y: Tensor, noise: Tensor) -> SingleTaskGP:
        batch = torch.Size([self.m]) if self.m > 1 else torch.Size()
        kernel: Any = TanimotoKernel(batch_shape=batch)
        if self.kernel == "matern":
            kernel = get_covar_module_with_dim_scaled_prior(ard_num_dims=self.d, batch_shape=batch, use_rbf_kernel=False)
        likelihood = get_gaussian_likelihood_with_lognormal_prior(batch_shape=batch)
        # in the logarithm the noise of a deterministic simulation (1e-6) is as easy to reach as that of a noisy one
        likelihood.noise_covar.register_constraint(
            "raw_noise", GreaterThan(self.noise, transform=torch.exp, inv_transform=torch.log, initial_value=self.noise + 1e-3)
        )
        # without a prior the output scale of a smooth response runs away with the length scales until the Cholesky factor is noise
        scaled = ScaleKernel(kernel, batch_shape=batch, outputscale_prior=LogNormalPrior(1.0, 1.5))
        if len(noise):
            return SingleTaskGP(X, Y, train_Yvar=noise, covar_module=scaled, outcome_transform=None)
        return SingleTaskGP(X, Y, likelihood=likelihood, covar_module=scaled, outcome_transform=None)

    def _fitted(self) -> Any:
        if self.inner is None:
            raise AlearnError("The GP has not seen any data; call fit first.")
        return self.inner

    def posterior(  # type: ignore[override]  # BoTorch's mixin declares *args
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The joint normal posterior, its covariance scaled by the square of the calibration factor.

        Args:
            X: ``batch_shape x q x d``.
            output_indices: the outputs wanted; None is all.
            observation_noise: True adds the learned noise.
            posterior_transform: applied to the posterior.
        """
        inner = self._fitted()
        x = self._inputs(X)
        if self.m > 1:
            x = x.unsqueeze(-3)
        inner.eval()
        mvn = inner(x)
        if observation_noise is not False:
            mvn = inner.likelihood(mvn)
        dtype = X.dtype if X.is_floating_point() else F64
        if self.m == 1:
            joint = MultivariateNormal(mvn.mean * self.scale + self.mean, mvn.lazy_covariance_matrix * (self.scale * self.factor) ** 2)
        else:
            mean = mvn.mean * self.scale[:, None] + self.mean[:, None]
            covariance = mvn.lazy_covariance_matrix * ((self.scale * self.factor) ** 2)[:, None, None]
            if output_indices is not None:
                mean, covariance = mean[..., output_indices, :], covariance[..., output_indices, :, :]
            joint = MultivariateNormal(mean, covariance)
            joint = (
                MultitaskMultivariateNormal.from_batch_mvn(joint)
                if mean.shape[-2] > 1
                else MultivariateNormal(mean.squeeze(-2), covariance.squeeze(-3))
            )
        if dtype != joint.mean.dtype:
            joint = type(joint)(joint.mean.to(dtype), joint.lazy_covariance_matrix.to(dtype))
        posterior: Posterior = GPyTorchPosterior(joint)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        if len(X) == 0:
            return Prediction(*(X.new_empty(0, self.m) for _ in range(3)))
        inner = self._fitted()
        dtype = X.dtype if X.is_floating_point() else F64
        factors = self._factorise(inner)
        level = self.row_noise.mean(dim=0) if len(self.row_noise) else inner.likelihood.noise.reshape(self.m)
        noise = (level.sqrt() * self.scale).to(dtype)
        parts = [self._marginal(inner, j, self._inputs(X), *factors) for j in range(self.m)]
        mean, std = (torch.stack(p, dim=1).to(dtype) for p in zip(*parts, strict=True))
        return Prediction(mean, std * self.factor.to(dtype), noise.expand_as(mean).clone())

    def _factorise(self, inner: Any) -> tuple[Tensor, Tensor]:
        """Cholesky factors ``m x n x n`` and the weights of the mean ``m x n x 1``; computed once after each fit."""
        if self._cache is None:
            x, y = self.train_X, self.train_Y.T
            k = inner.covar_module(x).to_dense().reshape(-1, len(x), len(x))
            noise = self.row_noise.T if len(self.row_noise) else inner.likelihood.noise.reshape(self.m, 1)
            chol = torch.linalg.cholesky(k + torch.diag_embed((noise + 1e-9).expand(self.m, len(x))))
            residual = (y - inner.mean_module.constant.reshape(self.m, 1)).unsqueeze(-1)
            self._cache = (chol, torch.cholesky_solve(residual, chol))
        return self._cache

    def _marginal(self, inner: Any, output: int, x: Tensor, chol: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one output at prepared ``N x d`` inputs, each ``N``, in its own unit."""
        kernel = inner.covar_module
        amplitude = float(kernel.outputscale.reshape(self.m)[output])
        constant = float(inner.mean_module.constant.reshape(self.m)[output])
        if self.kernel == "tanimoto":
            base = TanimotoKernel()

            def covariance(points: Tensor, dtype: torch.dtype) -> Tensor:
                return amplitude * base.forward(self.train_X.to(dtype), points.to(dtype))
        else:
            length = kernel.base_kernel.lengthscale.reshape(self.m, self.d)[output]
            rows = self.train_X / length

            def covariance(points: Tensor, dtype: torch.dtype) -> Tensor:
                return matern52(rows.to(dtype), (points / length).to(dtype), amplitude)

        mean, variance = marginals(covariance, amplitude, chol[output], alpha[output, :, 0], constant, x)
        std = variance.clamp_min(1e-12).sqrt()
        return mean * self.scale[output] + self.mean[output], std * self.scale[output]

    def transform_inputs(self, X: Tensor, input_transform: Any = None) -> Tensor:
        """Inputs as they are: normalisation happens inside (BoTorch's ``FantasizeMixin`` asks for this method)."""
        return X

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> ExactGP:
        """A copy of the GP that also knows ``X`` (``batch_shape x n' x d``) and ``Y`` (``… x n' x m``); same hyper-parameters."""
        inner = self._fitted()
        inner.eval()
        if inner.prediction_strategy is None:
            inner(self._inputs(X[..., :1, :]) if self.m == 1 else self._inputs(X[..., :1, :]).unsqueeze(-3))
        y = (Y.to(F64) - self.mean) / self.scale
        new = ExactGP(self.d, self.m, self.over_t, self.seed, **self.options())
        for name in ("train_X", "train_Y", "mean", "scale", "t_range", "factor"):
            setattr(new, name, getattr(self, name))
        new.inner = inner.condition_on_observations(self._inputs(X), y, **kwargs)
        return new

    def scale_variance(self, factor: Tensor) -> None:
        self.factor.copy_(check_factor(factor, self.m))

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self.train_X, self.train_Y = state_dict["train_X"].clone(), state_dict["train_Y"].clone()
        state_dict = {"row_noise": self.row_noise.new_empty(0, self.m), **state_dict}
        self.row_noise = state_dict["row_noise"].clone()
        self.inner = self._build(self.train_X, self.train_Y, self.row_noise).eval() if len(self.train_X) else None
        self._cache = None
        return super().load_state_dict(state_dict, strict=strict, assign=assign)
