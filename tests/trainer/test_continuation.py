"""What a member's own stream tells of the rest of it."""

import numpy as np
import pytest
import torch

from alearn.space import Space
from alearn.surrogate import Batch, DeepEnsemble, ExactGP
from alearn.trainer.continuation import OBSERVED, Streams, remaining_variance
from alearn.trainer.features import Features
from alearn.types import Schema

T = np.linspace(0.0, 1.0, 20)


@pytest.fixture(scope="module")
def learned():
    """Members at x are dead (0) or alive (1) for good after t = 0.2; known at the box's two ends only."""
    features = Features(Space.from_config({"x": [0.0, 1.0]}), Schema.of({"y": 0.0}), "auto", over_t=True)
    points = np.array([0.0, 0.1, 0.2, 0.8, 0.9, 1.0])
    X = features.inputs(points[:, None], T)
    alive = np.repeat((points > 0.5).astype(float), len(T))
    Y = (alive * np.minimum(1.0, X[:, 1] / 0.2))[:, None]
    surrogate = DeepEnsemble(2, 1, True, 0, width=32, depth=2)
    rows = [torch.as_tensor(a) for a in (X, Y, np.ones(len(X)), np.repeat(np.arange(6), len(T)))]
    surrogate.fit(Batch(*rows), updates=1500)
    return features, surrogate


def variance(learned, x, y):
    features, surrogate = learned
    n = len(y)
    return remaining_variance(surrogate, features, np.array([x]), T[:n], np.asarray(y, dtype=float)[:, None], T[n:])


def test_the_own_stream_settles_what_the_parameters_left_open(learned):
    before = variance(learned, 0.5, [])
    mean, _, _ = learned[1].predict(torch.as_tensor(learned[0].inputs(np.array([[0.5]]), T[:8])))
    after = variance(learned, 0.5, mean[:, 0].numpy())
    assert after < 0.6 * before


def test_a_stream_that_contradicts_every_estimator_is_worth_watching(learned):
    expected = variance(learned, 0.9, np.minimum(1.0, T[:8] / 0.2))
    surprising = variance(learned, 0.9, np.linspace(0, 4, 8))
    assert surprising > 10 * expected


def test_a_surrogate_without_estimators_is_told_apart(learned):
    features, _ = learned
    gp = ExactGP(2, 1, True, 0)
    X = torch.rand(30, 2, dtype=torch.float64)
    gp.fit(Batch(X, X[:, :1], torch.ones(30), torch.arange(30)))
    assert remaining_variance(gp, features, np.array([0.5]), T[:2], np.zeros((2, 1)), T[2:]) is None


def test_streams_keep_the_latest_step_and_forget_who_is_gone(learned):
    streams = Streams(learned[0])
    for i in range(0, 20, 5):
        streams.add(3, T[i : i + 5], T[i : i + 5, None])
    t, y = streams.seen(3)
    assert len(t) == OBSERVED
    assert t[-1] == T[-1]
    np.testing.assert_array_equal(t, y[:, 0])
    streams.drop(3)
    assert len(streams.seen(3)[0]) == 0
