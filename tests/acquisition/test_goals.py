import dataclasses

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.posteriors.ensemble import EnsemblePosterior

from alearn.acquisition import GoalWeighted, Inverse, Straddle
from alearn.acquisition.objective import Objective
from alearn.errors import ConfigError, UnknownName
from alearn.space import Space
from alearn.surrogate import DeepEnsemble, OverTime
from alearn.testing.acquisition import SPACES, WaveEnsemble, context_for

PLANE = SPACES["2-D"]


class Slope(WaveEnsemble):
    """Mean x1 for the first output and -10 x1 for the second, the same small spread everywhere."""

    def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
        mean = torch.stack([X[..., 0], -10 * X[..., 0]], -1).unsqueeze(-3)
        signs = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=X.dtype)[:, None, None]
        return EnsemblePosterior(mean + 0.02 * signs)


def slope():
    return Slope(2, 2)


def context(n=12):
    return dataclasses.replace(context_for(PLANE, n=n, pending=0), residuals=None)


def test_straddle_follows_the_level():
    for level in (0.25, 0.7):
        chosen = Straddle(level=level).select(slope(), PLANE, 6, context())
        assert np.abs(chosen.x[:, 0] - level).max() < 0.1
        assert f"against the level {level:g}" in chosen.reasons[0]
        assert np.ptp(chosen.x[:, 1]) > 0.5
    second = Straddle(level=-3.0, output=1).select(slope(), PLANE, 6, context())
    assert np.abs(second.x[:, 0] - 0.3).max() < 0.1


def test_a_goal_in_the_input_an_output_and_a_function():
    low, high = PLANE.box["F"]
    region = GoalWeighted(region={"F": [low, low + 0.3 * (high - low)]}, outside=0.01).select(WaveEnsemble(2), PLANE, 10, context())
    assert (region.x[:, 0] <= 0.31).mean() >= 0.8
    top = GoalWeighted(top=0.2, outside=0.01).select(slope(), PLANE, 10, context())
    assert (top.x[:, 0] > 0.7).mean() >= 0.8
    other = GoalWeighted(top=0.2, output=1, outside=0.01).select(slope(), PLANE, 10, context())
    assert (other.x[:, 0] < 0.3).mean() >= 0.8
    own = GoalWeighted(target=lambda F, k: float(k < 0.04), outside=0.01, pool=512, refine=64).select(WaveEnsemble(2), PLANE, 10, context())
    assert (own.x[:, 1] < 0.26).mean() >= 0.8
    assert "matters" in own.reasons[0]


@pytest.mark.parametrize("kind", ["ei", "ucb", "thompson"])
def test_inverse_design_finds_the_largest_the_smallest_and_a_target(kind):
    def best(**options):
        return Inverse(kind=kind, **options).select(slope(), PLANE, 4, context())

    assert best().x[:, 0].min() > 0.9
    assert best(minimise=True).x[:, 0].max() < 0.1
    chosen = best(target=0.4)
    assert np.abs(chosen.x[:, 0] - 0.4).max() < 0.1
    assert "the value 0.4" in chosen.reasons[0]
    assert len(np.unique(chosen.x.round(3), axis=0)) == 4


def test_expected_improvement_trades_mean_against_spread():
    class Hopeful(Slope):
        def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
            values = super().posterior(X).values[..., :1]
            unsure = (X[..., 1] > 0.8).to(X)[..., None].unsqueeze(-3)
            signs = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=X.dtype)[:, None, None]
            return EnsemblePosterior(values + unsure * signs)

    chosen = Inverse().select(Hopeful(2, 1), PLANE, 4, context())
    assert chosen.x[:, 1].min() > 0.79


def test_objectives_over_a_trajectory():
    model = OverTime(DeepEnsemble(3, 2, over_t=True, seed=0, estimators=4, width=8, depth=1), torch.linspace(0, 1, 5))
    x = torch.rand(7, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    values = model.posterior(x.unsqueeze(1)).values.detach().squeeze(-2).movedim(1, 0).reshape(4, 7, 5, 2)[..., 1].double()
    for when, wanted in (("last", values[..., -1]), ("mean", values.mean(-1)), ("max", values.amax(-1)), ("min", values.amin(-1))):
        assert torch.allclose(Objective(1, when).draws(model, x, generator), wanted)


def test_a_gps_objective_is_drawn():
    x = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gp = SingleTaskGP(x, x[:, :1]).eval()
    draws = Objective().draws(gp, x, torch.Generator().manual_seed(0))
    assert draws.shape == (64, 20)
    assert torch.allclose(draws.mean(0), x[:, 0], atol=0.1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Straddle(), r"needs acquisition\.level"),
        (lambda: Straddle(level=1.0, output=-1), "output is -1"),
        (lambda: Straddle(level=1.0, when="lats"), "Did you mean 'last'"),
        (lambda: Inverse(kind="eu"), "Did you mean 'ei'"),
        (lambda: GoalWeighted(), "needs one of"),
        (lambda: GoalWeighted(top=0.1, region={"F": [0, 1]}), "needs one of"),
        (lambda: GoalWeighted(top=2.0), "top is 2.0"),
        (lambda: GoalWeighted(region={"F": [1, 0]}), "give \\[low, high\\]"),
        (lambda: GoalWeighted(region={"G": [0, 1]}).select(slope(), PLANE, 1, context()), "parameter 'G'"),
        (lambda: GoalWeighted(target=lambda F, k: -1.0, pool=64).select(slope(), PLANE, 1, context()), "negative"),
        (lambda: GoalWeighted(target=lambda F: 1.0, pool=64).select(slope(), PLANE, 1, context()), "raised TypeError"),
        (lambda: Inverse(output=7).select(slope(), PLANE, 1, context()), "has 2 outputs, counted from 0"),
    ],
)
def test_wrong_options_are_refused(make, says):
    with pytest.raises((ConfigError, UnknownName), match=says):
        make()


def test_a_space_of_labels_can_have_a_goal():
    space = Space.from_config({"kind": {"choices": ["red", "green", "blue"]}, "a": [0, 1]})
    now = dataclasses.replace(context_for(space, n=6, pending=0), residuals=None)
    goal = GoalWeighted(target=lambda kind, a: float(kind == "red"), outside=0.01, pool=256, refine=0)
    chosen = goal.select(WaveEnsemble(4), space, 5, now)
    assert sum(p["kind"] == "red" for p in space.from_unit(chosen.x)) >= 4
