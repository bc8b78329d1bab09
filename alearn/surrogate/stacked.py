"""K networks held in stacked tensors, so that one batched matrix product trains all of them together; or K of the user's own."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from alearn.errors import ConfigError, UnknownName

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "tanh": torch.tanh,
    "sine": torch.sin,
}
BODIES = ("mlp", "residual", "fourier", "siren")
FREQUENCIES = 32
"""Random Fourier features that the body "fourier" adds to its inputs."""
SIREN_SCALE = 2.0
"""How many times wider than other bodies' the first layer of a "siren" starts (Sitzmann et al. 2020 use a frequency factor of 30
for images; a response surface of a few dozen points is smoother)."""


class Stacked(nn.Module, ABC):
    """K networks of one kind that take the same rows."""

    estimators: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``n x inputs`` (shared) or ``K x n x inputs`` to ``K x n x outputs``."""

    @abstractmethod
    def rescale_input(self, column: int, old: tuple[float, float], new: tuple[float, float]) -> None:
        """Keep the function of the raw input when the column's normalisation moves from ``[lo, hi]`` old to new."""

    @abstractmethod
    def rescale_output(self, outputs: int, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
        """Keep the first ``outputs`` columns' raw values when (mean, scale) moves from old to new."""

    @abstractmethod
    def shift_output(self, first: int, by: Tensor) -> None:
        """Add to the output columns from ``first`` on."""


def make_networks(
    estimators: int,
    inputs: int,
    outputs: int,
    width: int,
    depth: int,
    activation: str,
    body: str,
    first_scale: float,
    generator: torch.Generator,
) -> Stacked:
    """K networks: of one of the ``BODIES``, or of the user's own kind if ``body`` is ``FILE.py:NAME``.

    Raises:
        UnknownName: no such body or activation.
        ConfigError: width or depth under one, or the user's object makes no module of that shape.
    """
    if ":" in body:
        from alearn.registry import load_object

        return StackedModules(estimators, inputs, outputs, load_object(body), body, generator)
    return StackedMLP(estimators, inputs, outputs, width, depth, activation, body, first_scale, generator)


@final
class StackedMLP(Stacked):
    """K multi-layer perceptrons of one shape, evaluated together.

    Args:
        estimators: K.
        inputs: columns of the input.
        outputs: columns of the output.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: one of ``ACTIVATIONS``.
        body: "mlp"; "residual" (every hidden layer after the first adds to its input); "fourier" (the inputs are joined by sines of
            random projections, which lets it learn fine structure: Tancik et al. 2020); "siren" (sine layers: Sitzmann et al. 2020).
        first_scale: how many times wider than 1/sqrt(inputs) the first layer's weights start; larger resolves
            sharper features.
        generator: source of the initial weights.

    Raises:
        UnknownName: no such body or activation.
        ConfigError: width or depth under one.
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
        if width < 1 or depth < 1:
            raise ConfigError(f"The networks have width={width} and depth={depth}; both must be at least 1.")
        self.estimators, self.outputs, self.residual = estimators, outputs, body == "residual"
        self.width, self.depth = width, depth
        self.activation = ACTIVATIONS["sine" if body == "siren" else activation]
        columns = inputs
        frequency = phase = None
        if body == "fourier":
            columns += FREQUENCIES
            frequency = torch.randn(estimators, inputs, FREQUENCIES, generator=generator) * (first_scale / math.sqrt(inputs))
            phase = 2 * math.pi * torch.rand(estimators, 1, FREQUENCIES, generator=generator)
        self.register_buffer("frequency", frequency)
        self.register_buffer("phase", phase)
        self.frequency: Tensor | None
        self.phase: Tensor | None
        if body == "siren":
            first_scale *= SIREN_SCALE
        sizes = [columns] + [width] * depth + [outputs]
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
        return torch.baddbmm(self.biases[-1], self.features(x), self.weights[-1])

    @torch.no_grad()
    def keep(self, index: Tensor) -> None:
        """Leave only the networks named by ``index``."""
        self.estimators = len(index)
        for stack in (self.weights, self.biases):
            for i, tensor in enumerate(stack):
                stack[i] = nn.Parameter(tensor[index].clone(), requires_grad=tensor.requires_grad)
        if self.frequency is not None and self.phase is not None:
            self.frequency, self.phase = self.frequency[index].clone(), self.phase[index].clone()

    def features(self, x: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        """The last hidden layer, ``K x n x width``.

        Args:
            x: ``n x inputs`` or ``K x n x inputs``.
            masks: what each hidden layer is multiplied by, ``depth`` tensors that broadcast to ``K x n x width``; None is nothing.
        """
        h = x if x.ndim == 3 else x.expand(len(self.weights[0]), *x.shape)
        if self.frequency is not None and self.phase is not None:
            h = torch.cat([h, torch.sin(torch.baddbmm(self.phase, h, self.frequency))], dim=-1)
        for i in range(self.depth):
            # many masks for one network: the products broadcast
            z = torch.baddbmm(self.biases[i], h, self.weights[i]) if masks is None else h @ self.weights[i] + self.biases[i]
            a = self.activation(z)
            h = (h + a) * math.sqrt(0.5) if self.residual and i > 0 else a
            if masks is not None:
                h = h * masks[i]
        return h

    @torch.no_grad()
    def rescale_input(self, column: int, old: tuple[float, float], new: tuple[float, float]) -> None:
        ratio = (new[1] - new[0]) / (old[1] - old[0])
        shift = (new[0] + new[1] - old[0] - old[1]) / (old[1] - old[0])
        # z_old = ratio * z_new + shift for z = (2 raw - lo - hi) / (hi - lo)
        pairs = [(self.weights[0], self.biases[0])]
        if self.frequency is not None and self.phase is not None:
            pairs.append((self.frequency, self.phase))
        for w, b in pairs:
            b += shift * w[:, column : column + 1, :]
            w[:, column] *= ratio

    @torch.no_grad()
    def rescale_output(self, outputs: int, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
        w, b = self.weights[-1], self.biases[-1]
        ratio = (old[1] / new[1]).to(w)
        w[..., :outputs] *= ratio
        b[..., :outputs] = b[..., :outputs] * ratio + ((old[0] - new[0]) / new[1]).to(b)

    @torch.no_grad()
    def shift_output(self, first: int, by: Tensor) -> None:
        self.biases[-1][..., first:] += by.to(self.biases[-1])


@final
class StackedMany(Stacked):
    """Stacks of several shapes side by side: as many batched products as there are shapes.

    Args:
        parts: the stacks by name, in the order in which their networks are counted.
    """

    def __init__(self, parts: Mapping[str, StackedMLP]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.estimators = sum(part.estimators for part in parts.values())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts.values()])

    def of(self, x: Tensor, index: Tensor) -> Tensor:
        """What the networks named by the ascending ``index`` alone make of ``n x inputs``."""
        out = []
        for _, part, mine in self._split(index):
            if len(mine) == part.estimators:
                out.append(part(x))
            elif len(mine):
                tensors = itertools.chain(part.named_parameters(), part.named_buffers())
                out.append(functional_call(part, {name: tensor[mine] for name, tensor in tensors}, (x,)))
        return torch.cat(out)

    def keep(self, index: Tensor) -> None:
        """Leave only the networks named by the ascending ``index``; a stack without any goes."""
        for name, part, mine in self._split(index):
            if len(mine):
                part.keep(mine)
            else:
                del self.parts[name]
        self.estimators = len(index)

    def _split(self, index: Tensor) -> list[tuple[str, StackedMLP, Tensor]]:
        """The stacks, each with its own part of the index."""
        found = []
        first = 0
        for name, part in self.parts.items():
            assert isinstance(part, StackedMLP)
            last = first + part.estimators
            found.append((name, part, index[(index >= first) & (index < last)] - first))
            first = last
        return found

    def _stacks(self) -> list[StackedMLP]:
        return [part for part in self.parts.values() if isinstance(part, StackedMLP)]

    def rescale_input(self, column: int, old: tuple[float, float], new: tuple[float, float]) -> None:
        for part in self._stacks():
            part.rescale_input(column, old, new)

    def rescale_output(self, outputs: int, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
        for part in self._stacks():
            part.rescale_output(outputs, old, new)

    def shift_output(self, first: int, by: Tensor) -> None:
        for part in self._stacks():
            part.shift_output(first, by)


@final
class StackedModules(Stacked):
    """K networks of the user's own kind, one after the other.

    Affine maps before and after each let the normalisation follow the data without a look inside.

    Args:
        estimators: K.
        inputs: columns of the input.
        outputs: columns of the output.
        make: from (inputs, outputs) to a module that takes ``n x inputs`` to ``n x outputs``.
        name: what to call it in messages.
        generator: seeds torch while ``make`` draws its initial weights.

    Raises:
        ConfigError: ``make`` fails or makes no such module.
    """

    def __init__(
        self, estimators: int, inputs: int, outputs: int, make: Callable[[int, int], Any], name: str, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.estimators = estimators
        made = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            for _ in range(estimators):
                try:
                    module = make(inputs, outputs)
                    shape = tuple(module(torch.zeros(3, inputs)).shape) if isinstance(module, nn.Module) else None
                except (TypeError, ValueError, RuntimeError) as error:
                    raise ConfigError(
                        f"The body '{name}' cannot be used: {error}. It is called with {inputs} inputs and {outputs} outputs."
                    ) from error
                if not isinstance(module, nn.Module) or shape != (3, outputs):
                    what = type(module).__name__ if shape is None else f"a module from 3 x {inputs} to {shape}"
                    raise ConfigError(f"The body '{name}' makes {what}; it must be an nn.Module from n x {inputs} to n x {outputs}.")
                made.append(module)
        self.bodies = nn.ModuleList(made)
        self.register_buffer("input_scale", torch.ones(inputs))
        self.register_buffer("input_shift", torch.zeros(inputs))
        self.register_buffer("output_scale", torch.ones(outputs))
        self.register_buffer("output_shift", torch.zeros(outputs))
        self.input_scale: Tensor
        self.input_shift: Tensor
        self.output_scale: Tensor
        self.output_shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        z = x * self.input_scale + self.input_shift
        each = z if x.ndim == 3 else z.expand(self.estimators, *z.shape)
        out = torch.stack([body(rows) for body, rows in zip(self.bodies, each, strict=True)])
        return out * self.output_scale + self.output_shift

    @torch.no_grad()
    def rescale_input(self, column: int, old: tuple[float, float], new: tuple[float, float]) -> None:
        shift = (new[0] + new[1] - old[0] - old[1]) / (old[1] - old[0])
        self.input_shift[column] += shift * self.input_scale[column]
        self.input_scale[column] *= (new[1] - new[0]) / (old[1] - old[0])

    @torch.no_grad()
    def rescale_output(self, outputs: int, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
        ratio = (old[1] / new[1]).to(self.output_scale)
        self.output_scale[:outputs] *= ratio
        self.output_shift[:outputs] = self.output_shift[:outputs] * ratio + ((old[0] - new[0]) / new[1]).to(ratio)

    @torch.no_grad()
    def shift_output(self, first: int, by: Tensor) -> None:
        self.output_shift[first:] += by.to(self.output_shift)
