"""A study of a whole field, as a user would run it: test members, prediction, report, export, verification."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from alearn import Study
from alearn import events as ev
from alearn.config import Config
from alearn.errors import ConfigError
from alearn.ledger import Ledger

CELLS = np.linspace(0.0, 1.0, 80)


def pulse(speed, width):
    for t in np.linspace(0.0, 1.0, 5):
        yield {"t": float(t), "u": np.exp(-((CELLS - 0.2 - speed * t) ** 2) / width), "peak": 1.0 - 0.5 * t}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("field") / "study"
    made = Study(
        {"speed": (0, 0.5), "width": (0.02, 0.08)}, pulse, budget=8, directory=folder, outputs=["u", "peak"], reference=4, view="quiet",
        surrogate={"name": "ensemble", "max_updates": 1500, "estimators": 4}, launcher={"name": "local", "slots": 2},
    )  # fmt: skip
    return made.run()


def test_the_error_is_that_of_the_field(study):
    with Ledger.open(study.directory, readonly=True) as ledger:
        last = [e for _, e in ledger.events() if isinstance(e, ev.Evaluated)][-1]
    assert 0 < last.error["relative_l2"] <= last.error["relative_l2_max"] < 1
    assert last.error["n_test"] == 4
    assert (study.directory / "report.html").is_file()


def test_fields_are_predicted_with_a_standard_deviation_for_every_cell(study, tmp_path):
    found = study.predict({"speed": 0.25, "width": 0.05}, [0.5])
    mean, std = found.field("u")
    assert mean.shape == std.shape == (1, 1, 80)
    assert (std > 0).all()
    truth = np.exp(-((CELLS - 0.2 - 0.25 * 0.5) ** 2) / 0.05)
    assert np.linalg.norm(mean[0, 0] - truth) < 0.5 * np.linalg.norm(truth)
    out = tmp_path / "u.npz"
    words = ["predict", str(study.directory), "--at", "speed=0.25", "--at", "width=0.05", "--t", "0.5", "--json", "--fields", str(out)]
    done = subprocess.run([sys.executable, "-m", "alearn.cli", *words], capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)
    assert row["u.mean"] == pytest.approx(mean.mean(), rel=1e-5)
    assert row["peak_std"] > 0
    with np.load(out) as file:
        np.testing.assert_allclose(file["u"], mean, rtol=1e-5, atol=1e-6)
        assert file["u_std"].shape == (1, 1, 80)
        assert file["speed"].tolist() == [0.25]


def test_the_export_holds_the_cells(study, tmp_path):
    from alearn.export import export

    card = export(study.directory, tmp_path, formats=("torch",))
    assert card.outputs[1] == {"name": "u", "unit": "", "shape": [80], "columns": [1, 81]}
    module = torch.export.load(tmp_path / "surrogate.pt2").module()
    mean, std = module(torch.tensor([[0.25, 0.05]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    wanted, spread = study.predict({"speed": 0.25, "width": 0.05}, [0.5]).field("u")
    np.testing.assert_allclose(mean[0, 1:].detach(), wanted[0, 0], atol=1e-4)
    np.testing.assert_allclose(std[0, 1:].detach(), spread[0, 0], atol=1e-4)


def test_a_test_set_that_does_not_know_the_field_is_refused_before_anything_starts(tmp_path):
    raw = {
        "space": {"F": [0.01, 0.08], "k": [0.03, 0.07]},
        "simulation": {"name": "python", "target": "alearn.simulators.gray_scott:gray_scott"},
        "outputs": ["v"],
        "reference": "gray_scott",
    }
    with pytest.raises(ConfigError, match=r"The test set knows scale, v_mean, v_std, and outputs=\['v'\] .* Set reference=16"):
        Study.from_config(Config.from_mapping(raw), tmp_path / "study").run()
    assert not (tmp_path / "study" / "ledger.sqlite").exists()
