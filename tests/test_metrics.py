import math
import subprocess
import sys

import numpy as np
import pytest

from alearn import metrics

RNG = np.random.default_rng(0)
Z = RNG.standard_normal(20_000)


def test_error_summary():
    e = metrics.normalised_error([[1.0, 20.0], [2.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]], [1.0, 10.0])
    assert e == pytest.approx([math.sqrt(2.5), 0.0])
    s = metrics.error_summary(np.arange(101.0))
    assert (s["mean"], s["median"], s["p95"], s["p99"], s["max"], s["n"]) == (50, 50, 95, 99, 100, 101)
    assert s["rmse"] == pytest.approx(math.sqrt(3350))
    assert math.isnan(metrics.error_summary([])["mean"])


def test_perfect_residuals_are_calibrated():
    for level, share in metrics.coverage(Z).items():
        assert share == pytest.approx(level, abs=0.01)
    assert metrics.miscalibration_area(Z) < 0.01
    assert metrics.robust_scale(Z) == pytest.approx(1.0, abs=0.02)


def test_over_confidence_is_seen_and_measured():
    assert metrics.coverage(3 * Z)[0.95] < 0.5
    assert metrics.miscalibration_area(3 * Z) > 0.2
    assert metrics.robust_scale(3 * Z) == pytest.approx(3.0, rel=0.02)


def test_the_robust_scale_ignores_a_few_huge_residuals():
    spoiled = np.concatenate([Z, np.full(400, 1000.0)])
    assert spoiled.std() > 100
    assert metrics.robust_scale(spoiled) == pytest.approx(1.0, abs=0.05)


def test_weights_count_members_not_steps():
    z = np.concatenate([np.zeros(900), np.full(100, 5.0)])
    weights = np.concatenate([np.full(900, 1 / 900), np.full(100, 1 / 100)])
    assert metrics.coverage(z)[0.95] == pytest.approx(0.9)
    assert metrics.coverage(z, weights=weights)[0.95] == pytest.approx(0.5)
    assert metrics.coverage(np.stack([z, z], axis=1), weights=weights)[0.95] == pytest.approx(0.5)


def test_crps_against_an_integral():
    grid = np.linspace(-20, 20, 200_001)
    integral = np.trapezoid((metrics.normal_cdf((grid - 0.3) / 1.7) - (grid >= 1.1)) ** 2, grid)
    assert float(metrics.crps_gaussian(0.3, 1.7, 1.1)) == pytest.approx(integral, abs=1e-4)
    assert float(metrics.crps_gaussian(0.0, 0.0, 2.0)) == 2.0


def test_regions_and_their_coverage():
    x = np.array([[0.1, 0.1], [0.1, 0.9], [0.9, 0.1], [1.0, 1.0]])
    assert metrics.regions(x).tolist() == [0, 1, 2, 3]
    x = RNG.random((20_000, 2))
    z = np.where(x[:, 0] < 0.5, Z, 3 * Z)
    by = metrics.coverage_by_region(z, x)
    assert by[0][0] == pytest.approx(0.95, abs=0.02)
    assert by[3][0] < 0.55
    assert sum(n for _, n in by.values()) == 20_000


def test_needs_only_numpy():
    code = "import sys, alearn.metrics; print([m for m in ('torch', 'scipy', 'hydra') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
