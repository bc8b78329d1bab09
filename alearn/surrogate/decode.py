"""Fields from a surrogate that predicts their coefficients, with the variance of every cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from botorch.posteriors.ensemble import EnsemblePosterior
from torch import Tensor

from alearn.surrogate.base import Surrogate
from alearn.surrogate.field import FieldDecoder
from alearn.types import Floats

CELLS = 1 << 22
"""So many numbers of fields are made at a time."""


@torch.no_grad()
def predict_field(surrogate: Surrogate, X: Tensor, decoder: FieldDecoder) -> tuple[Floats, Floats]:
    """Mean and standard deviation of a field at ``N x d`` inputs, each ``N x n``, in its own unit.."""
    step = max(1, CELLS // len(decoder.centre))
    parts = [_part(surrogate, x, decoder) for x in X.split(step)]
    mean, std = (np.concatenate(p) for p in zip(*parts, strict=True)) if parts else (np.empty((0, len(decoder.centre))),) * 2
    return mean, std


def _part(surrogate: Surrogate, X: Tensor, decoder: FieldDecoder) -> tuple[Floats, Floats]:
    mean, epistemic, aleatoric = (v[:, decoder.columns].double().cpu().numpy() for v in surrogate.predict(X))
    posterior: Any = surrogate.posterior(X[:1])
    if isinstance(posterior, EnsemblePosterior):  # its coefficients go together, and the field's variance with them
        ensemble: Any = surrogate.posterior(X)
        values = ensemble.values[..., decoder.columns].double().cpu().numpy()
        draws = (values - values.mean(axis=0)) / np.sqrt(max(1, len(values) - 1))
        variance = decoder.variance(draws, aleatoric**2)
    else:
        variance = decoder.variance(np.zeros((0, *mean.shape)), epistemic**2 + aleatoric**2)
    return decoder.mean(mean).astype(np.float64), np.sqrt(variance.astype(np.float64))
