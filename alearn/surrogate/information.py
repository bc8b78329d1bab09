"""How much new data would teach a surrogate: the check that decides when it is worth while to grow or to specialise it."""

from __future__ import annotations

import torch
from torch import Tensor

from alearn.surrogate.base import Batch, Surrogate

NOISE = 0.01
"""The least standard deviation, in units of an output's own, that is taken for what no data can teach."""


def residual(surrogate: Surrogate, data: Batch) -> Tensor:
    """Root mean square of what a surrogate errs on data that it has learned, in units of each output's standard deviation, ``m``."""
    error = (surrogate.predict(data.X).mean - data.Y) / surrogate.output_scale.to(data.Y)
    weight = data.weights.to(error) / data.weights.to(error).sum()
    return ((error**2) * weight[:, None]).sum(dim=0).sqrt()


def information(surrogate: Surrogate, data: Batch, noise: Tensor) -> float:
    """What data that a surrogate has not learned tell it, in nats, if its uncertainty is honest.

    A value with epistemic standard deviation s, seen with noise n, brings log(1 + s^2/n^2) / 2 (MacKay 1992). The time steps and
    outputs of a member tell much the same: their mean is what the member brings. Members beside those known bring next to
    nothing, however many they are.

    Args:
        surrogate: before it learns them.
        data: the rows.
        noise: what it errs on data that it has learned (see ``residual``), ``m``.
    """
    std = surrogate.predict(data.X).epistemic.double() / surrogate.output_scale
    nats = 0.5 * torch.log1p((std / noise.double().clamp_min(NOISE)) ** 2).mean(dim=1)
    _, member = torch.unique(data.groups, return_inverse=True)
    rows = torch.bincount(member).to(nats)
    return float((torch.zeros_like(rows).index_add_(0, member, nats) / rows).sum())
