"""Designs: Sobol, Latin hypercube, maximin and uniform points, or the user's own; with rejection where the space is constrained."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alearn.errors import ConfigError
from alearn.types import Floats

if TYPE_CHECKING:
    from alearn.space.space import Space

DESIGNS = {
    "sobol": "initial space-filling design (Sobol)",
    "lhs": "initial space-filling design (Latin hypercube)",
    "maximin": "initial space-filling design (maximin distance)",
}
"""The kinds of initial designs, each with the reason that its points carry."""
CONTINUATION = 104_729
"""Added to the seed of the Sobol sequence that goes on where a design of another kind ends."""
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


def maximin(space: Space, n: int, seed: int, pool: int = 64) -> Floats:
    """``n`` points far from one another (Johnson, Moore and Ylvisaker 1990), ``n x d``: greedily from ``pool n`` Sobol points."""
    candidates = space.sobol(max(n * pool, 1), seed)
    distance = np.full(len(candidates), np.inf)
    rows = [int(((candidates - 0.5) ** 2).sum(axis=1).argmin())] if n else []
    while len(rows) < n:
        distance = np.minimum(distance, np.linalg.norm(candidates - candidates[rows[-1]], axis=1))
        rows.append(int(distance.argmax()))
    return np.asarray(candidates[rows].reshape(n, space.d))


def points_in(path: Path, space: Space) -> Floats:
    """The points of a CSV table with a column for each parameter, ``n x d``; other columns are ignored.

    Raises:
        ConfigError: there is no such table, a column is missing, or a row is not in the space.
    """
    if not path.is_file():
        raise ConfigError(f"The design {path} does not exist; give design.kind a CSV file, or one of {', '.join(DESIGNS)}.")
    with path.open(newline="") as file:
        table = csv.DictReader(file, skipinitialspace=True)
        missing = [n for n in space.names if n not in [str(c).strip() for c in table.fieldnames or []]]
        if missing:
            raise ConfigError(f"The design {path} lacks a column for {', '.join(missing)}.")
        points = []
        for line, row in enumerate(table, start=2):
            cells = {str(k).strip(): v for k, v in row.items() if k is not None}
            point = {n: space[n].parse((cells[n] or "").strip()) for n in space.names}
            try:
                space.check(point)
            except ConfigError as error:
                raise ConfigError(f"Line {line} of the design {path} cannot be used: {error}") from error
            points.append(point)
    if not points:
        raise ConfigError(f"The design {path} holds no points.")
    return space.to_unit(points)


def initial_design(space: Space, kind: str, size: int, n: int, seed: int, skip: int) -> Floats:
    """The points ``skip`` to ``skip + n`` of an initial design, ``n x d``.

    Args:
        space: the parameters.
        kind: one of ``DESIGNS``, or a CSV file with points.
        size: of the whole design; what is asked for beyond it are Sobol points.
        n: how many.
        seed: of the study.
        skip: how many were taken before.
    """
    if kind == "sobol":
        return space.sobol(n, seed, skip=skip)
    whole = (
        space.lhs(size, seed) if kind == "lhs" else maximin(space, size, seed) if kind == "maximin" else points_in(Path(kind), space)[:size]
    )
    own = whole[skip : skip + n]
    more = n - len(own)
    return np.vstack([own, space.sobol(more, seed + CONTINUATION, skip=max(0, skip - len(whole)))]) if more else own
