import numpy as np
import pytest
import torch
from scipy.stats import qmc

from alearn.errors import ConfigError, UnknownName
from alearn.simulators.functions import FUNCTIONS
from alearn.surrogate import Batch
from alearn.surrogate.auto import AutoSurrogate
from alearn.testing.surrogate import SurrogateConformance, smooth_data

SMALL = {"ensemble": {"estimators": 4, "width": 32, "depth": 2, "max_updates": 500}, "gp": {"max_updates": 40}}


class TestAuto(SurrogateConformance):
    rmse = 0.02

    def make(self, d, m, over_t=False, seed=0):
        return AutoSurrogate(d, m, over_t, seed, candidates=SMALL)


def sample(name, n, seed, numbered_from=0):
    """``n`` Sobol points of a reference function, each a member of its own."""
    function = FUNCTIONS[name]
    unit = qmc.Sobol(function.d, rng=np.random.default_rng(seed)).random(n)
    Y = torch.as_tensor(function(function.from_unit(unit)))[:, None]
    return Batch(torch.as_tensor(unit), Y, torch.ones(n), torch.arange(numbered_from, numbered_from + n))


def error(surrogate, test):
    return float((surrogate.predict(test.X).mean - test.Y).pow(2).mean().sqrt() / test.Y.std())


@pytest.mark.parametrize(("name", "n", "best"), [("otl", 64, "gp"), ("ridge", 128, "ensemble")])
def test_the_better_one_leads(name, n, best):
    auto = AutoSurrogate(FUNCTIONS[name].d, 1, candidates={**SMALL, "ensemble": {"estimators": 8, "width": 48, "max_updates": 1500}})
    auto.fit(sample(name, n, 1))
    assert [s.name for s in auto.standings if s.leads] == [best]
    test = sample(name, 1024, 99)
    errors = {n: error(auto.candidates[n], test) for n in auto.names}
    assert error(auto, test) == errors[best] == min(errors.values())


def test_members_are_predicted_before_they_are_learned():
    auto = AutoSurrogate(2, 1, candidates=SMALL, evidence=8)
    auto.fit(smooth_data(16), updates=50)
    assert auto.standings[0].evidence == "cross-validated"
    before = {n: auto.candidates[n].predict(smooth_data(40).X[16:]).mean for n in auto.names}
    auto.fit(smooth_data(40), updates=50)
    assert all((s.evidence, s.members) == ("prequential", 24) for s in auto.standings)
    truth = smooth_data(40).Y[16:]
    weight = 0.5 ** (torch.arange(23, -1, -1) / 24)
    for s in auto.standings:
        squared = ((before[s.name] - truth) ** 2)[:, 0]
        expected = ((weight * squared).sum() / weight.sum()).sqrt() / smooth_data(16).Y.std(correction=0)
        assert s.error == pytest.approx(float(expected), rel=1e-6)


def test_the_lead_changes_only_for_a_margin():
    auto = AutoSurrogate(2, 1, candidates=SMALL, hysteresis=0.2)
    for errors, leader in (
        ([1.0, 0.9], "ensemble"),
        ([1.0, 0.7], "gp"),
        ([0.6, 0.7], "gp"),
        ([0.5, 0.7], "ensemble"),
        ([np.nan, 9.0], "gp"),
    ):
        auto._competition.compare(errors, 10)
        auto._settle()
        assert auto.standings[0].name == leader


def test_a_hopeless_candidate_rests_until_the_data_have_grown():
    auto = AutoSurrogate(2, 1, candidates=SMALL, evidence=4)
    auto.fit(smooth_data(20), updates=20)
    auto.fit(smooth_data(30), updates=20)
    assert auto.standings[0].name == "gp"
    resting = auto.candidates["ensemble"].state_dict()["updates"].item()
    auto.fit(smooth_data(36), updates=20)
    assert auto.candidates["ensemble"].state_dict()["updates"].item() == resting
    auto.fit(smooth_data(60), updates=20)
    assert auto.candidates["ensemble"].state_dict()["updates"].item() == resting + 20


def test_one_fit_gives_many_rows_only_to_those_who_can_take_them():
    auto = AutoSurrogate(2, 1, candidates=SMALL, max_rows=50)
    auto.fit(smooth_data(120), updates=30)
    assert len(auto.candidates["gp"].train_X) == 50
    assert float(auto.candidates["ensemble"].scaling.count) == 120


def test_a_list_of_names_will_do_and_nonsense_is_refused():
    assert AutoSurrogate(2, 1, candidates=["gp"]).names == ("gp",)
    for options in ({"candidates": {}}, {"hysteresis": 1.0}, {"evidence": 0}, {"max_rows": 2}):
        with pytest.raises(ConfigError, match="auto surrogate has the candidates"):
            AutoSurrogate(2, 1, **options)
    with pytest.raises(UnknownName, match="Did you mean 'ensemble'"):
        AutoSurrogate(2, 1, candidates=["ensembel"])
    with pytest.raises(ConfigError, match="not 'auto' itself"):
        AutoSurrogate(2, 1, candidates=["auto"])
