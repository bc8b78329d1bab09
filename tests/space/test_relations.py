"""Conditions and correlations: the cube stays uniform, points stay valid, what does not count stands at its default."""

from __future__ import annotations

import numpy as np
import pytest

from alearn.errors import ConfigError
from alearn.space import Space

SOLVER = {
    "scheme": {"choices": ["explicit", "implicit"]},
    "dt": {"low": 1e-4, "high": 1e-1, "scale": "log"},
    "theta": {"low": 0.5, "high": 1.0, "when": {"scheme": "implicit"}, "default": 1.0},
    "sweeps": {"low": 1, "high": 9, "integer": True, "when": {"scheme": "implicit"}},
    "omega": {"low": 1.0, "high": 2.0, "when": {"sweeps": [3, 4, 5], "scheme": "implicit"}},
}
RHO = 0.8
COPULA = {
    "a": {"low": -5, "high": 9, "scale": "normal", "mean": 2, "std": 1},
    "b": {"low": 1, "high": 1000, "scale": "log"},
    "c": [0, 1],
    "correlations": [["a", "b", RHO], ["b", "c", -0.5]],
}


@pytest.mark.parametrize("config", [SOLVER, COPULA])
def test_a_space_is_written_down_and_made_again(config):
    space = Space.from_config(config)
    assert Space.from_config(space.to_config()) == space
    assert Space.from_config({k: v for k, v in config.items() if k in ("scheme", "dt", "a", "b", "c")}) != space


@pytest.mark.parametrize("config", [SOLVER, COPULA])
def test_points_go_and_come_back(config):
    space = Space.from_config(config)
    x = space.sobol(64, seed=3)
    points = space.from_unit(x)
    for point in points:
        space.check(point)
    np.testing.assert_allclose(space.to_unit(points), x, atol=1e-9)
    np.testing.assert_allclose(space.snap(x), x, atol=1e-12)


def test_what_does_not_count_stands_at_its_default():
    space = Space.from_config(SOLVER)
    points = space.from_unit(space.uniform(400, np.random.default_rng(0)))
    explicit = [p for p in points if p["scheme"] == "explicit"]
    implicit = [p for p in points if p["scheme"] == "implicit"]
    assert 100 < len(explicit) < 300
    assert {(p["theta"], p["sweeps"], p["omega"]) for p in explicit} == {(1.0, 5, 1.5)}
    assert len({p["theta"] for p in implicit}) == len(implicit)
    assert {p["omega"] for p in implicit if p["sweeps"] not in (3, 4, 5)} == {1.5}
    assert not space.continuous


def test_a_point_may_leave_out_what_does_not_count():
    space = Space.from_config(SOLVER)
    short, odd = {"scheme": "explicit", "dt": 0.01}, {"scheme": "explicit", "dt": 0.01, "theta": 0.7, "sweeps": 2, "omega": 1.9}
    np.testing.assert_array_equal(space.to_unit([short]), space.to_unit([odd]))
    assert space.from_unit(space.to_unit([short]))[0]["theta"] == 1.0
    with pytest.raises(ConfigError, match="no value for theta, sweeps, omega"):
        space.check({"scheme": "implicit", "dt": 0.01})


def test_the_cube_is_uniform_in_the_joint_density():
    space = Space.from_config(COPULA)
    points = space.from_unit(space.sobol(4096, seed=0))
    a, b, c = (np.array([p[n] for p in points]) for n in "abc")
    assert abs(a.mean() - 2) < 0.02
    assert abs(a.std() - 1) < 0.02
    log_b = np.log(b) / np.log(1000)
    assert abs(log_b.mean() - 0.5) < 0.01
    assert abs(log_b.var() - 1 / 12) < 0.003
    from scipy.stats import norm

    score_a, score_b, score_c = (a - 2), norm.ppf(np.clip(log_b, 1e-9, 1 - 1e-9)), norm.ppf(np.clip(c, 1e-9, 1 - 1e-9))
    assert abs(np.corrcoef(score_a, score_b)[0, 1] - RHO) < 0.02
    assert abs(np.corrcoef(score_b, score_c)[0, 1] + 0.5) < 0.02
    assert abs(np.corrcoef(score_a, score_c)[0, 1]) < 0.03


def test_the_corners_of_a_correlated_box_stay_inside():
    space = Space.from_config(COPULA)
    corners = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], dtype=float)
    for point in space.from_unit(corners):
        space.check(point)
    assert np.isfinite(space.to_unit(space.from_unit(corners))).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"theta": {"low": 0, "high": 1, "when": {"scheme": "semi"}}}, "condition of parameter 'theta' cannot come true.*'semi'"),
        ({"theta": {"low": 0, "high": 1, "when": {"shceme": "implicit"}}}, "Did you mean 'scheme'"),
        ({"theta": {"low": 0, "high": 1, "when": {"omega": 1.5}}}, "before 'theta' for its condition"),
        ({"theta": {"low": 0, "high": 1, "when": {"dt": 0.01}}}, "a real number; use a constraint"),
        ({"theta": {"low": 0, "high": 1, "when": {"scheme": "implicit"}, "default": 7}}, "default of parameter 'theta'.*outside its box"),
        ({"theta": {"low": 0, "high": 1, "when": "implicit"}}, "give when: {PARAMETER: VALUE}"),
        ({"correlations": [["dt", "theta", 0.5]]}, "one of them has a condition"),
        ({"correlations": [["dt", "scheme", 0.5]]}, "'scheme' is correlated but not continuous"),
        ({"correlations": [["dt", "dtt", 0.5]]}, "Did you mean 'dt'"),
        ({"correlations": [["dt", "dt", 0.5]]}, "name two parameters"),
        ({"correlations": [["dt", "theta"]]}, "give \\[PARAMETER, PARAMETER, NUMBER\\]"),
    ],
)
def test_a_wrong_relation_gets_one_sentence(change, words):
    with pytest.raises(ConfigError, match=words):
        Space.from_config({**SOLVER, **change})


def test_correlations_that_contradict_one_another():
    with pytest.raises(ConfigError, match="contradict one another"):
        Space.from_config({"a": [0, 1], "b": [0, 1], "c": [0, 1], "correlations": [["a", "b", 0.9], ["b", "c", 0.9], ["a", "c", -0.9]]})


@pytest.mark.parametrize("config", [SOLVER, COPULA])
def test_maps_have_one_axis_for_each_parameter(config):
    space = Space.from_config(config)
    x = space.sobol(64, seed=5)
    y = space.to_axes(x)
    assert y.shape == (64, len(space.names))
    np.testing.assert_allclose(space.from_axes(y), x, atol=1e-6)


def test_an_axis_follows_its_own_parameter_however_others_are_correlated():
    space = Space.from_config(COPULA)
    points = space.from_unit(space.sobol(64, seed=5))
    along_b = space.to_axes(space.to_unit(points))[:, 1]
    np.testing.assert_allclose(along_b, np.log([p["b"] for p in points]) / np.log(1000), atol=1e-6)


GRID = {
    "a": [0, 1],
    "cells": {"low": 16, "high": 128, "integer": True, "scale": "log", "fidelity": True},
    "order": {"ordinal": [1, 2], "fidelity": 2},
}


def test_a_fidelity_has_a_target():
    space = Space.from_config(GRID)
    assert space.fidelities == {"cells": 128, "order": 2}
    assert Space.from_config(space.to_config()) == space
    x = space.sobol(32, seed=0)
    points = space.from_unit(space.at_target(x))
    assert {(p["cells"], p["order"]) for p in points} == {(128, 2)}
    assert [p["a"] for p in points] == [p["a"] for p in space.from_unit(x)]
    assert len({p["cells"] for p in space.from_unit(x)}) > 20
    np.testing.assert_array_equal(space.to_unit([{"a": 0.3}]), space.to_unit([{"a": 0.3, "cells": 128, "order": 2}]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": {"low": 16, "high": 128, "fidelity": 256}}, "The fidelity wanted in the end.*outside its box"),
        ({"scheme": {"choices": ["x", "y"], "fidelity": True}}, "labels without an order"),
        ({"correlations": [["a", "cells", 0.4]], "cells": {"low": 16, "high": 128, "fidelity": True}}, "a correlation"),
    ],
)
def test_a_wrong_fidelity_gets_one_sentence(change, words):
    with pytest.raises(ConfigError, match=words):
        Space.from_config({**GRID, **change})
