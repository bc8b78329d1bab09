import dataclasses

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.posteriors.ensemble import EnsemblePosterior

from alearn.acquisition import Bait, Bald, CoreSet, Epig, Lcmd, MaxDet, Vigf, WeightedIVR
from alearn.acquisition.features import error_features, network_features
from alearn.acquisition.joint import conditioned, errors_of, given, pick_by_integral, pick_largest
from alearn.acquisition.loo import leave_one_out, local_error
from alearn.surrogate import Batch, DeepEnsemble, ExactGP, OverTime
from alearn.testing.acquisition import SPACES, WaveEnsemble, check_selection, context_for

PLANE = SPACES["2-D"]
NOISE = 0.1


@pytest.fixture
def features():
    return torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def network():
    model = DeepEnsemble(2, 1, seed=0, estimators=3, width=16, depth=2)
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tanh(20 * (x[:, :1] - 0.5))
    model.fit(Batch(x, y, torch.ones(40), torch.arange(40)), updates=300)
    return model


def gaussian(features, rows):
    """Covariance of all points given noisy observations at some, by the textbook formula."""
    k = features @ features.T
    inverse = torch.linalg.inv(k[rows][:, rows] + NOISE * torch.eye(len(rows), dtype=torch.float64))
    return k - k[:, rows] @ inverse @ k[rows]


def test_conditioning_is_the_gaussian_formula(features):
    after = conditioned(conditioned(features, features[3], NOISE), conditioned(features, features[3], NOISE)[7], NOISE)
    assert torch.allclose(after @ after.T, gaussian(features, [3, 7]), atol=1e-10)
    at_once = given(features, features[[3, 7]], NOISE)
    assert torch.allclose(at_once @ at_once.T, gaussian(features, [3, 7]), atol=1e-10)
    assert torch.equal(given(features, features[:0], NOISE), features)


def test_greedy_picks_are_those_of_brute_force(features):
    ones = torch.ones(20, dtype=torch.float64)
    rows, scores = pick_largest(features, ones, 3, NOISE)
    for i, row in enumerate(rows):
        variance = gaussian(features, rows[:i]).diagonal() if i else (features**2).sum(1)
        assert scores[i] == pytest.approx(float(variance[row]))
        assert int(variance.argmax()) == row
    weight = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    rows, scores = pick_by_integral(features, features, weight, ones, 2, NOISE)
    total = float((features**2).sum(1) @ weight)
    for i in range(2):
        before = float((gaussian(features, rows[:i]).diagonal() if i else (features**2).sum(1)) @ weight)
        falls = [(before - float(gaussian(features, [*rows[:i], r]).diagonal() @ weight)) for r in range(20) if r not in rows[:i]]
        assert scores[i] == pytest.approx(max(falls) / total)


def test_points_without_worth_are_never_taken(features):
    weight = torch.zeros(20, dtype=torch.float64)
    weight[[4, 9]] = 1.0
    assert sorted(pick_largest(features, weight, 5, NOISE)[0]) == [4, 9]
    assert sorted(pick_by_integral(features, features, weight, weight, 5, NOISE)[0]) == [4, 9]


def test_error_features_carry_the_posteriors_covariance():
    x = torch.rand(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = WaveEnsemble(2, 2)
    f = error_features(model, x)
    posterior = model.posterior(x.unsqueeze(1))
    spread = posterior.mean.squeeze(1).var(0, correction=0) + posterior.variance.squeeze(1).mean(0)
    assert torch.allclose((f**2).sum(1), (posterior.variance.squeeze(1) / spread).mean(1))
    gp = SingleTaskGP(x[:10], torch.sin(5 * x[:10, :1])).eval()
    g = error_features(gp, x)
    covariance = gp.posterior(x).distribution.covariance_matrix.detach()
    ratio = covariance / (g @ g.T)
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=0.02)


def test_a_gp_of_several_outputs_and_times_has_features_too():
    x = torch.rand(24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gp = ExactGP(3, 2, over_t=True)
    gp.fit(Batch(x, torch.cat([x.sum(1, keepdim=True), torch.sin(5 * x[:, :1])], 1), torch.ones(24), torch.arange(24)))
    model = OverTime(gp, torch.linspace(0, 1, 6))
    pool = torch.from_numpy(PLANE.sobol(64, seed=0))
    f = error_features(model, pool)
    assert f.shape == (64, 4 * 64)  # two outputs at two times
    std = model.trajectory_std(pool)
    assert torch.corrcoef(torch.stack([(f**2).sum(1).sqrt(), std]))[0, 1] > 0.8
    check_selection(WeightedIVR(pool=64).select(model, PLANE, 2, context_for(PLANE)), PLANE, 2, context_for(PLANE))


def test_network_features_are_the_last_hidden_layer(network):
    x = torch.rand(25, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    f = network_features(network, x)
    assert f.shape == (25, 3 * 16)
    assert float((f**2).sum(1).mean()) == pytest.approx(1.0)
    # the network is linear in them
    values = network.posterior(x.unsqueeze(1)).values[:, 0, 0, 0].detach().double()
    design = torch.cat([f[:, :16], torch.ones(25, 1, dtype=torch.float64)], 1)
    fitted = design @ torch.linalg.lstsq(design, values[:, None]).solution
    assert torch.allclose(fitted[:, 0], values, atol=1e-4)


def test_network_features_over_t_are_those_at_several_times():
    model = DeepEnsemble(3, 1, over_t=True, seed=0, estimators=2, width=8, depth=2)
    f = network_features(OverTime(model, torch.linspace(0, 1, 11)), torch.rand(5, 2, dtype=torch.float64))
    assert f.shape == (5, 4 * 2 * 8)


def radius(batch, pool):
    return float(torch.cdist(pool, batch).amin(1).max())


def log_determinant(batch, pool):
    return -float(torch.linalg.slogdet(batch @ batch.T + 1e-4 * torch.eye(len(batch), dtype=torch.float64))[1])


def fisher_risk(batch, pool):
    return float((given(pool, batch, 1e-4) ** 2).sum())


@pytest.mark.parametrize(("make", "cost"), [(MaxDet, log_determinant), (Bait, fisher_risk), (CoreSet, radius), (Lcmd, radius)])
def test_network_methods_do_far_better_than_chance_on_what_they_promise(make, cost, network):
    known = torch.from_numpy(PLANE.sobol(4, seed=9))
    context = dataclasses.replace(context_for(PLANE, n=2, pending=0), X=known, residuals=None)
    chosen = torch.from_numpy(make(pool=1024).select(network, PLANE, 8, context).x)
    pool = torch.from_numpy(PLANE.sobol(512, seed=5))
    features = network_features(network, torch.cat([pool, known, chosen]))
    pool, old, batch = features[:512], features[512:516], features[516:]
    rng = np.random.default_rng(0)
    others = [cost(torch.cat([old, pool[rng.choice(512, 8, replace=False)]]), pool) for _ in range(40)]
    assert cost(torch.cat([old, batch]), pool) < np.quantile(others, 0.1)


@pytest.mark.parametrize("make", [Bald, Epig, WeightedIVR])
def test_joint_methods_do_not_pile_up(make):
    context = context_for(PLANE, n=10, pending=0)
    model = WaveEnsemble(2, 1, context.X, estimators=16)
    x = make(pool=512).select(model, PLANE, 6, context).x
    gaps = np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(6, 1)]
    assert np.median(gaps) > 0.2


def test_pending_members_lower_the_variance_around_them_the_more_the_further_they_are():
    context = context_for(PLANE, n=10, pending=0)
    model = WaveEnsemble(2, 1, context.X, estimators=16)
    at = torch.tensor([[0.9, 0.9]], dtype=torch.float64)

    def variance(pending, progress):
        now = dataclasses.replace(
            context, pending=pending, progress=torch.tensor(progress), generator=torch.Generator().manual_seed(0), residuals=None
        )
        field = errors_of(model, PLANE, now, 256, 0.01)
        near = (field.found.X - at).norm(dim=1) < 0.1
        return float((field.features[near] ** 2).sum(1).mean())

    none, begun, half = variance(at[:0], []), variance(at, [0.0]), variance(at, [0.9])
    assert half < begun < none


def test_leave_one_out_errors_are_largest_at_the_front():
    x = torch.from_numpy(PLANE.sobol(60, seed=0))
    errors = leave_one_out(x, torch.tanh(30 * (x[:, :1] - 0.5)))
    near = (x[:, 0] - 0.5).abs() < 0.12
    assert errors[near].mean() > 1.5 * errors[~near].mean()
    smooth = leave_one_out(x, x.sum(1, keepdim=True))
    assert smooth.mean() < 0.1 * errors.mean()


def test_leave_one_out_is_what_leaving_out_gives():
    x = torch.from_numpy(PLANE.sobol(12, seed=0))
    y = torch.sin(4 * x[:, :1])
    errors = leave_one_out(x, y)
    z = (y - y.mean()) / y.std(correction=0)
    best = []
    for length in torch.logspace(-1.0, 0.75, 8, dtype=torch.float64) * 2**0.5:
        r = torch.cdist(x, x) * 5**0.5 / length
        k = (1 + r + r**2 / 3) * torch.exp(-r) + 1e-6 * torch.eye(12, dtype=torch.float64)
        left = []
        for i in range(12):
            rest = [j for j in range(12) if j != i]
            left.append(float((z[i] - k[i, rest] @ torch.linalg.solve(k[rest][:, rest], z[rest]))[0]))
        best.append(torch.tensor(left, dtype=torch.float64).abs())
    wanted = min(best, key=lambda e: float((e**2).mean()))
    assert torch.allclose(errors, wanted, atol=1e-4)


class Step(WaveEnsemble):
    """A step at x1 = 0.7, unsure by the same amount everywhere."""

    def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
        mean = torch.tanh(30 * (X[..., :1] - 0.7)).unsqueeze(-3)
        return EnsemblePosterior(mean + 0.1 * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=X.dtype)[:, None, None])


def test_the_local_error_is_large_around_a_step():
    context = dataclasses.replace(context_for(PLANE, n=60, pending=0), residuals=None)
    field = local_error(Step(2), torch.tensor([[0.7, 0.5], [0.1, 0.5]], dtype=torch.float64), context)
    assert field[0] > 2 * field[1]
    few = dataclasses.replace(context, X=context.X[:4])
    assert torch.equal(local_error(Step(2), context.X, few), torch.ones(60, dtype=torch.float64))


def test_the_weight_of_the_error_moves_the_integrated_variance_to_the_step():
    context = dataclasses.replace(context_for(PLANE, n=60, pending=0), residuals=None)

    class Waves(Step):
        def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
            mean = torch.tanh(30 * (X[..., :1] - 0.7)).unsqueeze(-3)
            return EnsemblePosterior(mean + 0.1 * torch.sin(4 * (X.unsqueeze(-3) @ self.waves + self.phases)))

    model = Waves(2, 1, estimators=32)
    far = [np.abs(WeightedIVR(pool=1024, power=p).select(model, PLANE, 12, context).x[:, 0] - 0.7).mean() for p in (0.0, 2.0)]
    assert far[1] < 0.8 * far[0]


def test_vigf_goes_to_the_step():
    context = dataclasses.replace(context_for(PLANE, n=30, pending=0), residuals=None)
    chosen = Vigf().select(Step(2), PLANE, 8, context)
    assert np.abs(chosen.x[:, 0] - 0.7).mean() < 0.15
    assert "global-fit gain" in chosen.reasons[0]


@pytest.mark.parametrize("over_t", [False, True])
def test_a_process_over_t_and_over_parameters_alone_can_be_conditioned(over_t):
    x = torch.from_numpy(PLANE.sobol(20, seed=0))
    y = torch.tanh(5 * x[:, :1]) + x[:, 1:]
    X = torch.cat([x, torch.zeros(20, 1, dtype=torch.float64)], dim=1) if over_t else x
    gp = ExactGP(X.shape[1], 1, over_t)
    gp.fit(Batch(X, y, torch.ones(20), torch.arange(20)))
    context = dataclasses.replace(context_for(PLANE, n=2, pending=0), X=x, residuals=None)
    for make in (WeightedIVR, Bald, Epig, MaxDet):
        check_selection(make().select(OverTime(gp, torch.zeros(1)), PLANE, 3, context), PLANE, 3, context)
