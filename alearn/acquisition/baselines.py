"""Designs that ignore the surrogate: random, Sobol, Latin hypercube and maximin points. What every acquisition must beat."""

from __future__ import annotations

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.batch import away, greedy, known_distance, selection
from alearn.acquisition.pool import draw_seed, nearest, numpy_rng, sobol_pool, taken, valid
from alearn.errors import ConfigError
from alearn.space import Space

TRIES = 20


class Random:
    """Independent uniform points."""

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        rng = numpy_rng(context.generator)
        avoid = taken(context)
        x = avoid[:0]
        for _ in range(TRIES):
            if len(x) >= q:
                break
            fresh = torch.from_numpy(space.uniform(max(q, 16), rng))
            x = torch.cat([x, valid(fresh, space, torch.cat([avoid, x]))])
        return _unscored(x[:q], context, "uniformly at random")


class Sobol:
    """The next points of one scrambled Sobol sequence (Sobol 1967, Owen 1998).

    Which points come next follows from the seed and from how many members there are, so that a resumed study
    goes on where it was.

    Args:
        seed: of the scrambling; the study's initial design continues seamlessly if it was drawn with the same.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose the sequence's next ``q`` points; fewer if the space has no more."""
        avoid = taken(context)
        skip = len(avoid) if context.created is None else context.created
        x = avoid[:0]
        for _ in range(TRIES):
            if len(x) >= q:
                break
            n = q - len(x)
            fresh = torch.from_numpy(space.sobol(n, self.seed, skip=skip))
            x = torch.cat([x, valid(fresh, space, torch.cat([avoid, x]))])
            skip += n
        return _unscored(x, context, "next of the Sobol sequence")


class LatinHypercube:
    """A fresh Latin hypercube for every batch (McKay, Beckman and Conover 1979)."""

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        avoid = taken(context)
        x = avoid[:0]
        for _ in range(TRIES):
            if len(x) >= q:
                break
            fresh = torch.from_numpy(space.lhs(q - len(x), draw_seed(context.generator)))
            x = torch.cat([x, valid(fresh, space, torch.cat([avoid, x]))])
        return _unscored(x, context, "one of a Latin hypercube")


class Maximin:
    """Points far from everything known: each the farthest of a pool from data, pending members and one another
    (Johnson, Moore and Ylvisaker 1990).

    Args:
        pool: candidates compared.
    """

    def __init__(self, *, pool: int = 8192) -> None:
        check_positive("pool", pool)
        self.pool = pool

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        X = sobol_pool(space, self.pool, context)
        rows, scores = greedy(X, X.new_ones(len(X)), known_distance(X, context), q, 1.0)
        to_data = nearest(X[rows], context.X.double())
        return selection(X[rows], scores, [f"farthest from what is known; {away(float(d))}" for d in to_data])


def check_positive(option: str, value: float) -> None:
    """Refuse an option that must be above zero.

    Raises:
        ConfigError: it is not.
    """
    if not value > 0:
        raise ConfigError(f"The acquisition's option {option} is {value}; give a number above 0.")


def _unscored(x: Tensor, context: Context, why: str) -> Selection:
    to_data = nearest(x, context.X.double())
    return selection(x, [float("nan")] * len(x), [f"{why}; {away(float(d))}" for d in to_data])
