"""Breed: offspring of the members on which the surrogate errs, for spaces of many dimensions."""

from __future__ import annotations

import torch
from botorch.models.model import Model

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import Random, check_positive
from alearn.acquisition.batch import away, selection
from alearn.acquisition.loo import local_error
from alearn.acquisition.pool import nearest, taken, valid
from alearn.errors import ConfigError
from alearn.space import Space

TRIES = 20


class Breed:
    """Draws parents among the members in proportion to their error and mutates them, in the spirit of the loss-driven
    sampling of Dymchenko and Raffin 2024 ("Loss-driven sampling within hard-to-learn areas"); a share stays uniform.

    No pool is scored, so that the cost does not grow with the dimension.

    Args:
        sigma: standard deviation of a mutation in the unit cube, halved every ``half_life`` rounds.
        half_life: rounds.
        uniform: share of points drawn uniformly.
        power: exponent of the error in a parent's probability.
    """

    def __init__(self, *, sigma: float = 0.1, half_life: float = 10.0, uniform: float = 0.3, power: float = 1.0) -> None:
        check_positive("sigma", sigma)
        check_positive("half_life", half_life)
        if not 0 <= uniform <= 1:
            raise ConfigError(f"The acquisition's option uniform is {uniform}; give a share between 0 and 1.")
        self.sigma, self.half_life, self.uniform, self.power = sigma, half_life, uniform, power

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        known = context.X.double()
        avoid = taken(context)
        bred = avoid[:0]
        parents: list[int] = []
        if len(known):
            wanted = q - int((torch.rand(q, generator=context.generator) < self.uniform).sum())
            chance = local_error(surrogate, known, context) ** self.power + 1e-9
            sigma = self.sigma * 0.5 ** (context.round / self.half_life)
            for _ in range(TRIES * q):
                if len(bred) >= wanted:
                    break
                parent = int(torch.multinomial(chance, 1, generator=context.generator))
                step = torch.randn(1, known.shape[1], generator=context.generator, dtype=torch.float64) * sigma
                child = valid((known[parent] + step).clamp(0, 1), space, torch.cat([avoid, bred]))
                if len(child) and self._accepted(child, context):
                    bred = torch.cat([bred, child])
                    parents.append(parent)
        to_data = nearest(bred, known)
        why = [
            f"offspring of a member with {float(chance[p]):.1f}x the mean error; {away(float(d))}"
            for p, d in zip(parents, to_data, strict=True)
        ]
        scores = [float(chance[p]) for p in parents]
        missing = q - len(bred)
        if missing > 0:
            others = Context(
                context.X, torch.cat([context.pending.double(), bred]), torch.zeros(len(context.pending) + len(bred)), context.generator
            )
            rest = Random().select(surrogate, space, missing, others)
            bred = torch.cat([bred, torch.from_numpy(rest.x)])
            scores, why = [*scores, *rest.scores.tolist()], [*why, *rest.reasons]
        return selection(bred, scores, why)

    def _accepted(self, child: torch.Tensor, context: Context) -> bool:
        """By its probability of success, where failures are known."""
        if context.feasible is None:
            return True
        return float(torch.rand(1, generator=context.generator)) < float(context.feasible(child)[0])
