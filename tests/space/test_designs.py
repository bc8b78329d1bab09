import numpy as np
import pytest

from alearn.errors import ConfigError
from alearn.space import Space
from alearn.space.designs import DESIGNS, initial_design, maximin, points_in

PLANE = Space.from_config({"a": [0, 1], "b": [0, 1]})
MIXED = Space.from_config(
    {"n": {"low": 1, "high": 9, "integer": True}, "grade": {"ordinal": [1, 2, 5]}, "kind": {"choices": ["red", "on"]}}
)


def closest(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(len(x), 1)].min()


def test_maximin_is_farther_apart_than_the_others():
    x = maximin(PLANE, 20, seed=0)
    assert x.shape == (20, 2)
    assert closest(x) > 1.5 * max(closest(PLANE.sobol(20, seed=0)), closest(PLANE.lhs(20, seed=0)))
    assert np.array_equal(x, maximin(PLANE, 20, seed=0))
    assert maximin(PLANE, 0, seed=0).shape == (0, 2)


@pytest.mark.parametrize("kind", DESIGNS)
def test_a_design_is_the_same_in_pieces_and_goes_on_after_its_end(kind):
    whole = initial_design(PLANE, kind, 12, 20, seed=3, skip=0)
    pieces = [initial_design(PLANE, kind, 12, n, seed=3, skip=skip) for n, skip in ((5, 0), (10, 5), (5, 15))]
    assert np.array_equal(np.vstack(pieces), whole)
    assert len(np.unique(whole.round(9), axis=0)) == 20


def test_points_from_a_table(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("grade, n, note, kind\n5, 3, x, on\n1, 4.0, y, red\n")
    assert MIXED.from_unit(points_in(path, MIXED)) == [{"n": 3, "grade": 5, "kind": "on"}, {"n": 4, "grade": 1, "kind": "red"}]
    found = initial_design(MIXED, str(path), 2, 3, seed=0, skip=0)
    assert len(found) == 3
    assert np.array_equal(found[:2], points_in(path, MIXED))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n,grade\n1,1\n", "lacks a column for kind"),
        ("n,grade,kind\n1,1,blue\n", "Line 2 of the design .* Valid: "),
        ("n,grade,kind\n99,1,red\n", "Line 2 .* outside its box"),
        ("n,grade,kind\n1.5,1,red\n", "whole number"),
        ("n,grade,kind\n", "holds no points"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, text, says):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        points_in(path, MIXED)
    with pytest.raises(ConfigError, match="does not exist"):
        points_in(tmp_path / "none.csv", MIXED)
