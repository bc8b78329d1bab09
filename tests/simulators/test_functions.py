import numpy as np
import pytest

from alearn.errors import SimulationError
from alearn.simulators.functions import FUNCTIONS

DIMENSIONS = {"ridge": 2, "ring": 2, "fusion": 4, "borehole": 8, "piston": 7, "otl": 6, "wing_weight": 10, "hartmann": 6}


def test_the_catalogue_is_complete():
    assert {n: f.d for n, f in FUNCTIONS.items()} == DIMENSIONS
    assert all(f.source for f in FUNCTIONS.values())


@pytest.mark.parametrize("name", DIMENSIONS)
def test_values_are_finite_and_vary_over_the_box(name):
    f = FUNCTIONS[name]
    y = f(f.from_unit(np.random.default_rng(0).random((500, f.d))))
    assert y.shape == (500,)
    assert np.isfinite(y).all()
    assert y.std() > 0


@pytest.mark.parametrize("name", DIMENSIONS)
def test_a_simulation_of_one_frame_agrees_with_the_function(name):
    f = FUNCTIONS[name]
    x = f.from_unit(np.full((1, f.d), 0.3))
    (frame,) = f.simulate(**dict(zip(f.box, map(float, x[0]), strict=True)))
    assert frame == {"t": 0.0, "y": pytest.approx(f(x)[0])}


def test_hartmanns_known_minimum():
    f = FUNCTIONS["hartmann"]
    at = [[0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]]
    assert f(np.array(at))[0] == pytest.approx(-3.32237, abs=1e-4)


def test_borehole_by_hand():
    """The flow of Darcy's law through one layer: the function's limit as the leakage term dominates."""
    f = FUNCTIONS["borehole"]
    x = np.array([[0.1, 25_000.0, 90_000.0, 1050.0, 90.0, 760.0, 1400.0, 11_000.0]])
    log = np.log(25_000 / 0.1)
    resistance = log / 90_000 + 2 * 1400 / (0.1**2 * 11_000) + log / 90
    assert f(x)[0] == pytest.approx(2 * np.pi * 290 / resistance, rel=1e-12)


def test_piston_and_otl_and_wing_are_in_their_published_ranges():
    for name, low, high in (("piston", 0.15, 1.3), ("otl", 2.4, 9.7), ("wing_weight", 120, 480)):
        f = FUNCTIONS[name]
        y = f(f.from_unit(np.random.default_rng(1).random((5000, f.d))))
        assert low < y.min() < y.max() < high, (name, y.min(), y.max())


def test_the_ring_is_where_its_radius_says():
    f = FUNCTIONS["ring"]
    assert f(np.array([[0.75, 0.0], [0.0, 0.75], [0.0, 0.0]])) == pytest.approx([1.75, 1.0, np.exp(-(0.75**4) / 0.2**4)])


def test_wrong_points_are_refused():
    f = FUNCTIONS["ridge"]
    with pytest.raises(SimulationError, match="needs N x 2"):
        f(np.zeros((3, 4)))
    with pytest.raises(SimulationError, match="NaN"):
        f(np.array([[np.nan, 0]]))
    with pytest.raises(SimulationError, match="needs x1, x2"):
        next(f.simulate(x1=0.5))
