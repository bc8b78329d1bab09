import numpy as np
import pytest

from alearn.errors import SimulationError
from alearn.simulators.gray_scott import BOX, OUTPUTS, STEPS, gray_scott, pattern_scale


def last(F, k, **options):
    return list(gray_scott(F, k, **options))[-1]


def test_frames_are_complete_and_evenly_spaced():
    frames = list(gray_scott(0.037, 0.06, grid=32, steps_per_frame=10))
    assert len(frames) == STEPS
    assert np.allclose(np.diff([f["t"] for f in frames]), frames[0]["t"])
    for frame in frames:
        assert set(frame) == {"t", "v", *OUTPUTS}
        assert frame["v"].shape == (32, 32)
        assert frame["v"].dtype == np.float32
        assert frame["v_mean"] == pytest.approx(frame["v"].mean(), rel=1e-4)
        assert frame["v_std"] == pytest.approx(frame["v"].std(), rel=1e-4)


def test_frames_do_not_share_memory():
    first, second = list(gray_scott(0.037, 0.06, frames=2, steps_per_frame=50))
    assert not np.array_equal(first["v"], second["v"])


def test_solver_agrees_with_the_equations_written_out():
    """One frame against the textbook scheme in float64, which shares nothing with the padded in-place solver."""
    F, k, n, dt, h = 0.03, 0.055, 24, 0.5, 1 / 96
    start = next(gray_scott(F, k, grid=n, frames=1, steps_per_frame=1))["v"]
    later = last(F, k, grid=n, frames=1, steps_per_frame=41)["v"]
    from alearn.simulators.gray_scott import _initial

    u, v = _initial(n).astype(np.float64)

    def laplacian(a):
        return (np.roll(a, 1, 0) + np.roll(a, -1, 0) + np.roll(a, 1, 1) + np.roll(a, -1, 1) - 4 * a) / h**2

    for step in range(41):
        r = u * v * v
        u, v = u + dt * (2e-5 * laplacian(u) - r + F * (1 - u)), v + dt * (1e-5 * laplacian(v) + r - (F + k) * v)
        if step == 0:
            assert np.allclose(start, v, atol=1e-6)
    assert np.allclose(later, v, atol=1e-5)


def test_the_three_regimes_are_where_pearson_found_them():
    dead, uniform, pattern = last(0.07, 0.069), last(0.06, 0.035), last(0.037, 0.06)
    assert dead["v_mean"] < 1e-6
    assert dead["scale"] == pytest.approx(0, abs=1e-6)
    # the uniform state solves F (1 - u) = u v^2 and u v = F + k
    v = uniform["v_mean"]
    assert uniform["v_std"] < 1e-4
    assert 0.06 * (1 - 0.095 / v) == pytest.approx(0.095 * v, rel=1e-3)
    assert pattern["v_std"] > 0.05
    assert 4 < pattern["scale"] < 12


@pytest.mark.parametrize("F", BOX["F"])
@pytest.mark.parametrize("k", BOX["k"])
def test_corners_of_the_box_stay_finite_and_bounded(F, k):
    frame = last(F, k, grid=48)
    assert np.isfinite(frame["v"]).all()
    assert 0 <= frame["v"].min() <= frame["v"].max() < 1.2


def test_same_parameters_give_the_same_run():
    a, b = last(0.02, 0.05, grid=32), last(0.02, 0.05, grid=32)
    assert np.array_equal(a["v"], b["v"])


@pytest.mark.parametrize("cycles", [3, 7])
def test_scale_of_a_wave_is_its_number_of_cycles(cycles):
    x = np.arange(96) / 96
    wave = 0.2 + 0.1 * np.sin(2 * np.pi * cycles * x)[None, :] * np.ones((96, 1))
    assert pattern_scale(wave) == pytest.approx(cycles * 0.005 / 0.0051, rel=1e-6)
    assert pattern_scale(wave.T) == pytest.approx(pattern_scale(wave), rel=1e-9)


def test_scale_fades_smoothly_to_zero_with_the_pattern():
    x = np.arange(96) / 96
    wave = np.sin(2 * np.pi * 5 * x)[None, :] * np.ones((96, 1))
    scales = [pattern_scale((a * wave).astype(np.float32)) for a in (0.1, 0.03, 0.01, 1e-3, 1e-5, 0.0)]
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] == 0
    assert scales[-2] < 1e-5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"F": -0.01, "k": 0.05}, "rate F is -0.01"),
        ({"F": 0.01, "k": float("nan")}, "rate k is nan"),
        ({"F": 0.01, "k": 0.05, "Du": 1.0}, "diffusivity Du is 1.0"),
        ({"F": 0.01, "k": 0.05, "Dv": 0.0}, "diffusivity Dv is 0.0"),
        ({"F": 0.01, "k": 0.05, "grid": 2}, "grid=2"),
    ],
)
def test_unphysical_values_are_refused_with_a_sentence(options, says):
    with pytest.raises(SimulationError, match=says):
        next(gray_scott(**options))
