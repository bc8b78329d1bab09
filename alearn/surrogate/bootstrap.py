"""Bootstrap weights that a stream gives consistently: a hash of (seed, estimator, group), nothing stored."""

from __future__ import annotations

import torch
from torch import Tensor

from alearn.errors import UnknownName

KINDS = ("none", "soft", "exponential", "poisson")
_POISSON_CDF = (0.36787944117144233, 0.7357588823428847, 0.9196986029286058, 0.9810118431238462, 0.9963401531726563)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014) on int64 with wrap-around."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniforms(seed: int, estimators: int, groups: Tensor) -> Tensor:
    """A number in [0, 1) for every estimator and group: ``n`` integers to ``K x n``."""
    golden = -0x61C8864680B583EB
    k = torch.arange(1, estimators + 1, device=groups.device, dtype=torch.int64)[:, None]
    base = _mix(torch.tensor(seed, dtype=torch.int64, device=groups.device) * golden + 1)
    x = _mix(_mix(base + k * golden) + groups.to(torch.int64)[None, :] * golden)
    return ((x >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def bootstrap_weights(kind: str, seed: int, estimators: int, groups: Tensor) -> Tensor:
    """Weights with mean one for every estimator and row, ``K x n``.

    Args:
        kind: "poisson" (the online bootstrap of Oza and Russell 2001), "exponential" (the Bayesian bootstrap of
            Rubin 1981: every group keeps some weight), "soft" (half of that and half uniform: less spread, less error) or "none".
        seed: of the surrogate.
        estimators: K.
        groups: ``n`` integers; rows of one group share their weight.
    """
    if kind not in KINDS:
        raise UnknownName("bootstrap", kind, KINDS)
    if kind == "none":
        return torch.ones(estimators, len(groups), device=groups.device)
    u = uniforms(seed, estimators, groups)
    if kind in ("exponential", "soft"):
        w = -torch.log1p(-u).float()
        return w if kind == "exponential" else 0.5 + 0.5 * w
    return sum((u >= c).float() for c in _POISSON_CDF)  # type: ignore[return-value]
