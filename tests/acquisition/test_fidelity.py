"""Fidelities: what is integrated is at the target, what is simulated is where it tells most for its cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alearn.acquisition import Epig, WeightedIVR
from alearn.acquisition.base import Context
from alearn.space import Space
from alearn.surrogate import Batch, ExactGP

SPACE = Space.from_config({"a": [0, 1], "b": [0, 1], "cells": {"low": 0.0, "high": 1.0, "fidelity": True}})


@pytest.fixture(scope="module")
def gp():
    """A smooth function whose coarse version is off by a little, gently."""
    x = torch.as_tensor(SPACE.sobol(40, seed=0))
    y = torch.sin(5 * x[:, :1]) * torch.cos(4 * x[:, 1:2]) + 0.2 * (1 - x[:, 2:]) * x[:, :1]
    surrogate = ExactGP(3, 1, False, 0)
    surrogate.fit(Batch(x, y, torch.ones(40), torch.arange(40)))
    return surrogate, x


def chosen(gp, acquisition, cost):
    surrogate, x = gp
    none = torch.empty(0, 3, dtype=torch.float64)
    context = Context(X=x, pending=none, progress=none[:, 0], generator=torch.Generator().manual_seed(1), cost=cost)
    return acquisition.select(surrogate, SPACE, 6, context).x[:, 2]


@pytest.mark.parametrize("acquisition", [WeightedIVR(pool=1024), Epig(pool=1024)])
def test_the_fidelity_follows_from_what_it_costs(gp, acquisition):
    free = chosen(gp, acquisition, None)
    dear = chosen(gp, acquisition, lambda X: 0.02 + X[:, 2] ** 3)
    assert np.median(free) > 0.7, "where nothing is dearer, the fidelity that is wanted tells most"
    assert np.median(dear) < 0.5, "a cheap simulation tells nearly as much here, for a tenth of the cost"
