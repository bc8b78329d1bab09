import pytest
import torch

from alearn.errors import AlearnError, ConfigError, UnknownName
from alearn.surrogate import Batch, ExactGP, kernels
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


# --- predictions at many points, kernels -----------------------------------------------------------------------------


@pytest.mark.parametrize("over_t", [False, True])
def test_the_marginal_prediction_is_that_of_the_inner_process(over_t):
    data = smooth_data(60, m=2)
    gp = ExactGP(2, 2, over_t, max_updates=20)
    gp.fit(Batch(data.X * torch.tensor([1.0, 40.0]), data.Y, data.weights, data.groups) if over_t else data)
    X = torch.rand(200, 2, dtype=F64) * torch.tensor([1.0, 40.0 if over_t else 1.0])
    mean, std, _ = gp.predict(X)
    with torch.no_grad():
        inner = gp.inner(gp._inputs(X).unsqueeze(-3))
    assert torch.allclose(mean, (inner.mean * gp.scale[:, None] + gp.mean[:, None]).T, atol=1e-4 * float(gp.scale.max()))
    assert torch.allclose(std, (inner.variance.clamp_min(1e-12).sqrt() * gp.scale[:, None]).T, rtol=0.01, atol=1e-5)


def rough(n):
    X = torch.rand(n, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    return Batch(X, torch.tanh(30.0 * (X[:, :1] - X[:, 1:])), torch.ones(n), torch.arange(n))


def test_single_precision_predicts_many_points_where_it_is_as_good_and_only_there(monkeypatch):
    used = []
    original = kernels.matern52
    monkeypatch.setattr("alearn.surrogate.gp.matern52", lambda a, b, amplitude: used.append((a.dtype, len(b))) or original(a, b, amplitude))
    monkeypatch.setattr(kernels, "WORTH", 1e6)
    X = torch.rand(3000, 2, dtype=F64)
    for data, single in ((rough(200), True), (smooth_data(200), False)):
        gp = ExactGP(2, 1, max_updates=30)
        gp.fit(data)
        used.clear()
        mean, std, _ = gp.predict(X)
        many = {dtype for dtype, n in used if n > kernels.TRIED}
        assert many == {torch.float32 if single else F64}
        monkeypatch.setattr(kernels, "WORTH", 1e99)
        exact_mean, exact_std, _ = gp.predict(X)
        monkeypatch.setattr(kernels, "WORTH", 1e6)
        assert float(((mean - exact_mean).abs() / exact_std).quantile(0.97)) < 0.03
        assert float((std / exact_std - 1.0).abs().quantile(0.97)) < 0.03


def fingerprints(n, seed=0):
    """Random molecules of 64 bits, and a property that five of the bits make."""
    bits = (torch.rand(n, 64, generator=torch.Generator().manual_seed(seed)) < 0.2).to(F64)
    return Batch(bits, bits[:, :5].sum(dim=1, keepdim=True), torch.ones(n), torch.arange(n))


def test_fingerprints_are_compared_by_what_they_share():
    gp = ExactGP(64, 1, kernel="tanimoto", max_updates=30)
    gp.fit(fingerprints(150))
    test = fingerprints(200, seed=1)
    mean, std, noise = gp.predict(test.X)
    with torch.no_grad():
        posterior = gp.posterior(test.X.unsqueeze(-2))
    assert torch.allclose(mean, posterior.mean.squeeze(-2), atol=1e-6)
    assert torch.allclose(std, posterior.variance.sqrt().squeeze(-2), rtol=1e-4)
    assert float((mean - test.Y).pow(2).mean().sqrt()) < 0.8 * float(test.Y.std())
    inside = ((mean - test.Y).abs() < 1.96 * (std**2 + noise**2).sqrt()).double().mean()
    assert 0.85 < float(inside) <= 1.0
    again = ExactGP(64, 1, kernel="tanimoto")
    again.load_state_dict(gp.state_dict())
    assert torch.equal(again.predict(test.X).mean, mean)
    assert gp.options()["kernel"] == "tanimoto"


def test_the_tanimoto_kernel_is_the_share_in_common():
    kernel = kernels.TanimotoKernel()
    a = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    b = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=F64)
    assert kernel(a, b).to_dense().tolist() == [[pytest.approx(1 / 3), 0.0], [0.0, 1.0]]
    assert kernel(a, b, diag=True).tolist() == [pytest.approx(1 / 3), 1.0]


def test_an_unknown_kernel_is_named():
    with pytest.raises(UnknownName, match="Did you mean 'matern'"):
        ExactGP(2, 1, kernel="matern52")
