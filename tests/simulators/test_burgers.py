import numpy as np
import pytest

from alearn.errors import SimulationError
from alearn.simulators.burgers import BOX, OUTPUTS, STEPS, burgers


def test_frames_are_complete_at_the_corners_of_the_box():
    for nu in BOX["nu"]:
        frames = list(burgers(1.0, 0.6, 0.5, 0.0, nu))
        assert len(frames) == STEPS
        assert set(frames[0]) == {"t", "u", *OUTPUTS}
        assert np.isfinite([f[o] for f in frames for o in OUTPUTS]).all()


def test_mean_is_conserved_and_energy_only_falls():
    frames = list(burgers(0.8, 0.4, 0.1, 0.3, 0.002))
    assert [f["u"].mean() for f in frames] == pytest.approx([0.5] * STEPS, abs=1e-5)
    energy = [f["energy"] for f in frames]
    assert energy == sorted(energy, reverse=True)
    assert max(f["u_max"] for f in frames) <= 1.7


def test_against_the_exact_solution_of_cole_and_hopf():
    """A periodic travelling wave by the Cole-Hopf transform: phi solves the heat equation mode by mode."""
    nu, a, n, t = 0.02, 0.6, 256, 0.5
    x = (np.arange(n) + 0.5) / n
    last = list(burgers(a, 0.0, 0.0, 0.0, nu, grid=n, frames=1, duration=t))[-1]["u"]
    phi = np.exp(a * np.cos(2 * np.pi * x) / (4 * np.pi * nu))
    k = 2 * np.pi * np.fft.rfftfreq(n, 1 / n)
    shift = np.exp(-1j * k * 0.5 * t)  # in the frame that moves with the mean speed
    spectrum = np.fft.rfft(phi) * np.exp(-nu * k**2 * t) * shift
    exact = 0.5 - 2 * nu * np.fft.irfft(1j * k * spectrum, n) / np.fft.irfft(spectrum, n)
    assert np.abs(last - exact).max() < 0.02
    assert np.abs(last - exact).mean() < 1e-3


def test_less_viscosity_makes_a_steeper_front():
    steep = [list(burgers(1.0, 0.0, 0.0, 0.0, nu))[-1]["steepest"] for nu in (0.02, 0.005, 0.001)]
    assert steep == sorted(steep)


@pytest.mark.parametrize("bad", [{"nu": 0.0}, {"a1": float("nan")}, {"grid": 4}])
def test_unphysical_values_are_refused(bad):
    with pytest.raises(SimulationError, match=next(iter(bad))):
        next(burgers(**{"a1": 1.0, "a2": 0.1, "p1": 0.0, "p2": 0.0, "nu": 0.01, **bad}))
