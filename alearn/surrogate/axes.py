"""A parameter's map to the unit cube as tensor operations, for export to other programs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alearn.errors import AlearnError
from alearn.space import Condition, Continuous, Correlation, Integer, Parameter, Space
from alearn.space.relations import WIDEST

HALVINGS = 44
"""Of the interval in which a normal score is looked for: until it is known to 1e-12."""


class Cube(nn.Module):
    """A whole space: ``n x p`` parameters (labels by their positions) to ``n x d`` columns of the unit cube."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.axes = nn.ModuleList([axis_of(p) for p in space.parameters])
        self.conditions = nn.ModuleList([Settled(space, c) for c in space.conditions.values()])
        self.correlation = None if space.correlation is None else Uncorrelated(space.correlation)

    def forward(self, parameters: Tensor) -> Tensor:
        """``n x p`` to ``n x d``."""
        for condition in self.conditions:
            parameters = condition(parameters)
        columns = torch.cat([axis(parameters[:, i]) for i, axis in enumerate(self.axes)], dim=1)
        return columns if self.correlation is None else self.correlation(columns)


class Settled(nn.Module):
    """A parameter stands at its default where its condition does not hold."""

    def __init__(self, space: Space, condition: Condition) -> None:
        super().__init__()
        self.column = space.names.index(condition.name)
        self.default = _number(space[condition.name], condition.default)
        self.parents = [(space.names.index(n), [_number(space[n], v) for v in values]) for n, values in condition.when.items()]

    def forward(self, parameters: Tensor) -> Tensor:
        """``n x p`` to ``n x p``."""
        counts = torch.ones_like(parameters[:, 0], dtype=torch.bool)
        for column, values in self.parents:
            counts = counts & torch.stack([parameters[:, column] == v for v in values]).any(dim=0)
        settled = torch.where(counts, parameters[:, self.column], torch.full_like(parameters[:, 0], self.default))
        return torch.cat([parameters[:, : self.column], settled[:, None], parameters[:, self.column + 1 :]], dim=1)


def _number(parameter: Parameter, value: object) -> float:
    if parameter.labels:
        return float(parameter.labels.index(value))
    if not isinstance(value, (int, float)):
        raise AlearnError(f"Parameter '{parameter.name}' has the value {value!r}, which is no number; it cannot be exported.")
    return float(value)


class Uncorrelated(nn.Module):
    """The columns of correlated parameters in the independent cube."""

    def __init__(self, correlation: Correlation) -> None:
        super().__init__()
        self.columns = [int(i) for i in correlation.columns]
        self.register_buffer("inverse", torch.as_tensor(correlation.inverse))
        self.inverse: Tensor

    def forward(self, columns: Tensor) -> Tensor:
        """``n x d`` to ``n x d``."""
        independent = _normal_cdf(_normal_scores(columns[:, self.columns]) @ self.inverse.T)
        parts = [columns[:, i : i + 1] for i in range(columns.shape[1])]
        for at, i in enumerate(self.columns):
            parts[i] = independent[:, at : at + 1]
        return torch.cat(parts, dim=1)


def _normal_cdf(scores: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(scores / math.sqrt(2.0)))


def _normal_scores(levels: Tensor) -> Tensor:
    """The inverse of the normal distribution function by bisection: ONNX has no such function."""
    low = torch.full_like(levels, -WIDEST)
    width = 2.0 * WIDEST
    for _ in range(HALVINGS):
        width /= 2.0
        low = torch.where(_normal_cdf(low + width) < levels, low + width, low)
    return low + 0.5 * width


def axis_of(parameter: Parameter) -> nn.Module:
    """A module from ``n`` values of the parameter (of a label: its position in ``labels``) to its columns, ``n x width``."""
    if isinstance(parameter, (Continuous, Integer)):
        return Number(parameter)
    return Label(parameter)


class Label(nn.Module):
    """A label, given by its position: a table of its columns."""

    def __init__(self, parameter: Parameter) -> None:
        super().__init__()
        self.register_buffer("table", torch.as_tensor(parameter.to_unit(parameter.labels)))
        self.table: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """``n`` positions to ``n x width``."""
        columns: Tensor = self.table[values.round().long()]
        return columns


class Number(nn.Module):
    """A number: affine in the value, in its logarithm, or in the distribution function of a normal density."""

    def __init__(self, parameter: Continuous | Integer) -> None:
        super().__init__()
        self.scale = parameter.scale
        self.mean, self.std = (parameter.mean or 0.0, parameter.std or 1.0) if isinstance(parameter, Continuous) else (0.0, 1.0)
        ends = torch.tensor([parameter.low, parameter.high], dtype=torch.float64)
        first, last = parameter.to_unit([parameter.low, parameter.high])[:, 0].tolist()
        bent_first, bent_last = self._bent(ends).tolist()
        self.slope = (last - first) / (bent_last - bent_first)
        self.shift = first - self.slope * bent_first

    def forward(self, values: Tensor) -> Tensor:
        """``n`` values to ``n x 1``."""
        column: Tensor = (self.slope * self._bent(values) + self.shift)[:, None]
        return column

    def _bent(self, values: Tensor) -> Tensor:
        if self.scale == "log":
            return values.log()
        if self.scale == "normal":
            return _normal_cdf((values - self.mean) / self.std)
        return values
