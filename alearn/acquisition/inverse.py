"""Inverse design: which parameters give the largest output, or a wanted one?"""

from __future__ import annotations

import math

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, greedy, known_distance, selection
from alearn.acquisition.objective import Objective
from alearn.acquisition.pool import refine, sobol_pool
from alearn.acquisition.scores import prospects
from alearn.errors import UnknownName
from alearn.space import Space

KINDS = ("ei", "ucb", "thompson")


class Inverse:
    """Looks for the point of the largest output, the smallest, or the one nearest to a target.

    Args:
        kind: "ei", expected improvement over the best member (Jones, Schonlau and Welch 1998); "ucb", mean plus
            ``beta`` standard deviations (Srinivas et al. 2010); "thompson", for each pick the best point of one draw of the
            posterior (Thompson 1933): an estimator of an ensemble.
        output: number of the output, counted from 0.
        when: last, mean, max or min over the trajectory.
        minimise: look for the smallest output.
        target: look for this value of the output instead, in its own unit.
        beta: see "ucb".
        pool: candidates spread over the space.
        refine: further candidates around the best of them.
    """

    def __init__(
        self,
        *,
        kind: str = "ei",
        output: int = 0,
        when: str = "max",
        minimise: bool = False,
        target: float | None = None,
        beta: float = 2.0,
        pool: int = 8192,
        refine: int = 2048,
    ) -> None:
        check_positive("pool", pool)
        if kind not in KINDS:
            raise UnknownName("value of the acquisition's option kind:", str(kind), KINDS)
        self.kind, self.objective, self.minimise, self.target, self.beta = kind, Objective(output, when), minimise, target, beta
        self.pool, self.refine = pool, refine

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        X = sobol_pool(space, self.pool, context)
        X = torch.cat([X, refine(X, self._utility(surrogate, X, context).mean(dim=0), space, self.refine, context)])
        found = prospects(surrogate, X, context)
        utility = self._utility(surrogate, X, context)
        best = float(self._utility(surrogate, context.X.double(), context).mean(dim=0).max()) if len(context.X) else -math.inf
        if self.kind == "thompson":
            order = torch.randperm(len(utility), generator=context.generator)
            merits = [utility[int(order[i % len(order)])] for i in range(min(q, len(X)))]
        else:
            merits = [self._merit(utility, best)] * min(q, len(X))
        distance = known_distance(X, context)
        rows: list[int] = []
        for merit in merits:
            # a little repulsion: the second pick of a batch must not be the first one's neighbour
            positive = (merit - merit.min()) * found.worth + 1e-12
            row, _ = greedy(X, positive, distance, 1, 0.0 if self.kind == "thompson" else 0.25)
            if not row:
                break
            rows += row
            distance = torch.minimum(distance, (X - X[row[0]]).norm(dim=1))
        mean = self._raw(surrogate, X[rows], context)
        lines = explain(found, rows, context)
        why = [f"{self.kind} for {self._aim}: predicted {float(m):.3g}; {line}" for m, line in zip(mean, lines, strict=True)]
        scores = [float(merits[i][row]) for i, row in enumerate(rows)]
        return selection(X[rows], scores, why)

    @property
    def _aim(self) -> str:
        if self.target is not None:
            return f"the value {self.target:g}"
        return "the smallest value" if self.minimise else "the largest value"

    def _raw(self, surrogate: Model, X: Tensor, context: Context) -> Tensor:
        return self.objective.draws(surrogate, X, context.generator).mean(dim=0)

    def _utility(self, surrogate: Model, X: Tensor, context: Context) -> Tensor:
        draws = self.objective.draws(surrogate, X, context.generator)
        if self.target is not None:
            return -(draws - self.target).abs()
        return -draws if self.minimise else draws

    def _merit(self, utility: Tensor, best: float) -> Tensor:
        if self.kind == "ucb":
            return utility.mean(dim=0) + self.beta * utility.std(dim=0)
        mean, std = utility.mean(dim=0), utility.std(dim=0).clamp_min(1e-12)
        if math.isinf(best):
            return mean
        z = (mean - best) / std
        density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        below = torch.special.ndtr(z)
        gain = (mean - best) * below + std * density
        # so far under the best that the gain vanishes, the ranking is the z's
        return torch.where(gain > 1e-12 * std, gain, 1e-12 * std * torch.exp(z.clamp(-500, 0) / 500))
