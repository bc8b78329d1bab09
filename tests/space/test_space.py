import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alearn.errors import ConfigError, UnknownName
from alearn.space import Categorical, Continuous, Integer, Ordinal, Space

MIXED = {
    "F": [0.01, 0.08],
    "kappa": {"low": 1e-3, "high": 1, "scale": "log", "unit": "m2/s"},
    "n": {"low": 1, "high": 10, "integer": True},
    "cells": {"low": 8, "high": 1024, "integer": True, "scale": "log"},
    "material": {"choices": ["steel", "copper"]},
    "grade": {"ordinal": [1, 2, 5]},
}


@pytest.fixture
def mixed():
    return Space.from_config(MIXED)


def test_names_and_dimensions(mixed):
    assert mixed.names == ("F", "kappa", "n", "cells", "material", "grade")
    assert mixed.d == 7
    assert mixed.columns("material") == slice(4, 6)
    assert mixed.bounds.shape == (2, 7)
    assert mixed.units["kappa"] == "m2/s"
    assert mixed.box["n"] == (1.0, 10.0)
    assert not mixed.continuous


def test_to_unit_values(mixed):
    x = mixed.to_unit([{"F": 0.01, "kappa": 1.0, "n": 10, "cells": 8, "material": "copper", "grade": 2}])
    assert x.dtype == np.float64
    assert x[0, 0] == 0
    assert x[0, 1] == 1
    assert x[0, 2] == pytest.approx(0.95)
    assert x[0, 4:6].tolist() == [0, 1]
    assert x[0, 6] == pytest.approx(0.5)


def test_log_scale_is_uniform_in_the_logarithm():
    space = Space([Continuous("k", 1e-4, 1, "log")])
    assert space.to_unit([{"k": 1e-2}])[0, 0] == pytest.approx(0.5)
    assert space.from_unit([[0.25]])[0]["k"] == pytest.approx(1e-3)


@st.composite
def points(draw):
    return {
        "F": draw(st.floats(0.01, 0.08)),
        "kappa": draw(st.floats(1e-3, 1)),
        "n": draw(st.integers(1, 10)),
        "cells": draw(st.integers(8, 1024)),
        "material": draw(st.sampled_from(["steel", "copper"])),
        "grade": draw(st.sampled_from([1, 2, 5])),
    }


@given(st.lists(points(), min_size=1, max_size=5))
def test_round_trip(some):
    space = Space.from_config(MIXED)
    back = space.from_unit(space.to_unit(some))
    for a, b in zip(some, back, strict=True):
        assert b["F"] == pytest.approx(a["F"], rel=1e-12)
        assert b["kappa"] == pytest.approx(a["kappa"], rel=1e-12)
        assert {k: b[k] for k in ("n", "cells", "material", "grade")} == {k: a[k] for k in ("n", "cells", "material", "grade")}
        assert type(b["n"]) is int
        assert type(b["F"]) is float
        space.check(b)


@settings(max_examples=50)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.floats(0, 1))
def test_any_box_keeps_points_inside_and_returns(low, width, u):
    if not low < low + width:
        return
    space = Space([Continuous("a", low, low + width)])
    p = space.from_unit([[u]])
    space.check(p[0])
    assert space.from_unit(space.to_unit(p))[0]["a"] == pytest.approx(p[0]["a"], rel=1e-9, abs=1e-9 * width)


@given(st.lists(st.floats(-2, 3), min_size=7, max_size=7))
def test_snap_is_valid_and_idempotent(row):
    space = Space.from_config(MIXED)
    x = space.snap([row])
    assert np.allclose(space.snap(x), x, atol=1e-12)
    assert space.contains(space.from_unit(x)[0])
    assert x[0, 4:6].sum() == 1
    assert space.from_unit(x)[0]["material"] == space.from_unit([row])[0]["material"]


def test_sobol_is_seeded_continued_and_silent(mixed):
    a = mixed.sobol(37, seed=3)
    assert a.shape == (37, 7)
    assert np.array_equal(a, mixed.sobol(37, seed=3))
    assert not np.array_equal(a, mixed.sobol(37, seed=4))
    assert np.array_equal(mixed.sobol(20, seed=3, skip=17), a[17:])
    assert np.array_equal(mixed.snap(a)[:, 4:], a[:, 4:])
    assert mixed.sobol(0, seed=0).shape == (0, 7)


def test_designs_fill_every_kind_evenly(mixed):
    for X in (mixed.sobol(1000, seed=0), mixed.lhs(1000, seed=0), mixed.uniform(1000, np.random.default_rng(0))):
        values = mixed.from_unit(X)
        assert 70 <= sum(v["n"] == 1 for v in values) <= 130
        assert 430 <= sum(v["material"] == "steel" for v in values) <= 570
        assert 0.47 < X[:, 0].mean() < 0.53


def test_lhs_has_one_point_in_each_slice():
    X = Space.from_config({"a": [0, 1], "b": [5, 6]}).lhs(20, seed=1)
    for column in X.T:
        assert sorted(np.floor(column * 20)) == list(range(20))


def test_sobol_is_more_even_than_random():
    from scipy.stats import qmc

    space = Space.from_config({"a": [0, 1], "b": [0, 1]})
    assert qmc.discrepancy(space.sobol(128, 0)) < 0.3 * qmc.discrepancy(space.uniform(128, np.random.default_rng(0)))


def test_config_round_trip(mixed):
    again = Space.from_config(mixed.to_config())
    assert again == mixed
    assert again.to_config() == mixed.to_config()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "no parameters"),
        ({"a": [1, 0]}, "must be smaller"),
        ({"a": [1, 1]}, "must be smaller"),
        ({"a": [0, math.inf]}, "finite"),
        ({"a": [math.nan, 1]}, "finite"),
        ({"a": ["0", 1]}, "give a number"),
        ({"a": [True, 3]}, "give a number"),
        ({"a": [0, 1, 2]}, r"\[low, high\]"),
        ({"a": 3}, r"\[low, high\]"),
        ({"a": {"low": 0, "high": 1, "scale": "log"}}, "must be positive"),
        ({"a": {"low": 1, "high": 2, "scale": "lgo"}}, "Did you mean 'log'"),
        ({"a": {"low": 1, "hihg": 2}}, "Did you mean 'high'"),
        ({"a": {"low": 1}}, "low and high"),
        ({"a": {"low": 1, "high": 2.5, "integer": True}}, "whole numbers"),
        ({"a": {"low": 1, "high": 2, "choices": ["x", "y"]}}, "either"),
        ({"a": {"choices": ["x"]}}, "at least two"),
        ({"a": {"choices": ["x", "x"]}}, "twice"),
        ({"a": {"choices": "xy"}}, "at least two"),
        ({"a": {"ordinal": [1, math.nan]}}, "finite"),
        ({"a b": [0, 1]}, "identifier"),
        ([0, 1], "mapping"),
    ],
)
def test_bad_boxes_get_one_sentence(config, words):
    with pytest.raises(ConfigError, match=words):
        Space.from_config(config)


def test_two_parameters_of_one_name():
    with pytest.raises(ConfigError, match="twice"):
        Space([Continuous("a", 0, 1), Integer("a", 0, 3)])


GOOD = {"F": 0.05, "kappa": 0.1, "n": 3, "cells": 64, "material": "steel", "grade": 5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"F": 0.9}, "outside its box"),
        ({"F": math.nan}, "finite"),
        ({"F": "x"}, "give a number"),
        ({"n": 2.5}, "whole number"),
        ({"material": "steal"}, "Did you mean 'steel'"),
        ({"material": [1]}, "Valid: copper, steel"),
        ({"grade": 3}, "Valid: 1, 2, 5"),
        ({"kapa": 1}, "Did you mean 'kappa'"),
    ],
)
def test_bad_points_get_one_sentence(mixed, change, words):
    point = {**GOOD, **change}
    with pytest.raises(ConfigError, match=words):
        mixed.check(point)
    assert not mixed.contains(point)
    with pytest.raises(ConfigError, match=words):
        mixed.to_unit([point])


def test_missing_parameter(mixed):
    with pytest.raises(ConfigError, match="no value for grade"):
        mixed.check({k: v for k, v in GOOD.items() if k != "grade"})


def test_numpy_values_are_taken(mixed):
    mixed.check({**GOOD, "n": np.int64(3), "F": np.float32(0.05)})
    mixed.to_unit([{**GOOD, "n": np.int64(3), "F": np.float64(0.05)}])


@pytest.mark.parametrize("X", [np.zeros(7), np.zeros((2, 3)), np.full((1, 7), np.nan)])
def test_bad_arrays_are_refused(mixed, X):
    with pytest.raises(ConfigError):
        mixed.from_unit(X)


def test_unknown_column(mixed):
    with pytest.raises(UnknownName):
        mixed.columns("f")


def test_kinds_are_values():
    assert Ordinal("g", [1, 2]) == Ordinal("g", (1, 2))
    assert Categorical("c", ["a", "b", "c"]).width == 3


def test_import_without_torch_and_scipy():
    code = "import sys, alearn.space; print([m for m in ('torch', 'scipy', 'hydra') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
