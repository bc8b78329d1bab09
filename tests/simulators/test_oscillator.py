import math

import numpy as np
import pytest

from alearn.errors import SimulationError
from alearn.simulators.oscillator import BOX, OUTPUTS, STEPS, escapes, oscillator


def test_it_blows_up_exactly_where_it_is_known_to():
    rng = np.random.default_rng(0)
    share = 0
    for x0, v0 in zip(rng.uniform(*BOX["x0"], 60), rng.uniform(*BOX["v0"], 60), strict=True):
        energy = v0**2 / 2 + x0**2 / 2 - x0**4 / 4
        if abs(energy - 0.25) < 0.01:
            continue  # so near to the rim of the well a run may need longer than it has
        frames = list(oscillator(x0, v0))
        assert len(frames) == STEPS
        finite = math.isfinite(frames[-1]["x"])
        assert finite != escapes(x0, v0), (x0, v0)
        share += not finite
    assert 10 < share < 50


def test_the_first_frames_of_a_blow_up_are_finite():
    frames = list(oscillator(1.05, 0.0))
    assert all(math.isfinite(frames[0][o]) for o in OUTPUTS)
    assert not math.isfinite(frames[-1]["x"])


def test_energy_is_kept_inside_the_well():
    frames = list(oscillator(0.5, 0.3))
    assert [f["energy"] for f in frames] == pytest.approx([frames[0]["energy"]] * STEPS, rel=1e-7)


def test_small_swings_are_harmonic():
    for frame in oscillator(0.01, 0.0, duration=10.0):
        assert frame["x"] == pytest.approx(0.01 * math.cos(frame["t"]), abs=1e-5)


@pytest.mark.parametrize("bad", [{"x0": float("inf")}, {"frames": 0}, {"dt": 0.0}])
def test_nonsense_is_refused(bad):
    with pytest.raises(SimulationError, match=next(iter(bad))):
        next(oscillator(**{"x0": 0.1, "v0": 0.1, **bad}))
