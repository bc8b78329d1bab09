"""Deep ensemble: K networks trained together on a stream; their spread is the epistemic uncertainty.

Lakshminarayanan et al. 2017 (deep ensembles), Osband et al. 2018 (random priors), Seitzer et al. 2022 (beta-NLL),
Polyak and Juditsky 1992 (averaged weights for a learning rate that never ends).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, OnlineSurrogate, Prediction
from alearn.surrogate.bootstrap import KINDS, bootstrap_weights
from alearn.surrogate.crossval import OutOfFold
from alearn.surrogate.scaling import STRETCH, Scaling, check_batch
from alearn.surrogate.stacked import StackedMLP

CHUNK = 512  # rows evaluated at a time: the hidden layers of all estimators stay in the cache
EMA_EVERY = 4


class DeepEnsemble(OnlineSurrogate):
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
        body: mlp or residual.
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
        super().__init__()
        if estimators < 2 or width < 1 or depth < 1 or batch_size < 1:
            raise ConfigError(
                f"The ensemble has estimators={estimators}, width={width}, depth={depth}, batch_size={batch_size}; "
                "it needs at least 2 estimators and at least 1 of the others."
            )
        if not (lr > 0 and weight_decay >= 0 and prior_scale >= 0 and 0 <= beta <= 1 and horizon >= 1 and max_updates >= 1):
            raise ConfigError(
                f"The ensemble has lr={lr}, weight_decay={weight_decay}, prior_scale={prior_scale}, beta={beta}, "
                f"horizon={horizon}, max_updates={max_updates}; lr must be positive, beta in [0, 1], horizon and max_updates at least 1, "
                "the others not negative."
            )
        if bootstrap not in KINDS:
            bootstrap_weights(bootstrap, 0, 1, torch.zeros(1))
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
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
            "lr": lr,
            "weight_decay": weight_decay,
            "warm_up": warm_up,
            "horizon": horizon,
            "batch_size": batch_size,
            "max_updates": max_updates,
        }
        self.estimators, self.variance_heads, self.beta = estimators, variance_heads, beta
        self.bootstrap, self.prior_scale = bootstrap, prior_scale
        self.lr, self.warm_up, self.horizon = lr, warm_up, horizon
        self.batch_size, self.max_updates = batch_size, max_updates
        self._generator = torch.Generator().manual_seed(seed)
        heads = 2 * m if variance_heads else m
        shape = (width, depth, activation, body, first_scale, self._generator)
        self.net = StackedMLP(estimators, d, heads, *shape)
        self.prior = StackedMLP(estimators, d, m, 32, 2, "silu", "mlp", 2.0, self._generator) if prior_scale > 0 else None
        if self.prior is not None:
            with torch.no_grad():
                self.prior.weights[-1] *= prior_scale
            self.prior.requires_grad_(False)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.scaling = Scaling(d, m, over_t)
        self.register_buffer("factor", torch.ones(m, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.factor: Tensor
        self.updates: Tensor
        params = list(self.net.parameters())
        self._optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        self._done = 0

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    @property
    def output_scale(self) -> Tensor:
        return self.scaling.scale

    # --- learning -------------------------------------------------------------------------------------------------

    def observe(self, data: Batch) -> None:
        check_batch(data, self.d, self.m)
        self._follow_t(data.X)
        self.scaling.observe(data.Y)
        if self.scaling.moved():
            self._follow_moments()

    def update(self, batch: Batch) -> float:
        check_batch(batch, self.d, self.m)
        if float(self.scaling.count) == 0:
            self.observe(batch)
        x, y, w = self._prepare(batch)
        rate = self.lr * min(1.0, (self._done + 1) / max(self.warm_up, 1))
        return float(self._step(x, y, w, rate))

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        check_batch(data, self.d, self.m)
        if updates is not None and updates < 0:
            raise ConfigError(f"fit was asked for {updates} updates; give a number of at least 0, or none.")
        self._follow_t(data.X)
        self.scaling.reset_moments()
        self.scaling.observe(data.Y)
        self._follow_moments()
        x, y, w = self._prepare(data)
        self._train(x, y, w, updates)
        return self._mean_loss(x, y, w)

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

    def _train(self, x: Tensor, y: Tensor, w: Tensor, updates: int | None) -> None:
        """Train at the full rate (until it no longer helps, if ``updates`` is None), then anneal it."""
        if updates is None:
            updates = self._until_plateau(x, y, w)
            anneal = max(updates // 3, 200)
            updates = 0
        else:
            anneal = max(1, int(0.4 * updates)) if updates else 0
        for _ in range(updates - anneal):
            self._draw_and_step(x, y, w, self.lr * min(1.0, (self._done + 1) / max(self.warm_up, 1)))
        for i in range(anneal):
            share = (i + 1) / anneal
            self._draw_and_step(x, y, w, self.lr * (1.0 - 0.99 * share))
        if anneal:
            self._copy_average(1.0)

    def _until_plateau(self, x: Tensor, y: Tensor, w: Tensor, block: int = 500, gain: float = 0.1) -> int:
        """Train at the full rate until a block of updates no longer lowers the loss by ``gain``; returns the updates done."""
        best = math.inf
        done = 0
        while done < self.max_updates:
            losses = [self._draw_and_step(x, y, w, self.lr * min(1.0, (self._done + 1) / max(self.warm_up, 1))) for _ in range(block)]
            done += block
            loss = float(torch.stack(losses[block // 2 :]).mean())
            if loss > (1.0 - gain) * best or loss < 1e-9:
                break
            best = loss
        return done

    def _prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        x = self.scaling.inputs(batch.X).float()
        y = self.scaling.outputs(batch.Y.double()).float()
        boot = bootstrap_weights(self.bootstrap, self.seed, self.estimators, batch.groups)
        return x, y, boot * batch.weights.float()

    def _draw_and_step(self, x: Tensor, y: Tensor, w: Tensor, rate: float) -> Tensor:
        n = len(x)
        if n <= self.batch_size:
            return self._step(x, y, w, rate)
        index = torch.randint(n, (self.batch_size,), generator=self._generator)
        return self._step(x[index], y[index], w[:, index], rate)

    def _step(self, x: Tensor, y: Tensor, w: Tensor, rate: float) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self.net, x, y, w)
        # the sum over estimators: each one's gradient is then that of its own loss
        loss.sum().backward()
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self._done += 1
        self.updates.fill_(self._done)
        if self._done % EMA_EVERY == 0:
            self._copy_average(min(1.0, EMA_EVERY / min(self.horizon, 1 + 0.1 * self._done)))
        mean: Tensor = loss.detach().mean()
        return mean

    def _loss(self, net: StackedMLP, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """Each estimator's loss, ``K``."""
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

    @torch.no_grad()
    def _mean_loss(self, x: Tensor, y: Tensor, w: Tensor) -> float:
        parts = [self._loss(self.average, x[i : i + CHUNK], y[i : i + CHUNK], w[:, i : i + CHUNK]).mean() for i in range(0, len(x), CHUNK)]
        sizes = [len(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
        return sum(float(p) * s for p, s in zip(parts, sizes, strict=True)) / len(x)

    @torch.no_grad()
    def _copy_average(self, share: float) -> None:
        torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), share)

    # --- normalisation --------------------------------------------------------------------------------------------

    def _follow_t(self, X: Tensor) -> None:
        new = self.scaling.grown_range(X)
        if new is None:
            return
        s = self.scaling
        old = (float(s.t_range[0]), float(s.t_range[1]))
        growth = (new[1] - new[0]) / (old[1] - old[0])
        if self._done and float(s.stretch) * growth <= STRETCH:
            for net in self._networks():
                net.rescale_input(self.d - 1, old, new)
            s.stretch.mul_(growth)
        else:
            s.stretch.fill_(1.0)
        s.t_range.copy_(torch.tensor(new))

    def _follow_moments(self) -> None:
        s = self.scaling
        mean, scale = s.target()
        if self._done:
            for net in (self.net, self.average):
                net.rescale_output(self.m, (s.mean, s.scale), (mean, scale))
                if self.variance_heads:
                    with torch.no_grad():
                        net.biases[-1][..., self.m :] += (2.0 * (s.scale / scale).log()).to(net.biases[-1])
            if self.prior is not None:
                zero = torch.zeros_like(mean)
                self.prior.rescale_output(self.m, (zero, s.scale), (zero, scale))
        s.mean.copy_(mean)
        s.scale.copy_(scale)

    def _networks(self) -> list[StackedMLP]:
        return [self.net, self.average] + ([self.prior] if self.prior is not None else [])

    # --- prediction -----------------------------------------------------------------------------------------------

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The K estimators' values with their spread scaled by the calibration factor.

        Args:
            X: ``batch_shape x q x d``.
            output_indices: the outputs wanted; None is all.
            observation_noise: True adds the learned noise to the estimators as draws with a fixed seed.
            posterior_transform: applied to the posterior.

        Returns:
            An ``EnsemblePosterior`` over ``batch_shape x K x q x m``.
        """
        values, noise = self._values(X)
        centre = values.mean(dim=-3, keepdim=True)
        values = centre + self.factor.to(values) * (values - centre)
        if observation_noise is not False and noise is not None:
            draws = torch.randn(values.shape, generator=torch.Generator().manual_seed(self.seed), dtype=values.dtype)
            values = values + noise * draws
        if output_indices is not None:
            values = values[..., output_indices]
        posterior: Posterior = EnsemblePosterior(values)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        if len(X) == 0:
            return Prediction(*(X.new_empty(0, self.m) for _ in range(3)))
        parts = []
        for start in range(0, len(X), CHUNK):
            values, noise = self._values(X[start : start + CHUNK])
            aleatoric = torch.zeros_like(values[0]) if noise is None else (noise**2).mean(dim=0).sqrt()
            parts.append((values.mean(dim=0), values.std(dim=0) * self.factor.to(values), aleatoric))
        return Prediction(*(torch.cat(p) for p in zip(*parts, strict=True)))

    def _values(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw means ``batch_shape x K x q x m`` and noise standard deviations of the same shape (None without heads)."""
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        flat = self.scaling.inputs(X.reshape(-1, self.d)).float()
        if flat.requires_grad or len(flat) <= CHUNK:
            out, prior = self.average(flat), None if self.prior is None else self.prior(flat)
        else:
            pieces = flat.split(CHUNK)
            out = torch.cat([self.average(p) for p in pieces], dim=1)
            prior = None if self.prior is None else torch.cat([self.prior(p) for p in pieces], dim=1)
        mean = out[..., : self.m] if prior is None else out[..., : self.m] + prior
        dtype = X.dtype if X.is_floating_point() else torch.float64
        values = self._shape(mean.to(dtype) * self.scaling.scale.to(dtype) + self.scaling.mean.to(dtype), X)
        if not self.variance_heads:
            return values, None
        noise = torch.exp(0.5 * out[..., self.m :].clamp(-14.0, 6.0)).to(dtype) * self.scaling.scale.to(dtype)
        return values, self._shape(noise, X)

    def _shape(self, out: Tensor, X: Tensor) -> Tensor:
        return out.reshape(self.estimators, *X.shape[:-1], self.m).movedim(0, -3)

    # --- calibration and state ------------------------------------------------------------------------------------

    def scale_variance(self, factor: Tensor) -> None:
        f = torch.as_tensor(factor, dtype=torch.float64)
        if f.shape != (self.m,) or not bool((torch.isfinite(f) & (f > 0)).all()):
            raise ConfigError(f"The calibration factor is {f.tolist()}; give {self.m} positive numbers.")
        self.factor.copy_(f)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._done = int(self.updates)
        return result

    def training_state(self) -> dict[str, Any]:
        """What training needs besides ``state_dict`` to go on exactly: AdamW's moments and the mini-batch generator."""
        return {"optimizer": self._optimizer.state_dict(), "generator": self._generator.get_state()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up a training that ``training_state`` described (after ``load_state_dict``)."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
