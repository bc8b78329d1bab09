"""A snapshot ensemble: one network whose learning rate falls and starts anew, and what it was at the end of every cycle.

Huang et al. 2017 ("Snapshot ensembles: train 1, get M for free"). Where one training must do.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor, nn

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, OnlineSurrogate, Prediction
from alearn.surrogate.scaling import STRETCH, Scaling, check_batch, check_factor
from alearn.surrogate.stacked import StackedMLP

CHUNK = 1024


@final
class SnapshotEnsemble(OnlineSurrogate):
    """K snapshots of one network at the ends of K cosine cycles of its learning rate.

    A fit goes through K cycles; on the stream a cycle is ``cycle`` updates, and each snapshot takes the place of the oldest. The
    snapshots see the same data from the same start, so they agree more than networks trained apart: the calibration has to
    mend more than an ensemble's.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights and mini-batches.
        snapshots: K.
        cycle: updates of a cycle on the stream.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: silu, gelu, relu, tanh or sine.
        body: mlp, residual, fourier or siren.
        first_scale: scale of the first layer's initial weights; larger learns sharper features sooner.
        lr: the rate from which every cycle falls.
        weight_decay: AdamW's decay.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: updates of a fit that decides itself, over all cycles.

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
        snapshots: int = 6,
        cycle: int = 200,
        width: int = 96,
        depth: int = 3,
        activation: str = "silu",
        body: str = "mlp",
        first_scale: float = 1.5,
        lr: float = 5e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 64,
        max_updates: int = 4800,
    ) -> None:
        super().__init__()
        if snapshots < 2 or min(cycle, batch_size, max_updates) < 1 or not (lr > 0 and weight_decay >= 0):
            raise ConfigError(
                f"The snapshot ensemble has snapshots={snapshots}, cycle={cycle}, batch_size={batch_size}, max_updates={max_updates}, "
                f"lr={lr}, weight_decay={weight_decay}; it needs 2 snapshots, 1 of the others, and a positive lr."
            )
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self.lr, self.cycle, self.batch_size, self.max_updates = lr, cycle, batch_size, max_updates
        self._options: dict[str, Any] = {
            "snapshots": snapshots, "cycle": cycle, "width": width, "depth": depth, "activation": activation, "body": body,
            "first_scale": first_scale, "lr": lr, "weight_decay": weight_decay, "batch_size": batch_size, "max_updates": max_updates,
        }  # fmt: skip
        self._generator = torch.Generator().manual_seed(seed)
        make = (d, m, width, depth, activation, body, first_scale, self._generator)
        self.net = StackedMLP(1, *make)
        self.shots = StackedMLP(snapshots, *make).requires_grad_(False)
        self.scaling = Scaling(d, m, over_t)
        self.register_buffer("factor", torch.ones(m, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self.factor: Tensor
        self.updates: Tensor
        self.taken: Tensor
        self._optimizer = torch.optim.AdamW(self.net.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)

    def options(self) -> dict[str, Any]:
        return {**self._options, "lr": self.lr}

    @property
    def estimators(self) -> int:
        """How many snapshots there are."""
        return self.shots.estimators

    @property
    def output_scale(self) -> Tensor:
        return self.scaling.scale

    # --- learning ----------------------------------------------------------------------------------------------------

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
        at = int(self.updates) % self.cycle
        loss = self._step(*self._prepare(batch), rate=self._rate(at, self.cycle))
        if at == self.cycle - 1:
            self._take()
        return float(loss)

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        check_batch(data, self.d, self.m)
        self._follow_t(data.X)
        self.scaling.reset_moments()
        self.scaling.observe(data.Y)
        self._follow_moments()
        x, y, w = self._prepare(data)
        total = self.max_updates if updates is None else updates
        cycle = max(1, total // self.estimators)
        loss = torch.zeros(())
        for i in range(total):
            rows: Tensor | slice = slice(None)
            if len(x) > self.batch_size:
                rows = torch.randint(len(x), (self.batch_size,), generator=self._generator)
            loss = self._step(x[rows], y[rows], w[rows], rate=self._rate(i % cycle, cycle))
            if i % cycle == cycle - 1:
                self._take()
        return float(loss)

    def _rate(self, at: int, cycle: int) -> float:
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * (at + 1) / cycle)) + 1e-3 * self.lr

    def _prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return self.scaling.inputs(batch.X).float(), self.scaling.outputs(batch.Y.double()).float(), batch.weights.float()

    def _step(self, x: Tensor, y: Tensor, w: Tensor, *, rate: float) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss: Tensor = (((self.net(x)[0] - y) ** 2).mean(dim=-1) * w).mean()
        loss.backward()
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self.updates += 1
        return loss.detach()

    @torch.no_grad()
    def _take(self) -> None:
        """A snapshot in the place of the oldest; the first one stands for all until there are more."""
        first = int(self.taken) == 0
        places = slice(None) if first else slice(int(self.taken) % self.estimators, int(self.taken) % self.estimators + 1)
        own = dict(self.net.named_parameters()) | {k: v for k, v in self.net.named_buffers() if v is not None}
        for name, tensor in [*self.shots.named_parameters(), *self.shots.named_buffers()]:
            tensor[places] = own[name]
        self.taken += 1

    # --- normalisation -----------------------------------------------------------------------------------------------

    def _follow_t(self, X: Tensor) -> None:
        new = self.scaling.grown_range(X)
        if new is None:
            return
        s = self.scaling
        old = (float(s.t_range[0]), float(s.t_range[1]))
        growth = (new[1] - new[0]) / (old[1] - old[0])
        keep = bool(self.updates > 0) and float(s.stretch) * growth <= STRETCH
        if keep:
            self.net.rescale_input(self.d - 1, old, new)
            self.shots.rescale_input(self.d - 1, old, new)
        s.stretch.copy_(s.stretch * growth if keep else torch.ones_like(s.stretch))
        s.t_range.copy_(torch.tensor(new))

    def _follow_moments(self) -> None:
        s = self.scaling
        mean, scale = s.target()
        if int(self.updates):
            for net in (self.net, self.shots):
                net.rescale_output(self.m, (s.mean, s.scale), (mean, scale))
        s.mean.copy_(mean)
        s.scale.copy_(scale)

    # --- prediction --------------------------------------------------------------------------------------------------

    def _values(self, X: Tensor) -> Tensor:
        """Raw values ``K x n x m`` at ``batch_shape x q x d``, flattened; before the first snapshot those of the network as it is."""
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        x = self.scaling.inputs(X.reshape(-1, self.d)).float()
        found: nn.Module = self.shots if int(self.taken) else self.net
        out = torch.cat([found(part) for part in x.split(CHUNK)], dim=1).expand(self.estimators, -1, -1)
        dtype = X.dtype if X.is_floating_point() else torch.float64
        raw: Tensor = out.to(dtype) * self.scaling.scale.to(dtype) + self.scaling.mean.to(dtype)
        return raw

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The snapshots' values, their spread scaled by the calibration factor: an ``EnsemblePosterior``, ``batch_shape x K x q x m``."""
        values = self._values(X).reshape(self.estimators, *X.shape[:-1], self.m).movedim(0, -3)
        centre = values.mean(dim=-3, keepdim=True)
        values = centre + self.factor.to(values) * (values - centre)
        if output_indices is not None:
            values = values[..., output_indices]
        posterior: Posterior = EnsemblePosterior(values)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        if len(X) == 0:
            return Prediction(*(X.new_empty(0, self.m) for _ in range(3)))
        values = self._values(X)
        return Prediction(values.mean(dim=0), values.std(dim=0) * self.factor.to(values), torch.zeros_like(values[0]))

    def scale_variance(self, factor: Tensor) -> None:
        self.factor.copy_(check_factor(factor, self.m))

    def training_state(self) -> dict[str, Any]:
        """What training needs besides ``state_dict`` to go on exactly: AdamW's moments and the mini-batch generator."""
        return {"optimizer": self._optimizer.state_dict(), "generator": self._generator.get_state()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up a training that ``training_state`` described (after ``load_state_dict``)."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
