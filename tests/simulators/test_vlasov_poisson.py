import numpy as np
import pytest

from alearn.errors import SimulationError
from alearn.simulators.vlasov_poisson import BOX, OUTPUTS, STEPS, vlasov_poisson


def field(frames):
    return np.array([f["t"] for f in frames]), np.array([f["log_field"] for f in frames])


def test_frames_are_complete_at_the_corners_of_the_box():
    for k in BOX["k"]:
        for drift in BOX["drift"]:
            frames = list(vlasov_poisson(k, drift))
            assert len(frames) == STEPS
            assert set(frames[0]) == {"t", "f", *OUTPUTS}
            assert np.isfinite([f[o] for f in frames for o in OUTPUTS]).all()


def test_landau_damping_at_its_textbook_rate():
    """k = 0.5: the field's peaks decay at 0.1533 per plasma period over 2 pi."""
    t, log_field = field(list(vlasov_poisson(0.5, 0.0, frames=400, duration=20.0, dt=0.05)))
    peaks = [i for i in range(1, len(t) - 1) if log_field[i - 1] < log_field[i] > log_field[i + 1]]
    rate = np.polyfit(t[peaks], log_field[peaks] * np.log(10), 1)[0]
    assert rate == pytest.approx(-0.1533, abs=0.006)


def test_two_beams_are_unstable_for_long_waves_and_stable_for_short_ones():
    _, unstable = field(list(vlasov_poisson(0.2, 3.0)))
    _, stable = field(list(vlasov_poisson(0.6, 3.0)))
    assert unstable.max() > unstable[0] + 0.8
    assert stable[-10:].max() < stable[0] - 0.3


def test_mass_is_kept():
    for frame in vlasov_poisson(0.3, 2.5):
        dv = 2 * (2.5 + 6) / frame["f"].shape[1]
        assert frame["f"].sum(axis=1).mean() * dv == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("bad", [{"k": 0.0}, {"drift": -1.0}, {"perturbation": 2.0}, {"nv": 2}])
def test_unphysical_values_are_refused(bad):
    with pytest.raises(SimulationError, match=next(iter(bad))):
        next(vlasov_poisson(**{"k": 0.3, "drift": 1.0, **bad}))
