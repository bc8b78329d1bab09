import dataclasses

import numpy as np
import pytest
import torch

from alearn.acquisition import StdDistance
from alearn.acquisition.difficulty import Difficulty
from alearn.acquisition.loo import local_error
from alearn.acquisition.scores import Uncertainty
from alearn.surrogate import AutoSurrogate, Batch, ExactGP, OverTime
from alearn.testing.acquisition import SPACES, WaveEnsemble, context_for

PLANE = SPACES["2-D"]
X = torch.from_numpy(PLANE.sobol(48, seed=0))
POOL = torch.from_numpy(PLANE.sobol(256, seed=1))


def batch(y):
    return Batch(X, y, torch.ones(48), torch.arange(48))


def context():
    return dataclasses.replace(context_for(PLANE, n=2, pending=0), X=X, residuals=None)


@pytest.fixture(scope="module")
def step():
    gp = ExactGP(2, 1)
    gp.fit(batch(torch.tanh(20 * (X[:, :1] - 0.3))))
    return gp


@pytest.fixture(scope="module")
def auto():
    model = AutoSurrogate(2, 1, candidates={"ensemble": {"estimators": 2, "width": 8, "depth": 1}, "gp": {}})
    model.fit(batch(X.sum(1, keepdim=True)), updates=20)
    return model


def led(model, name):
    model.led_by.fill_(model.names.index(name))
    return model


def test_an_ensembles_spread_is_taken_as_it_is():
    model = WaveEnsemble(2)
    assert torch.equal(Difficulty(model, context())(POOL), Uncertainty(model)(POOL))


def test_a_process_is_corrected_by_its_leave_one_out_errors(step):
    found = Difficulty(step, context())(POOL)
    assert torch.allclose(found, Uncertainty(step)(POOL) * local_error(step, POOL, context()))
    near = (POOL[:, 0] - 0.3).abs() < 0.15
    plain = Uncertainty(step)(POOL)
    assert found[near].mean() / found.mean() > 1.2 * plain[near].mean() / plain.mean()


def test_std_distance_over_a_process_goes_to_the_step(step):
    x = StdDistance(pool=1024, refine=0).select(step, PLANE, 12, context()).x
    assert np.median(np.abs(x[:, 0] - 0.3)) < 0.2  # of points all over the plane it is 0.35


@pytest.mark.parametrize("over_time", [False, True])
def test_in_a_competition_a_leading_process_hears_the_ensemble(auto, over_time):
    model = OverTime(auto) if over_time else auto
    led(auto, "ensemble")
    spread = Difficulty(model, context())(POOL)
    assert torch.allclose(spread, Uncertainty(model)(POOL))
    led(auto, "gp")
    doubt = Uncertainty(model)(POOL) * local_error(model, POOL, context())
    both = Difficulty(model, context())(POOL)
    assert torch.allclose(both / both.mean(), (spread * doubt).sqrt() / (spread * doubt).sqrt().mean(), rtol=1e-4)


def test_the_units_are_those_of_the_first_pool(auto):
    led(auto, "gp")
    whole = Difficulty(auto, context())
    found = whole(POOL)
    assert torch.allclose(whole(POOL[:7]), found[:7], rtol=1e-6)
    assert whole(POOL[:0]).shape == (0,)
