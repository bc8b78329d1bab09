import dataclasses

import numpy as np
import pytest
import torch

from alearn.acquisition import Maximin, Random, Sobol
from alearn.errors import ConfigError
from alearn.space import Integer, Space
from alearn.testing.acquisition import SPACES, WaveEnsemble, context_for

PLANE = SPACES["2-D"]


def after(points, pending=0, seed=0, created=None):
    x = torch.as_tensor(points)
    n = len(x) - pending
    return dataclasses.replace(
        context_for(PLANE, seed=seed), X=x[:n], pending=x[n:], progress=torch.zeros(pending), residuals=None, created=created
    )


def test_sobol_continues_the_design_of_the_same_seed_batch_after_batch():
    whole = PLANE.sobol(23, seed=5)
    have = whole[:8]
    for q in (3, 4, 8):
        chosen = Sobol(seed=5).select(WaveEnsemble(2), PLANE, q, after(have, pending=2))
        have = np.vstack([have, chosen.x])
    assert np.allclose(have, whole)
    assert "next of the Sobol sequence" in chosen.reasons[0]


def test_sobol_does_not_propose_a_failed_member_again():
    whole = PLANE.sobol(12, seed=5)
    survived = np.delete(whole[:8], [2, 6], axis=0)
    chosen = Sobol(seed=5).select(WaveEnsemble(2), PLANE, 4, after(survived, created=8))
    assert np.allclose(chosen.x, whole[8:])


def test_sobol_skips_points_that_are_there_already():
    whole = PLANE.sobol(12, seed=5)
    context = after(np.vstack([whole[:8], whole[9:10]]), created=8)
    chosen = Sobol(seed=5).select(WaveEnsemble(2), PLANE, 3, context)
    assert np.allclose(chosen.x, whole[[8, 10, 11]])


def test_random_fills_the_box_and_follows_the_generator():
    chosen = [Random().select(WaveEnsemble(2), PLANE, 200, context_for(PLANE, seed=s)).x for s in (1, 1, 2)]
    assert np.array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen[0], chosen[2])
    assert np.histogram2d(*chosen[0].T, bins=4, range=[[0, 1], [0, 1]])[0].min() >= 2


def test_random_finds_the_last_point_of_a_small_space():
    space = Space([Integer("n", 0, 99)])
    x = torch.from_numpy(space.to_unit([{"n": n} for n in range(100) if n != 37]))
    context = dataclasses.replace(context_for(space), X=x, pending=x[:0], progress=x[:0, 0], residuals=None)
    assert space.from_unit(Random().select(WaveEnsemble(1), space, 1, context).x) in ([{"n": 37}], [])


def test_maximin_picks_the_empty_corner_first_and_spreads():
    x = torch.tensor([[0.1, 0.1], [0.1, 0.9], [0.9, 0.1]], dtype=torch.float64)
    chosen = Maximin(pool=4096).select(WaveEnsemble(2), PLANE, 4, after(x))
    assert np.linalg.norm(chosen.x[0] - [1, 1]) < 0.15
    assert chosen.scores.tolist() == sorted(chosen.scores, reverse=True)
    points = np.vstack([x.numpy(), chosen.x])
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(7, 1)]
    assert gaps.min() == pytest.approx(chosen.scores[-1])


def test_options_are_checked():
    with pytest.raises(ConfigError, match="option pool is 0"):
        Maximin(pool=0)
