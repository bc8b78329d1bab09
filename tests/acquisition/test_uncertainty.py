import dataclasses

import numpy as np
import pytest
import torch
from botorch.posteriors.ensemble import EnsemblePosterior

from alearn.acquisition import PosteriorStd, StdDistance, StochasticBatch
from alearn.errors import ConfigError
from alearn.testing.acquisition import SPACES, WaveEnsemble, context_for

PLANE = SPACES["2-D"]


class Hill(WaveEnsemble):
    """Standard deviation: a hill around ``at`` of the given width, the same at data and elsewhere."""

    def __init__(self, at=(0.7, 0.3), width=0.15):
        super().__init__(2)
        self.at, self.width = torch.tensor(at, dtype=torch.float64), width

    def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
        std = torch.exp(-((X - self.at) ** 2).sum(-1, keepdim=True) / self.width**2)
        signs = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=X.dtype)[:, None, None]
        return EnsemblePosterior(X.sum(-1, keepdim=True).unsqueeze(-3) + std.unsqueeze(-3) * signs)


def bare(n=8, pending=None, progress=None, **more):
    context = context_for(PLANE, n=n, pending=0)
    pending = context.pending if pending is None else torch.as_tensor(pending, dtype=torch.float64)
    progress = torch.zeros(len(pending)) if progress is None else torch.as_tensor(progress)
    return dataclasses.replace(context, pending=pending, progress=progress, residuals=None, **more)


def gaps(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(len(x), 1)]


def test_std_distance_goes_to_the_hill_and_spreads_over_it():
    chosen = StdDistance().select(Hill(), PLANE, 8, bare())
    assert np.linalg.norm(chosen.x - [0.7, 0.3], axis=1).max() < 0.4
    assert gaps(chosen.x).min() > 0.03


def test_top_k_is_the_trap_that_it_says_it_is():
    trap = PosteriorStd().select(Hill(), PLANE, 8, bare())
    cured = PosteriorStd(diversity=1.0).select(Hill(), PLANE, 8, bare())
    assert gaps(trap.x).max() < 0.1
    assert gaps(cured.x).min() > 5 * gaps(trap.x).min()


def test_pending_members_are_avoided_the_more_the_further_they_are():
    at = [[0.7, 0.3]]

    def distance(progress):
        chosen = StdDistance(gamma=2.0).select(Hill(), PLANE, 1, bare(pending=at, progress=[progress]))
        return float(np.linalg.norm(chosen.x[0] - at[0]))

    alone = StdDistance(gamma=2.0).select(Hill(), PLANE, 1, bare())
    assert np.linalg.norm(alone.x[0] - at[0]) < distance(0.0)
    assert distance(0.0) > 0.05


def test_progress_weighs_the_distance_to_a_pending_member():
    from alearn.acquisition.batch import known_distance

    point = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    for progress, expected in ((0.0, 0.2), (0.5, 0.1 / 0.75), (1.0, 0.1)):
        context = bare(n=8, pending=[[0.5, 0.6]], progress=[progress])
        context = dataclasses.replace(context, X=context.X[:0])
        assert float(known_distance(point, context)) == pytest.approx(expected)


def test_refinement_finds_a_narrow_hill_better():
    hill = Hill(width=0.01, at=(0.512, 0.487))

    def best(refine):
        return StdDistance(pool=1024, refine=refine).select(hill, PLANE, 1, bare()).scores[0]

    assert best(2048) > best(0)


def test_reasons_carry_the_numbers():
    chosen = StdDistance().select(Hill(), PLANE, 3, bare())
    for reason in chosen.reasons:
        assert "of the outputs' spread" in reason
        assert "x the median" in reason
        assert "nearest data 0." in reason
    context = bare(feasible=lambda X: torch.full((len(X),), 0.25), cost=lambda X: 1 + X[:, 0])
    reason = StdDistance().select(Hill(), PLANE, 1, context).reasons[0]
    assert "25 % likely to succeed" in reason
    assert "the usual cost" in reason


@pytest.mark.parametrize("make", [StdDistance, PosteriorStd, StochasticBatch])
def test_infeasible_halves_are_left_alone(make):
    context = bare(feasible=lambda X: (X[:, 0] < 0.5).double())
    chosen = make().select(WaveEnsemble(2), PLANE, 6, context)
    assert (chosen.x[:, 0] < 0.5).mean() > 0.8


def test_cost_moves_the_choice_to_the_cheap_side():
    two = Hill(width=10.0)
    mean = [StdDistance().select(two, PLANE, 10, bare(cost=cost)).x[:, 0].mean() for cost in (None, lambda X: torch.exp(6 * X[:, 0]))]
    assert mean[1] < mean[0] - 0.1


def test_sbal_power_runs_from_uniform_to_top_k():
    far = [np.linalg.norm(StochasticBatch(power=p).select(Hill(), PLANE, 32, bare()).x - [0.7, 0.3], axis=1).mean() for p in (0, 1, 8, 200)]
    assert far == sorted(far, reverse=True)
    assert far[0] > 0.35
    assert far[-1] < 0.05


def test_several_outputs_count_by_their_own_spread():
    class TwoScales(WaveEnsemble):
        def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
            values = super().posterior(X).values
            return EnsemblePosterior(values * torch.tensor([1.0, 1e6], dtype=values.dtype))

    plain, scaled = WaveEnsemble(2, 2), TwoScales(2, 2)
    chosen = [StdDistance().select(s, PLANE, 4, bare()).x for s in (plain, scaled)]
    assert np.allclose(chosen[0], chosen[1])


def test_a_models_own_trajectory_uncertainty_is_used():
    class Own(WaveEnsemble):
        def trajectory_std(self, X):
            return torch.exp(-((X - 0.2) ** 2).sum(-1) / 0.02)

    chosen = StdDistance().select(Own(2), PLANE, 4, bare())
    assert np.linalg.norm(chosen.x - 0.2, axis=1).max() < 0.3


def test_a_surrogate_that_says_nan_is_refused_with_a_sentence():
    class Broken(WaveEnsemble):
        def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
            return EnsemblePosterior(super().posterior(X).values * torch.nan)

    with pytest.raises(ConfigError, match="not finite at 8192 of 8192"):
        StdDistance().select(Broken(2), PLANE, 1, bare())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: StdDistance(gamma=-1), "gamma is -1"),
        (lambda: StdDistance(pool=0), "pool is 0"),
        (lambda: PosteriorStd(diversity=float("nan")), "diversity is nan"),
        (lambda: StochasticBatch(power=-0.5), "power is -0.5"),
    ],
)
def test_wrong_options_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_a_large_pool_stays_within_bounded_memory():
    from alearn.acquisition import pool

    generator = torch.Generator().manual_seed(0)
    few, many = torch.rand(300, 2, generator=generator, dtype=torch.float64), torch.rand(400, 2, generator=generator, dtype=torch.float64)
    shapes = []
    plain, torch.cdist = torch.cdist, lambda a, b, **more: shapes.append(len(a) * len(b)) or plain(a, b, **more)
    bound, pool.PAIRS = pool.PAIRS, 2000
    try:
        found = pool.nearest(few, many)
    finally:
        torch.cdist, pool.PAIRS = plain, bound
    assert max(shapes) <= 2000
    assert torch.allclose(found, plain(few, many).amin(1))
