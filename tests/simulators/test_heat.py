import numpy as np
import pytest

from alearn.errors import SimulationError
from alearn.simulators.heat import BOX, OUTPUTS, STEPS, heat

HALF = {"inside": 300.0, "left": 300.0, "right": 300.0, "bottom": 300.0, "top": 300.0, "alpha": 0.1}


def test_frames_are_complete():
    frames = list(heat(**HALF))
    assert len(frames) == STEPS
    assert frames[-1]["t"] == pytest.approx(1.0)
    assert set(frames[0]) == {"t", "T", *OUTPUTS}
    assert set(BOX) == set(HALF)


def test_equal_temperatures_stay():
    last = list(heat(**HALF))[-1]
    assert last["T_mean"] == pytest.approx(300)
    assert last["T_std"] == pytest.approx(0, abs=1e-9)


def test_hot_inside_cools_at_the_rate_of_the_slowest_mode():
    frames = list(heat(**{**HALF, "inside": 400.0}, grid=40))
    late = [f["T_centre"] - 300 for f in frames if f["t"] >= 0.6]
    rate = -np.polyfit([f["t"] for f in frames if f["t"] >= 0.6], np.log(late), 1)[0]
    assert rate == pytest.approx(2 * np.pi**2 * 0.1, rel=0.01)


def test_steady_state_of_two_held_sides_is_a_straight_line_in_the_middle():
    held = {**HALF, "left": 100.0, "right": 500.0, "alpha": 0.2}
    last = list(heat(**held, duration=5.0))[-1]
    assert last["T_centre"] == pytest.approx(300, abs=0.1)
    assert last["T"][:, 0].mean() < last["T"][:, -1].mean()


def test_sides_are_where_their_names_say():
    last = list(heat(**{**HALF, "bottom": 500.0}, frames=1))[-1]["T"]
    assert last[0].mean() > last[-1].mean() + 50


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"alpha": float("inf")}, {"top": -1.0}, {"grid": 1}])
def test_unphysical_values_are_refused(bad):
    with pytest.raises(SimulationError, match=next(iter(bad))):
        next(heat(**{**HALF, **bad}))
