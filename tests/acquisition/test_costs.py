import dataclasses

import numpy as np
import pytest
import torch

from alearn import events as ev
from alearn.acquisition import StdDistance
from alearn.acquisition.costs import expected_cost
from alearn.atlas import Atlas
from alearn.testing.acquisition import SPACES, WaveEnsemble, context_for

PLANE = SPACES["2-D"]
X = PLANE.sobol(64, seed=0)


def test_costs_are_learned_from_the_members():
    cost = expected_cost([tuple(x) for x in X], (1.0 + 99.0 * X[:, 0]).tolist())
    found = cost(torch.tensor([[0.02, 0.5], [0.5, 0.5], [0.98, 0.5]], dtype=torch.float64))
    assert found[0] < 15
    assert float(found[1]) == pytest.approx(50, rel=0.3)
    assert found[2] > 70


def test_one_odd_member_does_not_spoil_its_neighbourhood():
    core_s = 1.0 + 9.0 * X[:, 0]
    core_s[np.linalg.norm(X - 0.5, axis=1).argmin()] = 10_000.0
    cost = expected_cost([tuple(x) for x in X], core_s.tolist())
    assert float(cost(torch.tensor([[0.5, 0.5]], dtype=torch.float64))) < 100


def test_few_or_equal_costs_are_no_costs():
    points = [tuple(x) for x in X]
    assert expected_cost(points[:8], [1.0, 100.0] * 4) is None
    assert expected_cost(points, (1 + 0.1 * X[:, 0]).tolist()) is None
    assert expected_cost(points[:20], [float("nan"), 0.0] * 10) is None


def test_a_default_study_prefers_the_cheap_half():
    context = dataclasses.replace(context_for(PLANE, n=12, pending=0), residuals=None)
    cost = expected_cost([tuple(x) for x in X], np.exp(6 * X[:, 0]).tolist())
    mean = [StdDistance().select(WaveEnsemble(2), PLANE, 10, dataclasses.replace(context, cost=c)).x[:, 0].mean() for c in (None, cost)]
    assert mean[1] < mean[0] - 0.1


def test_the_atlas_keeps_what_members_cost():
    atlas = Atlas()
    for i, (origin, state, core_s) in enumerate(
        [("design", "done", 3.0), ("acquisition", "killed", 1.0), ("data", "done", 0.0), ("design", "failed", 5.0)]
    ):
        name = f"m{i:04d}"
        atlas.see(ev.MemberQueued(at=0.0, member=name, parameters={}, x=(0.1 * i,), origin=origin))
        atlas.see(ev.MemberEnded(at=1.0, member=name, attempt=1, state=state, core_s=core_s))
    # a killed member would have cost more, and one of the past cost nothing here
    assert atlas.costs == {"m0000": 3.0, "m0003": 5.0}


def test_a_cost_that_follows_one_of_many_parameters_is_told_apart():
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(24, 9, generator=generator, dtype=torch.float64)
    points[:, 4] = (points[:, 4] * 4).floor() / 4 + 0.125  # a grid of four sizes, each eight times as dear as the one before
    cost = 8.0 ** (points[:, 4] * 4)
    expected = expected_cost([tuple(p) for p in points.tolist()], cost.tolist())
    fresh = torch.rand(200, 9, generator=generator, dtype=torch.float64)
    fresh[:, 4] = (fresh[:, 4] * 4).floor() / 4 + 0.125
    error = (expected(fresh).log() - (8.0 ** (fresh[:, 4] * 4)).log()).abs()
    assert float(error.max()) < 0.5 * float(torch.log(torch.tensor(8.0)))
