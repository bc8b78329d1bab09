import csv
import dataclasses

import numpy as np
import pytest

from alearn import events as ev
from alearn.chronicle import Chronicle
from alearn.config import Config
from alearn.errors import AlearnError, ConfigError, UnknownName
from alearn.ledger import Ledger
from alearn.ledger.archive import load_adios2
from alearn.space import Space
from alearn.study import Study
from alearn.warmstart import read_past, take_over

SPACE = Space.from_config({"a": [0, 1], "n": {"low": 1, "high": 9, "integer": True}, "kind": {"choices": ["red", "blue"]}})
PLAIN = Space.from_config({"a": [0, 1], "b": [0, 1]})
A, B, T = np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.2, 0.7]), np.array([0.0, 0.5, 1.0, 1.5])
Y = np.sin(A[:, None] + B[:, None] * T)


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def check_trajectories(found):
    assert [p.parameters for p in found.members] == [{"a": a, "b": b} for a, b in zip(A, B, strict=True)]
    for past, y in zip(found.members, Y, strict=True):
        assert [t for t, _ in past.steps] == T.tolist()
        assert np.allclose([float(v["y"]) for _, v in past.steps], y, atol=1e-6)


def test_a_table_with_a_row_for_each_member(tmp_path):
    rows = [["n", "kind", "a", "y", "z"], [3, "red", 0.5, 1.5, 2], [4.0, "blue", 0.25, -1, 3]]
    found = read_past(table(tmp_path / "past.csv", rows), SPACE)
    assert [p.parameters for p in found.members] == [{"a": 0.5, "n": 3, "kind": "red"}, {"a": 0.25, "n": 4, "kind": "blue"}]
    assert found.members[1].steps[0][1] == {"y": -1.0, "z": 3.0}
    assert found.members[1].where == "line 3"
    assert not found.left_out


@pytest.mark.parametrize("numbered", [True, False])
def test_a_table_with_a_row_for_each_time_step(tmp_path, numbered):
    rows = [["member", "a", "b", "t", "y"]] + [[i, A[i], B[i], t, y] for i in range(3) for t, y in zip(T, Y[i], strict=True)]
    rows = rows if numbered else [row[1:] for row in rows]
    check_trajectories(read_past(table(tmp_path / "past.csv", rows), PLAIN))


def test_arrays(tmp_path):
    np.savez(tmp_path / "past.npz", a=A, b=B, t=T, y=Y)
    check_trajectories(read_past(tmp_path / "past.npz", PLAIN))
    np.savez(tmp_path / "flat.npz", a=A, b=B, y=Y[:, 0], field=np.ones((3, 2, 2)))
    found = read_past(tmp_path / "flat.npz", PLAIN)
    assert found.members[2].steps[0][1]["field"].shape == (2, 2)
    ragged = np.tile(T, (3, 1))
    ragged[1, 2:] = np.nan
    np.savez(tmp_path / "ragged.npz", a=A, b=B, t=ragged, y=Y)
    assert [len(p.steps) for p in read_past(tmp_path / "ragged.npz", PLAIN).members] == [4, 2, 4]


def test_netcdf(tmp_path):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    data = xr.Dataset({"a": ("run", A), "b": ("run", B), "y": (("time", "run"), Y.T)}, {"t": ("time", T)})
    data.to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    check_trajectories(read_past(tmp_path / "past.nc", PLAIN))


def test_bp5_in_one_step_and_a_step_for_each_time(tmp_path):
    adios2 = load_adios2()
    with adios2.Stream(str(tmp_path / "one.bp"), "w") as stream:
        stream.begin_step()
        for name, array in (("a", A), ("b", B), ("t", T), ("y", Y)):
            stream.write(name, np.ascontiguousarray(array), array.shape, [0] * array.ndim, array.shape)
        stream.end_step()
    check_trajectories(read_past(tmp_path / "one.bp", PLAIN))
    with adios2.Stream(str(tmp_path / "many.bp"), "w") as stream:
        for k, t in enumerate(T):
            stream.begin_step()
            for name, array in (("a", A), ("b", B), ("t", np.array([t])), ("y", Y[:, k].copy())):
                stream.write(name, array, array.shape, [0], array.shape)
            stream.end_step()
    check_trajectories(read_past(tmp_path / "many.bp", PLAIN))


def study(directory):
    path = directory.parent / "source.npz"
    np.savez(path, a=A, b=B, t=T, y=Y)
    with Ledger.create(directory, study="old") as ledger:
        chronicle = Chronicle(ledger)
        chronicle.record(ev.StudyStarted(at=1.0, study="old", arm="active", seed=0))
        take_over(read_past(path, PLAIN), path, PLAIN, ledger, chronicle, {})
        ledger.seal()
    return directory


def test_another_study_and_its_archive(tmp_path):
    directory = study(tmp_path / "old")
    check_trajectories(read_past(directory, PLAIN))
    assert (directory / "archive.bp").exists()
    check_trajectories(read_past(directory / "archive.bp", PLAIN))


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path):
    rows = [["a", "b", "y"], [0.5, 0.5, 1.0], [1.5, 0.5, 1.0], [0.5, 0.5, "nan"], [0.5, "", 1.0], ["x", 0.1, 1.0]]
    found = read_past(table(tmp_path / "past.csv", rows), PLAIN)
    assert len(found.members) == 1
    said = "\n".join(found.left_out)
    assert "line 3: Parameter 'a' is 1.5, outside its box [0, 1]." in said
    assert "line 4: its output y is not finite at step 0." in said
    assert "line 5: Parameter 'b' is ''" in said
    assert "line 6: Parameter 'a' is 'x'" in said
    assert "1 members taken over from past.csv; 4 left out" in found.summary(tmp_path / "past.csv")


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("none.csv", lambda p: None, "do not exist"),
        ("past.txt", lambda p: p.write_text("a,b\n"), "of no kind that is read"),
        ("past.csv", lambda p: p.write_text("a,y\n1,2\n"), "lack the parameters b; they have a, y"),
        ("past.csv", lambda p: p.write_text("a,b\n0.1,0.2\n"), "no column beside the parameters"),
        ("past.csv", lambda p: p.write_text("a,b,y\n5,0.2,1\n"), "hold no member that can be used; the first is left out because line 2"),
        ("past.npz", lambda p: p.write_bytes(b"nonsense"), "cannot be read"),
        ("past.npz", lambda p: np.savez(p, a=A, b=B[:2], y=A), "its first axis must be the 3 members"),
        ("past.npz", lambda p: np.savez(p, a=A, b=B, t=T, y=Y[:, :2]), "its second axis must be the 4 times"),
        ("past.npz", lambda p: np.savez(p, a=A, b=B, y=np.array([{}, {}, {}])), "cannot be read"),
        ("past.nc", lambda p: p.write_bytes(b"nonsense"), "netCDF"),
    ],
)
def test_wrong_files_are_refused_in_one_sentence(tmp_path, name, write, says):
    write(tmp_path / name)
    with pytest.raises(ConfigError, match=says):
        read_past(tmp_path / name, PLAIN)


def test_members_taken_over_are_stored_and_cost_nothing(tmp_path):
    np.savez(tmp_path / "past.npz", a=A, b=B, t=T, y=Y)
    path = tmp_path / "past.npz"
    with Ledger.create(tmp_path / "study", study="s") as ledger:
        chronicle = Chronicle(ledger)
        chronicle.record(ev.StudyStarted(at=1.0, study="s", arm="active", seed=0, budget={"members": 5.0, "core_s": 9.0}))
        take_over(read_past(path, PLAIN), path, PLAIN, ledger, chronicle, {"y": "K"})
        state = chronicle.state
        assert state.budget == {"members": 8.0, "core_s": 9.0}
        assert (state.with_data, state.steps, len(state.active)) == (3, 12, 0)
        assert state.core_seconds(100.0) == 0
        assert np.isnan(state.startup_s)
        assert np.isnan(state.seconds_per_step)
        assert state.member_core_s() == 0
        members = ledger.members()
        assert [m.origin for m in members] == ["data"] * 3
        assert "past.npz, number 1" in members[1].why
        assert ledger.schema().fields[0].unit == "K"
        assert not ledger.verify()
        assert sum(1 for _ in ledger.samples()) == 12


def test_members_that_differ_in_their_outputs_are_refused(tmp_path):
    found = read_past(table(tmp_path / "past.csv", [["a", "b", "y"], [0.5, 0.5, 1.0], [0.1, 0.5, 1.0]]), PLAIN)
    other = dataclasses.replace(found.members[1], steps=((0.0, {"z": np.asarray(1.0)}),))
    with Ledger.create(tmp_path / "study", study="s") as ledger:
        chronicle = Chronicle(ledger)
        chronicle.record(ev.StudyStarted(at=1.0, study="s", arm="active", seed=0))
        with pytest.raises(AlearnError, match="missing"):
            take_over(dataclasses.replace(found, members=(found.members[0], other)), tmp_path / "p.csv", PLAIN, ledger, chronicle, {})


CODE = """
def f(a, b):
    yield {"t": 0.0, "y": a * b}
"""


def test_a_study_goes_on_from_data_and_a_design_of_ones_own(tmp_path):
    (tmp_path / "f.py").write_text(CODE)
    table(tmp_path / "past.csv", [["a", "b", "y"]] + [[0.1 * i, 0.9 - 0.1 * i, 0.1 * i * (0.9 - 0.1 * i)] for i in range(3)])
    table(tmp_path / "points.csv", [["a", "b", "note"], *([0.05 + 0.1 * i, 0.5, "mine"] for i in range(5))])
    ended = Study(
        {"a": (0, 1), "b": (0, 1)},
        f"{tmp_path}/f.py:f",
        budget=3,
        directory=tmp_path / "study",
        view="quiet",
        surrogate={"name": "gp"},
        design={"data": str(tmp_path / "past.csv"), "kind": str(tmp_path / "points.csv"), "batch": 1, "holdout": 0.0},
    ).run()
    assert ended.status().state == "done"
    with Ledger.open(tmp_path / "study", readonly=True) as ledger:
        members = ledger.members()
    assert [m.origin for m in members] == ["data"] * 3 + ["design"] * 2 + ["acquisition"]
    assert [m.parameters["a"] for m in members[3:5]] == pytest.approx([0.05, 0.15])
    assert "points.csv" in members[3].why


def test_designs_are_configured_and_wrong_ones_refused(tmp_path):
    def config(**design):
        return Config.from_mapping({"space": {"a": [0, 1], "b": [0, 1]}, "design": design})

    assert config(kind="lhs").design.kind == "lhs"
    assert config(kind=str(table(tmp_path / "p.csv", [["a", "b"], [0.5, 0.5], [0.1, 0.1]]))).initial == 2
    assert config(data="~/past.csv").design.data.startswith("/")
    with pytest.raises(UnknownName, match="Did you mean 'sobol'"):
        config(kind="sobl")
    assert config(kind="lhs", data="x.csv").test_arm().design == dataclasses.replace(
        config().design, initial=config().test_members, holdout=0.0
    )
