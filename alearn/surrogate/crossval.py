"""Cross-validated predictions: what a surrogate would have said of members that it had not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from alearn.surrogate.base import Batch, Surrogate


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Predictions of rows by models that had not learned them, in the outputs' units.

    Args:
        mean: ``n x m``.
        variance: predictive variance, noise included, ``n x m``.
        excess: by how much the squared error of ``mean`` is larger, in expectation, than the whole surrogate's would
            be, because fewer estimators took part; ``n x m``.
    """

    mean: Tensor
    variance: Tensor
    excess: Tensor


@runtime_checkable
class CrossValidated(Protocol):
    """A surrogate that can cross-validate itself more cheaply than by one fit for every fold."""

    def cross_validate(self, data: Batch, folds: Tensor, updates: int | None = None) -> OutOfFold:
        """Predict each of ``n`` rows without the rows of its fold (``n`` integers); leaves the surrogate as it is."""
        ...


def cross_validate(surrogate: Surrogate, make: Callable[[], Surrogate], data: Batch, folds: Tensor, updates: int | None) -> OutOfFold:
    """Cross-validated predictions of any surrogate: by its own way if it has one, else by one fit for every fold.

    Args:
        surrogate: fitted on ``data``.
        make: a new one with the same options.
        data: all rows.
        folds: the fold of every row, ``n`` integers; at least two different ones.
        updates: of each fit.
    """
    if isinstance(surrogate, CrossValidated):
        return surrogate.cross_validate(data, folds, updates)
    mean = torch.empty_like(data.Y, dtype=torch.float64)
    variance = torch.empty_like(mean)
    for fold in folds.unique().tolist():
        out = folds == fold
        model = make()
        model.fit(data.take((~out).nonzero()[:, 0]), updates=updates)
        predicted = model.predict(data.X[out])
        mean[out] = predicted.mean.double()
        variance[out] = predicted.epistemic.double() ** 2 + predicted.aleatoric.double() ** 2
    return OutOfFold(mean, variance, torch.zeros_like(mean))
