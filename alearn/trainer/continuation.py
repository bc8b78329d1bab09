"""What a running member has still to teach, given what it has streamed so far.

A surrogate learns a member's steps only as fast as it trains; a member that has just shown that it is dead should
not have to wait for that. So the ensemble's joint prediction of the whole trajectory is conditioned on the steps
that have arrived, as in the analysis step of an ensemble Kalman smoother (Evensen 2003, doi:10.1007/s10236-003-0036-9):
what remains of its variance over the steps to come, found by leaving out one estimator after the other, is what they would
teach. Where the stream contradicts every estimator the analysis is not to be trusted, and the variance grows by the misfit.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from botorch.posteriors.ensemble import EnsemblePosterior

from alearn.surrogate.base import Surrogate
from alearn.trainer.features import Features
from alearn.types import Floats

OBSERVED = 8
"""Streamed steps that the prediction is conditioned on: evenly chosen, the latest among them."""
NOISE = 0.1
"""Standard deviation, in units of each output's own, to which a prediction may differ from a step and still agree."""


@final
class Streams:
    """The outputs that the running members have streamed.

    Args:
        features: names the columns.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        self._t: dict[int, list[Floats]] = {}
        self._y: dict[int, list[Floats]] = {}

    def add(self, group: int, t: Floats, y: Floats) -> None:
        """Take in steps of a running member: times ``n`` and rows' outputs ``n x width``, in order."""
        self._t.setdefault(group, []).append(t)
        self._y.setdefault(group, []).append(y)

    def drop(self, group: int) -> None:
        """The member streams no more."""
        self._t.pop(group, None)
        self._y.pop(group, None)

    def seen(self, group: int) -> tuple[Floats, Floats]:
        """At most ``OBSERVED`` of the member's steps: times ``o`` and outputs ``o x width``."""
        if group not in self._t:
            return np.zeros(0), np.zeros((0, self._features.width))
        t, y = np.concatenate(self._t[group]), np.concatenate(self._y[group])
        chosen = np.unique(np.linspace(0, len(t) - 1, min(OBSERVED, len(t))).round().astype(int))
        return t[chosen], y[chosen]


def remaining_variance(surrogate: Surrogate, features: Features, x: Floats, t: Floats, y: Floats, times: Floats) -> float | None:
    """Mean normalised variance of a member's steps to come, given the steps it has streamed.

    Args:
        surrogate: over (parameters, t).
        features: makes its inputs.
        x: the member's point in the unit cube, ``d``.
        t: times of streamed steps, ``o``.
        y: their outputs, ``o x m``.
        times: times of steps to come, ``r``.

    Returns:
        The variance over steps and outputs, each in units of the output's squared standard deviation; None for a
        surrogate whose posterior is no ensemble.
    """
    device = surrogate.output_scale.device
    rows = torch.as_tensor(features.inputs(x[None], np.concatenate([t, times])), device=device)
    with torch.no_grad():
        posterior: Any = surrogate.posterior(rows)
    if not isinstance(posterior, EnsemblePosterior):
        return None
    scale = features.scale(surrogate.output_scale.double().cpu().numpy())
    values = posterior.values.double().cpu().numpy() / scale  # K x (o + r) x m
    o = len(t) * features.m
    values = values.reshape(len(values), -1)
    past, coming = values[:, :o], values[:, o:]
    if not o:
        return float(coming.var(axis=0, ddof=1).mean())
    spread = (past - past.mean(axis=0)) / np.sqrt(len(past) - 1)
    innovation = (y / scale).reshape(-1) - past.mean(axis=0)
    # (spread' spread + noise^2)^-1 by way of the few estimators instead of the many outputs (Woodbury)
    seen = spread @ innovation
    inner = np.linalg.solve(spread @ spread.T + NOISE**2 * np.eye(len(spread)), seen)
    misfit = float(innovation @ innovation - seen @ inner) / NOISE**2 / o
    return left_out(past, coming) * max(1.0, misfit)


def left_out(past: Floats, coming: Floats) -> float:
    """Variance of what is to come that remains when what has come is known, mean over its columns.

    Each estimator's future is predicted from its past by the regression (of ridge ``NOISE``) that the others give. A handful
    of estimators conditioned on more numbers than there are of them would explain anything, and any member would seem known;
    what is left out cannot be explained by chance.

    Args:
        past: what each estimator predicts for the steps that have been streamed, ``K x o``.
        coming: the same for the steps to come, ``K x r``.
    """
    k = len(past)
    square = 0.0
    for left in range(k):
        p, c = np.delete(past, left, axis=0), np.delete(coming, left, axis=0)
        centre = p.mean(axis=0)
        a = (p - centre) / np.sqrt(max(k - 2, 1))
        weights = np.linalg.solve(a @ a.T + NOISE**2 * np.eye(k - 1), a @ (past[left] - centre))
        predicted = c.mean(axis=0) + weights @ (c - c.mean(axis=0)) / np.sqrt(max(k - 2, 1))
        square += float(((coming[left] - predicted) ** 2).mean())
    prior = float(coming.var(axis=0, ddof=1).mean())
    return min(square / k * (k - 1) / k, prior)
