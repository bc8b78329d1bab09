import numpy as np
import pytest
import torch

from alearn.acquisition import StdDistance
from alearn.errors import ConfigError, UnknownName
from alearn.space import Pool, Space
from alearn.testing.acquisition import WaveEnsemble, check_acquisition, context_for

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(40, 3)) * [1.0, 50.0, 1e-3]
IDS = tuple(f"mol-{i}" for i in range(40))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "molecules.csv"
    rows = ["name, mass, polarity, comment, angle"]
    rows += [f"{n}, {f[0]}, {f[1]}, ok, {f[2]}" for n, f in zip(IDS, FEATURES, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


def space(table):
    return Space.from_config({"molecule": {"pool": str(table), "features": ["mass", "polarity", "angle"]}, "T": [300, 400]})


def test_a_point_is_an_entry_and_back(table):
    s = space(table)
    assert (s.d, s.names) == (4, ("molecule", "T"))
    points = [{"molecule": n, "T": 350.0} for n in IDS]
    x = s.to_unit(points)
    assert (x.min(axis=0)[:3] == 0).all()
    assert (x.max(axis=0)[:3] == 1).all()
    assert s.from_unit(x) == points
    assert np.allclose(s.snap(x + 1e-6)[:, :3], x[:, :3], atol=0)
    assert Space.from_config(s.to_config()).to_config() == s.to_config()


def test_designs_draw_entries(table):
    s = space(table)
    for x in (s.sobol(64, seed=0), s.lhs(20, seed=0), s.uniform(20, np.random.default_rng(0))):
        assert np.allclose(s.snap(x), x)
    assert len({p["molecule"] for p in s.from_unit(s.sobol(64, seed=0))}) > 30


def test_acquisitions_choose_from_a_pool_until_it_is_empty(table):
    only = Space.from_config({"molecule": {"pool": str(table), "features": ["mass", "polarity", "angle"]}})
    check_acquisition(lambda: StdDistance(pool=512, refine=64), spaces={"pool": space(table)})
    context = context_for(only, n=10, pending=0)
    chosen = StdDistance(pool=1024).select(WaveEnsemble(3, 1, context.X), only, 100, context)
    named = {p["molecule"] for p in only.from_unit(chosen.x)}
    known = {p["molecule"] for p in only.from_unit(context.X.numpy())}
    assert len(named) == len(chosen.x) == 40 - len(known)
    assert not named & known


def test_wrong_entries_are_told(table):
    with pytest.raises((ConfigError, UnknownName), match="Did you mean 'mol-7'"):
        space(table).check({"molecule": "mol7", "T": 300.0})


@pytest.mark.parametrize(
    ("text", "spec", "says"),
    [
        ("name,a\nx,1\n", {}, "at least two entries"),
        ("name,a\nx,1\nx,2\n", {}, "have the ids of another"),
        ("name,a\nx,1\ny,1\n", {}, "have the features of another"),
        ("name,a\nx,1\ny,nan\n", {}, "not finite, at 'y'"),
        ("name,a\nx,1\ny,b\n", {}, "without a number for each feature"),
        ("name,a\nx,1\ny,2\n", {"features": ["b"]}, "Valid: a, name"),
        ("name,a\nx,1\ny,2\n", {"id": "nam"}, "Did you mean 'name'"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, text, spec, says):
    path = tmp_path / "pool.csv"
    path.write_text(text)
    with pytest.raises((ConfigError, UnknownName), match=says):
        Space.from_config({"m": {"pool": str(path), **spec}})
    with pytest.raises(ConfigError, match="does not exist"):
        Space.from_config({"m": {"pool": str(tmp_path / "none.csv")}})


def test_a_pool_in_memory_works_and_says_that_it_cannot_be_written_down():
    s = Space([Pool("m", IDS, FEATURES)])
    assert torch.from_numpy(s.sobol(8, seed=0)).shape == (8, 3)
    with pytest.raises(ConfigError, match="cannot be written down"):
        s.to_config()


def test_a_normal_density_is_where_the_points_are():
    s = Space.from_config({"a": {"low": 0, "high": 10, "scale": "normal", "mean": 4, "std": 1}, "b": [0, 1]})
    a = np.array([p["a"] for p in s.from_unit(s.sobol(1024, seed=0))])
    assert a.mean() == pytest.approx(4, abs=0.02)
    assert a.std() == pytest.approx(1, abs=0.02)
    points = [{"a": v, "b": 0.5} for v in (0.0, 2.5, 4.0, 7.0, 10.0)]
    back = s.from_unit(s.to_unit(points))
    assert [p["a"] for p in back] == pytest.approx([p["a"] for p in points], abs=1e-3)
    assert Space.from_config(s.to_config()) == s


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"mean": 1.0}, "write scale: normal"),
        ({"scale": "normal"}, "mean of parameter 'a' is None"),
        ({"scale": "normal", "mean": 0, "std": 0}, "positive std"),
        ({"scale": "normal", "mean": 99, "std": 0.1}, "a millionth inside"),
        ({"scale": "normal", "mean": 0.5, "std": 1, "integer": True}, "scale normal"),
    ],
)
def test_wrong_densities_are_refused(spec, says):
    with pytest.raises(ConfigError, match=says):
        Space.from_config({"a": {"low": 0, "high": 1, **spec}})


def test_a_count_makes_many_parameters():
    s = Space.from_config({"c": {"low": -1, "high": 1, "count": 64}, "nu": [0, 1]})
    assert s.d == 65
    assert s.names[:2] == ("c1", "c2")
    assert len(s.sobol(8, seed=0)) == 8
    with pytest.raises(ConfigError, match="count of parameter 'c' is 0"):
        Space.from_config({"c": {"low": -1, "high": 1, "count": 0}})
