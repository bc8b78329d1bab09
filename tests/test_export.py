"""Exports: they agree with the original on every kind of input, need no alearn, and say what they are about."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from alearn import Study
from alearn.cli import main
from alearn.errors import AlearnError
from alearn.export import _examples, card_text, export, portable
from alearn.predict import Loaded
from alearn.space import Space
from alearn.surrogate import DeepEnsemble, ExactGP
from alearn.surrogate.base import Batch

SPACES = {
    "numbers": {"a": [0.0, 2.0], "b": {"low": 1e-3, "high": 10.0, "scale": "log"}},
    "densities": {
        "a": {"low": -1.0, "high": 4.0, "scale": "normal", "mean": 1.0, "std": 0.8},
        "n": {"low": 1, "high": 90, "integer": True, "scale": "log"},
    },
    "related": {
        "scheme": {"choices": ["explicit", "implicit"]},
        "theta": {"low": 0.5, "high": 1.0, "when": {"scheme": "implicit"}, "default": 0.9},
        "a": {"low": -1.0, "high": 4.0, "scale": "normal", "mean": 1.0, "std": 0.8},
        "b": {"low": 1.0, "high": 100.0, "scale": "log"},
        "correlations": [["a", "b", 0.7]],
    },
    "labels": {"n": {"low": 1, "high": 5, "integer": True}, "grade": {"ordinal": ["low", "mid", "high"]}, "kind": {"choices": ["x", "y"]}},
}
SMALL = {"estimators": 3, "width": 16, "depth": 2, "max_updates": 50}
SURROGATES = {
    "ensemble": (DeepEnsemble, SMALL),
    "noisy": (DeepEnsemble, {**SMALL, "variance_heads": True, "prior_scale": 0.5, "body": "residual"}),
    "gp": (ExactGP, {"max_updates": 10}),
}


def trained(kind: str, box: str, over_t: bool) -> Loaded:
    """A surrogate of two outputs that has seen something of the box."""
    return trained_in(Space.from_config(SPACES[box]), kind, over_t)


def trained_in(space: Space, kind: str, over_t: bool) -> Loaded:
    cls, options = SURROGATES[kind]
    d = space.d + over_t
    surrogate = cls(d, 2, over_t, 0, **options)
    x = space.sobol(40, seed=1)
    X = torch.as_tensor(np.concatenate([x, np.linspace(2.0, 5.0, 40)[:, None]], axis=1) if over_t else x)
    Y = torch.stack([X.sum(1) * 7.0 + 3.0, torch.sin(X).prod(1)], dim=1)
    surrogate.fit(Batch(X, Y, torch.ones(40), torch.arange(40)), updates=30)
    surrogate.scale_variance(torch.tensor([1.5, 0.7]))
    surrogate.eval()
    return Loaded(surrogate, space, ("u", "v"), {"u": "m"}, np.linspace(2.0, 5.0, 7))


@pytest.mark.parametrize("over_t", [False, True])
@pytest.mark.parametrize("box", SPACES)
@pytest.mark.parametrize("kind", SURROGATES)
def test_the_graph_agrees_with_the_original(kind, box, over_t):
    loaded = trained(kind, box, over_t)
    inputs, mean, std = _examples(loaded)
    with torch.no_grad():
        got = portable(loaded)(*inputs)
    scale = loaded.surrogate.output_scale.numpy()
    np.testing.assert_allclose(got[0].numpy() / scale, mean / scale, atol=1e-5)
    np.testing.assert_allclose(got[1].numpy() / scale, std / scale, atol=1e-4)


def test_an_entry_of_a_pool_is_given_by_its_position(tmp_path):
    rows = [f"mol{i},{i % 7},{i * i}" for i in range(30)]
    (tmp_path / "pool.csv").write_text("\n".join(["id,weight,polar", *rows]) + "\n")
    space = Space.from_config({"molecule": {"pool": str(tmp_path / "pool.csv")}, "T": [280.0, 350.0]})
    loaded = trained_in(space, "ensemble", False)
    with torch.no_grad():
        mean, _ = portable(loaded)(torch.tensor([[17.0, 300.0]], dtype=torch.float64))
    wanted, _ = loaded.predict(space.to_unit([{"molecule": "mol17", "T": 300.0}]), loaded.t[:1])
    np.testing.assert_allclose(mean.numpy(), wanted[:, 0], rtol=1e-5)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A finished study that was asked and told."""
    folder = tmp_path_factory.mktemp("told") / "study"
    study = Study({"a": (0, 1), "b": (0, 1)}, budget=10, surrogate="gp", directory=folder, view="quiet", units={"y": "m"})
    for point in study.ask(8):
        study.tell(point, {"y": point.parameters["a"] + point.parameters["b"] ** 2})
    study.close()
    return folder


def test_both_files_are_written_verified_and_need_no_alearn(told, tmp_path, capsys):
    assert main(["export", str(told), "--to", str(tmp_path), "--licence", "CC0"]) == 0
    assert "verified on 256 points" in capsys.readouterr().out
    card = json.loads((tmp_path / "card.json").read_text())
    assert set(card["verified"]) == {"surrogate.pt2", "surrogate.onnx"}
    assert card["licence"] == "CC0"
    assert card["data"]["samples"] == 8
    assert [i["name"] for i in card["inputs"]] == ["a", "b"]
    text = (tmp_path / "card.md").read_text()
    assert "| a |  | 0 to 1 |" in text
    assert "y [m]" in text
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")
    program = (
        "import sys, torch; m = torch.export.load(sys.argv[1]).module()\n"
        "columns = [torch.tensor([[0.5, 0.5]], dtype=torch.float64), *[torch.zeros(1, dtype=torch.float64)] * int(sys.argv[2])]\n"
        "mean, std = m(*columns); print(float(mean), float(std), 'alearn' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "surrogate.pt2"), str(int(card["t"] is not None))],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    mean, std, alearn = done.stdout.split()
    there = Study.open(told).predict({"a": 0.5, "b": 0.5})
    assert float(mean) == pytest.approx(there.mean.item(), abs=1e-6)
    assert float(std) == pytest.approx(there.std.item(), rel=1e-3)
    assert alearn == "False"


def test_the_card_says_where_the_simulation_failed(told, tmp_path):
    import dataclasses

    card = export(told, tmp_path, formats=())
    assert "No member failed." in card_text(card, [])
    failed = dataclasses.replace(card, failures={"members": 3, "between": {"a": [0.1, 0.2]}, "points": []})
    assert "3 members failed, a between 0.1 and 0.2" in card_text(failed, [])


def test_what_is_wrong_is_one_sentence(told, tmp_path, capsys):
    assert main(["export", str(told), "--to", str(tmp_path), "--format", "onxx"]) != 0
    assert "Did you mean 'onnx'" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none")]) != 0
    assert "There is no study" in capsys.readouterr().err


def test_an_export_that_disagrees_is_not_left_behind(told, tmp_path, monkeypatch):
    monkeypatch.setattr("alearn.export.TOLERANCE", -1.0)
    with pytest.raises(AlearnError, match=r"surrogate\.pt2 differs from the surrogate"):
        export(told, tmp_path, formats=("torch",))
    assert not (tmp_path / "surrogate.pt2").exists()
