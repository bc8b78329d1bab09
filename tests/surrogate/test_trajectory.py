import pytest
import torch

from alearn.errors import ConfigError
from alearn.surrogate import Batch, DeepEnsemble, ExactGP, OverTime
from alearn.testing.surrogate import F64, smooth_data


def over_t(cls, m, **options):
    torch.manual_seed(0)
    s = cls(3, m, True, 0, **options)
    X = torch.rand(60, 3, dtype=F64) * torch.tensor([1, 1, 5])
    Y = torch.stack([X.sum(dim=1), 10 * X[:, 0] * X[:, 2]], dim=1)[:, :m]
    s.fit(Batch(X, Y, torch.ones(60), torch.arange(60) // 6), updates=30)
    return s


@pytest.fixture(params=[1, 2], ids=["one", "two"])
def ensemble(request):
    return over_t(DeepEnsemble, request.param, width=16, depth=2)


def test_columns_are_time_then_output(ensemble):
    model = OverTime(ensemble, [0.0, 2.0, 5.0])
    x = torch.rand(4, 2, dtype=F64)
    m = ensemble.m
    mean = model.posterior(x).mean
    assert (model.T, model.d, model.num_outputs) == (3, 2, 3 * m)
    for i, t in enumerate((0.0, 2.0, 5.0)):
        at = torch.cat([x, torch.full((4, 1), t, dtype=F64)], dim=1)
        assert torch.allclose(mean[:, i * m : (i + 1) * m], ensemble.posterior(at).mean, atol=1e-5)


def test_an_estimator_stays_one_curve(ensemble):
    x = torch.rand(1, 2, dtype=F64)
    values = OverTime(ensemble, [1.0, 1.0]).posterior(x).values
    m = ensemble.m
    assert torch.allclose(values[..., :m], values[..., m:])


@pytest.mark.parametrize("m", [1, 2])
def test_gaussian_covariance_is_that_of_the_inner_gp(m):
    gp = over_t(ExactGP, m)
    model = OverTime(gp, [0.0, 2.5])
    x = torch.rand(3, 2, dtype=F64)
    with torch.no_grad():
        joint = model.posterior(x)
        inner = gp.posterior(model.expand(x))
        assert torch.allclose(joint.mean.reshape(-1), inner.mean.reshape(-1))
        assert torch.allclose(joint.variance.reshape(-1), inner.variance.reshape(-1), atol=1e-9)
        some = model.posterior(x, output_indices=[0, 2 * m - 1])
        assert torch.allclose(some.variance, joint.variance[:, [0, 2 * m - 1]])
        if m == 1:
            expected = inner.distribution.covariance_matrix
            assert torch.allclose(joint.distribution.covariance_matrix, expected, atol=1e-9)


def test_trajectory_std_is_normalised_and_weighted(ensemble):
    x = torch.rand(7, 2, dtype=F64)
    grid = [0.0, 2.0, 5.0]
    relative = (OverTime(ensemble, grid).predict(x).epistemic / ensemble.output_scale.repeat(3)) ** 2
    assert torch.allclose(OverTime(ensemble, grid).trajectory_std(x), relative.mean(dim=1).sqrt())
    last = OverTime(ensemble, grid, weights=[0, 0, 1]).trajectory_std(x)
    assert torch.allclose(last, relative[:, -ensemble.m :].mean(dim=1).sqrt())


def test_large_pools(ensemble):
    assert OverTime(ensemble, [0.0, 5.0]).trajectory_std(torch.rand(40_000, 2, dtype=F64)).shape == (40_000,)
    assert OverTime(ensemble, [0.0, 5.0]).trajectory_std(torch.empty(0, 2, dtype=F64)).shape == (0,)


def test_without_t_it_is_the_surrogate_itself():
    s = DeepEnsemble(2, 1, width=16, depth=2)
    s.fit(smooth_data(20), updates=10)
    model = OverTime(s)
    x = torch.rand(5, 2, dtype=F64)
    assert (model.T, model.d, model.num_outputs) == (1, 2, 1)
    assert torch.equal(model.posterior(x).mean, s.posterior(x).mean)
    assert torch.allclose(model.trajectory_std(x), (s.predict(x).epistemic / s.output_scale)[:, 0])


@pytest.mark.parametrize(("grid", "weights"), [(None, None), ([], None), ([float("nan")], None), ([1.0], [1.0, 2.0]), ([1.0], [0.0])])
def test_bad_grids(ensemble, grid, weights):
    with pytest.raises(ConfigError):
        OverTime(ensemble, grid, weights)
