"""Transforms in a row, the entry of the configuration, and the description from which an archive is decoded."""

import numpy as np
import pytest

from alearn import Study
from alearn.config import Config, compose
from alearn.errors import ConfigError, SchemaError, UnknownName
from alearn.testing.transform import SCHEMA, check_schema, check_steps, keys_of, steps_of
from alearn.transform import Pipeline
from alearn.transform.options import Transforms
from alearn.types import Field

COARSE = {"name": "coarsen", "factor": 4, "fields": ["v"]}
HALF = {"name": "cast", "dtype": "float16", "fields": ["w"]}
BASE = {"simulation": {"name": "python", "target": "m:f"}, "space": {"a": [0, 1]}}


def test_transforms_follow_one_another():
    pipeline = Pipeline([COARSE, {"name": "diagnostics", "fields": ["v"], "compute": ["max"]}, HALF])
    out = pipeline.schema(SCHEMA)
    check_schema(SCHEMA, out)
    assert out.names == ("energy", "v", "v_max", "w", "n")
    steps = steps_of(SCHEMA, 3)
    made = pipeline.take(steps, keys_of(3))
    check_steps(out, made)
    assert made[0]["v_max"] == pytest.approx(made[0]["v"].max())
    for a, b in zip(made, map(pipeline.apply, steps), strict=True):
        assert all(np.array_equal(a[n], b[n]) for n in out.names)
    assert Pipeline.from_json(pipeline.to_json()).schema(SCHEMA) == out


def test_the_raw_of_what_changes_may_go_along():
    pipeline = Pipeline([COARSE, {"name": "select", "drop": ["w"]}], keep_raw=True)
    out = pipeline.schema(SCHEMA)
    assert out.names == ("energy", "v", "n", "v_raw", "w_raw")
    assert out.fields[3] == Field("v_raw", (16, 12), "float32", "m/s")
    (step,) = steps_of(SCHEMA, 1)
    made = pipeline.apply(step)
    assert np.array_equal(made["v_raw"], step["v"])
    assert made["v"].shape == (4, 3)


def test_a_chain_of_codecs_is_undone_in_reverse(tmp_path):
    steps = steps_of(SCHEMA, 20)
    pipeline = Pipeline(
        [{"name": "normalise", "offset": 1.0, "scale": 2.0, "fields": ["v"]}, {"name": "pod", "field": "v", "rank": 8, "error": 0.01}]
    )
    pipeline.keep_in(tmp_path, learn=True)
    assert not pipeline.ready
    assert pipeline.wanted == 64
    out = pipeline.schema(SCHEMA)
    made = pipeline.take(steps, keys_of(20))
    assert pipeline.ready
    assert set(out.names) == {"energy", "v_pod", "_v_version", "_v_misfit", "w", "n"}
    pipeline.describe_in(tmp_path)
    later = Pipeline.described_in(tmp_path)
    assert later.decoded() == SCHEMA
    assert set(later.encoded) == {"v_pod", "_v_version", "_v_misfit"}
    for key, raw, stored in zip(keys_of(20), steps, made, strict=True):
        again = later.decode(stored, key)
        assert np.sqrt(np.mean((again["v"] - raw["v"]) ** 2)) <= 0.01 * raw["v"].std() * 1.5
        assert np.array_equal(again["w"], raw["w"])


def test_a_damaged_description_is_told(tmp_path):
    assert Pipeline.described_in(tmp_path) is None
    (tmp_path / "transform").mkdir()
    (tmp_path / "transform" / "about.json").write_text('{"pipeline": 3')
    with pytest.raises(ConfigError, match="cannot be read"):
        Pipeline.described_in(tmp_path)


def test_names_that_would_clash_are_refused():
    with pytest.raises(SchemaError, match="a second field 'v_mean'"):
        Pipeline([{"name": "diagnostics", "fields": ["v"]}, {"name": "diagnostics", "fields": ["v"]}]).schema(SCHEMA)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"name": "coarsn"}], "Did you mean 'coarsen'"),
        ([{"name": "coarsen", "factr": 4}], "Did you mean 'factor'"),
        ([{"factor": 4}], "has no name"),
        ([3], "a list of mappings"),
        ("coarsen", "give a list of transforms"),
        ({"step": []}, "Did you mean 'steps'"),
        ({"steps": [COARSE], "where": "writr"}, "Did you mean 'writer'"),
        ({"steps": [COARSE], "keep_raw": "yes"}, "transform.keep_raw is 'yes'"),
        ({"steps": [COARSE], "where": "writer", "keep_raw": True}, "has to travel"),
        ({"steps": [COARSE], "cache": False}, "nothing would be stored"),
        ({"steps": [{"name": "pod", "field": "v"}], "cache": False, "keep_raw": True}, "encodes each step once"),
    ],
)
def test_wrong_entries_get_a_sentence(value, words):
    with pytest.raises((ConfigError, UnknownName), match=words):
        Transforms.of(value).check()


def test_a_study_is_looked_at_without_its_users_files(tmp_path):
    """The file of a function may be gone when the report is read again; to run, it must be there."""
    entry = Transforms.of([{"name": "function", "target": f"{tmp_path}/gone.py:f"}])
    with pytest.raises(ConfigError, match="does not exist"):
        entry.check()
    plain = Pipeline([COARSE])
    plain.schema(SCHEMA)
    plain.describe_in(tmp_path)
    assert Pipeline.described_in(tmp_path) is None


def test_the_entry_comes_from_the_command_line_a_group_or_python(tmp_path):
    wanted = ["simulation.target=m:f", "space={a: [0, 1]}"]
    for overrides in (
        ["transform=[{name: coarsen, factor: 4, fields: [v]}]", "transform.where=writer"],
        ["transform.steps=[{name: coarsen, factor: 4, fields: [v]}]", "transform.where=writer"],
    ):
        config = Config.from_mapping(compose([*wanted, *overrides]))
        assert config.transform == Transforms((COARSE,), "writer")
    assert Config.from_mapping({**BASE, "transform": [COARSE]}).transform == Transforms((COARSE,))
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config
    for group, name in (("compress", "pod"), ("patches", "autoencoder"), ("half", "cast"), ("diagnostics", "diagnostics")):
        made = Config.from_mapping(compose([*wanted, f"transform={group}"])).transform
        assert [s["name"] for s in made.steps] == [name]
    assert Config.from_mapping(compose(wanted)).transform == Transforms()


def test_files_of_own_functions_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def f(values):\n    return {}\n\n\ndef span(field):\n    return 1.0\n")
    steps = [{"name": "function", "target": "mine.py:f"}, {"name": "pod", "field": "v", "keep": {"mine.py:span": 0.1}}]
    made = Transforms.of(steps).steps
    assert made[0]["target"] == f"{tmp_path}/mine.py:f"
    assert made[1]["keep"] == {f"{tmp_path}/mine.py:span": 0.1}


def test_what_is_told_is_transformed_too(tmp_path):
    study = Study(
        {"a": (0, 1)}, budget=4, directory=tmp_path / "told", transform=[{"name": "diagnostics", "compute": ["max"], "drop": True}]
    )
    for candidate in study.ask(3):
        a = candidate.parameters["a"]
        study.tell(candidate, [{"t": 0.1 * i, "u": np.full(5, a + i)} for i in range(3)])
    data = study.archive()
    assert data.u_max.isel(member=1).values.tolist() == [float(data.a[1]) + i for i in range(3)]
    assert set(data.data_vars) == {"stored", "u_max"}
    study.close()
