import dataclasses

import numpy as np
import pytest
import torch
from botorch.posteriors.ensemble import EnsemblePosterior

from alearn.acquisition import Breed, Deficit, Mixture, Portfolio, Schedule
from alearn.errors import ConfigError, UnknownName
from alearn.testing.acquisition import SPACES, WaveEnsemble, check_selection, context_for

PLANE = SPACES["2-D"]


def context(n=12, round_=0, **more):
    return dataclasses.replace(context_for(PLANE, n=n, pending=0), round=round_, **({"residuals": None} | more))


def names(selection):
    return [reason.split(":")[0].split(" (")[0] for reason in selection.reasons]


def test_a_mixture_keeps_its_shares_over_the_rounds():
    mixture = Mixture(of=[{"name": "std_distance", "share": 0.9, "pool": 256}, {"name": "sobol", "share": 0.1}])
    drawn = [name for r in range(10) for name in names(mixture.select(WaveEnsemble(2), PLANE, 4, context(round_=r)))]
    assert len(drawn) == 40
    assert drawn.count("sobol") == 4


def test_the_parts_of_a_mixture_see_each_others_picks():
    mixture = Mixture(of=[{"name": "maximin"}, {"name": "maximin"}])
    chosen = mixture.select(WaveEnsemble(2), PLANE, 6, context())
    check_selection(chosen, PLANE, 6, context())
    gaps = np.linalg.norm(chosen.x[:, None] - chosen.x[None], axis=-1)[np.triu_indices(6, 1)]
    assert gaps.min() > 0.1


def test_a_schedule_changes_with_the_members():
    schedule = Schedule(phases=[{"name": "random", "until": 20}, {"name": "maximin", "until": 30}, {"name": "std", "pool": 64}])
    for created, name in ((19, "random"), (20, "maximin"), (29, "maximin"), (30, "std"), (1000, "std")):
        assert set(names(schedule.select(WaveEnsemble(2), PLANE, 2, context(created=created)))) == {name}
    assert names(schedule.select(WaveEnsemble(2), PLANE, 1, context(n=25))) == ["maximin"]


def test_the_portfolio_moves_to_the_arm_that_teaches_and_keeps_sobol():
    portfolio = Portfolio(of=[{"name": "maximin", "pool": 256}, {"name": "random"}])
    now = context(n=10)
    counts = {"maximin": 0, "random": 0, "sobol": 0}
    for round_ in range(12):
        now = dataclasses.replace(now, round=round_)
        chosen = portfolio.select(WaveEnsemble(2), PLANE, 6, now)
        found = names(chosen)
        if round_ >= 6:
            for name in found:
                counts[name] += 1
        error = torch.tensor([2.0 if name == "random" else 0.2 for name in found], dtype=torch.float64)
        old = torch.zeros(len(now.X), dtype=torch.float64) if now.residuals is None else now.residuals
        now = dataclasses.replace(now, X=torch.cat([now.X, torch.from_numpy(chosen.x)]), residuals=torch.cat([old, error]))
    shares = dict(zip([n for n, _ in portfolio.arms], portfolio.shares(12), strict=True))
    assert shares["random"] > 0.6
    assert shares["sobol"] >= 0.1
    assert counts["random"] > counts["maximin"]


def test_without_errors_the_portfolio_shares_evenly():
    portfolio = Portfolio(of=[{"name": "random"}, {"name": "sobol"}])
    assert [n for n, _ in portfolio.arms] == ["random", "sobol"]
    portfolio.select(WaveEnsemble(2), PLANE, 4, context())
    assert portfolio.shares(1) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mixture(of=[]), "give a list of mappings"),
        (lambda: Mixture(of="sobol"), "give a list of mappings"),
        (lambda: Mixture(of=[{"share": 1}]), "a mapping with a name"),
        (lambda: Mixture(of=[{"name": "sobol", "share": 0}]), "number above 0"),
        (lambda: Mixture(of=[{"name": "sobl"}]), "Did you mean 'sobol'"),
        (lambda: Mixture(of=[{"name": "mixture"}]), "part of the acquisition 'mixture'"),
        (lambda: Mixture(of=[{"name": "sobol", "pool": 3}]), "option of acquisition 'sobol'"),
        (lambda: Schedule(phases=[{"name": "sobol"}, {"name": "random"}]), "number above 0"),
        (lambda: Schedule(phases=[{"name": "sobol", "until": 9}, {"name": "random", "until": 5}]), "ends that rise"),
        (lambda: Portfolio(floor=0.5), "floors together at most 1"),
        (lambda: Breed(sigma=0.0), "sigma is 0.0"),
        (lambda: Breed(uniform=2.0), "uniform is 2.0"),
        (lambda: Deficit(bins=0), "bins is 0"),
    ],
)
def test_wrong_options_are_refused(make, says):
    with pytest.raises((ConfigError, UnknownName), match=says):
        make()


def test_breed_multiplies_where_the_error_is():
    class Step(WaveEnsemble):
        def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
            return EnsemblePosterior(torch.tanh(40 * (X[..., :1] - 0.8)).unsqueeze(-3) + 0.01 * torch.tensor([-1.0, 1.0])[:, None, None])

    bred = Breed(uniform=0.0, power=2.0, sigma=0.05).select(Step(2), PLANE, 40, context(n=60))
    free = Breed(uniform=1.0).select(Step(2), PLANE, 40, context(n=60))
    assert np.abs(bred.x[:, 0] - 0.8).mean() < 0.6 * np.abs(free.x[:, 0] - 0.8).mean()
    assert "x the mean error" in bred.reasons[0]
    assert "uniformly" in free.reasons[0]


def test_breed_shies_from_where_members_fail_and_works_in_many_dimensions():
    now = context(n=40, feasible=lambda X: (X[:, 0] < 0.5).double())
    assert (Breed(uniform=0.0).select(WaveEnsemble(2), PLANE, 20, now).x[:, 0] < 0.5).all()
    from alearn.space import Space

    wide = Space.from_config({f"c{i}": [0, 1] for i in range(100)})
    many = dataclasses.replace(context_for(wide, n=20, pending=0), residuals=None)
    check_selection(Breed().select(WaveEnsemble(100), wide, 8, many), wide, 8, many)


def test_deficit_fills_the_empty_corner():
    x = torch.from_numpy(PLANE.sobol(200, seed=0))
    now = context()
    now = dataclasses.replace(now, X=x[(x[:, 0] < 0.5) | (x[:, 1] < 0.5)])
    chosen = Deficit().select(WaveEnsemble(2), PLANE, 12, now)
    assert ((chosen.x > 0.45).all(axis=1)).mean() >= 0.9
    assert "% of their members missing" in chosen.reasons[0]
