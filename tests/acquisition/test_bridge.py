import dataclasses

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP

from alearn.acquisition import BoTorchAcquisition
from alearn.errors import ConfigError, UnknownName
from alearn.testing.acquisition import SPACES, WaveEnsemble, check_selection, context_for

PLANE = SPACES["2-D"]


@pytest.fixture
def gp():
    context = context_for(PLANE, n=12, pending=2)
    y = torch.sin(6 * context.X[:, :1]) * context.X[:, 1:]
    model = SingleTaskGP(context.X, y)
    model.covar_module.lengthscale = 0.3
    return model.eval()


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("qNIPV", {}),
        ("std", {}),
        ("UpperConfidenceBound", {"beta": 0.3}),
        ("qUpperConfidenceBound", {"beta": 0.3}),
        ("LogExpectedImprovement", {}),
        ("qLogNoisyExpectedImprovement", {}),
    ],
)
def test_functions_by_name_over_a_gp(gp, function, options):
    context = context_for(PLANE, n=12, pending=2)
    chosen = BoTorchAcquisition(function=function, options=options, pool=64, mc_points=16).select(gp, PLANE, 2, context)
    check_selection(chosen, PLANE, 2, context)
    assert np.isfinite(chosen.scores).all()
    assert chosen.reasons[0].startswith(BoTorchAcquisition(function=function, options=options).name)


def test_integrated_variance_prefers_the_hole_in_the_data(gp):
    x = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x[torch.linalg.vector_norm(x - 0.5, dim=1) > 0.25][:40]
    model = SingleTaskGP(x, x.sum(1, keepdim=True))
    model.covar_module.lengthscale = 0.2
    context = dataclasses.replace(context_for(PLANE, n=2, pending=0), X=x, residuals=None)
    chosen = BoTorchAcquisition(pool=256).select(model.eval(), PLANE, 1, context)
    assert np.linalg.norm(chosen.x[0] - 0.5) < 0.2


def test_gradient_improves_on_the_pool():
    context = context_for(PLANE, pending=0)
    model = WaveEnsemble(2, 1, context.X)
    scores = [
        BoTorchAcquisition(function="std", pool=64, gradient=g).select(model, PLANE, 1, context_for(PLANE, pending=0)).scores[0]
        for g in (False, True)
    ]
    assert scores[1] > scores[0]


def test_a_function_that_needs_fantasies_says_so_for_an_ensemble():
    context = context_for(PLANE)
    with pytest.raises(ConfigError, match="does not work with this surrogate"):
        BoTorchAcquisition(pool=64, mc_points=16).select(WaveEnsemble(2, 1), PLANE, 1, context)


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigError, match="beta"):
        BoTorchAcquisition(function="UpperConfidenceBound", pool=64).select(WaveEnsemble(2, 1), PLANE, 1, context_for(PLANE))


def test_misspelt_names_are_refused_before_anything_runs():
    with pytest.raises(UnknownName, match="Did you mean 'qLogNoisyExpectedImprovement'"):
        BoTorchAcquisition(function="qLogNoisyExpectedImprovment")
    with pytest.raises(UnknownName, match="Did you mean 'beta'"):
        BoTorchAcquisition(function="UpperConfidenceBound", options={"betta": 1})
    with pytest.raises(UnknownName, match=r"botorch\.acquisition 'optimize_acqf'"):
        BoTorchAcquisition(function="optimize_acqf")
