"""The feasibility model on boundaries that are known."""

import numpy as np
import pytest

from alearn.simulators.oscillator import BOX, escapes
from alearn.surrogate.feasibility import Feasibility


def cloud(n, d, seed=0):
    return np.random.default_rng(seed).random((n, d))


def brier(p, truth):
    return float(((p - truth) ** 2).mean())


@pytest.mark.parametrize("n", [30, 120])
def test_the_region_in_which_the_oscillator_escapes_is_learned(n):
    low, high = np.array([b[0] for b in BOX.values()]), np.array([b[1] for b in BOX.values()])

    def works(X):
        return np.array([not escapes(*(low + x * (high - low))) for x in X])

    X, test = cloud(n, 2), cloud(2000, 2, 1)
    model = Feasibility(X, works(X))
    truth = works(test)
    p = model(test)
    always = np.full(len(test), works(X).mean())
    assert brier(p, truth) < 0.5 * brier(always, truth)
    assert ((p > 0.5) == truth).mean() > (0.85 if n == 30 else 0.93)
    assert p.min() > 0
    assert p.max() < 1


def test_far_from_all_members_it_says_the_overall_share():
    X = 0.1 * cloud(20, 3)
    model = Feasibility(X, np.arange(20) % 4 > 0)
    assert model.width < 0.5
    assert model(np.full((1, 3), 1.0))[0] == pytest.approx(16 / 21, abs=0.1)


def test_a_single_failure_among_many_is_local():
    X = cloud(60, 2)
    success = np.ones(60, bool)
    success[7] = False
    model = Feasibility(X, success)
    p = model(np.vstack([X[7], np.delete(X, 7, 0)]))
    assert p[0] < p[1:].mean()
    assert p[1:].mean() > 0.9
