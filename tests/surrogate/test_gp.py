import pytest
import torch

from alearn.errors import AlearnError, ConfigError
from alearn.surrogate import Batch, ExactGP
from alearn.testing.surrogate import F64, SurrogateConformance, smooth_data


class TestExactGP(SurrogateConformance):
    rmse = 0.01

    def make(self, d, m, over_t=False, seed=0):
        return ExactGP(d, m, over_t, seed, max_updates=40)


def test_before_a_fit_there_is_a_sentence():
    with pytest.raises(AlearnError, match="call fit first"):
        ExactGP(2, 1).posterior(torch.rand(3, 2))


def test_too_many_rows_are_refused_or_thinned():
    with pytest.raises(ConfigError, match="holds at most 50"):
        ExactGP(2, 1, max_rows=50).fit(smooth_data(60))
    data = smooth_data(60)
    over_t = Batch(data.X, data.Y, data.weights, torch.arange(60) // 10)
    gp = ExactGP(2, 1, True, max_rows=30, max_updates=5)
    gp.fit(over_t)
    assert len(gp.train_X) == 30
    with pytest.raises(ConfigError, match="60 members"):
        ExactGP(2, 1, True, max_rows=30).fit(data)


def test_all_rows_are_known_when_hyper_parameters_came_from_a_subset():
    gp = ExactGP(2, 1, fit_rows=30, max_updates=20)
    data = smooth_data(120)
    gp.fit(data)
    assert len(gp.train_X) == 120
    assert float((gp.predict(data.X).mean - data.Y).abs().max()) < 0.02


def test_conditioning_moves_the_mean_to_the_new_data():
    gp = ExactGP(2, 1, max_updates=20)
    gp.fit(smooth_data(20, high=0.5))
    x = torch.tensor([[0.95, 0.95]], dtype=F64)
    before = gp.predict(x).epistemic
    new = gp.condition_on_observations(x, torch.full((1, 1), 4.0, dtype=F64))
    with torch.no_grad():
        after = new.posterior(x)
    assert abs(float(after.mean) - 4.0) < 0.1
    assert float(after.variance.sqrt()) < 0.3 * float(before)
    assert len(gp.train_X) == 20


def test_second_fit_starts_from_the_first():
    gp = ExactGP(2, 1)
    gp.fit(smooth_data(30))
    scale = gp.inner.covar_module.base_kernel.lengthscale.clone()
    gp.fit(smooth_data(30), updates=0)
    assert torch.equal(gp.inner.covar_module.base_kernel.lengthscale, scale)


@pytest.mark.parametrize("options", [{"max_rows": 1}, {"noise": 0.0}, {"max_updates": 0}])
def test_bad_options(options):
    with pytest.raises(ConfigError, match="The GP has"):
        ExactGP(2, 1, **options)


def test_cross_validation_in_closed_form_is_that_of_fits_without_the_fold():
    data = smooth_data(40, m=2)
    gp = ExactGP(2, 2)
    gp.fit(data)
    folds = torch.arange(40) % 4
    found = gp.cross_validate(data, folds)
    out = folds == 1
    # hyper-parameters and normalisation stay: only the rows differ
    without = ExactGP(2, 2)
    without.load_state_dict({**gp.state_dict(), "train_X": gp.train_X[~out], "train_Y": gp.train_Y[~out]})
    mean, epistemic, aleatoric = without.predict(data.X[out])
    assert torch.allclose(found.mean[out], mean, atol=1e-6 * float(gp.scale.max()))
    assert torch.allclose(found.variance[out].sqrt(), (epistemic**2 + aleatoric**2).sqrt(), rtol=1e-3)
