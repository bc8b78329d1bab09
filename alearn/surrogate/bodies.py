"""Networks on grids: Fourier neural operators and U-Nets, in one or two dimensions.

Li et al. 2021 ("Fourier neural operator for parametric partial differential equations"), Ronneberger et al. 2015 ("U-Net").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from alearn.errors import ConfigError, UnknownName

BODIES = ("fno", "unet")


@final
class SpectralConv(nn.Module):
    """Multiplies the lowest Fourier modes of every channel by learned complex matrices; the others are dropped.

    Args:
        channels: in and out.
        grid: cells along each axis.
        modes: kept along each axis, at most what the grid has.
    """

    def __init__(self, channels: int, grid: Sequence[int], modes: int) -> None:
        super().__init__()
        self.grid = tuple(grid)
        # along the last axis a real field has half of the spectrum, along the others both signs of the wave number
        self.kept = (*(min(modes, max(1, n // 2)) for n in self.grid[:-1]), min(modes, self.grid[-1] // 2 + 1))
        corners = 2 ** (len(self.grid) - 1)
        self.weight = nn.Parameter(torch.randn(corners, channels, channels, *self.kept, 2) / channels)

    def forward(self, x: Tensor) -> Tensor:
        """``b x c x grid`` to the same."""
        axes = tuple(range(2, x.ndim))
        spectrum = torch.fft.rfftn(x, dim=axes, norm="ortho")
        out = torch.zeros_like(spectrum)
        weight = torch.view_as_complex(self.weight)
        for corner, w in enumerate(weight):
            at: tuple[Any, ...] = (slice(None), slice(None), *self._corner(corner))
            out[at] = torch.einsum("bi...,io...->bo...", spectrum[at], w)
        found: Tensor = torch.fft.irfftn(out, s=self.grid, dim=axes, norm="ortho")
        return found

    def _corner(self, corner: int) -> list[slice]:
        signs = [(corner >> i) & 1 for i in range(len(self.grid) - 1)]
        return [slice(-k, None) if s else slice(0, k) for s, k in zip(signs, self.kept, strict=False)] + [slice(0, self.kept[-1])]


def _conv(inputs: int, outputs: int, dimensions: int, size: int = 3) -> nn.Module:
    kind = nn.Conv1d if dimensions == 1 else nn.Conv2d
    return kind(inputs, outputs, size, padding=size // 2, padding_mode="replicate" if size > 1 else "zeros")


@final
class FNO(nn.Module):
    """Layers that add a spectral convolution (everywhere at once) to a small local one.

    Args:
        inputs: channels.
        outputs: channels.
        grid: cells along each axis.
        width: channels of a layer.
        depth: layers.
        modes: Fourier modes kept along each axis.
    """

    def __init__(self, inputs: int, outputs: int, grid: Sequence[int], width: int, depth: int, modes: int) -> None:
        super().__init__()
        dimensions = len(grid)
        self.lift = _conv(inputs, width, dimensions, 1)
        self.spectral = nn.ModuleList(SpectralConv(width, grid, modes) for _ in range(depth))
        self.local = nn.ModuleList(_conv(width, width, dimensions) for _ in range(depth))
        self.project = nn.Sequential(_conv(width, 2 * width, dimensions, 1), nn.GELU(), _conv(2 * width, outputs, dimensions, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``b x inputs x grid`` to ``b x outputs x grid``."""
        h = self.lift(x)
        for spectral, local in zip(self.spectral, self.local, strict=True):
            h = h + functional.gelu(spectral(h) + local(h))
        found: Tensor = self.project(h)
        return found


@final
class UNet(nn.Module):
    """Convolutions on grids that are halved ``depth - 1`` times and doubled again, each joined with its equal on the way down.

    Args:
        inputs: channels.
        outputs: channels.
        grid: cells along each axis.
        width: channels on the finest grid; doubled on each coarser one.
        depth: grids, at most as many as there are cells for.
    """

    def __init__(self, inputs: int, outputs: int, grid: Sequence[int], width: int, depth: int) -> None:
        super().__init__()
        self.dimensions = len(grid)
        levels = max(1, min(depth, int(math.log2(max(2, min(grid)))) - 1))
        sizes = [width * 2**i for i in range(levels)]
        down = [inputs, *sizes]
        self.down = nn.ModuleList(self._block(a, b) for a, b in itertools.pairwise(down))
        self.up = nn.ModuleList(self._block(b + a, a) for a, b in itertools.pairwise(sizes))
        self.project = _conv(width, outputs, self.dimensions, 1)

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(_conv(inputs, outputs, self.dimensions), nn.GELU(), _conv(outputs, outputs, self.dimensions), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """``b x inputs x grid`` to ``b x outputs x grid``."""
        pool = functional.avg_pool1d if self.dimensions == 1 else functional.avg_pool2d
        kept: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else pool(x, 2))
            kept.append(x)
        for block, beside in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            how = "linear" if self.dimensions == 1 else "bilinear"
            wide = functional.interpolate(x, size=beside.shape[2:], mode=how, align_corners=False)
            x = block(torch.cat([wide, beside], dim=1))
        found: Tensor = self.project(x)
        return found


def make_body(body: str, inputs: int, outputs: int, grid: Sequence[int], width: int, depth: int, modes: int) -> nn.Module:
    """A network from ``inputs`` to ``outputs`` channels on a grid.

    Raises:
        UnknownName: no such body.
        ConfigError: the grid has more than two axes, or a number is under one.
    """
    if body not in BODIES:
        raise UnknownName("body", body, BODIES)
    if not 1 <= len(grid) <= 2 or min((*grid, width, depth, modes)) < 1:
        raise ConfigError(
            f"The operator has the grid {list(grid)}, width={width}, depth={depth}, modes={modes}; fields of one or two axes can be "
            "learned so, and each number is at least 1."
        )
    return FNO(inputs, outputs, grid, width, depth, modes) if body == "fno" else UNet(inputs, outputs, grid, width, depth)


def coordinates(grid: Sequence[int]) -> Tensor:
    """Where each cell lies along each axis, in [-1, 1], ``axes x grid``."""
    axes = [(2.0 * torch.arange(n) + 1.0) / n - 1.0 for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))
