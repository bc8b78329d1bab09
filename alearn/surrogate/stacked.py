"""K small networks held in stacked tensors, so that one batched matrix product trains all of them together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from alearn.errors import UnknownName

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "tanh": torch.tanh,
    "sine": torch.sin,
}
BODIES = ("mlp", "residual")


class StackedMLP(nn.Module):
    """K multi-layer perceptrons of one shape, evaluated together.

    Args:
        estimators: K.
        inputs: columns of the input.
        outputs: columns of the output.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: one of ``ACTIVATIONS``.
        body: "mlp", or "residual" (every hidden layer after the first adds to its input).
        first_scale: how many times wider than 1/sqrt(inputs) the first layer's weights start; larger resolves
            sharper features.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        estimators: int,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        activation: str,
        body: str,
        first_scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UnknownName("activation", activation, ACTIVATIONS)
        if body not in BODIES:
            raise UnknownName("body", body, BODIES)
        self.estimators, self.outputs, self.residual = estimators, outputs, body == "residual"
        self.activation = ACTIVATIONS[activation]
        sizes = [inputs] + [width] * depth + [outputs]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            last = i == depth
            gain = first_scale if i == 0 else (1.0 if last else math.sqrt(2.0))
            w = torch.randn(estimators, fan_in, fan_out, generator=generator) * (gain / math.sqrt(fan_in))
            b = torch.zeros(estimators, 1, fan_out)
            if i == 0:
                # spread the units' hinges over the input cube [-1, 1]^d instead of stacking them at its centre
                b = (2 * torch.rand(estimators, 1, fan_out, generator=generator) - 1) * first_scale
            self.weights.append(nn.Parameter(w))
            self.biases.append(nn.Parameter(b))

    def forward(self, x: Tensor) -> Tensor:
        """``n x inputs`` (shared) or ``K x n x inputs`` to ``K x n x outputs``."""
        h = x if x.ndim == 3 else x.expand(self.estimators, *x.shape)
        last = len(self.weights) - 1
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = torch.baddbmm(b, h, w)
            if i == last:
                return z
            a = self.activation(z)
            h = (h + a) * math.sqrt(0.5) if self.residual and i > 0 else a
        return h

    @torch.no_grad()
    def rescale_input(self, column: int, old: tuple[float, float], new: tuple[float, float]) -> None:
        """Keep the function of the raw input when the column's normalisation moves from ``[lo, hi]`` old to new."""
        w, b = self.weights[0], self.biases[0]
        ratio = (new[1] - new[0]) / (old[1] - old[0])
        shift = (new[0] + new[1] - old[0] - old[1]) / (old[1] - old[0])
        # z_old = ratio * z_new + shift for z = (2 raw - lo - hi) / (hi - lo)
        b += shift * w[:, column : column + 1, :]
        w[:, column] *= ratio

    @torch.no_grad()
    def rescale_output(self, outputs: int, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
        """Keep the first ``outputs`` columns' raw values when (mean, scale) moves from old to new."""
        w, b = self.weights[-1], self.biases[-1]
        ratio = (old[1] / new[1]).to(w)
        w[..., :outputs] *= ratio
        b[..., :outputs] = b[..., :outputs] * ratio + ((old[0] - new[0]) / new[1]).to(b)
