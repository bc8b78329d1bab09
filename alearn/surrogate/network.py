"""What every network surrogate shares: updates on mini-batches, fits to convergence, and a normalisation that follows the data.

Polyak and Juditsky 1992 (averaged weights for a learning rate that never ends).
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, OnlineSurrogate, Partners, Prediction
from alearn.surrogate.bootstrap import KINDS, bootstrap_weights
from alearn.surrogate.scaling import STRETCH, Scaling, check_batch, check_factor
from alearn.surrogate.stacked import Stacked

CHUNK = 512  # rows evaluated at a time: the hidden layers of all estimators stay in the cache
EMA_EVERY = 4
BETAS = (0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Training:
    """How networks are trained.

    Args:
        lr: AdamW's learning rate.
        weight_decay: AdamW's decay.
        warm_up: updates over which the learning rate rises at the start.
        horizon: updates over which the prediction's weights are averaged.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: the most that ``fit`` does when it decides itself.

    Raises:
        ConfigError: a number is out of range.
    """

    lr: float = 3e-3
    weight_decay: float = 1e-4
    warm_up: int = 100
    horizon: int = 200
    batch_size: int = 64
    max_updates: int = 8000

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.weight_decay >= 0 and min(self.horizon, self.batch_size, self.max_updates) >= 1 and self.warm_up >= 0):
            raise ConfigError(
                f"The training of the networks has {', '.join(f'{k}={v}' for k, v in asdict(self).items())}; lr must be positive, "
                "weight_decay and warm_up not negative, horizon, batch_size and max_updates at least 1."
            )


class NetworkSurrogate(OnlineSurrogate):
    """K networks trained on a stream, each with its own bootstrap weights of the members.

    A subclass makes the networks (``net``, and perhaps ``prior``, a fixed network added to the mean) and calls
    ``_start``; it says what the loss is, and makes the posterior.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights, bootstrap and mini-batches.
        training: how the networks are trained.
        bootstrap: none, soft, exponential or poisson weights for each (estimator, group); see ``bootstrap_weights``.
    """

    net: Stacked
    average: Stacked
    prior: Stacked | None
    variance_heads: bool = False

    def __init__(self, d: int, m: int, over_t: bool, seed: int, training: Training, bootstrap: str = "none") -> None:
        super().__init__()
        if bootstrap not in KINDS:
            bootstrap_weights(bootstrap, 0, 1, torch.zeros(1))
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self.bootstrap = bootstrap
        self.lr, self.warm_up, self.horizon = training.lr, training.warm_up, training.horizon
        self.batch_size, self.max_updates = training.batch_size, training.max_updates
        self._weight_decay = training.weight_decay
        self._generator = torch.Generator().manual_seed(seed)

    def _start(self, net: Stacked, prior: Stacked | None = None) -> None:
        self.net, self.prior = net, prior
        if prior is not None:
            prior.requires_grad_(False)
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.scaling = Scaling(self.d, self.m, self.over_t)
        self.register_buffer("factor", torch.ones(self.m, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.factor: Tensor
        self.updates: Tensor
        self._optimizer = self._make_optimizer()
        self._partners: Partners | None = None
        self._done = 0

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW for the networks; a group's ``share`` is its learning rate over ``lr``."""
        params = [p for p in self.net.parameters() if p.requires_grad]
        return torch.optim.AdamW([{"params": params, "share": 1.0}], lr=self.lr, betas=BETAS, weight_decay=self._weight_decay, fused=True)

    @property
    def estimators(self) -> int:
        """How many networks there are."""
        return self.net.estimators

    @property
    def output_scale(self) -> Tensor:
        return self.scaling.scale

    @abstractmethod
    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """Each estimator's loss, ``K``, on normalised rows ``n x d`` and ``n x m`` with weights ``K x n``."""

    def _settle(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        """What is to be done at the end of a fit on all these rows."""
        return

    def _follow(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        """What is to be done after one update on these rows."""
        return

    def _hand_over(self) -> None:
        """Hand the gradients to the optimiser, where it does not step the networks' own tensors."""
        return

    def _told(self, losses: Tensor) -> Tensor:
        """What an update says of its ``K`` losses: their mean."""
        return losses.mean()

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
        loss = float(self._step(x, y, w, rate))
        self._follow(x, y, w)
        return loss

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
        self._settle(x, y, w)
        return self._mean_loss(x, y, w)

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
        return x, y, self._bootstrap(batch.groups) * batch.weights.float()

    def _bootstrap(self, groups: Tensor) -> Tensor:
        """The bootstrap weights of ``n`` rows in every network, ``K x n``."""
        return bootstrap_weights(self.bootstrap, self.seed, self.estimators, groups)

    def _draw_and_step(self, x: Tensor, y: Tensor, w: Tensor, rate: float) -> Tensor:
        n = len(x)
        if n <= self.batch_size:
            return self._step(x, y, w, rate)
        index = torch.randint(n, (self.batch_size,), generator=self._generator)
        return self._step(x[index], y[index], w[:, index], rate)

    def _step(self, x: Tensor, y: Tensor, w: Tensor, rate: float) -> Tensor:
        if self._partners is not None:
            self._partners.begin()
        self.net.zero_grad(set_to_none=True)
        loss = self._loss(self.net, x, y, w)
        # the sum over estimators: each one's gradient is then that of its own loss
        loss.sum().backward()
        if self._partners is not None:
            self._partners.finish()
        self._hand_over()
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        self._optimizer.step()
        self._done += 1
        self.updates.fill_(self._done)
        if self._done % EMA_EVERY == 0:
            self._copy_average(min(1.0, EMA_EVERY / min(self.horizon, 1 + 0.1 * self._done)))
        return self._told(loss.detach())

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
                    net.shift_output(self.m, 2.0 * (s.scale / scale).log())
            if self.prior is not None:
                zero = torch.zeros_like(mean)
                self.prior.rescale_output(self.m, (zero, s.scale), (zero, scale))
        s.mean.copy_(mean)
        s.scale.copy_(scale)

    def zoom(self, low: Sequence[float], high: Sequence[float]) -> None:
        """From now on the unit cube is the part between these edges, ``d`` each (t not included) in the cube until now; the learned
        function stays."""
        for column, edges in enumerate(zip(low, high, strict=True)):
            for net in self._networks():
                net.rescale_input(column, (0.0, 1.0), edges)

    def _networks(self) -> list[Stacked]:
        return [self.net, self.average] + ([self.prior] if self.prior is not None else [])

    # --- calibration and state ------------------------------------------------------------------------------------

    def scale_variance(self, factor: Tensor) -> None:
        self.factor.copy_(check_factor(factor, self.m))

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


class SpreadSurrogate(NetworkSurrogate):
    """A network surrogate that answers with several values for every point; their spread is the epistemic uncertainty."""

    @abstractmethod
    def _values(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw values ``batch_shape x K x q x m`` and noise standard deviations of the same shape (None without heads)."""

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The K values of every point with their spread scaled by the calibration factor.

        Args:
            X: ``batch_shape x q x d``.
            output_indices: the outputs wanted; None is all.
            observation_noise: True adds the learned noise to the values as draws with a fixed seed.
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

    def _checked(self, X: Tensor) -> Tensor:
        """Raw ``batch_shape x q x d`` as normalised rows ``n x d``."""
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        return self.scaling.inputs(X.reshape(-1, self.d)).float()

    def _raw(self, out: Tensor, X: Tensor) -> Tensor:
        """Normalised ``K x n x m`` in the outputs' units and X's type, ``batch_shape x K x q x m``."""
        dtype = X.dtype if X.is_floating_point() else torch.float64
        return self._shape(out.to(dtype) * self.scaling.scale.to(dtype) + self.scaling.mean.to(dtype), X)

    def _shape(self, out: Tensor, X: Tensor) -> Tensor:
        return out.reshape(len(out), *X.shape[:-1], self.m).movedim(0, -3)
