import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is an extra: pip install alearn[sklearn]")

from alearn.errors import AlearnError, ConfigError
from alearn.surrogate.trees import GradientBoosting, NearestNeighbours, RandomForest
from alearn.testing.surrogate import SurrogateConformance, smooth_data


class TestForest(SurrogateConformance):
    rmse = 0.35
    away = 1.0
    smooth = False

    def make(self, d, m, over_t=False, seed=0):
        return RandomForest(d, m, over_t, seed, trees=30)


class TestNeighbours(SurrogateConformance):
    rmse = 0.4
    smooth = False

    def make(self, d, m, over_t=False, seed=0):
        return NearestNeighbours(d, m, over_t, seed)


class TestBoosting(SurrogateConformance):
    rmse = 0.35
    away = 0.0  # a tree says at the edge of the data what it says beyond
    smooth = False

    def make(self, d, m, over_t=False, seed=0):
        return GradientBoosting(d, m, over_t, seed, models=4, iterations=60)


def test_neighbours_are_sure_where_a_row_is():
    data = smooth_data(50)
    model = NearestNeighbours(2, 1)
    model.fit(data)
    assert float(model.predict(data.X).epistemic.max()) < 1e-3
    assert float(model.predict(data.X + 0.02).epistemic.min()) > 1e-3


def test_bad_options_and_no_data():
    with pytest.raises(AlearnError, match="call fit first"):
        RandomForest(2, 1).posterior(torch.rand(3, 2))
    for make, options in ((RandomForest, {"trees": 1}), (NearestNeighbours, {"neighbours": 1}), (GradientBoosting, {"rate": 0.0})):
        with pytest.raises(ConfigError):
            make(2, 1, **options)
