import numpy as np
import pytest
import torch
from scipy.stats import qmc

from alearn.errors import ConfigError
from alearn.simulators.functions import FUNCTIONS
from alearn.surrogate import Batch, DeepEnsemble
from alearn.surrogate.growing import GrowingEnsemble
from alearn.surrogate.information import information, residual
from alearn.surrogate.net2net import grow, may_deepen
from alearn.surrogate.stacked import StackedMLP

TINY = {"estimators": 4, "width": 3, "depth": 1, "stall": 0.9, "enough": 0.5}


def ridge(n, seed=1):
    function = FUNCTIONS["ridge"]
    unit = qmc.Sobol(2, rng=np.random.default_rng(seed)).random(512)[:n]
    Y = torch.as_tensor(function(function.from_unit(unit)))[:, None]
    return Batch(torch.as_tensor(unit), Y, torch.ones(n), torch.arange(n))


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "tanh", "sine"])
@pytest.mark.parametrize("body", ["mlp", "residual", "fourier", "siren"])
@pytest.mark.parametrize("width", [16, 23])
def test_a_larger_network_computes_what_the_smaller_did(activation, body, width):
    def make(w, depth):
        return StackedMLP(3, 2, 2, w, depth, activation, body, 1.5, torch.Generator().manual_seed(w))

    old = make(8, 2)
    for b in old.biases:
        b.data.normal_(generator=torch.Generator().manual_seed(1))
    new = make(width, 2 + may_deepen(activation, body, width / 8))
    x = torch.rand(64, 2) * 2 - 1
    grow(old, new, seed=4)
    assert torch.allclose(new(x), old(x), atol=2e-5 * float(old(x).detach().abs().max()))
    # copies part ways: no two units of a layer have the same gradient
    (new(x) ** 2).mean().backward()
    columns = new.weights[0].grad[0].T
    assert len(torch.unique((columns * 1e6).round(), dim=0)) > 8


def test_what_cannot_be_kept_is_refused():
    def make(w, depth, body="mlp"):
        return StackedMLP(2, 2, 1, w, depth, "tanh", body, 1.5, torch.Generator())

    assert not may_deepen("tanh", "mlp", 2)
    with pytest.raises(ConfigError, match="function kept"):
        grow(make(8, 2), make(8, 3), 0)
    with pytest.raises(ConfigError, match="function kept"):
        grow(make(8, 2), make(4, 2), 0)


def test_it_grows_when_its_size_limits_it_and_forgets_nothing():
    e = GrowingEnsemble(2, 1, max_width=12, max_depth=2, **TINY)
    e.fit(ridge(64), updates=300)
    e.fit(ridge(96), updates=300)
    assert e.size.tolist() == [3, 1]
    assert "first" in e.lead
    e._meet(ridge(128))
    before = e.predict(ridge(50, seed=3).X)
    e._look(ridge(128))
    assert e.size.tolist() == [6, 2]
    assert "stalled" in e.lead
    assert "6 x 2, grown from 3 x 1" in e.lead
    for a, b in zip(before, e.predict(ridge(50, seed=3).X), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    learned = float(residual(e, ridge(128))[0])
    e.fit(ridge(128), updates=600)
    assert float(residual(e, ridge(128))[0]) < 0.8 * learned
    # and no further than it may
    for n in (192, 256, 320):
        e.fit(ridge(n), updates=100)
    assert e.size.tolist() == [12, 2]


def test_where_the_data_limit_it_does_not_grow():
    e = GrowingEnsemble(2, 1, enough=0.5, estimators=4, width=24, depth=2)
    said = []
    for n in (16, 24, 32, 40):
        e.fit(ridge(n), updates=500)
        said.append(e.verdict)
    assert e.size.tolist() == [24, 2]
    assert "data limit it" in said[-1]


def test_members_like_those_known_bring_no_information():
    e = DeepEnsemble(2, 1, estimators=4, width=32, depth=2)
    data = ridge(128)
    left = data.X[:, 0] < 0.5
    known, other = data.take(left.nonzero()[:, 0]), data.take((~left).nonzero()[:, 0])
    e.fit(known, updates=500)
    noise = residual(e, known)
    again = Batch(known.X + 1e-4, known.Y, known.weights, known.groups + 500)
    assert information(e, again, noise) < 0.5 * information(e, other, noise)
    # the steps of one member are no more than the member
    rows = torch.arange(len(other)).repeat(5)
    assert information(e, other.take(rows), noise) == pytest.approx(information(e, other, noise))


def test_it_resumes_at_the_size_that_it_had():
    e = GrowingEnsemble(2, 1, max_width=12, **TINY)
    for n in (64, 96, 128):
        e.fit(ridge(n), updates=200)
    assert e.size.tolist() == [6, 2]
    other = GrowingEnsemble(2, 1, **e.options())
    other.load_state_dict(e.state_dict())
    other.load_training_state(e.training_state())
    for surrogate in (e, other):
        surrogate.fit(ridge(160), updates=50)
    assert torch.equal(e.predict(ridge(9).X).mean, other.predict(ridge(9).X).mean)
    assert e.lead == other.lead


def test_it_answers_as_the_ensemble_in_it():
    e = GrowingEnsemble(2, 1, **TINY)
    e.observe(ridge(40))
    e.update(ridge(40))
    e.lr = 1e-3
    e.scale_variance(torch.tensor([2.0]))
    X = torch.rand(5, 3, 2, dtype=torch.float64)
    assert torch.equal(e.posterior(X).variance, e.inner.posterior(X).variance)
    assert (e.inner.lr, int(e.updates), float(e.inner.factor)) == (1e-3, 1, 2.0)
    assert torch.equal(e.output_scale, e.inner.output_scale)


def test_nonsense_is_refused():
    for options in ({"max_width": 8}, {"enough": 0.0}, {"body": "mine.py:net"}, {"stall": 1.0}):
        with pytest.raises(ConfigError, match="growing ensemble has"):
            GrowingEnsemble(2, 1, **options)
