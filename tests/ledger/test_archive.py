from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_support import SCHEMA, launch, make_sample

from alearn.errors import ConfigError, LedgerError, UnknownName
from alearn.events import MemberQueued
from alearn.ledger import Ledger, open_archive, select_members
from alearn.ledger.archive import load_adios2
from alearn.types import Field, Sample, Schema


@pytest.fixture
def mixed(study: Path) -> Path:
    """Members of 9, 5 and 0 steps; some segments sealed, some not."""
    with Ledger.create(study, study="mixed", segment_bytes=600) as ledger:
        for member in ("m0000", "m0002", "m0005"):
            launch(ledger, member)
        ledger.store([make_sample(m, i) for i in range(5) for m in ("m0000", "m0002")], SCHEMA)
        ledger.seal(everything=False)
        ledger.store([make_sample("m0000", i) for i in range(5, 9)], SCHEMA)
        counts = ledger.counts()["segments"]
        assert counts["sealed"] == 2
        assert counts["open"] > 0
    return study


def test_adios2_and_the_ledger_do_not_import_torch() -> None:
    code = (
        "import sys; from alearn.ledger import archive; import alearn.ledger\n"
        "assert not {'adios2', 'xarray', 'torch', 'hydra'} & set(sys.modules), 'imported too early'\n"
        "archive.load_adios2(); import adios2; from alearn.ledger import open_archive\n"
        "assert 'torch' not in sys.modules\n"
        "import importlib.util; print(importlib.util.find_spec('torch') is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "True"  # torch stays importable afterwards


def test_the_store_describes_itself_to_plain_adios2(mixed: Path) -> None:
    with Ledger.open(mixed) as ledger:
        assert ledger.seal() > 0
    assert not list((mixed / "segments").iterdir())
    with load_adios2().FileReader(str(mixed / "archive.bp")) as file:
        variables = file.available_variables()
        assert {"member", "attempt", "step", "t", "param_a", "y", "u", "count"} <= set(variables)
        assert variables["u"]["Type"] == "float"
        assert file.read_attribute("u/unit") == "m/s"
        assert Schema.from_json(file.read_attribute("alearn/schema")) == SCHEMA
        assert int(variables["u"]["AvailableStepsCount"]) == 3
        member = file.read("member", start=[0], count=[3], step_selection=[0, 1])
        step = file.read("step", start=[0], count=[3], step_selection=[0, 1])
        u = file.read("u", start=[0, 0, 0], count=[3, 4, 3], step_selection=[0, 1])
        for i in range(3):
            np.testing.assert_array_equal(u[i], make_sample(f"m{member[i]:04d}", int(step[i])).values["u"])


@pytest.mark.skipif(shutil.which("bpls") is None, reason="needs bpls of an ADIOS2 installation")
def test_bpls_lists_the_archive(mixed: Path) -> None:
    done = subprocess.run(["bpls", "-a", str(mixed / "archive.bp")], capture_output=True, text=True, timeout=60, check=True)
    assert "param_a" in done.stdout
    assert "u/unit" in done.stdout


def test_the_dataset_is_labelled_padded_and_right(mixed: Path) -> None:
    data = open_archive(mixed)
    assert dict(data.sizes) == {"member": 2, "step": 9, "u_0": 4, "u_1": 3}
    assert list(data.member.values) == ["m0000", "m0002"]
    assert list(data.steps.values) == [9, 5]
    np.testing.assert_allclose(data.a.values, [0, 2 / 7])
    assert list(data.b.values) == ["red", "red"]
    assert data.u.attrs["units"] == "m/s"
    assert data.u.dtype == np.float32
    assert data.stored.values.sum() == 14
    for i, member in enumerate(("m0000", "m0002")):
        for step in range(9):
            cell = data.isel(member=i, step=step)
            if bool(cell.stored):
                sample = make_sample(member, step)
                np.testing.assert_array_equal(cell.u.values, sample.values["u"])
                assert float(cell.y) == sample.values["y"]
                assert int(cell["count"]) == sample.values["count"]
                assert float(cell.t) == sample.t
            else:
                assert np.isnan(cell.u.values).all()
                assert np.isnan(float(cell.y))
                assert int(cell["count"]) == 0
                assert np.isnan(float(cell.t))


def test_any_selection_of_the_lazy_arrays_equals_that_of_the_loaded_ones(mixed: Path) -> None:
    lazy, loaded = open_archive(mixed), open_archive(mixed).load()
    for key in (
        {"member": 1},
        {"step": slice(None, None, -2)},
        {"member": [1, 0, 1], "step": [3, 3, 8]},
        {"u_0": 2, "u_1": slice(1, 3)},
        {"member": 0, "step": slice(2, 7), "u_0": [3, 0]},
        {"step": []},
    ):
        np.testing.assert_array_equal(lazy.u.isel(key).values, loaded.u.isel(key).values)


def test_nothing_is_read_before_it_is_asked_for(mixed: Path) -> None:
    with Ledger.open(mixed) as ledger:
        ledger.seal()
    data = open_archive(mixed)
    shutil.move(mixed / "archive.bp", mixed / "gone.bp")
    near = select_members(data, {"a": (0.1, 1.0)})
    assert list(near.member.values) == ["m0002"]
    with pytest.raises(LedgerError, match=r"archive.bp"):
        near.u.load()
    shutil.move(mixed / "gone.bp", mixed / "archive.bp")
    np.testing.assert_array_equal(near.u.isel(member=0, step=4).values, make_sample("m0002", 4).values["u"])
    assert list(data.where(data.a < 0.1, drop=True).member.values) == ["m0000"]
    assert select_members(data, {"b": "blue"}).sizes["member"] == 0
    with pytest.raises(UnknownName, match=r"no parameter in the archive 'c'\. Valid: a, b"):
        select_members(data, {"c": (0, 1)})


def test_opening_with_a_box_touches_only_what_is_selected(mixed: Path) -> None:
    with Ledger.open(mixed) as ledger:
        ledger.set_meta("parameter_units", {"a": "mol/l", "b": ""})
    data = open_archive(mixed, box={"a": (0.1, 1.0), "b": "red"}, fields=["u"])
    assert dict(data.sizes) == {"member": 1, "step": 5, "u_0": 4, "u_1": 3}
    assert set(data.data_vars) == {"u", "stored"}
    assert data.a.attrs == {"parameter": "a", "units": "mol/l"}
    assert "units" not in data.b.attrs
    np.testing.assert_array_equal(data.u.values[0, 4], make_sample("m0002", 4).values["u"])
    assert list(open_archive(mixed, members=["m0002"]).member.values) == ["m0002"]
    assert open_archive(mixed, box={"a": (5, 6)}).sizes["member"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"box": {"F": (0, 1)}}, "no parameter in the archive 'F'. Valid: a, b"),
        ({"box": {"a": (1, 0)}}, r"The box has a=\(1, 0\); give \(low, high\)"),
        ({"members": ["m0005"]}, "no member with samples 'm0005'. Did you mean 'm0002'"),
        ({"fields": ["v"]}, "no field in the archive 'v'"),
    ],
)
def test_a_wrong_selection_is_told_in_one_sentence(mixed: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_archive(mixed, **options)


def test_a_dataset_opened_while_the_study_runs_outlives_its_sealing(mixed: Path) -> None:
    with Ledger.open(mixed) as ledger:
        data = open_archive(mixed)
        ledger.store([make_sample("m0002", 5)], SCHEMA)
        ledger.seal()
        np.testing.assert_array_equal(data.u.isel(member=0, step=8).values, make_sample("m0000", 8).values["u"])
        assert bool(open_archive(mixed).stored.isel(member=1, step=5))


def test_fields_and_parameters_with_our_own_names_are_kept_apart(study: Path) -> None:
    schema = Schema((Field("member"), Field("step", (2,)), Field("param_a"), Field("t")))
    values = {"member": np.asarray(1.0), "step": np.array([2.0, 3.0]), "param_a": np.asarray(4.0), "t": np.asarray(5.0)}
    with Ledger.create(study, study="s") as ledger:
        ledger.append([MemberQueued(at=1.0, member="m0000", parameters={"a": 1.5, "t": 6.0}, x=(0.0, 0.0), origin="user")])
        ledger.store([Sample("m0000", 1, 0, 0.25, {}, values)], schema)
        ledger.seal()
        (sample,) = ledger.samples()
        assert {k: v.tolist() for k, v in sample.values.items()} == {k: v.tolist() for k, v in values.items()}
    data = open_archive(study)
    assert data.step_.values.tolist() == [[[2.0, 3.0]]]
    assert data.t.values.tolist() == [[0.25]]
    assert data.t_.values.tolist() == [[5.0]]
    assert data.param_t.values.tolist() == [6.0]


def test_an_empty_study_opens(study: Path) -> None:
    Ledger.create(study, study="s").close()
    assert open_archive(study).sizes == {}
    with Ledger.open(study) as ledger:
        ledger.set_schema(SCHEMA)
        assert ledger.seal() == 0
    assert open_archive(study).sizes["member"] == 0
