"""Designs: Sobol, Latin hypercube and uniform points, with rejection where the space is constrained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from alearn.errors import ConfigError
from alearn.types import Floats

if TYPE_CHECKING:
    from alearn.space.space import Space

MAX_DRAWS = 1 << 20
"""How many points are tried before a constraint counts as impossible to meet."""


def rejection(space: Space, n: int, draw: Callable[[int], Floats]) -> Floats:
    """The first ``n`` allowed points of a stream.

    Args:
        space: tells which points are allowed.
        n: how many are needed.
        draw: gives the stream's next ``k`` valid points, ``k x d``.

    Raises:
        ConfigError: n is negative, or hardly any point is allowed.
    """
    if n < 0:
        raise ConfigError(f"{n} points were asked for; give a number of at least 0.")
    if not space.constraints:
        return draw(n) if n else np.empty((0, space.d))
    kept: list[Floats] = []
    have = tried = 0
    while have < n:
        if tried >= MAX_DRAWS or (tried >= 1 << 16 and have == 0):
            rules = "; ".join(c.describe() for c in space.constraints)
            raise ConfigError(
                f"Only {have} of {tried} points keep the constraints ({rules}), and {n} are needed; loosen them or narrow the box."
            )
        share = max(have / tried, 0.01) if tried else 0.5
        block = draw(min(max(64, int((n - have) / share)), 1 << 16))
        tried += len(block)
        kept.append(block[space.feasible(block)])
        have += len(kept[-1])
    return np.vstack(kept)[:n] if kept else np.empty((0, space.d))


class SobolStream:
    """A Sobol sequence over the parameters, read forward. ``engine`` is scipy's."""

    def __init__(self, space: Space, engine: Any) -> None:
        self.space = space
        self.engine = engine
        self._first = True

    def take(self, n: int, skip: int = 0) -> Floats:
        """The allowed points ``skip`` to ``skip + n`` of the sequence."""
        if skip < 0:
            raise ConfigError(f"skip is {skip}; give a number of at least 0.")
        if not self.space.constraints and skip:
            self.engine.fast_forward(skip)
            self._first = False
            skip = 0
        return rejection(self.space, n + skip, self._draw)[skip:]

    def _draw(self, k: int) -> Floats:
        if self._first:
            # scipy warns of lost balance unless its first draw is a power of two; what we cut off is never shown
            self._first = False
            size = 1 << max(k - 1, 0).bit_length()
            points = self.engine.random(size)
            if self.space.constraints:
                return self.space.spread(points)
            return self.space.spread(points[:k])
        return self.space.spread(self.engine.random(k))


def latin_hypercube(space: Space, n: int, seed: int) -> Floats:
    """A Latin hypercube of ``n`` points (McKay et al. 1979), ``n x d``; enlarged until ``n`` of it are allowed."""
    from scipy.stats import qmc

    rng = np.random.default_rng(seed)

    def draw(k: int) -> Floats:
        return space.spread(qmc.LatinHypercube(len(space.parameters), rng=rng).random(k))

    return rejection(space, n, draw)
