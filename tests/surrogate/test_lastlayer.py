import pytest
import torch

from alearn.errors import ConfigError
from alearn.surrogate import Batch
from alearn.surrogate.dropout import MCDropout
from alearn.surrogate.lastlayer import DistanceAware, LastLayerLaplace, VariationalLastLayer
from alearn.testing.surrogate import F64, SurrogateConformance, smooth_data

SMALL = {"width": 48, "depth": 2, "max_updates": 1000}


class TestLaplace(SurrogateConformance):
    def make(self, d, m, over_t=False, seed=0):
        return LastLayerLaplace(d, m, over_t, seed, **SMALL)


class TestDistanceAware(SurrogateConformance):
    def make(self, d, m, over_t=False, seed=0):
        return DistanceAware(d, m, over_t, seed, features=96, **SMALL)


class TestVariational(SurrogateConformance):
    rmse = 0.2

    def make(self, d, m, over_t=False, seed=0):
        return VariationalLastLayer(d, m, over_t, seed, **SMALL)


class TestDropout(SurrogateConformance):
    rmse = 0.25
    away = 1.2  # dropout hardly knows where data are

    def make(self, d, m, over_t=False, seed=0):
        return MCDropout(d, m, over_t, seed, draws=24, **SMALL)


def noisy(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(n, 1, dtype=F64, generator=generator)
    Y = torch.sin(4 * X) + 0.2 * torch.randn(n, 1, dtype=F64, generator=generator)
    return Batch(X, Y, torch.ones(n), torch.arange(n))


@pytest.mark.parametrize("make", [LastLayerLaplace, DistanceAware, VariationalLastLayer])
def test_noise_is_told_from_ignorance(make):
    few, many = make(1, 1, **SMALL), make(1, 1, **SMALL)
    few.fit(noisy(60), updates=600)
    many.fit(noisy(1500), updates=1200)
    x = torch.linspace(0.1, 0.9, 20, dtype=F64)[:, None]
    assert float(many.predict(x).aleatoric.mean()) == pytest.approx(0.2, abs=0.05)
    assert float(many.predict(x).epistemic.mean()) < 0.6 * float(few.predict(x).epistemic.mean())
    with_noise = many.posterior(x.unsqueeze(1), observation_noise=True).variance.mean()
    assert float(with_noise) == pytest.approx(float(many.posterior(x.unsqueeze(1)).variance.mean()) + 0.04, abs=0.02)


def test_the_laplace_variance_is_that_of_linear_regression_on_the_features():
    model = LastLayerLaplace(2, 1, **SMALL)
    data = smooth_data(50)
    model.fit(data, updates=200)
    phi = model._phi(model.scaling.inputs(data.X).float()).to(F64)
    precision = phi.T @ phi + model.ridge * torch.eye(phi.shape[1], dtype=F64)
    expected = (phi @ torch.linalg.solve(precision, phi.T)).diagonal() * model.noise * model.output_scale**2
    assert torch.allclose(model.predict(data.X).epistemic[:, 0] ** 2, expected, rtol=1e-4)


def test_spectral_norms_stay_within_the_bound():
    model = DistanceAware(2, 1, bound=0.7, **SMALL)
    model.fit(smooth_data(40), updates=200)
    for _ in range(3):
        model.update(smooth_data(40))
    assert all(float(torch.linalg.matrix_norm(w[0].detach(), ord=2)) < 0.71 for w in list(model.net.weights)[1:-1])


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (MCDropout, {"draws": 1}, "at least 2 draws"),
        (MCDropout, {"rate": 1.0}, "rate between 0 and 1"),
        (DistanceAware, {"length": 0.0}, "positive numbers"),
        (VariationalLastLayer, {"prior": 0.0}, "positive standard deviation"),
        (LastLayerLaplace, {"lr": -1.0}, "lr must be positive"),
        (LastLayerLaplace, {"depth": 0}, "must be at least 1"),
    ],
)
def test_bad_options(make, options, words):
    with pytest.raises(ConfigError, match=words):
        make(2, 1, **options)
