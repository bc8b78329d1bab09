"""Deep ensemble: K networks trained together on a stream; their spread is the epistemic uncertainty.

Lakshminarayanan et al. 2017 (deep ensembles), Osband et al. 2018 (random priors), Seitzer et al. 2022 (beta-NLL).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch
from alearn.surrogate.crossval import OutOfFold
from alearn.surrogate.network import CHUNK, SpreadSurrogate, Training
from alearn.surrogate.parallel import ParallelSurrogate
from alearn.surrogate.scaling import check_batch
from alearn.surrogate.stacked import Stacked, StackedMLP, make_networks


@final
class DeepEnsemble(ParallelSurrogate, SpreadSurrogate):
    """K stacked networks with bootstrap weights by group, optional variance heads and random priors.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights, bootstrap and mini-batches.
        estimators: K; 8 is a good default, 16 is better calibrated at twice the time.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: silu, gelu, relu, tanh or sine.
        body: mlp, residual, fourier (random Fourier features of the inputs), siren (sine layers), or your own network as FILE.py:NAME
            (called with the numbers of inputs and outputs; returns an ``nn.Module`` from ``n x inputs`` to ``n x outputs``).
        first_scale: scale of the first layer's initial weights; larger learns sharper features sooner.
        bootstrap: none, soft, exponential or poisson weights for each (estimator, group); see ``bootstrap_weights``.
        prior_scale: amplitude of a fixed random network added to each estimator, in units of the outputs' scale; 0 is off.
        variance_heads: learn the noise as well (for stochastic simulations), with the beta-NLL loss.
        beta: exponent of the beta-NLL; 0 is the plain likelihood, 1 weighs all points alike.
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
        estimators: int = 8,
        width: int = 64,
        depth: int = 3,
        activation: str = "silu",
        body: str = "mlp",
        first_scale: float = 1.5,
        bootstrap: str = "soft",
        prior_scale: float = 0.0,
        variance_heads: bool = False,
        beta: float = 0.5,
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        warm_up: int = 100,
        horizon: int = 200,
        batch_size: int = 64,
        max_updates: int = 8000,
    ) -> None:
        training = Training(lr, weight_decay, warm_up, horizon, batch_size, max_updates)
        super().__init__(d, m, over_t, seed, training, bootstrap)
        if estimators < 2 or not (prior_scale >= 0 and 0 <= beta <= 1):
            raise ConfigError(
                f"The ensemble has estimators={estimators}, prior_scale={prior_scale}, beta={beta}; it needs at least 2 estimators, "
                "a prior_scale that is not negative and a beta in [0, 1]."
            )
        self._options: dict[str, Any] = {
            "estimators": estimators,
            "width": width,
            "depth": depth,
            "activation": activation,
            "body": body,
            "first_scale": first_scale,
            "bootstrap": bootstrap,
            "prior_scale": prior_scale,
            "variance_heads": variance_heads,
            "beta": beta,
            **asdict(training),
        }
        self.variance_heads, self.beta = variance_heads, beta
        heads = 2 * m if variance_heads else m
        net = make_networks(estimators, d, heads, width, depth, activation, body, first_scale, self._generator)
        prior = StackedMLP(estimators, d, m, 32, 2, "silu", "mlp", 2.0, self._generator) if prior_scale > 0 else None
        if prior is not None:
            with torch.no_grad():
                prior.weights[-1] *= prior_scale
        self._start(net, prior)

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def cross_validate(self, data: Batch, folds: Tensor, updates: int | None = None) -> OutOfFold:
        """Predictions without each fold at the price of one fit: a new ensemble whose every estimator leaves one fold out.

        A row is predicted by the estimators that left it out; the rest of the ensemble is missing from that mean, and
        ``excess`` says what this costs in expectation.
        """
        parts = folds.unique()
        per_fold = max(2, self.estimators // len(parts))
        other = DeepEnsemble(self.d, self.m, self.over_t, self.seed + 1, **{**self._options, "estimators": per_fold * len(parts)}).to(
            self.factor.device
        )
        left_out = parts.repeat(per_fold)[:, None] == folds[None, :]
        check_batch(data, self.d, self.m)
        other._follow_t(data.X)
        other.scaling.observe(data.Y)
        other._follow_moments()
        x, y, w = other._prepare(data)
        other._train(x, y, w * ~left_out, updates)
        with torch.no_grad():
            values, noise = other._values(data.X.double())
        share = left_out.double()[..., None] / per_fold
        mean = (share * values).sum(dim=0)
        spread = (share * (values - mean) ** 2).sum(dim=0) * per_fold / (per_fold - 1)
        aleatoric = torch.zeros_like(mean) if noise is None else (share * noise**2).sum(dim=0)
        excess = spread * max(0.0, 1.0 / per_fold - 1.0 / self.estimators)
        return OutOfFold(mean, spread * self.factor**2 + aleatoric, excess)

    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        out = net(x)
        mean = out[..., : self.m]
        if self.prior is not None:
            mean = mean + self.prior(x)
        squared = (mean - y) ** 2
        if self.variance_heads:
            log_var = out[..., self.m :].clamp(-14.0, 6.0)
            nll = 0.5 * (log_var + squared * torch.exp(-log_var))
            squared = nll * torch.exp(self.beta * log_var.detach())
        each: Tensor = (squared.mean(dim=-1) * w).mean(dim=-1)
        return each

    def _values(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        flat = self._checked(X)
        if flat.requires_grad or len(flat) <= CHUNK:
            out, prior = self.average(flat), None if self.prior is None else self.prior(flat)
        else:
            pieces = flat.split(CHUNK)
            out = torch.cat([self.average(p) for p in pieces], dim=1)
            prior = None if self.prior is None else torch.cat([self.prior(p) for p in pieces], dim=1)
        mean = out[..., : self.m] if prior is None else out[..., : self.m] + prior
        values = self._raw(mean, X)
        if not self.variance_heads:
            return values, None
        noise = torch.exp(0.5 * out[..., self.m :].clamp(-14.0, 6.0)).to(values) * self.scaling.scale.to(values)
        return values, self._shape(noise, X)
