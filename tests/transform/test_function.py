"""A transform that the user wrote."""

import numpy as np
import pytest

from alearn.errors import ConfigError, SchemaError, UnknownName
from alearn.testing.transform import SCHEMA, check_transform, steps_of
from alearn.transform.function import UserFunction

SOURCE = """
import numpy as np


def kinetic(values, mass=1.0):
    return {"kinetic": 0.5 * mass * float(np.mean(values["v"] ** 2)), "edge": values["v"][0]}


def bad(values):
    return 3


def raises(values):
    raise RuntimeError("no luck")


def shrinks(values):
    return {"v": values["v"][: 2 if values["v"].mean() == 1 else 1]}


NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    return f"{tmp_path}/mine.py"


def test_conformance(file):
    check_transform(lambda: UserFunction(target=f"{file}:kinetic", units={"kinetic": "J"}))
    check_transform(lambda: UserFunction(target=f"{file}:kinetic", keep=False))


def test_what_it_returns_is_added_or_all(file):
    (step,) = steps_of(SCHEMA, 1)
    rule = UserFunction(target=f"{file}:kinetic", units={"kinetic": "J"}, arguments={"mass": 4.0})
    out = rule.schema(SCHEMA)
    assert out.names == (*SCHEMA.names, "kinetic", "edge")
    assert {f.name: f.unit for f in out.fields}["kinetic"] == "J"
    assert rule.apply(step)["kinetic"] == pytest.approx(2 * np.mean(step["v"] ** 2), rel=1e-6)
    assert UserFunction(target=f"{file}:kinetic", keep=False).schema(SCHEMA).names == ("kinetic", "edge")


def test_what_goes_wrong_is_one_sentence(file):
    with pytest.raises(ConfigError, match="no target"):
        UserFunction()
    with pytest.raises(UnknownName, match="Did you mean 'kinetic'"):
        UserFunction(target=f"{file}:kinetik")
    with pytest.raises(ConfigError, match="is a int; a function is needed"):
        UserFunction(target=f"{file}:NUMBER")
    with pytest.raises(SchemaError, match="returned a int; it must return a dict"):
        UserFunction(target=f"{file}:bad").schema(SCHEMA)
    with pytest.raises(SchemaError, match="RuntimeError: no luck"):
        UserFunction(target=f"{file}:raises").schema(SCHEMA)
    shrinks = UserFunction(target=f"{file}:shrinks")
    shrinks.schema(SCHEMA)
    with pytest.raises(SchemaError, match=r"shape \(1, 12\); it was announced with \(2, 12\)"):
        shrinks.apply(steps_of(SCHEMA, 1)[0])
