"""Candidates: a Sobol pool of valid points, without those already taken, refined where the score is high."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from alearn.acquisition.base import Context
from alearn.space import Space

CHUNK = 2048
"""Points scored at a time: bounds the memory of a round, whatever the size of the pool."""
PAIRS = 1 << 23
"""Distances computed at a time: 64 MB."""
DUPLICATE = 1e-6
"""Two points of the unit cube closer than this are one."""
EXACT = "donot_use_mm_for_euclid_dist"
"""How distances are computed: the matrix-product form makes equal points 1e-4 apart."""


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """A numpy generator seeded from a torch one (which moves on)."""
    return np.random.default_rng(draw_seed(generator))


def draw_seed(generator: torch.Generator) -> int:
    """A fresh seed; the generator moves on."""
    return int(torch.randint(2**62, (1,), generator=generator))


def taken(context: Context) -> Tensor:
    """Every point that has data or is on its way, ``(n + p) x d``."""
    return torch.cat([context.X.double(), context.pending.double()])


def nearest(X: Tensor, others: Tensor) -> Tensor:
    """Distance of each of ``N x d`` points to the nearest of ``M x d`` others, ``N``; infinite if there are none."""
    if not len(others):
        return X.new_full((len(X),), torch.inf)
    rows = min(CHUNK, max(1, PAIRS // len(others)))
    return chunked(lambda part: torch.cdist(part, others, compute_mode=EXACT).amin(dim=1), X, rows)


def chunked(function: Callable[[Tensor], Tensor], X: Tensor, chunk: int = CHUNK) -> Tensor:
    """Apply a function, ``N x d`` to ``N``, over the rows of ``X`` in bounded pieces and join the results."""
    # written into one array: small results kept between large temporary ones would pin every one of those in memory
    out = X.new_empty(len(X))
    for start in range(0, len(X), chunk):
        out[start : start + chunk] = function(X[start : start + chunk])
    return out


def valid(X: Tensor, space: Space, avoid: Tensor) -> Tensor:
    """The distinct valid points nearest to ``N x d``, less those taken already, in their order."""
    snapped = space.snap(X.numpy())
    snapped = snapped[space.feasible(snapped)]
    _, first = np.unique(snapped, axis=0, return_index=True)
    x = torch.from_numpy(snapped[np.sort(first)])
    return x[nearest(x, avoid) > DUPLICATE]


def sobol_pool(space: Space, n: int, context: Context) -> Tensor:
    """At most ``n`` fresh candidates spread evenly over the space, ``N x d``; another pool at every call."""
    return valid(torch.from_numpy(space.sobol(n, draw_seed(context.generator))), space, taken(context))


def refine(pool: Tensor, merit: Tensor, space: Space, n: int, context: Context) -> Tensor:
    """New candidates around the best of a pool, ``at most n x d``.

    The parents are drawn from the pool's best twentieth; the step has the pool's own spacing, so that the
    children fill the gaps between the pool's points there.

    Args:
        pool: candidates, ``N x d``.
        merit: how good each is, ``N``.
        space: for validity.
        n: how many children are tried.
        context: what is taken, and the generator.
    """
    if not n or not len(pool):
        return pool[:0]
    best = merit.topk(max(1, len(pool) // 20)).indices
    parents = pool[best[torch.randint(len(best), (n,), generator=context.generator)]]
    spacing = len(pool) ** (-1 / pool.shape[1])
    step = torch.randn(parents.shape, generator=context.generator, dtype=pool.dtype) * spacing
    return valid((parents + step).clamp(0, 1), space, torch.cat([taken(context), pool]))
