import pytest
import torch

from alearn.errors import ConfigError
from alearn.surrogate.svgp import SparseGP
from alearn.testing.surrogate import SurrogateConformance, smooth_data


class TestSparseGP(SurrogateConformance):
    rmse = 0.2  # a quick one

    def make(self, d, m, over_t=False, seed=0):
        return SparseGP(d, m, over_t, seed, inducing=24, max_updates=150, lr=0.1)


def test_a_deep_kernel_and_the_predictive_objective_learn_many_rows():
    gp = SparseGP(2, 1, inducing=24, deep=2, objective="predictive", max_updates=250)
    gp.fit(smooth_data(3000))
    test = smooth_data(500, seed=1)
    assert float((gp.predict(test.X).mean - test.Y).pow(2).mean().sqrt()) < 0.15 * float(test.Y.std())


def test_bad_options():
    for options in ({"inducing": 1}, {"objective": "likelihood"}, {"lr": 0.0}):
        with pytest.raises(ConfigError, match="The sparse GP has"):
            SparseGP(2, 1, **options)
    with pytest.raises(ConfigError, match="takes 2 input columns"):
        SparseGP(2, 1).posterior(torch.rand(3, 4))
