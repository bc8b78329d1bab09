"""The methods of ``data_efficiency.py``: alearn's acquisitions, and the peers they are measured against."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model
from efficiency_problems import Problem

from alearn.acquisition import (
    Bait,
    BoTorchAcquisition,
    Context,
    Lcmd,
    MaxDet,
    Mixture,
    Portfolio,
    Random,
    Selection,
    StdDistance,
    Vigf,
    WeightedIVR,
)
from alearn.acquisition.base import Acquisition
from alearn.space import Space
from alearn.types import Floats


@dataclass
class Asked:
    """What a method may know when it chooses ``q`` points."""

    space: Space
    X: Floats
    Y: Floats
    model: Model | None
    q: int
    generator: torch.Generator
    round: int
    seed: int
    residuals: Floats | None = None


@dataclass(frozen=True)
class Method:
    """A way of choosing points: with which surrogate (empty: none), and what chooses."""

    make: Callable[[int], Any]
    surrogate: str = ""
    most: int = 99
    needs: str = ""
    one_output: bool = False

    def fits(self, problem: Problem) -> bool:
        """False where the method cannot be used: too many dimensions or outputs, or its package is not installed."""
        fits = problem.space.d <= self.most and not (self.one_output and (problem.modes or problem.outputs > 1))
        return fits and (not self.needs or importlib.util.find_spec(self.needs) is not None)


class Prototype:
    """The thirty-line prototype: the ensemble's standard deviation times the distance to the nearest point, greedily."""

    def __init__(self, pool: int = 4096) -> None:
        self.pool = pool

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points of a Sobol pool."""
        pool = torch.as_tensor(space.sobol(self.pool, seed=int(torch.randint(2**31, (1,), generator=context.generator))))
        posterior: Any = surrogate.posterior(pool.unsqueeze(1))
        std = posterior.variance.squeeze(1).sum(-1).sqrt()
        known = context.X
        picked = []
        for _ in range(q):
            score = std * torch.cdist(pool, known).amin(dim=1)
            picked.append(int(score.argmax()))
            known = torch.cat([known, pool[picked[-1:]]])
        return Selection(pool[picked].numpy(), np.zeros(q), ["std x distance"] * q)


class SobolDesign:
    """Points of a design that continues the initial one: Sobol."""

    def points(self, asked: Asked) -> Floats:
        return asked.space.sobol(asked.q, seed=asked.seed, skip=len(asked.X))


class Lhs:
    """One Latin hypercube after the other."""

    def points(self, asked: Asked) -> Floats:
        return asked.space.lhs(asked.q, seed=1000 * asked.seed + len(asked.X))


class Adaptive:
    """python-adaptive's LearnerND (Nijholt et al. 2019), told everything and asked for the next points."""

    def __init__(self) -> None:
        self.learner: Any = None
        self.told = 0

    def points(self, asked: Asked) -> Floats:
        import adaptive

        d = asked.space.d
        if self.learner is None:
            self.learner = adaptive.LearnerND(lambda x: 0.0, bounds=[(0.0, 1.0)] * d)
            # the corners bound its triangulation; they are simulated first, and count
            corners, _ = self.learner.ask(2**d)
            self.corners = np.array(corners)
            return self._fill(asked, self.corners)
        for x, y in zip(asked.X[self.told :], asked.Y[self.told :], strict=True):
            if np.isfinite(y).all():
                self.learner.tell(tuple(x), float(y[0]))
        self.told = len(asked.X)
        return np.array(self.learner.ask(asked.q)[0])

    def _fill(self, asked: Asked, corners: Floats) -> Floats:
        rest = asked.space.sobol(asked.q - len(corners), seed=asked.seed, skip=len(asked.X))
        return np.vstack([corners, rest])


def success(X: Floats, ok: Floats, k: int = 5) -> Callable[[torch.Tensor], torch.Tensor]:
    """The share of the nearest members that succeeded, weighted by distance: what a study lets its acquisition know."""
    points, outcome = torch.tensor(X), torch.tensor(ok).double()

    def probability(pool: torch.Tensor) -> torch.Tensor:
        distance, index = torch.cdist(pool.double(), points).topk(min(k, len(points)), largest=False)
        weight = 1.0 / (distance + 0.02)
        return 0.02 + 0.98 * (weight * outcome[index]).sum(-1) / weight.sum(-1)

    return probability


def next_points(asker: Any, asked: Asked) -> Floats:
    """The next points of a method, ``q x d``."""
    if isinstance(asker, (SobolDesign, Lhs, Adaptive)):
        return asker.points(asked)
    ok = np.isfinite(asked.Y).all(axis=1)
    d = asked.space.d
    context = Context(
        X=torch.tensor(asked.X[ok]),
        pending=torch.empty(0, d, dtype=torch.float64),
        progress=torch.empty(0, dtype=torch.float64),
        generator=asked.generator,
        round=asked.round,
        created=len(asked.X),
        residuals=None if asked.residuals is None else torch.tensor(asked.residuals[ok]),
        feasible=None if ok.all() else success(asked.X, ok),
    )
    acquisition: Acquisition = asker
    assert asked.model is not None or isinstance(asker, Random)
    return acquisition.select(asked.model, asked.space, asked.q, context).x  # type: ignore[arg-type]


def _holding_out(acquisition: Acquisition, share: float = 0.1) -> Mixture:
    """As in a study, where a share of the points is a Sobol stream beside the acquisition."""
    mixed = Mixture(of=[{"name": "std_distance", "share": 1 - share}, {"name": "random", "share": share}])
    mixed.parts[0] = ("std_distance", acquisition)
    return mixed


METHODS: dict[str, Method] = {
    "sobol": Method(lambda seed: SobolDesign()),
    "default": Method(lambda seed: _holding_out(StdDistance()), "ensemble"),
    "default_auto": Method(lambda seed: _holding_out(StdDistance()), "auto"),
    "prototype": Method(lambda seed: Prototype(), "ensemble"),
    "std_distance": Method(lambda seed: StdDistance(), "ensemble"),
    "std_distance_gp": Method(lambda seed: StdDistance(), "gp"),
    "ivr_gp": Method(lambda seed: WeightedIVR(), "gp"),
    "vigf_gp": Method(lambda seed: Vigf(), "gp"),
    "portfolio": Method(lambda seed: Portfolio(), "ensemble"),
    "lcmd": Method(lambda seed: Lcmd(), "ensemble"),
    "maxdet": Method(lambda seed: MaxDet(), "ensemble"),
    "bait": Method(lambda seed: Bait(), "ensemble"),
    "random": Method(lambda seed: Random()),
    "lhs": Method(lambda seed: Lhs()),
    "adaptive": Method(lambda seed: Adaptive(), most=2, needs="adaptive"),
    "botorch_std": Method(lambda seed: BoTorchAcquisition(function="std"), "gp", one_output=True),
    "botorch_qnipv": Method(lambda seed: BoTorchAcquisition(function="qNIPV"), "gp", one_output=True),
}
"""The methods by name."""
