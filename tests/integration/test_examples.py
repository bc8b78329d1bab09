"""Every example runs as its README says, in a copy of its folder, with a tiny budget."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TINY = ("budget.members=4", "surrogate.max_updates=300", "view=plain", "hydra.run.dir=study")


def run(folder, *words):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=240)


def test_the_examples_are_numbered_and_complete():
    folders = sorted(p for p in EXAMPLES.iterdir() if p.is_dir() and p.name != "studies")
    assert [p.name[:3] for p in folders] == [f"{i:02d}_" for i in range(1, len(folders) + 1)]
    for folder in folders:
        assert (folder / "README.md").is_file(), folder
        assert os.access(folder / "run.sh", os.X_OK), folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("01_generator", {"angle", "energy"}),
        ("02_command", {"prey", "predators"}),
        ("03_own_acquisition", {"angle"}),
        ("08_files", {"middle", "heat", "u"}),
        ("09_mpi", {"hottest", "u"}),
        ("10_field", {"c", "mass"}),
    ],
)
def test_example(name, outputs, tmp_path):
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("studies"))
    done = run(folder, "./run.sh", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((folder / "study" / "status.json").read_text())
    assert status["state"] == "done"
    assert status["members"]["done"] + status["members"]["killed"] == 4
    assert status["members"]["failed"] == 0
    from alearn import open_archive

    with open_archive(folder / "study") as data:
        assert outputs <= set(data)
        assert data.sizes["member"] == 4
        why = {e.why for e in _queued(folder / "study")}
    if name == "03_own_acquisition":
        assert any("straddle" in w for w in why)


@pytest.mark.slow
@pytest.mark.needs("gcc")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: apt-get install gcc")
@pytest.mark.parametrize("how", ["sst", "files"])
def test_adios2(how, tmp_path):
    shutil.copytree(EXAMPLES / "06_adios2", tmp_path / "example", ignore=shutil.ignore_patterns("studies", "spill"))
    done = run(tmp_path / "example", "./run.sh", how, *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    from alearn import open_archive

    with open_archive(tmp_path / "example" / "study") as data:
        assert {"c", "mass", "peak"} <= set(data)
        assert data["c"].sizes["member"] == 4
        assert data["c"].attrs["units"] == "mg/l"
        assert float(data["peak"].max()) < 8


@pytest.mark.slow
def test_serve(tmp_path):
    for name in ("01_generator", "07_serve"):
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("studies"))
    done = run(tmp_path / "07_serve", "./run.sh", "surrogate.max_updates=300", "budget.members=4", "view=quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    (answer,) = json.loads(done.stdout.splitlines()[-1])
    assert set(answer) == {"angle", "energy"}
    assert answer["angle"]["std"] > 0


def _queued(directory):
    from alearn import events as ev
    from alearn.ledger import Ledger

    with Ledger.open(directory, readonly=True) as ledger:
        return [e for _, e in ledger.events() if isinstance(e, ev.MemberQueued)]
