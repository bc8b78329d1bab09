"""What the forecasts of running members came to: the evidence by which members are killed.

An ensemble's variance ranks members well, and its size means little: a few networks agree on what none of them knows (a late
explosion), and disagree on what all of them know on average (a tail at rest). So a forecast of the steps to come is kept until they
have come. Its error is what these steps had to teach (prequential: Dawid 1984), and a new forecast is worth what those like
it came to: the mean over the nearest by predicted value (nearest-neighbour regression: Stone 1977, doi:10.1214/aos/1176343886), one of
a member, and a standard error more. A bound from few members is wide, and without enough of them nobody knows: kills are earned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from alearn.types import Array, Floats

LEAST = 4
"""Members that must have been seen to their end before anything is said."""
NEAREST = 8
"""Members whose forecasts are consulted."""
REMEMBERED = 64
"""Members seen to their end that are remembered: older ones were forecast by a younger surrogate."""
APART = 12
"""A member is forecast about so many times on its way."""
YOUNG = 1 / 3
"""Share of its trajectory up to which a member counts as fresh: quick members are not looked at any earlier."""


@dataclass(slots=True)
class _Forecast:
    """Steps to come, what was predicted for them, and the squared errors of those that came."""

    age: float
    predicted: float
    best: float
    steps: Array
    mean: Floats
    scale: Floats
    squares: list[float] = field(default_factory=list)


@final
class Evidence:
    """Forecasts of running members, and those that are settled because the member was seen to its end.

    Values are mean squared errors in units of each output's spread, over what the ensemble predicted for the best candidate then.
    """

    def __init__(self) -> None:
        self._open: dict[int, list[_Forecast]] = {}
        self._settled: dict[int, Floats] = {}

    def wants(self, group: int, step: int, total: int) -> bool:
        """Whether another forecast of the member at ``step`` of ``total`` would add to the others."""
        known = self._open.get(group)
        return not known or step >= known[-1].steps[0] - 1 + max(1, total // APART)

    def forecast(self, group: int, age: float, predicted: float, best: float, steps: Array, mean: Floats, scale: Floats) -> None:
        """Keep a forecast.

        Args:
            group: the member's number.
            age: share of its trajectory that it has made.
            predicted: the variance predicted for its remaining steps.
            best: that of the best candidate.
            steps: some of the steps to come, ``r``, ascending.
            mean: the outputs predicted for them, ``r x m``.
            scale: the outputs' spread, ``m``.
        """
        if best > 0 and len(steps):
            self._open.setdefault(group, []).append(_Forecast(age, predicted, best, steps, mean, scale))

    def arrived(self, groups: Array, steps: Array, y: Floats) -> None:
        """Rows came: numbers of members ``n``, steps ``n`` and outputs ``n x m``."""
        for group, step, row in zip(groups.tolist(), steps.tolist(), y, strict=True):
            for f in self._open.get(group, ()):
                at = int(np.searchsorted(f.steps, step))
                if at < len(f.steps) and f.steps[at] == step and f.mean.shape[1] == len(row):  # a field's basis may have grown
                    f.squares.append(float((((f.mean[at] - row) / f.scale) ** 2).mean()))

    def ended(self, group: int, killed: bool) -> None:
        """The member streams no more. What a killed one would have shown, nobody knows."""
        forecasts = self._open.pop(group, [])
        rows = [(f.age, f.predicted / f.best, float(np.mean(f.squares)) / f.best) for f in forecasts if f.squares]
        if rows and not killed:
            self._settled[group] = np.array(rows)
            for old in list(self._settled)[:-REMEMBERED]:
                del self._settled[old]

    def fresh(self) -> float:
        """What the trajectories of fresh members came to, mean over members; NaN while too few were seen to their end."""
        young = [rows[0, 2] for rows in self._settled.values() if rows[0, 0] <= YOUNG]
        return float(np.mean(young)) if len(young) >= LEAST else math.nan

    def worth(self, predicted: float, best: float) -> float:
        """What the remaining steps are worth if a variance is predicted for them: an upper estimate; NaN while nobody knows."""
        if len(self._settled) < LEAST or not best > 0:
            return math.nan
        asked = math.log(max(predicted / best, 1e-9))
        near = []
        for rows in self._settled.values():
            away = np.abs(np.log(np.maximum(rows[:, 1], 1e-9)) - asked)
            closest = int(np.argmin(away))
            near.append((float(away[closest]), float(rows[closest, 2])))
        taught = np.array([value for _, value in sorted(near)[:NEAREST]])
        return float(taught.mean() + taught.std(ddof=1) / math.sqrt(len(taught)))

    def state_dict(self) -> dict[str, Any]:
        """What is settled. Open forecasts are made anew: their members start again or go on from where they are."""
        return {"members": [int(g) for g in self._settled], "rows": list(self._settled.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._settled = {int(g): np.asarray(rows, dtype=np.float64) for g, rows in zip(state["members"], state["rows"], strict=True)}
        self._open.clear()
