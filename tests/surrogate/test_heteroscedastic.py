import pytest
import torch

from alearn.errors import ConfigError
from alearn.surrogate import Batch
from alearn.surrogate.heteroscedastic import HeteroscedasticGP
from alearn.testing.surrogate import F64, SurrogateConformance


class TestHeteroscedasticGP(SurrogateConformance):
    rmse = 0.02

    def make(self, d, m, over_t=False, seed=0):
        return HeteroscedasticGP(d, m, over_t, seed, max_updates=25, rounds=1)


def loud(x):
    """Standard deviation of the noise: twenty times larger on the right."""
    return 0.02 + 0.38 * (x > 0.5).to(F64)


@pytest.fixture(scope="module")
def fitted():
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(240, 1, dtype=F64, generator=generator)
    Y = torch.sin(5.0 * X) + loud(X) * torch.randn(240, 1, dtype=F64, generator=generator)
    gp = HeteroscedasticGP(1, 1)
    gp.fit(Batch(X, Y, torch.ones(240), torch.arange(240)))
    return gp


def test_the_noise_is_that_of_the_place(fitted):
    x = torch.tensor([[0.1], [0.25], [0.75], [0.9]], dtype=F64)
    mean, epistemic, noise = fitted.predict(x)
    assert (noise[:2] < 0.06).all()
    assert ((noise[2:] > 0.2) & (noise[2:] < 0.7)).all()
    assert float((mean - torch.sin(5.0 * x)).abs()[:2].max()) < 0.05
    assert float(epistemic[2:].mean()) > 2.0 * float(epistemic[:2].mean())


def test_intervals_of_new_runs_hold_on_both_sides(fitted):
    generator = torch.Generator().manual_seed(1)
    X = torch.rand(2000, 1, dtype=F64, generator=generator)
    Y = torch.sin(5.0 * X) + loud(X) * torch.randn(2000, 1, dtype=F64, generator=generator)
    mean, epistemic, noise = fitted.predict(X)
    inside = (Y - mean).abs() < 1.96 * (epistemic**2 + noise**2).sqrt()
    for side in (X < 0.45, X > 0.55):
        assert 0.88 < float(inside[side].double().mean()) < 0.9988
    with torch.no_grad():
        new = fitted.posterior(X[:50].unsqueeze(-2), observation_noise=True)
    assert torch.allclose(new.variance.reshape(-1, 1), epistemic[:50] ** 2 + noise[:50] ** 2, rtol=1e-3)


def test_rounds_are_counted():
    with pytest.raises(ConfigError, match="rounds=0"):
        HeteroscedasticGP(1, 1, rounds=0)
