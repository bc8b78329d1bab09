from types import SimpleNamespace

import numpy as np
import pytest

from alearn.trainer import judge
from alearn.trainer.evaluate import truths


def test_errors_are_normalised_by_output_and_taken_by_member():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 10, 2)) * [1.0, 1000.0]
    scale = truth.std(axis=(0, 1))
    mean = truth.copy()
    mean[7] += 2 * scale
    error, _ = judge(mean, np.ones_like(truth), truth)
    assert error["max"] == pytest.approx(2.0)
    assert error["mean"] == pytest.approx(2.0 / 50)
    assert error["rmse"] == pytest.approx(np.sqrt(4 / 50))
    assert error["n_test"] == 50


def test_calibration_of_errors_that_are_as_predicted():
    rng = np.random.default_rng(1)
    std = np.exp(rng.normal(size=(200, 5, 1)))
    truth = rng.normal(size=(200, 5, 1)) * 3
    _, right = judge(truth + std * rng.normal(size=std.shape), std, truth)
    assert right["coverage95"] == pytest.approx(0.95, abs=0.03)
    assert right["coverage50"] == pytest.approx(0.5, abs=0.06)
    assert right["z_median"] == pytest.approx(1.0, abs=0.12)
    assert right["rank_correlation"] > 0.3
    _, bold = judge(truth + std * rng.normal(size=std.shape), std / 3, truth)
    assert bold["coverage95"] < 0.6
    assert bold["z_median"] > 2


def test_constant_outputs_and_certain_predictions_stay_finite():
    truth = np.full((4, 3, 1), 5.0)
    error, calibration = judge(truth, np.zeros_like(truth), truth)
    assert error["max"] == 0
    assert calibration["coverage95"] == pytest.approx(1.0)
    assert np.isfinite(calibration["sharpness"])


def test_shared_outputs_are_matched_by_name_and_elements_are_found_in_fields():
    test = SimpleNamespace(parameters=[0], t=np.zeros(1), outputs=("c", "a"), values=np.array([[[3.0, 1.0]]]))
    fields = {"u": np.arange(6.0).reshape(1, 1, 2, 3)}
    found, ours = truths(test, fields, ("a", "b", "u[1,2]", "c"))
    assert ours == [0, 2, 3]
    assert found.tolist() == [[[1.0, 5.0, 3.0]]]
    assert truths(test, fields, ("x",))[1] == []


def test_proper_scores_and_the_regions_of_the_box():
    rng = np.random.default_rng(2)
    x = rng.random((400, 2))
    std = np.ones((400, 3, 1))
    truth = rng.normal(size=(400, 3, 1))
    wild = (x < 0.5).all(axis=1)  # region 0
    mean = truth + np.where(wild, 4.0, 1.0)[:, None, None] * rng.normal(size=std.shape)
    _, found = judge(mean, std, truth, x)
    assert {k for k in found if k.startswith("coverage95_region")} == {f"coverage95_region{i}" for i in range(4)}
    assert found["coverage95_region0"] < 0.6
    assert min(found[f"coverage95_region{i}"] for i in (1, 2, 3)) > 0.9
    _, calm = judge(truth + rng.normal(size=std.shape), std, truth, x)
    assert calm["crps"] < found["crps"]
    assert calm["miscalibration_area"] < 0.03 < found["miscalibration_area"]
    assert not [k for k in judge(mean, std, truth, rng.random((400, 9)))[1] if "region" in k]
