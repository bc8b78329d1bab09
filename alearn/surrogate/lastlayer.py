"""One network with a Bayesian last layer: the hidden layers are learned as ever, the output's weights have a distribution.

Three ways to it: the Laplace approximation (MacKay 1992; Daxberger et al. 2021), a distance-aware layer of random features in
the manner of SNGP (Liu et al. 2020, arXiv:2006.10108), and a layer trained by variational inference (Harrison et al. 2024,
arXiv:2404.11599). All cost one network, and their posteriors are jointly normal.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import asdict
from typing import Any, final

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.posterior import Posterior
from torch import Tensor, nn

from alearn.errors import ConfigError
from alearn.surrogate.base import Prediction
from alearn.surrogate.gaussian import normal_posterior
from alearn.surrogate.network import NetworkSurrogate, Training
from alearn.surrogate.stacked import Stacked, StackedMLP

F64 = torch.float64
ROWS = 4096
"""Rows whose variance is computed at a time."""
FORGET = 0.02
"""Weight of a mini-batch in the running second moment of the features."""
RIDGES = tuple(10.0**e for e in range(-8, 4))
"""Ratios of prior to noise precision among which the evidence chooses."""


class LastLayer(NetworkSurrogate):
    """A network whose mean predicts, and features ``phi(x)`` whose second moment over the data says how well the weights are known.

    With ``n`` rows, the second moment ``G = mean(phi phi^T)``, noise variance ``s2`` and ridge ``r``, the variance of an output
    at ``x`` is ``s2 phi(x)^T (n G + r)^-1 phi(x)``. Both numbers maximise the evidence of the linear model for each output (MacKay 1992).
    """

    def _begin(self, net: Stacked, features: int) -> None:
        self._start(net)
        self.register_buffer("moment", torch.eye(features, dtype=F64) * 1e-6)
        self.register_buffer("rows", torch.ones((), dtype=F64))
        self.register_buffer("ridge", torch.ones(self.m, dtype=F64))
        self.register_buffer("noise", torch.ones(self.m, dtype=F64))
        self.moment: Tensor
        self.rows: Tensor
        self.ridge: Tensor
        self.noise: Tensor
        self._factors: Tensor | None = None

    @abstractmethod
    def _phi(self, x: Tensor) -> Tensor:
        """The features of normalised rows ``n x d``, ``n x p``."""

    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        each: Tensor = (((net(x) - y) ** 2).mean(dim=-1) * w).mean(dim=-1)
        return each

    @torch.no_grad()
    def _settle(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        phi = self._phi(x).to(F64)
        weight = w[0].to(F64) / w[0].to(F64).mean().clamp_min(1e-12)
        self.moment.copy_((phi * weight[:, None]).T @ phi / len(phi))
        self.rows.fill_(float(len(phi)))
        e, u = torch.linalg.eigh(self.moment * self.rows)
        e = e.clamp_min(0.0)
        projected = u.T @ (phi * weight[:, None]).T @ y.to(F64)
        energy = (weight[:, None] * y.to(F64) ** 2).sum(dim=0)
        best = torch.full((self.m,), -math.inf, dtype=F64, device=energy.device)
        for ridge in RIDGES:
            s2 = ((energy - (projected**2 / (e + ridge)[:, None]).sum(dim=0)) / len(phi)).clamp_min(1e-10)
            evidence = -0.5 * len(phi) * s2.log() + 0.5 * (ridge / (ridge + e)).log().sum()
            better = evidence > best
            best = torch.where(better, evidence, best)
            self.ridge.copy_(torch.where(better, torch.full_like(self.ridge, ridge), self.ridge))
            self.noise.copy_(torch.where(better, s2, self.noise))
        self._factors = None

    @torch.no_grad()
    def _follow(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        phi = self._phi(x).to(F64)
        self.moment.lerp_(phi.T @ phi / len(phi), FORGET)
        self.rows.fill_(max(float(self.rows), float(self.scaling.count)))
        self._factors = None

    def _spread(self, x: Tensor) -> Tensor:
        """Rows ``batch_shape x q x p`` of which products are the covariances of normalised outputs, ``batch_shape x m x q x p``."""
        if self._factors is None:
            eye = torch.eye(len(self.moment), dtype=F64, device=self.moment.device)
            precision = self.rows * self.moment + (self.ridge[:, None, None] + 1e-10) * eye
            self._factors = torch.linalg.cholesky(precision)
        phi = self._phi(x.reshape(-1, x.shape[-1])).to(F64)
        solved = torch.linalg.solve_triangular(self._factors, phi.T.expand(self.m, -1, -1), upper=False)
        rows = (solved * self.noise.sqrt()[:, None, None]).transpose(-1, -2)
        spread: Tensor = rows.reshape(self.m, *x.shape[:-1], -1).movedim(0, -3)
        return spread

    def _checked(self, X: Tensor) -> Tensor:
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        return self.scaling.inputs(X).float()

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The joint normal posterior over ``batch_shape x q x m``, its standard deviation scaled by the calibration factor."""
        x = self._checked(X)
        dtype = X.dtype if X.is_floating_point() else F64
        mean = self.average(x.reshape(-1, self.d))[0].reshape(*x.shape[:-1], self.m).transpose(-1, -2).to(dtype)
        scale = self.scaling.scale.to(dtype)[:, None]
        rows = self._spread(x).to(dtype) * (scale * self.factor.to(dtype)[:, None])[..., None]
        covariance = rows @ rows.transpose(-1, -2)
        if observation_noise is not False:
            noise = (self.noise.to(dtype).sqrt() * self.scaling.scale.to(dtype)) ** 2
            covariance = covariance + torch.diag_embed(noise[:, None].expand(*covariance.shape[:-1]))
        return normal_posterior(mean * scale + self.scaling.mean.to(dtype)[:, None], covariance, output_indices, posterior_transform)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        if len(X) == 0:
            return Prediction(*(X.new_empty(0, self.m) for _ in range(3)))
        dtype = X.dtype if X.is_floating_point() else F64
        scale = self.scaling.scale.to(dtype)
        means, spreads = [], []
        for rows in self._checked(X).split(ROWS):
            means.append(self.average(rows)[0].to(dtype) * scale + self.scaling.mean.to(dtype))
            spreads.append(self._spread(rows).pow(2).sum(dim=-1).sqrt().T.to(dtype) * scale * self.factor.to(dtype))
        mean = torch.cat(means)
        return Prediction(mean, torch.cat(spreads), (self.noise.sqrt().to(dtype) * scale).expand_as(mean).clone())

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self._factors = None
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


@final
class LastLayerLaplace(LastLayer):
    """Last-layer Laplace: the features are the network's last hidden layer.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights and mini-batches.
        width: units of a hidden layer, and features (with one that is constant).
        depth: hidden layers.
        activation: silu, gelu, relu, tanh or sine.
        body: mlp, residual, fourier or siren.
        first_scale: scale of the first layer's initial weights; larger learns sharper features sooner.
        lr: AdamW's learning rate.
        weight_decay: AdamW's decay.
        warm_up: updates over which the learning rate rises at the start.
        horizon: updates over which the prediction's weights are averaged.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: the most that ``fit`` does when it decides itself.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        width: int = 128,
        depth: int = 3,
        activation: str = "silu",
        body: str = "mlp",
        first_scale: float = 1.5,
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        warm_up: int = 100,
        horizon: int = 200,
        batch_size: int = 64,
        max_updates: int = 8000,
    ) -> None:
        training = Training(lr, weight_decay, warm_up, horizon, batch_size, max_updates)
        super().__init__(d, m, over_t, seed, training)
        network = {"width": width, "depth": depth, "activation": activation, "body": body, "first_scale": first_scale}
        self._options: dict[str, Any] = {**network, **asdict(training)}
        self._begin(StackedMLP(1, d, m, width, depth, activation, body, first_scale, self._generator), width + 1)

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def _phi(self, x: Tensor) -> Tensor:
        assert isinstance(self.average, StackedMLP)
        h = self.average.features(x)[0]
        return torch.cat([h, torch.ones_like(h[:, :1])], dim=-1)


@final
class DistanceAware(LastLayer):
    """A network whose uncertainty grows with the distance from the data, in the manner of SNGP.

    The hidden layers are residual with spectral norms bounded by ``bound``, so that points which are far apart stay apart inside;
    the features are random Fourier features (Rahimi and Recht 2007) of the last hidden layer and of the inputs, which makes the
    last layer an approximate Gaussian process. The network's own output is the mean.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights, features and mini-batches.
        features: how many random features.
        length: length scale of the features, in units of the normalised inputs (the box is 2 wide).
        bound: largest spectral norm of a hidden layer's weights.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: silu, gelu, relu, tanh or sine.
        first_scale: scale of the first layer's initial weights; larger learns sharper features sooner.
        lr: AdamW's learning rate.
        weight_decay: AdamW's decay.
        warm_up: updates over which the learning rate rises at the start.
        horizon: updates over which the prediction's weights are averaged.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: the most that ``fit`` does when it decides itself.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        features: int = 256,
        length: float = 1.0,
        bound: float = 3.0,
        width: int = 128,
        depth: int = 3,
        activation: str = "silu",
        first_scale: float = 1.5,
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        warm_up: int = 100,
        horizon: int = 200,
        batch_size: int = 64,
        max_updates: int = 8000,
    ) -> None:
        training = Training(lr, weight_decay, warm_up, horizon, batch_size, max_updates)
        super().__init__(d, m, over_t, seed, training)
        if features < 2 or length <= 0 or bound <= 0:
            raise ConfigError(
                f"The distance-aware surrogate has features={features}, length={length}, bound={bound}; "
                "it needs at least 2 features and positive numbers."
            )
        self._options: dict[str, Any] = {
            "features": features,
            "length": length,
            "bound": bound,
            "width": width,
            "depth": depth,
            "activation": activation,
            "first_scale": first_scale,
            **asdict(training),
        }
        self._bound = bound
        net = StackedMLP(1, d, m, width, depth, activation, "residual", first_scale, self._generator)
        self._begin(net, features)
        # hidden units are averaged to the weight of one input: both distances count alike
        spread = torch.cat([torch.full((width,), 1.0 / math.sqrt(width)), torch.ones(d)]) / length
        frequency = torch.randn(width + d, features, generator=self._generator) * spread[:, None]
        self.register_buffer("frequency", frequency)
        self.register_buffer("phase", 2 * math.pi * torch.rand(features, generator=self._generator))
        self.frequency: Tensor
        self.phase: Tensor

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def _phi(self, x: Tensor) -> Tensor:
        assert isinstance(self.average, StackedMLP)
        h = torch.cat([self.average.features(x)[0], x], dim=-1)
        return math.sqrt(2.0 / len(self.phase)) * torch.cos(h @ self.frequency + self.phase)

    @torch.no_grad()
    def _follow(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        self._limit()
        super()._follow(x, y, w)

    @torch.no_grad()
    def _limit(self) -> None:
        """Shrink hidden layers whose spectral norm is over the bound."""
        assert isinstance(self.net, StackedMLP)
        for weight in list(self.net.weights)[1:-1]:
            norm = torch.linalg.matrix_norm(weight[0], ord=2)
            if float(norm) > self._bound:
                weight *= self._bound / norm

    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        if net is self.net and self._done % 20 == 0:
            self._limit()
        return super()._loss(net, x, y, w)


@final
class _VariationalNet(Stacked):
    """A network with a normal distribution over its output weights: their mean is the network's own, their covariance is shared
    by the outputs up to the noise of each."""

    def __init__(self, inner: StackedMLP) -> None:
        super().__init__()
        self.inner = inner
        self.estimators = 1
        p = inner.width + 1
        self.log_diagonal = nn.Parameter(torch.full((p,), -3.0))
        self.below = nn.Parameter(torch.zeros(p, p))
        self.log_noise = nn.Parameter(torch.full((inner.outputs,), -2.0))

    def factor(self) -> Tensor:
        """Cholesky factor of the weights' covariance, ``p x p``."""
        return torch.diag(self.log_diagonal.exp()) + self.below.tril(-1)

    def phi(self, x: Tensor) -> Tensor:
        """Features ``n x p``."""
        h = self.inner.features(x)[0]
        return torch.cat([h, torch.ones_like(h[:, :1])], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out

    def rescale_input(self, column: int, old: tuple[float, float], new: tuple[float, float]) -> None:
        self.inner.rescale_input(column, old, new)

    @torch.no_grad()
    def rescale_output(self, outputs: int, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
        self.inner.rescale_output(outputs, old, new)
        self.log_noise.add_((old[1] / new[1]).log().to(self.log_noise))

    def shift_output(self, first: int, by: Tensor) -> None:
        self.inner.shift_output(first, by)


@final
class VariationalLastLayer(LastLayer):
    """A variational Bayesian last layer: mean, covariance and noise of the output layer are trained with the network by the
    closed-form lower bound of the likelihood, without sampling.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights and mini-batches.
        prior: standard deviation of the output weights a priori.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: silu, gelu, relu, tanh or sine.
        body: mlp, residual, fourier or siren.
        first_scale: scale of the first layer's initial weights; larger learns sharper features sooner.
        lr: AdamW's learning rate.
        weight_decay: AdamW's decay.
        warm_up: updates over which the learning rate rises at the start.
        horizon: updates over which the prediction's weights are averaged.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: the most that ``fit`` does when it decides itself.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        prior: float = 1.0,
        width: int = 64,
        depth: int = 3,
        activation: str = "silu",
        body: str = "mlp",
        first_scale: float = 1.5,
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        warm_up: int = 100,
        horizon: int = 200,
        batch_size: int = 64,
        max_updates: int = 8000,
    ) -> None:
        training = Training(lr, weight_decay, warm_up, horizon, batch_size, max_updates)
        super().__init__(d, m, over_t, seed, training)
        if prior <= 0:
            raise ConfigError(f"The variational last layer has prior={prior}; give a positive standard deviation.")
        network = {"width": width, "depth": depth, "activation": activation, "body": body, "first_scale": first_scale}
        self._options: dict[str, Any] = {"prior": prior, **network, **asdict(training)}
        self._prior = prior
        self._begin(_VariationalNet(StackedMLP(1, d, m, width, depth, activation, body, first_scale, self._generator)), width + 1)

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def _phi(self, x: Tensor) -> Tensor:
        assert isinstance(self.average, _VariationalNet)
        return self.average.phi(x)

    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """The negative lower bound, per row and output."""
        assert isinstance(net, _VariationalNet)
        phi = net.phi(x)
        mean_weights = torch.cat([net.inner.weights[-1][0], net.inner.biases[-1][0]])
        log_noise = net.log_noise.clamp(-9.0, 3.0)
        factor = net.factor()
        doubt = ((phi @ factor) ** 2).sum(dim=-1, keepdim=True)
        fit = 0.5 * ((phi @ mean_weights - y) ** 2 * torch.exp(-2 * log_noise) + doubt) + log_noise
        p = len(factor)
        divergence = 0.5 * (
            (factor**2).sum() / self._prior**2
            + (mean_weights**2 * torch.exp(-2 * log_noise)).sum() / (self._prior**2 * self.m)
            - p
            - 2 * net.log_diagonal.sum()
            + 2 * p * math.log(self._prior)
        )
        rows = max(float(self.scaling.count), float(len(x)))
        return (fit.mean(dim=-1) * w).mean(dim=-1) + divergence / rows

    @torch.no_grad()
    def _settle(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        self._follow(x, y, w)

    @torch.no_grad()
    def _follow(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        assert isinstance(self.average, _VariationalNet)
        self.noise.copy_((2 * self.average.log_noise.clamp(-9.0, 3.0)).exp().to(F64))

    def _spread(self, x: Tensor) -> Tensor:
        assert isinstance(self.average, _VariationalNet)
        rows = self._phi(x.reshape(-1, x.shape[-1])).to(F64) @ self.average.factor().to(F64)
        scaled = rows.expand(self.m, -1, -1) * self.noise.sqrt()[:, None, None]
        return scaled.reshape(self.m, *x.shape[:-1], -1).movedim(0, -3)
