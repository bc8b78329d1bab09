"""MC dropout: one network, of which each draw silences other units; the draws' spread is the uncertainty (Gal and Ghahramani 2016)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.network import CHUNK, SpreadSurrogate, Training
from alearn.surrogate.parallel import ParallelSurrogate
from alearn.surrogate.stacked import Stacked, StackedMLP


@final
class MCDropout(ParallelSurrogate, SpreadSurrogate):
    """One network trained with dropout, evaluated under a fixed set of masks.

    The masks are drawn once, so that the posterior is a function: the same point always has the same values, and the
    values of neighbouring points belong together. As cheap to train as one network; its intervals are too wide by a
    factor that the calibration takes away, and it tells easy from hard regions less well than an ensemble.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights, masks and mini-batches.
        draws: how many masks.
        rate: share of the hidden units that a mask silences, in (0, 1).
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
        draws: int = 32,
        rate: float = 0.05,
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
        if draws < 2 or not 0 < rate < 1:
            raise ConfigError(f"MC dropout has draws={draws} and rate={rate}; it needs at least 2 draws and a rate between 0 and 1.")
        self._options: dict[str, Any] = {
            "draws": draws,
            "rate": rate,
            "width": width,
            "depth": depth,
            "activation": activation,
            "body": body,
            "first_scale": first_scale,
            **asdict(training),
        }
        self._rate = rate
        self._start(StackedMLP(1, d, m, width, depth, activation, body, first_scale, self._generator))
        self.register_buffer("masks", self._draw((depth, draws, 1, width)))
        self.masks: Tensor

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        keep = 1.0 - self._rate
        return (torch.rand(shape, generator=self._generator) < keep).float() / keep

    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        assert isinstance(net, StackedMLP)
        masks = [self._draw((1, len(x), net.width)).to(x.device) for _ in range(net.depth)]
        out = torch.baddbmm(net.biases[-1], net.features(x, masks), net.weights[-1])
        each: Tensor = (((out - y) ** 2).mean(dim=-1) * w).mean(dim=-1)
        return each

    def _values(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        net = self.average
        assert isinstance(net, StackedMLP)
        pieces = self._checked(X).split(CHUNK)
        out = [net.features(rows, list(self.masks)) @ net.weights[-1] + net.biases[-1] for rows in pieces]
        return self._raw(torch.cat(out, dim=1), X), None
