"""A neural operator from (parameters, t) to a whole field: several networks on the field's grid, their spread the uncertainty."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor, nn

from alearn.errors import ConfigError
from alearn.surrogate.bodies import coordinates, make_body
from alearn.surrogate.network import SpreadSurrogate, Training
from alearn.surrogate.scaling import Scaling
from alearn.surrogate.stacked import Stacked, StackedModules

CELLS = 1 << 18
"""So many cells of fields go through the networks at a time where nothing is trained."""


class OnGrid(ABC):
    """A surrogate whose outputs are the cells of fields on a grid; the option ``grid`` tells it the fields' shape."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Cells along each axis."""


def channels_of(grid: Sequence[int] | None, m: int) -> tuple[tuple[int, ...], int]:
    """The grid, and how many fields on it the ``m`` outputs are; without a grid, one field of ``m`` cells.

    Raises:
        ConfigError: they are no whole number of fields.
    """
    shape = (m,) if grid is None else tuple(int(n) for n in grid)
    cells = math.prod(shape)
    if cells < 1 or m % cells:
        raise ConfigError(f"The operator has the grid {list(shape)} of {cells} cells and {m} outputs; these are no whole fields on it.")
    return shape, m // cells


@final
class FromPoint(nn.Module):
    """A field from numbers: they are laid out over the grid as constant channels beside the cells' coordinates.

    Args:
        inputs: how many numbers.
        channels: fields to make.
        grid: cells along each axis.
        body: see ``make_body``, as the rest.
    """

    def __init__(self, inputs: int, channels: int, grid: Sequence[int], body: str, width: int, depth: int, modes: int) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.body = make_body(body, inputs + len(self.grid), channels, self.grid, width, depth, modes)
        self.register_buffer("where", coordinates(self.grid), persistent=False)
        self.where: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``b x inputs`` to ``b x (channels cells)``."""
        numbers = x.reshape(*x.shape, *(1 for _ in self.grid)).expand(*x.shape, *self.grid)
        laid = torch.cat([numbers, self.where.expand(len(x), *self.where.shape)], dim=1)
        found: Tensor = self.body(laid).flatten(1)
        return found


@final
class FieldOperator(SpreadSurrogate, OnGrid):
    """K networks from (parameters, t) to the cells of one or more fields, with bootstrap weights by member.

    Args:
        d: input columns, t included.
        m: outputs: the fields' cells, field after field.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights, bootstrap and mini-batches.
        grid: the fields' shape, of one or two axes; the trainer tells it. None is one field of ``m`` cells.
        body: fno (Fourier neural operator) or unet.
        estimators: K.
        width: channels of a layer (of a U-Net: on the finest grid).
        depth: layers (of a U-Net: grids, each half as fine as the one before).
        modes: Fourier modes that an FNO keeps along each axis.
        bootstrap: none, soft, exponential or poisson weights of the members.
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
        grid: Sequence[int] | None = None,
        body: str = "fno",
        estimators: int = 3,
        width: int = 24,
        depth: int = 3,
        modes: int = 8,
        bootstrap: str = "soft",
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        warm_up: int = 50,
        horizon: int = 100,
        batch_size: int = 32,
        max_updates: int = 3000,
    ) -> None:
        training = Training(lr, weight_decay, warm_up, horizon, batch_size, max_updates)
        super().__init__(d, m, over_t, seed, training, bootstrap)
        if estimators < 2:
            raise ConfigError(f"The operator has estimators={estimators}; it needs at least 2, whose spread is the uncertainty.")
        self._grid, channels = channels_of(grid, m)
        self._options: dict[str, Any] = {
            "grid": list(self._grid), "body": body, "estimators": estimators, "width": width, "depth": depth, "modes": modes,
            "bootstrap": bootstrap, **asdict(training),
        }  # fmt: skip

        def make(inputs: int, _: int) -> nn.Module:
            return FromPoint(inputs, channels, self._grid, body, width, depth, modes)

        self._start(StackedModules(estimators, d, m, make, body, self._generator))
        self.scaling = Scaling(d, m, over_t, common=True)

    @property
    def grid(self) -> tuple[int, ...]:
        return self._grid

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        each: Tensor = (((net(x) - y) ** 2).mean(dim=-1) * w).mean(dim=-1)
        return each

    def _values(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        flat = self._checked(X)
        parts = [self.average(part) for part in flat.split(max(1, CELLS // self.m))]
        return self._raw(torch.cat(parts, dim=1), X), None
