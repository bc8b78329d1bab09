from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ledger_support import launch

from alearn.cli import main
from alearn.errors import ConfigError, UnknownName
from alearn.ledger import Ledger, open_archive
from alearn.ledger.export import export_archive, parse_box
from alearn.types import Field, Sample, Schema

FIELDS = (Field("y", unit="K"), Field("u", (3, 2), "float32", "m/s"), Field("n", (), "int32"), Field("ok", (), "bool"))
SCHEMA = Schema((*FIELDS, Field("h", (2,), "float16")))


@pytest.fixture
def archive(study: Path) -> Path:
    """Members of 7 and 4 steps, some sealed and some not; the writer's ledger is still open when it is read."""
    with Ledger.create(study, study="mixed", segment_bytes=600) as ledger:
        ledger.set_meta("parameter_units", {"a": "mol/l"})
        for member, steps in (("m0000", 7), ("m0001", 4)):
            launch(ledger, member)
            ledger.store([sample(member, i) for i in range(steps)], SCHEMA)
        ledger.seal(everything=False)
    return study


def sample(member: str, step: int) -> Sample:
    key = int(member[1:]) * 1000 + step
    values = {
        "y": np.asarray(key + 0.5),
        "u": np.full((3, 2), key, np.float32),
        "n": np.asarray(key, np.int32),
        "ok": np.asarray(step % 2 == 0),
        "h": np.full(2, step, np.float16),
    }
    return Sample(member, 1, step, step / 10, {"a": int(member[1:]) / 7, "b": "red"}, values)


def opened(target: Path, to: str) -> xr.Dataset:
    if to == "zarr":
        return xr.open_zarr(target, chunks=None, consolidated=False).load()
    with xr.open_dataset(target, engine="h5netcdf") as data:
        return data.load()


@pytest.mark.parametrize("to", ["zarr", "netcdf"])
def test_what_is_exported_is_the_archive(archive: Path, tmp_path: Path, to: str) -> None:
    with Ledger.open(archive) as ledger:  # readable while it is written
        target = export_archive(archive, to, tmp_path / "out")
        ledger.store([sample("m0001", 4)], SCHEMA)
    there, mine = opened(target, to), open_archive(archive).isel(step=slice(7)).load()
    assert set(there.data_vars) == {"y", "u", "n", "ok", "h", "stored"}
    assert {"t", "state", "steps", "a", "b", "member", "step"} == set(there.coords)
    assert there.stored.values.sum() == 11
    assert there.stored.dtype == bool
    for name in ("y", "u", "n", "h", "ok"):
        where = there.stored.values
        np.testing.assert_array_equal(there[name].values[where], mine[name].values[where])
    assert np.isnan(there.y.values[1, 5])
    assert list(map(str, there.member.values)) == ["m0000", "m0001"]
    assert list(map(str, there.b.values)) == ["red", "red"]
    assert (there.u.attrs["units"], there.a.attrs["units"]) == ("m/s", "mol/l")
    assert Schema.from_json(there.attrs["schema"]) == SCHEMA
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_a_selection_is_exported_from_the_command_line(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export-archive", str(archive), "--to", "netcdf", str(tmp_path / "out.nc")]
    assert main([*words, "--box", "a=0.1:1", "--box", "b=red", "--field", "y"]) == 0
    assert "1 member, 4 samples" in capsys.readouterr().out
    there = opened(tmp_path / "out.nc", "netcdf")
    assert list(there.data_vars) == ["stored", "y"]
    assert list(there.member.values) == ["m0001"]
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*words[:2], str(tmp_path / "more"), "--to", "hdf"]) == 2
    assert "no format to export to 'hdf'" in capsys.readouterr().err


def test_what_is_missing_is_told(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ConfigError, match=r"Exporting the archive to zarr needs the package 'zarr'.*pip install 'alearn\[archive\]'"):
        export_archive(archive, "zarr", tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing to export"):
        export_archive(archive, "netcdf", tmp_path / "out", box={"a": (3, 4)})
    with pytest.raises(UnknownName, match="Did you mean 'zarr'"):
        export_archive(archive, "zar", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize(("words", "box"), [(["a=0:1.5"], {"a": (0.0, 1.5)}), (["b=red", "c=2"], {"b": "red", "c": 2.0}), ([], {})])
def test_a_box_is_read(words: list[str], box: dict[str, Any]) -> None:
    assert parse_box(words) == box


@pytest.mark.parametrize("word", ["a", "=1", "a=", "a=1:x"])
def test_a_box_that_cannot_be_read_is_told(word: str) -> None:
    with pytest.raises(ConfigError, match="write NAME=LOW:HIGH or NAME=VALUE"):
        parse_box([word])


@pytest.mark.parametrize("to", ["zarr", "netcdf"])
def test_memory_stays_bounded(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    schema = Schema((Field("u", (128, 1024)),))  # 1 MiB a step
    with Ledger.create(study, study="large", segment_bytes=8 << 20) as ledger:
        launch(ledger, "m0001")
        for step in range(24):
            ledger.store([Sample("m0001", 1, step, 0.0, {"a": 1.0}, {"u": np.full((128, 1024), step, float)})], schema)
    monkeypatch.setattr("alearn.ledger.export.BLOCK_BYTES", 2 << 20)
    monkeypatch.setattr("alearn.ledger.export.CHUNK_BYTES", 1 << 20)
    export_archive(study, to, tmp_path / "warm")  # imports are no part of it
    tracemalloc.start()
    try:
        export_archive(study, to, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert opened(tmp_path / "out", to).u.values[0, 23, 0, 0] == 23
