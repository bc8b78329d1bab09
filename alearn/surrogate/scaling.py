"""Normalisation that follows a growing data set: streaming moments of the outputs, the range of t."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alearn.errors import ConfigError, SchemaError
from alearn.surrogate.base import Batch

MOVE = 0.1
"""Outputs are re-normalised when their mean moved by this share of their scale, or the scale by this share."""
STRETCH = 2.0
"""How far the range of t may grow with the function kept; beyond it the learned function is stretched with t instead,
because weights that resolve a small part of the range finely extrapolate wildly."""


def check_batch(data: Batch, d: int, m: int) -> None:
    """Refuse data that no surrogate can learn from.

    Raises:
        SchemaError: empty, wrong shapes, NaN or infinity, or a negative weight.
    """
    n = len(data)
    if n == 0:
        raise SchemaError("The training data hold no rows; stream at least one step first.")
    if data.X.shape != (n, d) or data.Y.shape != (n, m) or data.weights.shape != (n,) or data.groups.shape != (n,):
        shapes = ", ".join(f"{k} {tuple(getattr(data, k).shape)}" for k in ("X", "Y", "weights", "groups"))
        raise SchemaError(f"The training data have the shapes {shapes}; needed are X ({n}, {d}), Y ({n}, {m}), weights and groups ({n},).")
    for name in ("X", "Y", "weights"):
        value = getattr(data, name)
        if not bool(torch.isfinite(value).all()):
            rows = (~torch.isfinite(value.reshape(n, -1)).all(dim=1)).nonzero()[:, 0]
            raise SchemaError(
                f"{len(rows)} of {n} rows of {name} are NaN or infinite (the first is row {int(rows[0])}); "
                "leave such steps out before training."
            )
    if bool((data.weights < 0).any()):
        raise SchemaError(f"A weight is {float(data.weights.min()):g}; importance weights must not be negative.")


def check_factor(factor: Tensor, m: int) -> Tensor:
    """A calibration factor as ``m`` numbers in double precision.

    Raises:
        ConfigError: another count, or one that is not positive and finite.
    """
    f = torch.as_tensor(factor, dtype=torch.float64)
    if f.shape != (m,) or not bool((torch.isfinite(f) & (f > 0)).all()):
        raise ConfigError(f"The calibration factor is {f.tolist()}; give {m} positive numbers.")
    return f


class Scaling(nn.Module):
    """Maps raw inputs to [-1, 1] and raw outputs to mean 0 and scale 1.

    Parameters arrive in the unit cube; t (the last column, if ``over_t``) in its own unit.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is t.
        common: one scale for all outputs, their root mean square: for the cells of a field, of which some hardly change.
    """

    def __init__(self, d: int, m: int, over_t: bool, common: bool = False) -> None:
        super().__init__()
        self.d, self.m, self.over_t, self.common = d, m, over_t, common
        f64 = torch.float64
        self.register_buffer("count", torch.zeros((), dtype=f64))
        self.register_buffer("running_mean", torch.zeros(m, dtype=f64))
        self.register_buffer("running_m2", torch.zeros(m, dtype=f64))
        self.register_buffer("mean", torch.zeros(m, dtype=f64))
        self.register_buffer("scale", torch.ones(m, dtype=f64))
        self.register_buffer("t_range", torch.tensor([0.0, 1.0], dtype=f64))
        self.register_buffer("stretch", torch.ones((), dtype=f64))
        self.count: Tensor
        self.running_mean: Tensor
        self.running_m2: Tensor
        self.mean: Tensor
        self.scale: Tensor
        self.t_range: Tensor
        self.stretch: Tensor

    def inputs(self, X: Tensor) -> Tensor:
        """Raw ``... x d`` to [-1, 1]."""
        if not self.over_t:
            return 2.0 * X - 1.0
        lo, hi = self.t_range[0], self.t_range[1]
        t = (2.0 * X[..., -1:] - (lo + hi)) / (hi - lo)
        return torch.cat([2.0 * X[..., :-1] - 1.0, t.to(X)], dim=-1)

    def outputs(self, Y: Tensor) -> Tensor:
        """Raw ``... x m`` to mean 0, scale 1."""
        return (Y - self.mean.to(Y)) / self.scale.to(Y)

    @torch.no_grad()
    def observe(self, Y: Tensor) -> None:
        """Fold ``n x m`` outputs into the running moments (Chan et al. 1983)."""
        y = Y.to(self.running_mean)
        n = float(len(y))
        mean = y.mean(dim=0)
        total = self.count + n
        delta = mean - self.running_mean
        self.running_m2 += ((y - mean) ** 2).sum(dim=0) + delta**2 * (self.count * n / total)
        self.running_mean += delta * (n / total)
        self.count.copy_(total)

    def reset_moments(self) -> None:
        """Forget the running moments, because all data will be seen again."""
        for b in (self.count, self.running_mean, self.running_m2):
            b.zero_()

    def target(self) -> tuple[Tensor, Tensor]:
        """Mean and scale that the running moments ask for, each ``m``."""
        std = (self.running_m2 / self.count.clamp_min(1.0)).sqrt()
        # a constant output has no scale of its own: its magnitude, or one, keeps the arithmetic finite
        floor = 1e-9 * self.running_mean.abs()
        scale = torch.where(std > floor, std, torch.where(floor > 0, floor, torch.ones_like(std)))
        if self.common and bool((std > floor).any()):
            scale = (std**2).mean().sqrt().expand(self.m).clone()
        return self.running_mean.clone(), scale

    def moved(self) -> bool:
        """True if the used moments are no longer good enough."""
        mean, scale = self.target()
        return bool(((mean - self.mean).abs() > MOVE * self.scale).any() or ((scale / self.scale).log().abs() > MOVE).any())

    def grown_range(self, X: Tensor) -> tuple[float, float] | None:
        """The new range of t if ``X`` leaves the present one, else None."""
        if not self.over_t:
            return None
        lo, hi = float(X[:, -1].min()), float(X[:, -1].max())
        if float(self.count) > 0:
            old_lo, old_hi = float(self.t_range[0]), float(self.t_range[1])
            if lo >= old_lo and hi <= old_hi:
                return None
            lo, hi = min(lo, old_lo), max(hi, old_hi)
        if hi <= lo:
            hi = lo + max(1.0, abs(lo)) * 1e-6 if float(self.count) > 0 else lo + 1.0
        return lo, hi
