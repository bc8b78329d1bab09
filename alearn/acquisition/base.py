"""The acquisition contract: choose a q-batch of points, each with a score and a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.space import Space
from alearn.types import Floats


@dataclass(frozen=True, slots=True)
class Context:
    """What an acquisition may know besides the surrogate. Points are in the unit cube.

    Args:
        X: parameters of members with data, ``n x d``.
        pending: parameters of members queued or running, ``p x d``.
        progress: for each pending member, the share of its trajectory already streamed, ``p``.
        generator: the acquisition's own random generator.
        round: the number of this round.
        residuals: prequential error of each member of ``X``, normalised, ``n`` (NaN where unknown).
        feasible: probability that a member at each of a pool's points succeeds; None if nothing failed yet.
        cost: expected core-seconds of a member at each of a pool's points; None if all cost alike.
        created: how many members the study has made so far, failed ones included; None counts X and pending.
    """

    X: Tensor
    pending: Tensor
    progress: Tensor
    generator: torch.Generator
    round: int = 0
    residuals: Tensor | None = None
    feasible: PoolFunction | None = None
    cost: PoolFunction | None = None
    created: int | None = None


class PoolFunction(Protocol):
    """A function over a pool: ``N x d`` to ``N``."""

    def __call__(self, X: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """A chosen batch: points ``q x d`` in the unit cube, a score and a reason for each."""

    x: Floats
    scores: Floats = field(default_factory=lambda: np.empty(0))
    reasons: Sequence[str] = ()


class Acquisition(Protocol):
    """Chooses what to simulate next.

    ``surrogate`` is a model over parameters only: ``posterior(X)`` takes ``batch_shape x q x d``. A surrogate
    over (parameters, t) arrives wrapped so that its ``m`` outputs are those of the whole trajectory.
    """

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` distinct points, none of them in ``X`` or pending; fewer only if the space has no more."""
        ...
