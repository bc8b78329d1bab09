import json
import math

import numpy as np
import pytest
import torch

from alearn import Study
from alearn.cli import main
from alearn.errors import AlearnError, ConfigError, UnknownName
from alearn.predict import open_surrogate, predict
from alearn.specialise import part_of, specialise
from alearn.surrogate import SnapshotInfo

SMALL = {"name": "ensemble", "estimators": 2, "width": 16, "depth": 2, "max_updates": 300}


def wave(p):
    """Two steps; sharp in a corner of the box, which is on a log scale."""
    a, b = p["a"], math.log10(p["b"])
    return [{"t": t, "y": math.tanh(12 * (a - 0.3 - 0.1 * b)) + 0.2 * t * a, "z": a * b} for t in (0.0, 1.0)]


def tell(study, points):
    for p in points:
        study.tell(p, wave(p))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("studies") / "one"
    space = {"a": (0.0, 1.0), "b": {"low": 0.1, "high": 10.0, "scale": "log"}, "n": {"low": 1, "high": 9, "integer": True}}
    made = Study(space, surrogate=SMALL, directory=directory, trainer={"name": "inline", "refit_updates": 50}, budget=200)
    tell(made, [c.parameters for c in made.ask(16)])
    rng = np.random.default_rng(0)
    more = [
        {"a": float(a), "b": float(10 ** (2 * b - 1)), "n": int(n)}
        for a, b, n in zip(rng.random(60), rng.random(60), rng.integers(1, 10, 60), strict=True)
    ]
    tell(made, more)
    made.close()
    return directory


REGION = ["a=0.1..0.8", "b=0.2..5", "n=2..8"]


def test_a_special_surrogate_predicts_its_part_and_refuses_the_rest(study, capsys):
    assert (
        main(["specialise", str(study), "--name", "front", *[w for r in REGION for w in ("--region", r)], "--anyway", "--updates", "400"])
        == 0
    )
    told = capsys.readouterr().out
    assert "time steps of" in told
    assert "the general surrogate's" in told
    special = open_surrogate(study, "front")
    assert special.space.box == {"a": (0.1, 0.8), "b": (0.2, 5.0), "n": (2.0, 8.0)}
    point = {"a": 0.37, "b": 1.1, "n": 4}
    found = predict(study, [point], special="front")
    truth = np.array([[s["y"], s["z"]] for s in wave(point)])
    assert np.abs(found.mean[0] - truth).max() < 0.3
    with pytest.raises(ConfigError, match=r"outside its box \[0\.1, 0\.8\]"):
        predict(study, [{**point, "a": 0.9}], special="front")
    with pytest.raises(UnknownName, match="Did you mean 'front'"):
        open_surrogate(study, "fornt")
    assert main(["predict", str(study), "--special", "front", "--at", "a=0.37", "--at", "b=1.1", "--at", "n=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["y"] == pytest.approx(found.mean[0, 0, 0])


def test_it_starts_with_the_function_of_the_general_one(study):
    specialise(study, "same", REGION, updates=0, anyway=True)
    points = open_surrogate(study, "same").space
    points = points.from_unit(points.sobol(16, seed=1))
    assert np.allclose(predict(study, points, special="same").mean, predict(study, points).mean, atol=1e-3)


def test_it_is_exported_with_a_card_of_its_part(study, tmp_path, capsys):
    specialise(study, "out", REGION, updates=100, anyway=True)
    assert main(["export", str(study), "--special", "out", "--format", "torch", "--to", str(tmp_path)]) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert [(i["low"], i["high"]) for i in card["inputs"]] == [(0.1, 0.8), (0.2, 5.0), (2, 8)]
    assert set(card["error"]) == {"rmse", "rmse_of_the_general_one"}


def test_a_regime_is_of_the_time_steps_that_meet_the_condition(study):
    told = specialise(study, "late", where=["y>0", "t>=1"], updates=50, anyway=True)
    rows = int(told.split("trained on ")[1].split()[0])
    assert 10 <= rows <= 76
    assert open_surrogate(study, "late").part["where"] == ["y > 0", "t >= 1"]


def test_nothing_new_is_not_learned_again(study):
    specialise(study, "again", REGION, updates=100, anyway=True)
    path = study / "special" / "again.pt"
    before = path.read_bytes()
    told = specialise(study, "again", REGION, updates=100)
    assert "stays as it is: the 0 members" in told
    assert path.read_bytes() == before


def test_one_that_would_be_no_better_is_not_stored(study):
    with pytest.raises(AlearnError, match="would be no better"):
        specialise(study, "worse", REGION, where=["z<100"], updates=0)
    assert not (study / "special" / "worse.pt").exists()


@pytest.mark.parametrize(
    ("region", "where", "words"),
    [
        ([], [], "Say what part"),
        (["a=0.5"], [], "cannot be read"),
        (["a=0.6..0.2"], [], "no part of the box"),
        (["a=0.2..3"], [], "no part of the box"),
        (["a=x..1"], [], "no number"),
        (["q=0..1"], [], "parameter"),
        ([], ["y=3"], "cannot be read"),
        ([], ["yy>3"], "'y'"),
        ([], ["a>3"], "narrowed by --region"),
        (["a=0.5..0.501"], [], "members have time steps in this part"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused(study, region, where, words):
    with pytest.raises((ConfigError, UnknownName), match=words):
        specialise(study, "wrong", region, where)


def test_a_range_may_hold_any_number():
    from alearn.space import Space

    info = SnapshotInfo("ensemble", {}, Space.from_config({"a": [-5.0, 5.0]}), None, ("y",))
    for text, ends in (("a=.5..1.5", (0.5, 1.5)), ("a=-1e-3...25", (-1e-3, 0.25)), ("a=1..2", (1, 2)), ("a=-2.5..-1.", (-2.5, -1))):
        assert part_of(info, [text], [], False).space.box["a"] == ends


def test_a_folder_without_a_learner_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no snapshot of a learner"):
        specialise(tmp_path, "x", ["a=0..1"])
    with pytest.raises(ConfigError, match="becomes a file"):
        specialise(tmp_path, "../x", ["a=0..1"])
