"""A user's study whose steps are transformed on their way: from the command line, through a kill, and back out of the archive."""

import json

import numpy as np
import xarray as xr

from alearn import open_archive
from alearn.testing.checker import check

SIMULATION = '''
import os
import time

import numpy as np


def travelling(a: float, b: float):
    """Twelve steps of a pulse on a ring of 48 cells."""
    x = np.arange(48) / 48
    for step in range(12):
        time.sleep(float(os.environ.get("WAVE_SLEEP", "0.005")))
        u = a + np.exp(-40 * (1 + b) * np.sin(np.pi * (x - 0.05 * step)) ** 2)
        yield {"t": 0.1 * step, "y": a * b, "u": u.astype(np.float32)}


def middle(values):
    return {"middle": float(values["u"][24])}
'''


def truth(a: float, b: float, step: int) -> np.ndarray:
    x = np.arange(48) / 48
    return (a + np.exp(-40 * (1 + b) * np.sin(np.pi * (x - 0.05 * step)) ** 2)).astype(np.float32)


def run_words(world, *more: str) -> list[str]:
    (world.folder / "field.py").write_text(SIMULATION)
    words = world.run_words("wave", 10, "kill=never", *more)
    return [w.replace("my_file.py:wave", "field.py:travelling") for w in words]


def test_a_codec_through_kill_9_and_resume_decodes_every_stored_field(world):
    codec = "transform=[{name: pod, field: u, rank: 12, error: 0.02, learn: 12, keep: {max: 0.02}}]"
    process = world.start(*run_words(world, codec), WAVE_SLEEP="0.03")
    world.wait_for(lambda: world.stored() >= 30)
    world.kill_group(process)
    study = world.folder / "study"
    before = len(list((study / "transform" / "u.pod").glob("basis-*.npz")))
    assert before >= 1
    done = world.alearn("resume", "study")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Codec of u:" in done.stdout
    assert check(study).problems == ()
    plan = json.loads((study / "transform" / "plan.json").read_text())
    stored = open_archive(study)
    assert stored.u_pod.shape[2:] == (12,)
    assert int(stored._u_version.max()) == plan["codecs"][0]["version"] >= before
    decoded = open_archive(study, decode=True)
    assert set(decoded.data_vars) == {"stored", "y", "u"}
    scale = float(np.load(study / "transform" / "u.pod" / "basis-0001.npz")["scale"])
    compared = 0
    for m in range(decoded.sizes["member"]):
        for step in range(int(decoded.steps[m])):
            raw = truth(float(decoded.a[m]), float(decoded.b[m]), step)
            u = decoded.u.isel(member=m, step=step).values
            assert np.sqrt(np.mean((u - raw) ** 2)) <= 0.02 * scale * 1.01
            assert abs(float(u.max()) - float(raw.max())) <= 0.0201
            compared += 1
    assert compared == world.status()["samples"]["stored"] >= 120
    page = (study / "report.html").read_text()
    assert 'id="preprocessing"' in page
    assert "Codec of u" in page
    for to, options in (("zarr", []), ("netcdf", ["--encoded"])):
        copied = world.alearn("export-archive", "study", f"out.{to}", "--to", to, *options)
        assert copied.returncode == 0, copied.stderr
    with xr.open_zarr(world.folder / "out.zarr", chunks=None, consolidated=False) as others:
        np.testing.assert_array_equal(others.u.values, decoded.u.values)
    with xr.open_dataset(world.folder / "out.netcdf", engine="h5netcdf") as others:
        np.testing.assert_array_equal(others.u_pod.values, stored.u_pod.values)


def test_own_transforms_at_the_writer_and_outputs_that_only_they_make(world):
    own = "transform=[{name: function, target: field.py:middle, units: {middle: K}}, {name: coarsen, factor: 6, fields: [u]}]"
    done = world.alearn(*run_words(world, own, "transform.where=writer", "outputs=[y,middle]"))
    assert done.returncode == 0, done.stdout + done.stderr
    data = open_archive(world.folder / "study")
    assert data.u.shape[2:] == (8,)
    assert data.middle.attrs["units"] == "K"
    for step in (0, 11):
        raw = truth(float(data.a[3]), float(data.b[3]), step)
        assert float(data.middle[3, step]) == raw[24]
        assert np.allclose(data.u[3, step], raw.reshape(8, 6).mean(axis=1), atol=1e-6)
    plan = json.loads((world.folder / "study" / "transform" / "plan.json").read_text())
    assert plan["steps"]["writer"] == world.status()["samples"]["stored"]
    assert "Transforms ran at the writer" in done.stdout
    table = world.alearn("predict", "study", "--at", "a=0.3", "--at", "b=0.5", "--json")
    assert {"y", "middle"} <= set(json.loads(table.stdout)[0])
