"""A parameter's map to the unit cube as tensor operations, for export to other programs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alearn.space import Continuous, Integer, Parameter


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
        return self.table[values.round().long()]


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
        return (self.slope * self._bent(values) + self.shift)[:, None]

    def _bent(self, values: Tensor) -> Tensor:
        if self.scale == "log":
            return values.log()
        if self.scale == "normal":
            return 0.5 * (1.0 + torch.erf((values - self.mean) / (self.std * math.sqrt(2.0))))
        return values
