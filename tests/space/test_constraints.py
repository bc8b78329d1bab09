import numpy as np
import pytest

from alearn.errors import ConfigError, UnknownName
from alearn.space import Linear, Python, Space

TRIANGLE = {"a": [0, 1], "b": [0, 2], "constraints": [{"terms": {"a": 1, "b": 1}, "high": 1}]}


def test_designs_keep_a_linear_constraint():
    space = Space.from_config(TRIANGLE)
    for X in (space.sobol(50, seed=0), space.lhs(50, seed=0), space.uniform(50, np.random.default_rng(0))):
        assert X.shape == (50, 2)
        assert all(p["a"] + p["b"] <= 1 for p in space.from_unit(X))
        assert space.feasible(X).all()
    assert not space.continuous
    assert not space.contains({"a": 0.9, "b": 0.9})
    with pytest.raises(ConfigError, match=r"breaks the constraint 1\*a \+ 1\*b <= 1"):
        space.check({"a": 0.9, "b": 0.9})
    assert space.to_unit([{"a": 0.9, "b": 0.9}]).shape == (1, 2)


def test_sobol_continues_under_constraints():
    space = Space.from_config(TRIANGLE)
    assert np.array_equal(space.sobol(30, seed=1, skip=12), space.sobol(42, seed=1)[12:])


def test_function_and_target(tmp_path):
    space = Space.from_config({"a": [0, 1], "constraints": [lambda a: a > 0.5]})
    assert min(p["a"] for p in space.from_unit(space.sobol(20, 0))) > 0.5
    with pytest.raises(ConfigError, match=r"FILE\.py:NAME"):
        space.to_config()
    path = tmp_path / "rules.py"
    path.write_text("def small(a):\n    return a < 0.2\n")
    config = {"a": [0, 1], "constraints": [{"target": f"{path}:small"}]}
    space = Space.from_config(config)
    assert space.contains({"a": 0.1})
    assert not space.contains({"a": 0.3})
    assert space.to_config()["constraints"] == config["constraints"]


def test_round_trip_of_a_linear_constraint():
    space = Space.from_config(TRIANGLE)
    assert Space.from_config(space.to_config()) == space


def test_impossible_constraint_is_said():
    space = Space.from_config({"a": [0, 1], "constraints": [{"terms": {"a": 1}, "low": 2}]})
    with pytest.raises(ConfigError, match=r"Only 0 of .* keep the constraints"):
        space.sobol(5, seed=0)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"terms": {"a": 1}}, "incomplete"),
        ({"terms": {}, "high": 1}, "incomplete"),
        ({"terms": {"a": "x"}, "high": 1}, "not a number"),
        ({"term": {"a": 1}, "high": 1}, "Did you mean 'terms'"),
        ({"terms": {"c": 1}, "high": 1}, "not a number"),
    ],
)
def test_bad_rules(rule, words):
    with pytest.raises(ConfigError, match=words):
        Space.from_config({"a": [0, 1], "c": {"choices": ["x", "y"]}, "constraints": [rule]})


def test_rule_over_an_unknown_parameter():
    with pytest.raises(UnknownName):
        Space.from_config({"a": [0, 1], "constraints": [{"terms": {"b": 1}, "high": 1}]})


def test_words():
    assert Linear({"a": 1}, low=0.5).describe() == "1*a >= 0.5"
    assert Linear({"a": 1}, low=0.5, high=2).describe() == "0.5 <= 1*a <= 2"
    assert "my_rule" in Python(max, "x.py:my_rule").describe()
