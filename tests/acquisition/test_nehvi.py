import dataclasses

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.posteriors.ensemble import EnsemblePosterior

from alearn.acquisition import Nehvi
from alearn.errors import ConfigError
from alearn.surrogate import Batch, DeepEnsemble, OverTime
from alearn.testing.acquisition import SPACES, WaveEnsemble, check_acquisition, check_selection, context_for

PLANE = SPACES["2-D"]


class Rivals(WaveEnsemble):
    """-(distance to (0.2, 0.2)) against -(distance to (0.8, 0.2)): the front is the line between the two."""

    def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
        ends = torch.tensor([[0.2, 0.2], [0.8, 0.2]], dtype=X.dtype)
        mean = -torch.linalg.vector_norm(X.unsqueeze(-2) - ends, dim=-1).unsqueeze(-3)
        return EnsemblePosterior(mean + 0.01 * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=X.dtype)[:, None, None])


def context(n=12):
    return dataclasses.replace(context_for(PLANE, n=n, pending=2), residuals=None)


def test_conforms():
    check_acquisition(lambda: Nehvi(pool=128, refine=16), outputs=(3,), spaces={k: SPACES[k] for k in ("2-D", "categorical")})


def test_points_crowd_on_the_front():
    chosen = Nehvi().select(Rivals(2, 2), PLANE, 6, context())
    check_selection(chosen, PLANE, 6, context())
    assert np.abs(chosen.x[:, 1] - 0.2).max() < 0.1
    assert chosen.x[:, 0].min() > 0.1
    assert chosen.x[:, 0].max() < 0.9
    assert np.ptp(chosen.x[:, 0]) > 0.2
    assert "pushes the front" in chosen.reasons[0]


def test_objectives_may_be_minimised():
    chosen = Nehvi(minimise=[0, 1]).select(Rivals(2, 2), PLANE, 4, context())
    assert chosen.x[:, 1].min() > 0.7  # as far as can be from both


def test_over_a_gp_and_over_a_trajectory():
    x = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gp = SingleTaskGP(x, torch.cat([x.sum(1, keepdim=True), x[:, :1] - x[:, 1:]], 1)).eval()
    check_selection(Nehvi(pool=64, refine=0).select(gp, PLANE, 2, context()), PLANE, 2, context())
    t = torch.rand(40, 3, dtype=torch.float64)
    model = DeepEnsemble(3, 3, over_t=True, seed=0, estimators=3, width=8, depth=1)
    model.fit(Batch(t, t, torch.ones(40), torch.arange(40)), updates=5)
    over = OverTime(model, torch.linspace(0, 1, 4))
    check_selection(Nehvi(outputs=[0, 2], pool=64, refine=0).select(over, PLANE, 2, context()), PLANE, 2, context())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Nehvi(outputs=[0]), "two or more outputs"),
        (lambda: Nehvi(outputs=[0, -1]), "two or more outputs"),
        (lambda: Nehvi(minimise=[2]), "but the objectives are"),
        (lambda: Nehvi(outputs=[0, 5]).select(Rivals(2, 2), PLANE, 1, context()), "has 2 outputs, counted from 0"),
    ],
)
def test_wrong_options_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
