import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from alearn.acquisition import (
    Bait,
    Bald,
    BoTorchAcquisition,
    Breed,
    CoreSet,
    Deficit,
    Epig,
    GoalWeighted,
    Inverse,
    LatinHypercube,
    Lcmd,
    MaxDet,
    Maximin,
    Mixture,
    Portfolio,
    PosteriorStd,
    PythonAcquisition,
    Random,
    Schedule,
    Selection,
    Sobol,
    StdDistance,
    StochasticBatch,
    Straddle,
    Vigf,
    WeightedIVR,
)
from alearn.registry import build, plugins
from alearn.testing.acquisition import SPACES, check_acquisition, check_selection, context_for

CONFIGS = Path(__file__).parents[2] / "configs" / "acquisition"


def spread(surrogate, X, context):
    return surrogate.posterior(X.unsqueeze(1)).variance.squeeze(1).sum(-1)


MAKERS = {
    "random": Random,
    "sobol": Sobol,
    "maximin": lambda: Maximin(pool=512),
    "std": lambda: PosteriorStd(pool=512),
    "std diverse": lambda: PosteriorStd(pool=512, diversity=1.0),
    "std_distance": lambda: StdDistance(pool=512, refine=128),
    "sbal": lambda: StochasticBatch(pool=512),
    "botorch": lambda: BoTorchAcquisition(function="PosteriorStandardDeviation", pool=256, gradient=False),
    "python": lambda: PythonAcquisition(target=spread, pool=512),
    "lhs": LatinHypercube,
    "ivr": lambda: WeightedIVR(pool=256),
    "vigf": lambda: Vigf(pool=512),
    "bald": lambda: Bald(pool=512),
    "epig": lambda: Epig(pool=256),
    "core set": lambda: CoreSet(pool=512),
    "lcmd": lambda: Lcmd(pool=512),
    "maxdet": lambda: MaxDet(pool=512),
    "bait": lambda: Bait(pool=256),
    "breed": Breed,
    "deficit": lambda: Deficit(pool=512),
    "straddle": lambda: Straddle(level=0.5, pool=512),
    "goal top": lambda: GoalWeighted(top=0.1, pool=512, refine=128),
    "goal target": lambda: GoalWeighted(target=lambda **p: 1.0, pool=128, refine=32),
    "inverse ei": lambda: Inverse(pool=512, refine=128),
    "inverse ucb": lambda: Inverse(kind="ucb", target=0.5, pool=512, refine=128),
    "inverse thompson": lambda: Inverse(kind="thompson", minimise=True, pool=512, refine=128),
    "mixture": Mixture,
    "schedule": Schedule,
    "portfolio": lambda: Portfolio(of=[{"name": "std_distance", "pool": 256}, {"name": "ivr", "pool": 256}]),
}
NEEDS = {"python": {"target": spread}, "straddle": {"level": 0.5}, "goal": {"top": 0.1}}
"""What a user has to give besides the name."""


def settings(made):
    """An acquisition's options, those of its parts included."""

    def plain(value):
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return [type(value).__name__, settings(value)] if type(value).__module__.startswith("alearn.acquisition") else value

    return {k: plain(v) for k, v in vars(made).items() if k not in ("accepted", "function")}


@pytest.mark.parametrize("name", MAKERS)
def test_conforms(name):
    check_acquisition(MAKERS[name])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_configs_build_with_the_constructors_defaults(path):
    options = yaml.safe_load(path.read_text())
    name = options.pop("name")
    assert name == path.stem
    options |= NEEDS.get(name, {})
    made = build("acquisition", name, options, seed=3)
    assert type(made) is plugins("acquisition")[name].load()
    default = build("acquisition", name, NEEDS.get(name, {}), seed=3)
    assert settings(made) == settings(default)


def test_every_plugin_has_a_config():
    assert set(plugins("acquisition")) == {p.stem for p in CONFIGS.glob("*.yaml")}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda x: x + 1, "outside the unit cube"),
        (lambda x: x[:1], "has shape"),
        (lambda x: np.vstack([x[:1]] * len(x)), "equals another one"),
        (lambda x: x.astype(np.float32), "dtype float32"),
    ],
)
def test_the_suite_catches_bad_points(spoil, says):
    context = context_for(SPACES["2-D"])
    good = Selection(np.random.default_rng(0).random((3, 2)), np.zeros(3), ("far from all data",) * 3)
    check_selection(good, SPACES["2-D"], 3, context)
    with pytest.raises(AssertionError, match=says):
        check_selection(dataclasses.replace(good, x=spoil(good.x)), SPACES["2-D"], 3, context)


def test_the_suite_catches_a_point_that_is_pending_and_a_missing_reason():
    context = context_for(SPACES["2-D"])
    x = torch.cat([context.pending[:1], torch.rand(1, 2, dtype=torch.float64)]).numpy()
    with pytest.raises(AssertionError, match="equals another one"):
        check_selection(Selection(x, np.zeros(2), ("a b c",) * 2), SPACES["2-D"], 2, context)
    with pytest.raises(AssertionError, match="0 reasons"):
        check_selection(Selection(np.random.default_rng(1).random((2, 2)), np.zeros(2)), SPACES["2-D"], 2, context)
