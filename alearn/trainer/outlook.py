"""What the steps to come of running members are worth: their streams, the surrogate's forecasts, and what such forecasts came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch

from alearn.surrogate.base import Surrogate
from alearn.trainer.continuation import Streams, remaining_variance
from alearn.trainer.evidence import Evidence
from alearn.trainer.features import Features
from alearn.trainer.grid import TimeGrid, evenly
from alearn.trainer.jury import predict
from alearn.types import Array, Floats

LOOK = 8
"""The most steps to come at which a member is judged."""


@final
class Outlook:
    """Judges running members by the forecasts of those before them.

    Args:
        features: makes the surrogate's inputs, and its targets.
        grid: when steps come.
    """

    def __init__(self, features: Features, grid: TimeGrid) -> None:
        self._features, self._grid = features, grid
        self._streams = Streams(features)
        self.evidence = Evidence()

    def streamed(self, group: int, t: Floats, y: Floats) -> None:
        """A running member streamed: times ``n`` and rows' outputs ``n x width``, in order."""
        self._streams.add(group, t, y)

    def arrived(self, groups: Array, steps: Array, targets: Floats) -> None:
        """Rows came: numbers of members ``n``, steps ``n`` and outputs ``n x m``."""
        self.evidence.arrived(groups, steps, targets)

    def ended(self, group: int, killed: bool) -> None:
        """A member streams no more."""
        self._streams.drop(group)
        self.evidence.ended(group, killed)

    def worth(self, surrogate: Surrogate, group: int, x: Floats, step: int, total: int, best: float) -> float:
        """What a member's steps ``step + 1 … total - 1`` would teach, by two witnesses: the larger of what the surrogate believes now and
        of what such forecasts came to.

        Args:
            surrogate: over (parameters, t).
            group: the member's number; -1 if nothing of it came yet.
            x: its point in the unit cube, ``d``.
            step: its last step.
            total: steps of its whole trajectory.
            best: the variance predicted for the best candidate, mean over its trajectory, normalised.

        Returns:
            Variance, mean over steps and outputs, normalised by the outputs' spread, to be compared with ``best``; NaN while too few
            members were seen to their end.
        """
        steps, times = evenly(step + 1, total, LOOK), self._grid.times(step + 1, total, LOOK)
        variance = self._variance(surrogate, group, x, times)
        if group >= 0 and self.evidence.wants(group, step, total):
            mean, _ = predict(surrogate, self._features.inputs(x[None], times))
            mean = np.broadcast_to(mean, (len(steps), mean.shape[1]))  # one for all without t
            self.evidence.forecast(group, (step + 1) / total, variance, best, steps, mean, self._scale(surrogate))
        record = self.evidence.worth(variance, best) / max(self.evidence.fresh(), 1e-12)
        return math.nan if math.isnan(record) else max(variance, record * best)

    def _variance(self, surrogate: Surrogate, group: int, x: Floats, times: Floats) -> float:
        """Mean normalised variance of the steps to come, given what has been streamed if the surrogate is an ensemble."""
        if self._features.over_t:
            t, y = self._streams.seen(group)
            given = remaining_variance(surrogate, self._features, x, t, self._features.targets(y), times)
            if given is not None:
                return given
        inputs = torch.as_tensor(self._features.inputs(x[None], times), device=surrogate.output_scale.device)
        std = surrogate.predict(inputs).epistemic.double().cpu().numpy() / self._scale(surrogate)
        return float((std**2).mean())

    def _scale(self, surrogate: Surrogate) -> Floats:
        return self._features.scale(surrogate.output_scale.double().cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """What is settled."""
        return self.evidence.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evidence.load_state_dict(state)
