import io
import math

import pytest
import torch

from alearn.errors import ConfigError, UnknownName
from alearn.surrogate import Batch
from alearn.surrogate.population import Population
from alearn.surrogate.recipes import recipes
from alearn.testing.surrogate import F64, SurrogateConformance, smooth_data
from alearn.trainer.snapshots import from_plain, to_plain

MODELS = {
    "good": {"width": 32, "lr": 5e-3},
    "deep": {"width": 24, "depth": 2},
    "slow": {"width": 32, "lr": 1e-5},
    "tiny": {"width": 2, "depth": 1},
}
SMALL = {"survivors": 2, "evidence": 8, "rung": 100, "max_updates": 500}


def population(**options):
    return Population(2, 1, **{"models": MODELS, **SMALL, **options})


class TestPopulation(SurrogateConformance):
    def make(self, d, m, over_t=False, seed=0):
        return Population(d, m, over_t, seed, models={"good": MODELS["good"], "other": {"width": 32, "lr": 1e-2}}, **SMALL)


def names(surrogate, **wanted):
    return {s.name for s in surrogate.standings if all(getattr(s, k) == v for k, v in wanted.items())}


def test_a_grid_is_every_combination_in_stacks_of_one_shape():
    made = recipes({"width": [16, 32], "lr": [1e-2, 1e-3], "depth": [2]}, {"odd": {"width": 5}})
    assert [r.name for r in made] == [
        "width=16 lr=0.001",
        "width=16 lr=0.01",
        "width=32 lr=0.001",
        "width=32 lr=0.01",
        "odd",
    ]
    p = Population(2, 1, grid={"width": [16, 32], "lr": [1e-2, 1e-3], "depth": [2]})
    assert [part.estimators for part in p.net.parts.values()] == [4, 4]


def test_every_model_is_trained_as_if_it_were_alone():
    """One model with its own rate and decay, in a stack with others, takes the very steps that it takes by itself."""
    models = {"a": {"width": 8, "depth": 2, "lr": 1e-2}, "b": {"width": 8, "depth": 2, "lr": 1e-3, "weight_decay": 0.3}, "c": {"width": 4}}
    data = smooth_data(32)
    p = Population(2, 1, models=models, bootstrap="none", estimators=2, survivors=3)
    alone = {}
    for stack, mine in p._stacks():
        for at, i in enumerate(mine):
            r = p.recipes[i]
            other = alone[r.name] = Population(2, 1, models={r.name: models[r.name]}, bootstrap="none", estimators=2, survivors=1)
            for nets, whole in ((other.net, p.net), (other.average, p.average)):
                for name, tensor in whole.parts[stack].named_parameters():
                    nets.parts["0"].get_parameter(name).data.copy_(tensor[2 * at : 2 * at + 2])
    for _ in range(30):
        p.update(data)
        for other in alone.values():
            other.update(data)
    values = p._values(data.X)[0]
    for i, r in enumerate(p.recipes):
        assert torch.allclose(values[2 * i : 2 * i + 2], alone[r.name]._values(data.X)[0], atol=1e-5), r.name


def test_the_stream_halves_the_population_by_members_not_yet_learned():
    p = population()
    p.fit(smooth_data(16), updates=150)
    assert "4 of 4 models" in p.lead or "none has been compared" in p.lead
    before = p.predict(smooth_data(24).X[16:])
    assert before.mean.shape == (8, 1)
    p.fit(smooth_data(24), updates=150)
    assert names(p, dropped="") == {"good", "deep"}
    gone = [s for s in p.standings if s.dropped]
    assert {s.name for s in gone} == {"slow", "tiny"}
    assert all(s.error > max(k.error for k in p.standings if k.answers) for s in gone)
    assert all((s.members, s.at_members, s.at_updates) == (8, 24, 150) for s in gone)
    assert "2 of 4 models left" in p.lead
    assert "members met before they were learned" in p.lead
    # fewer members than the evidence asks for change nothing
    assert sum(part.estimators for part in p.net.parts.values()) == 4


def test_the_errors_are_those_of_the_members_as_they_came():
    p = population(evidence=8)
    p.fit(smooth_data(16), updates=100)
    data = smooth_data(24)
    each = p.average(p.scaling.inputs(data.X[16:]).float()).double().reshape(4, 2, 8, 1).mean(dim=1) * p.scaling.scale + p.scaling.mean
    squared = ((each - data.Y[16:]) ** 2)[..., 0]
    weight = 0.5 ** (torch.arange(7, -1, -1, dtype=F64) / 24)
    expected = ((weight * squared).sum(dim=1) / weight.sum()).sqrt() / p.output_scale
    p.fit(data, updates=10)
    assert torch.allclose(p.errors, expected, rtol=1e-5)


def test_a_fit_to_convergence_holds_members_out_to_decide_what_the_stream_has_not():
    p = population(rung=200)
    p.fit(smooth_data(40))
    assert len(names(p, dropped="")) == 2
    assert names(p, answers=True) == names(p, dropped="")
    assert all("held out" in s.dropped for s in p.standings if s.dropped)
    test = smooth_data(300, seed=3)
    assert float((p.predict(test.X).mean - test.Y).pow(2).mean().sqrt() / test.Y.std()) < 0.1


def test_one_that_diverges_is_dropped_and_hurts_nobody():
    models = {**MODELS, "wild": {"width": 32, "lr": 5e-3, "first_scale": 1e30}}
    p = population(models=models)
    data = smooth_data(30)
    p.observe(data)
    losses = [p.update(data) for _ in range(5)]
    assert all(math.isfinite(v) for v in losses)
    assert [s.name for s in p.standings if s.dropped == "it diverged"] == ["wild"]
    assert math.isfinite(p.fit(data, updates=50))
    assert bool(torch.isfinite(p.predict(data.X).mean).all())


def test_all_diverging_is_told():
    p = population(models={"wild": {"first_scale": 1e30}, "mad": {"first_scale": 1e30}})
    assert not math.isfinite(p.update(smooth_data(30)))
    assert names(p, dropped="") == {"wild", "mad"}


def test_the_best_alone_may_answer():
    p = population(answer="best")
    p.fit(smooth_data(16), updates=100)
    p.fit(smooth_data(32), updates=100)
    assert [s.name for s in p.standings if s.answers] == [p.standings[0].name]
    assert p.posterior(torch.rand(5, 1, 2, dtype=F64)).values.shape[-3] == 2


def test_training_resumes_exactly_after_a_halving():
    def train(p, seen):
        for n in seen:
            p.observe(smooth_data(n))
            p.fit(smooth_data(n), updates=40)
            p.update(smooth_data(n))

    one, two = population(), population()
    train(one, (16, 26))
    assert len(names(one, dropped="")) == 2
    file = io.BytesIO()
    torch.save(to_plain({"model": one.state_dict(), "training": one.training_state()}), file)
    file.seek(0)
    state = from_plain(torch.load(file, weights_only=True))
    two.load_state_dict(state["model"])
    two.load_training_state(state["training"])
    assert names(two, dropped="") == names(one, dropped="")
    train(one, (30, 44))
    train(two, (30, 44))
    assert torch.equal(one.predict(smooth_data(9).X).mean, two.predict(smooth_data(9).X).mean)
    assert one.lead == two.lead


def test_members_count_once_however_many_rows_they_have():
    p = population(evidence=8)
    p.fit(smooth_data(20), updates=20)
    data = smooth_data(28)
    rows = torch.cat([torch.arange(28), torch.full((50,), 20)])
    p.fit(Batch(data.X[rows], data.Y[rows], data.weights[rows], data.groups[rows]), updates=5)
    assert {s.members for s in p.standings} == {8}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"models": None}, ConfigError, "has 0 models"),
        ({"models": {"a": {"widht": 3}}}, UnknownName, "width"),
        ({"models": {"a": {"activation": "rleu"}}}, UnknownName, "relu"),
        ({"models": {"a": {"width": 0}}}, ConfigError, "width=0"),
        ({"models": {"a": {"lr": -1.0}}}, ConfigError, "lr must be positive"),
        ({"grid": {"width": list(range(1, 100)), "depth": list(range(1, 100))}}, ConfigError, "1 to 512"),
        ({"grid": {"lr": [0.1, 0.1]}}, ConfigError, "two models"),
        ({"answer": "worst"}, ConfigError, "'ensemble' or 'best'"),
        ({"answer": "best", "estimators": 1}, ConfigError, "at least 2 networks"),
        ({"keep": 1.0}, ConfigError, "keep is inside"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(options, error, words):
    with pytest.raises(error, match=words):
        population(**options)
