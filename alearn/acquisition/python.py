"""The user's own acquisition: one function in one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, greedy, known_distance, selection
from alearn.acquisition.pool import sobol_pool
from alearn.acquisition.scores import prospects
from alearn.errors import ConfigError
from alearn.registry import load_object
from alearn.space import Space

Score = Callable[[Model, torch.Tensor, Context], Any]


class PythonAcquisition:
    """Selects by a score that the user writes::

        def my_score(surrogate, X, context):
            posterior = surrogate.posterior(X.unsqueeze(1))          # X is N x d, in the unit cube
            return posterior.variance.squeeze(1).sum(-1).sqrt()      # N scores, larger is better

    Feasibility and cost, where the study knows them, weigh the score as they do every other (multiplied with
    the probability of success, divided by cost), as long as no score is negative.

    Args:
        target: ``FILE.py:FUNCTION``, ``package.module:FUNCTION``, or the function itself.
        gamma: weight of the distance to what is known and already chosen; 0 takes the best ``q`` scores, which for
            a smooth score is a heap of neighbours.
        pool: candidates compared.
    """

    def __init__(self, *, target: str | Score = "", gamma: float = 1.0, pool: int = 8192) -> None:
        check_positive("pool", pool)
        if not gamma >= 0:
            raise ConfigError(f"The acquisition's option gamma is {gamma}; give a number of at least 0.")
        if not target:
            raise ConfigError(
                "The acquisition 'python' needs acquisition.target=FILE.py:FUNCTION, a function (surrogate, X, context) -> scores."
            )
        self.score: Score = load_object(target) if isinstance(target, str) else target
        self.name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
        if not callable(self.score):
            raise ConfigError(
                f"The acquisition's target {self.name} is a {type(self.score).__name__}, not a function (surrogate, X, context)."
            )
        self.gamma = gamma
        self.pool = pool

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more.

        Raises:
            ConfigError: the function raises, or returns something else than a finite score for each candidate.
        """
        X = sobol_pool(space, self.pool, context)
        score = self._scores(surrogate, X, context)
        found = prospects(surrogate, X, context)
        distance = known_distance(X, context)
        # a product with distance or probability only makes sense on a scale that starts at the worst candidate
        lowest = min(0.0, float(score.min())) if len(score) else 0.0
        rows, _ = greedy(X, (score - lowest) * found.worth, distance, q, self.gamma)
        reasons = explain(found, rows, context)
        own = [f"{self.name} {float(score[row]):.3g}; {reason}" for row, reason in zip(rows, reasons, strict=True)]
        return selection(X[rows], score[rows].tolist(), own)

    def _scores(self, surrogate: Model, X: torch.Tensor, context: Context) -> torch.Tensor:
        if not len(X):
            return X.new_empty(0)
        try:
            raw = self.score(surrogate, X.clone(), context)
            score = torch.as_tensor(np.asarray(raw.detach() if isinstance(raw, torch.Tensor) else raw), dtype=torch.float64)
        except Exception as error:
            raise ConfigError(f"The acquisition function {self.name} raised {type(error).__name__}: {error}") from error
        if score.shape != (len(X),):
            raise ConfigError(
                f"The acquisition function {self.name} returned shape {tuple(score.shape)} for {len(X)} candidates; "
                f"return one score for each, shape ({len(X)},)."
            )
        if not torch.isfinite(score).all():
            bad = int((~torch.isfinite(score)).sum())
            raise ConfigError(
                f"The acquisition function {self.name} returned {bad} scores that are NaN or infinite; return finite numbers."
            )
        return score
