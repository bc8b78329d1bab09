"""Straddle: where is the output above a level?"""

from __future__ import annotations

from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, greedy, known_distance, selection
from alearn.acquisition.objective import Objective
from alearn.acquisition.pool import sobol_pool
from alearn.acquisition.scores import prospects
from alearn.errors import ConfigError
from alearn.space import Space


class Straddle:
    """Picks uncertain points near a level set: ``width x std - |mean - level|`` (Bryan et al. 2005, "Active learning for
    identifying function threshold boundaries"); picks repel one another.

    Args:
        level: in the output's own unit.
        output: number of the output, counted from 0.
        when: last, mean, max or min over the trajectory.
        width: of the band around the level, in standard deviations.
        pool: candidates compared.
    """

    def __init__(self, *, level: float | None = None, output: int = 0, when: str = "last", width: float = 1.96, pool: int = 8192) -> None:
        check_positive("pool", pool)
        check_positive("width", width)
        if level is None:
            raise ConfigError("The acquisition 'straddle' needs acquisition.level=NUMBER, the level whose set is looked for.")
        self.level, self.objective, self.width, self.pool = float(level), Objective(output, when), width, pool

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        found = prospects(surrogate, sobol_pool(space, self.pool, context), context)
        draws = self.objective.draws(surrogate, found.X, context.generator)
        mean, std = draws.mean(dim=0), draws.std(dim=0)
        straddle = self.width * std - (mean - self.level).abs()
        # a product with distance needs a positive score, and far from the level one that still tells near from far
        scale = max(float(std.mean()), 1e-300)
        merit = (straddle / scale).exp().clamp(max=1e12).log1p()
        rows, _ = greedy(found.X, merit * found.worth, known_distance(found.X, context), q, 1.0)
        lines = explain(found, rows, context)
        why = [
            f"predicted {float(mean[r]):.3g} +- {float(std[r]):.2g} against the level {self.level:g}; {line}"
            for r, line in zip(rows, lines, strict=True)
        ]
        return selection(found.X[rows], straddle[rows].tolist(), why)
