import io
from pathlib import Path

import pytest
import torch

from alearn.errors import ConfigError
from alearn.registry import build
from alearn.surrogate import Batch, DeepEnsemble
from alearn.surrogate.bootstrap import bootstrap_weights
from alearn.testing.surrogate import F64, SurrogateConformance, smooth_data

OWN_BODY = f"{Path(__file__).with_name('own_body.py')}:two_layers"
SMALL = {"estimators": 4, "width": 32, "depth": 2, "max_updates": 500}


class TestDeepEnsemble(SurrogateConformance):
    def make(self, d, m, over_t=False, seed=0):
        return DeepEnsemble(d, m, over_t, seed, **SMALL)


class TestEverythingSwitchedOn(SurrogateConformance):
    rmse = 0.25

    def make(self, d, m, over_t=False, seed=0):
        return DeepEnsemble(d, m, over_t, seed, prior_scale=0.2, variance_heads=True, body="residual", bootstrap="poisson", **SMALL)


@pytest.mark.parametrize("kind", ["soft", "exponential", "poisson"])
def test_bootstrap_weights_are_a_function_of_the_group_alone(kind):
    groups = torch.arange(4000)
    w = bootstrap_weights(kind, 3, 4, groups)
    shuffled = torch.randperm(4000)
    assert torch.equal(bootstrap_weights(kind, 3, 4, groups[shuffled]), w[:, shuffled])
    assert not torch.equal(bootstrap_weights(kind, 4, 4, groups), w)
    assert torch.allclose(w.mean(dim=1), torch.ones(4), atol=0.08)
    variance = 0.25 if kind == "soft" else 1.0
    assert torch.allclose(w.var(dim=1), torch.full((4,), variance), rtol=0.2)
    assert float(torch.corrcoef(w).fill_diagonal_(0).abs().max()) < 0.06


def test_members_stay_whole():
    w = bootstrap_weights("exponential", 0, 3, torch.tensor([7, 7, 9, 7]))
    assert torch.equal(w[:, 0], w[:, 1])
    assert torch.equal(w[:, 0], w[:, 3])
    assert not torch.equal(w[:, 0], w[:, 2])


@pytest.mark.parametrize(
    "options", [{}, {"prior_scale": 0.5}, {"variance_heads": True}, {"body": "fourier"}, {"body": "siren"}, {"body": OWN_BODY}]
)
def test_predictions_do_not_jump_when_the_normalisation_moves(options):
    e = DeepEnsemble(3, 2, True, **{**SMALL, **options})
    n = 200
    X = torch.rand(n, 3, dtype=F64)
    Y = torch.stack([X.sum(dim=1), 100 * X[:, 0] * X[:, 2] + 7], dim=1)
    data = Batch(X, Y, torch.ones(n), torch.arange(n))
    e.observe(data)
    for _ in range(60):
        e.update(data)
    probe = torch.rand(50, 3, dtype=F64)
    before = e.predict(probe)
    mean, scale, t_range = e.scaling.mean.clone(), e.scaling.scale.clone(), e.scaling.t_range.clone()
    later = Batch(X * torch.tensor([1, 1, 1.6]), 3 * Y + 50, data.weights, data.groups)
    e.observe(later)
    assert not torch.equal(e.scaling.mean, mean)
    assert not torch.equal(e.scaling.t_range, t_range)
    for a, b in zip(before, e.predict(probe), strict=True):
        assert torch.allclose(a / scale, b / scale, atol=2e-4)


def test_a_range_of_t_that_explodes_stretches_the_function():
    e = DeepEnsemble(2, 1, True, **SMALL)
    data = smooth_data(50)
    e.observe(data)
    for _ in range(20):
        e.update(data)
    weights = e.net.weights[0].detach().clone()
    e.observe(Batch(data.X * 100, data.Y, data.weights, data.groups))
    assert torch.equal(e.net.weights[0], weights)
    assert float(e.scaling.t_range[1]) > 50


def test_moments_are_those_of_all_data_seen():
    e = DeepEnsemble(2, 1, **SMALL)
    data = smooth_data(300)
    for rows in torch.arange(300).split(7):
        e.observe(data.take(rows))
    mean, scale = e.scaling.target()
    assert torch.allclose(mean, data.Y.mean(dim=0))
    assert torch.allclose(scale, data.Y.std(dim=0, unbiased=False))


def test_training_resumes_exactly():
    def train(e, updates):
        for _ in range(updates):
            e.update(data)
        e.fit(data, updates=20)

    data = smooth_data(100)
    one = DeepEnsemble(2, 1, seed=5, **SMALL)
    one.observe(data)
    train(one, 30)
    file = io.BytesIO()
    torch.save({"model": one.state_dict(), "training": one.training_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    two = DeepEnsemble(2, 1, seed=5, **SMALL)
    two.load_state_dict(state["model"])
    two.load_training_state(state["training"])
    train(one, 30)
    train(two, 30)
    for a, b in zip(one.predict(data.X), two.predict(data.X), strict=True):
        assert torch.equal(a, b)


def test_variance_heads_tell_noise_from_ignorance():
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(2000, 1, dtype=F64, generator=generator)
    noise = 0.02 + 0.5 * (X > 0.5)
    Y = torch.sin(4 * X) + noise * torch.randn(2000, 1, dtype=F64, generator=generator)
    e = DeepEnsemble(1, 1, estimators=4, width=32, depth=2, variance_heads=True)
    e.fit(Batch(X, Y, torch.ones(2000), torch.arange(2000)), updates=2500)
    quiet, loud = e.predict(torch.tensor([[0.25], [0.75]], dtype=F64)).aleatoric[:, 0].tolist()
    assert 0.4 < loud < 0.64
    assert quiet < 0.1
    x = torch.tensor([[0.75]], dtype=F64)
    with_noise = e.posterior(x.expand(500, 1, 1), observation_noise=True).variance.mean()
    assert float(with_noise) > 0.1 + float(e.posterior(x).variance)


def test_importance_weights_decide_who_is_heard():
    X = torch.zeros(200, 1, dtype=F64)
    Y = torch.cat([torch.zeros(100, 1, dtype=F64), torch.ones(100, 1, dtype=F64)])
    weights = torch.cat([torch.full((100,), 1.9), torch.full((100,), 0.1)])
    e = DeepEnsemble(1, 1, bootstrap="none", **SMALL)
    e.fit(Batch(X, Y, weights, torch.arange(200)), updates=600)
    assert abs(float(e.predict(X[:1]).mean) - 0.05) < 0.05


def test_random_priors_spread_the_untrained_and_stay_fixed():
    x = torch.rand(200, 2, dtype=F64)
    small, large = (DeepEnsemble(2, 1, prior_scale=p, **SMALL) for p in (0.01, 2.0))
    assert float(large.predict(x).epistemic.mean()) > 1.3 * float(small.predict(x).epistemic.mean())
    data = smooth_data(40)
    before = large.prior(x.float())
    large.fit(data, updates=500)
    assert torch.equal(large.prior(x.float()), before)
    assert float((large.predict(data.X).mean - data.Y).abs().mean()) < 0.1


def test_built_by_name_with_did_you_mean():
    e = build("surrogate", "ensemble", {"estimators": 3}, d=2, m=1, over_t=False, seed=0)
    assert e.posterior(torch.rand(2, 2)).values.shape[-3] == 3
    with pytest.raises(ConfigError, match="Did you mean 'estimators'"):
        build("surrogate", "ensemble", {"estimator": 3}, d=2, m=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimators": 1}, "at least 2 estimators"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"activation": "slu"}, "Did you mean 'silu'"),
        ({"body": "resnet"}, "residual"),
        ({"bootstrap": "poison"}, "Did you mean 'poisson'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        DeepEnsemble(2, 1, **options)


def test_wrong_columns():
    with pytest.raises(ConfigError, match="takes 2 input columns"):
        DeepEnsemble(2, 1, **SMALL).posterior(torch.rand(3, 3))


def test_cross_validation_foretells_the_error_of_unseen_rows():
    data = smooth_data(60)
    e = DeepEnsemble(2, 1, **SMALL)
    e.fit(data)
    weights = {k: v.clone() for k, v in e.state_dict().items()}
    found = e.cross_validate(data, torch.arange(60) % 4)
    assert all(torch.equal(v, weights[k]) for k, v in e.state_dict().items())
    test = smooth_data(1000, seed=7)
    unseen = float((e.predict(test.X).mean - test.Y).pow(2).mean())
    seen = float((e.predict(data.X).mean - data.Y).pow(2).mean())
    foretold = float(((found.mean - data.Y) ** 2 - found.excess).mean())
    assert 0.5 * unseen < foretold < 8 * unseen  # it learned from three quarters of the rows
    assert foretold > 4 * seen
    assert bool((found.variance > 0).all())


@pytest.mark.parametrize("body", ["fourier", "siren", OWN_BODY])
def test_every_body_learns(body):
    e = DeepEnsemble(2, 1, **{**SMALL, "body": body})
    e.fit(smooth_data(80), updates=800)
    test = smooth_data(300, seed=1)
    assert float((e.predict(test.X).mean - test.Y).pow(2).mean().sqrt()) < 0.25 * float(test.Y.std())


def test_a_body_of_ones_own_must_have_the_right_shape():
    with pytest.raises(ConfigError, match=r"makes a module from 3 x 2 to \(3, 5\)"):
        DeepEnsemble(2, 1, body=OWN_BODY.replace("two_layers", "wrong_shape"), **SMALL)
    with pytest.raises(ConfigError, match="makes int"):
        DeepEnsemble(2, 1, body=OWN_BODY.replace("two_layers", "no_module"), **SMALL)
    with pytest.raises(ConfigError, match="nowhere"):
        DeepEnsemble(2, 1, body=OWN_BODY.replace("two_layers", "nowhere"), **SMALL)
