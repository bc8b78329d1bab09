"""Where the simulation works: the probability that a member succeeds, learned from those that did and those that failed."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from alearn.types import Array, Floats

WIDTHS = (0.03, 0.06, 0.12, 0.25, 0.5)
"""Kernel widths that are tried, in units of the cube's diagonal."""
PRIOR = 0.25
"""Weight of the prior, in members."""


@final
class Feasibility:
    """Kernel estimate of success with a Beta prior.

    ``p(x) = (w s + sum_i k(x, x_i) y_i) / (w + sum_i k(x, x_i))`` with a Gaussian kernel, the overall share of successes
    ``s`` (one success added) as the prior of weight ``w``: near members it is what they say, far from all of them the overall
    share, so that an unknown region stays worth a try. The width of the kernel is the one with the best
    leave-one-out log-likelihood (Habbema, Hermans and van den Broek 1974).

    Args:
        X: points in the unit cube, ``n x d``.
        success: whether the member there succeeded, ``n``.
    """

    def __init__(self, X: Floats, success: Array) -> None:
        self._X = np.asarray(X, dtype=np.float64)
        self._y = np.asarray(success, dtype=np.float64)
        n, d = self._X.shape
        self._share = float((self._y.sum() + 1.0) / (n + 1.0))
        square = ((self._X[:, None] - self._X[None]) ** 2).sum(-1)
        scores = []
        for width in WIDTHS:
            kernel = np.exp(-square / (2 * d * width**2))
            np.fill_diagonal(kernel, 0.0)
            p = self._posterior(kernel)
            scores.append(float(np.log(np.where(self._y > 0, p, 1.0 - p)).sum()))
        self.width = WIDTHS[int(np.argmax(scores))]

    def __call__(self, X: Any) -> Floats:
        """The probability of success at ``N x d`` points, ``N``; strictly between 0 and 1."""
        points = np.asarray(X, dtype=np.float64)
        square = ((points**2).sum(-1)[:, None] + (self._X**2).sum(-1)[None] - 2 * points @ self._X.T).clip(0.0)
        return self._posterior(np.exp(-square / (2 * self._X.shape[1] * self.width**2)))

    def _posterior(self, kernel: Floats) -> Floats:
        p: Floats = (PRIOR * self._share + kernel @ self._y) / (PRIOR + kernel.sum(-1))
        return p.clip(1e-6, 1.0 - 1e-6)
