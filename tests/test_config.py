"""The configuration: what it accepts, what it refuses and in which words."""

import dataclasses
from pathlib import Path

import pytest

from alearn.config import Config, _batches, compose, config_directory, launch
from alearn.errors import ConfigError, UnknownName
from alearn.trainer.placing import Placing

SIMULATION = "simulation.target=alearn.simulators.gray_scott:gray_scott"
BASE = {"simulation": {"name": "python", "target": "m:f"}, "space": {"a": [0, 1]}}


def test_yaml_defaults_are_the_dataclass_defaults():
    raw = compose([SIMULATION, "space={a: [0, 1]}"])
    composed = Config.from_mapping(raw)
    plain = Config.from_mapping(BASE)
    for f in dataclasses.fields(Config):
        left, right = getattr(composed, f.name), getattr(plain, f.name)
        if hasattr(left, "name"):
            assert left.name == right.name or f.name == "simulation"
        else:
            assert left == right, f.name


def test_every_yaml_option_exists_in_its_plugin():
    import inspect

    from alearn.registry import resolve

    for group in ("simulation", "surrogate", "acquisition", "kill", "launcher", "transport", "buffer", "trainer"):
        for path in (config_directory() / group).glob("*.yaml"):
            raw = compose([f"{group}={path.stem}", SIMULATION if group != "simulation" else "seed=0", "space={a: [0, 1]}"])[group]
            assert raw["name"] == path.stem
            accepted = set(inspect.signature(resolve(group, raw.pop("name"))).parameters)
            if group == "trainer":  # where it runs is not the trainer's to know
                accepted |= {f.name for f in dataclasses.fields(Placing)}
            assert set(raw) <= accepted, f"{path}: {set(raw) - accepted}"


def test_round_trip_through_a_file(tmp_path):
    config = Config.from_mapping({**BASE, "budget": {"members": 7}, "outputs": ["u", "v"], "units": {"u": "m/s"}})
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["surrogate=ensembel"], "ensemble"),
        (["acquisition=std_distanse"], "std_distance"),
        (["budgt.members=3"], "budget.members"),
        (["budget.member=3"], "budget.members"),
        (["experiment=gray_scot"], "gray_scott"),
        (["control.enable=true"], "control.enabled"),
    ],
)
def test_misspelt_overrides_are_told_with_the_right_word(overrides, word):
    with pytest.raises(UnknownName, match=f"Did you mean '{word}'"):
        compose(overrides)


def test_an_unreadable_override_is_one_sentence():
    with pytest.raises(ConfigError, match="cannot be read"):
        compose(["space={a: [0, 1"])


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("budget", {"members": 0}, "budget.members is 0"),
        ("budget", {"members": None}, "neither a budget nor a goal"),
        ("seed", -1, "seed is -1"),
        ("design", {"holdout": 2}, "design.holdout is 2"),
        ("study", "../x", "letters, digits"),
        ("goal", {"metric": "p95"}, "goal.below"),
        ("goal", {"metric": "maxx", "below": 1}, "Did you mean 'max'"),
        ("view", "fancy", "no value of view"),
        ("space", None, "No parameter space"),
        ("space", {"a": [1, 0]}, "a"),
        ("surogate", "gp", "Did you mean 'surrogate'"),
    ],
)
def test_wrong_values_get_a_sentence(entry, value, words):
    with pytest.raises(ConfigError, match=words):
        Config.from_mapping({**BASE, entry: value})


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("solver.sh").write_text("")
    config = Config.from_mapping({**BASE, "simulation": {"name": "command", "argv": ["sh", "solver.sh", "{a}"]}})
    assert config.simulation.options["argv"] == ["sh", str(tmp_path / "solver.sh"), "{a}"]
    config = Config.from_mapping({**BASE, "simulation": {"name": "python", "target": "my.py:f"}})
    assert config.simulation.options["target"] == f"{tmp_path}/my.py:f"


def test_a_space_may_be_a_file(tmp_path):
    (tmp_path / "box.yaml").write_text("a: [0, 1]\nb: {low: 1, high: 10, scale: log}\n")
    config = Config.from_mapping({**BASE, "space": str(tmp_path / "box.yaml")})
    assert set(config.space) == {"a", "b"}
    with pytest.raises(ConfigError, match="does not exist"):
        Config.from_mapping({**BASE, "space": str(tmp_path / "none.yaml")})


def test_the_control_arm_is_the_same_study_with_sobol_and_without_kills():
    config = Config.from_mapping({**BASE, "control": {"enabled": True}, "budget": 20, "seed": 4})
    control = config.control_arm()
    assert (control.acquisition.name, control.kill.name, control.control.enabled) == ("sobol", "never", False)
    assert (control.budget, control.seed, control.surrogate) == (config.budget, config.seed, config.surrogate)


def test_launch_hands_each_job_of_a_sweep_to_the_runner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    argv = ["--multirun", "seed=1,2", SIMULATION, "space={a: [0, 1]}", f"hydra.sweep.dir={tmp_path}/s"]
    assert launch(argv, lambda config, directory: seen.append((config.seed, directory)) or 0) == 0
    assert [s for s, _ in seen] == [1, 2]
    assert len({d for _, d in seen}) == 2


def test_a_sweep_tells_of_its_jobs_what_each_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scored, swept = [], []
    argv = ["--multirun", "seed=1,2", SIMULATION, "space={a: [0, 1]}", f"hydra.sweep.dir={tmp_path}/s"]
    launch(argv, lambda config, directory: 0, lambda config, directory: scored.append(config.seed) or 0.5, swept.extend)
    assert scored == [1, 2]
    assert [[o for o in job.overrides if o.startswith("seed")] for job in swept] == [["seed=1"], ["seed=2"]]
    assert [job.directory.name for job in swept] == ["0", "1"]


def test_what_a_sweeper_may_search_is_checked_by_its_ends():
    found = _batches(["surrogate.lr=tag(log, interval(0.001, 0.1))", "surrogate.width=choice(32, 64)", "+seed=3"])
    assert found == [["surrogate.lr=0.001", f"surrogate.width={w}", "+seed=3"] for w in (32, 64)]


def test_launch_refuses_a_wrong_override_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName):
        launch(["buget.members=1", SIMULATION, "space={a: [0, 1]}"], lambda config, directory: pytest.fail("started"))
