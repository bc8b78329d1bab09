"""Goal-weighted: accuracy where it matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, greedy, known_distance, selection
from alearn.acquisition.objective import Objective
from alearn.acquisition.pool import refine, sobol_pool
from alearn.acquisition.scores import prospects
from alearn.errors import ConfigError
from alearn.registry import load_object
from alearn.space import Space
from alearn.types import Parameters

Weight = Callable[[Parameters], float]


class GoalWeighted:
    """Standard deviation times distance times how much a point matters.

    What matters is one of: a region of the box, the largest share of an output, or a function of yours.

    Args:
        region: low and high end of some parameters in their own units, ``{kappa: [0.1, 0.3]}``.
        top: share of the points with the largest output that matter, by the surrogate's present belief.
        target: ``FILE.py:FUNCTION`` or a function of the parameters (as keywords) that returns a weight of at least 0.
        output: number of the output, counted from 0, for ``top``.
        when: last, mean, max or min over the trajectory, for ``top``.
        outside: weight of what does not matter; above 0, so that an error there is still found.
        pool: candidates spread over the space.
        refine: further candidates around the best of them.

    Raises:
        ConfigError: not exactly one of region, top and target is given.
    """

    def __init__(
        self,
        *,
        region: Mapping[str, Sequence[float]] | None = None,
        top: float | None = None,
        target: str | Callable[..., Any] = "",
        output: int = 0,
        when: str = "last",
        outside: float = 0.1,
        pool: int = 8192,
        refine: int = 2048,
    ) -> None:
        check_positive("pool", pool)
        check_positive("outside", outside)
        if sum((bool(region), top is not None, bool(target))) != 1:
            raise ConfigError(
                "The acquisition 'goal' needs one of acquisition.region={a: [low, high]}, acquisition.top=0.1 and "
                "acquisition.target=FILE.py:FUNCTION."
            )
        if top is not None and not 0 < top < 1:
            raise ConfigError(f"The acquisition's option top is {top}; give a share between 0 and 1.")
        for name, ends in (region or {}).items():
            if len(ends) != 2 or not ends[0] < ends[1]:
                raise ConfigError(f"The acquisition's region has {name}: {list(ends)}; give [low, high].")
        self.region, self.top, self.outside, self.pool, self.refine = dict(region or {}), top, outside, pool, refine
        self.function: Any = load_object(target) if isinstance(target, str) and target else target
        self.objective = Objective(output, when)

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more.

        Raises:
            ConfigError: the user's function fails or returns no weight.
        """
        for name in self.region:
            space.columns(name)
        X = sobol_pool(space, self.pool, context)
        first = prospects(surrogate, X, context)
        merit = first.std * self._weights(surrogate, space, X, context) * known_distance(X, context)
        X = torch.cat([X, refine(X, merit, space, self.refine, context)])
        found, weight = prospects(surrogate, X, context), self._weights(surrogate, space, X, context)
        rows, scores = greedy(X, found.std * found.worth * weight, known_distance(X, context), q, 1.0)
        lines = explain(found, rows, context)
        return selection(X[rows], scores, [f"matters {float(weight[r]):.2g}; {line}" for r, line in zip(rows, lines, strict=True)])

    def _weights(self, surrogate: Model, space: Space, X: Tensor, context: Context) -> Tensor:
        """How much each of ``N`` candidates matters, between ``outside`` and 1."""
        if not len(X):
            return X.new_empty(0)
        if self.top is not None:
            draws = self.objective.draws(surrogate, X, context.generator)
            level = torch.quantile(draws.mean(dim=0), 1 - self.top)
            # the share of the posterior that lies above the level: a point that may be high matters too
            matters = (draws > level).double().mean(dim=0)
        else:
            points = space.from_unit(X.numpy())
            if self.region:
                inside = [all(low <= float(p[name]) <= high for name, (low, high) in self.region.items()) for p in points]
                matters = torch.tensor(inside, dtype=torch.float64)
            else:
                matters = self._own(points)
        return self.outside + (1 - self.outside) * matters

    def _own(self, points: Sequence[Parameters]) -> Tensor:
        try:
            weight = np.array([float(self.function(**point)) for point in points])
        except Exception as error:
            raise ConfigError(f"The goal's weight function raised {type(error).__name__}: {error}") from error
        if not np.isfinite(weight).all() or (weight < 0).any() or not weight.max() > 0:
            raise ConfigError(
                "The goal's weight function returned weights that are negative, not finite, or all zero; return numbers of at least 0."
            )
        return torch.from_numpy(weight / weight.max())
