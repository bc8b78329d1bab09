"""Studies whose members write ADIOS2: a foreign code over SST, and our own client over files."""

import os
import signal
import sys
from pathlib import Path

import pytest

from alearn.testing.checker import check

CODE = """
import math, os, sys, time
sys.modules["torch"] = None
import numpy as np
from adios2 import bindings as b

adios = b.ADIOS()
io = adios.DeclareIO("code")
io.SetEngine("SST")
io.SetParameters({"RendezvousReaderCount": "1", "QueueLimit": "3", "QueueFullPolicy": "Block"})
y, t = (io.DefineVariable(name, np.zeros(())) for name in "yt")
engine = io.Open("decay", b.Mode.Write)
for step in range(20):
    engine.BeginStep()
    engine.Put(y, np.array(math.exp(-0.1 * step * float(sys.argv[1]))), b.Mode.Sync)
    engine.Put(t, np.array(0.1 * step), b.Mode.Sync)
    engine.EndStep()
    while os.path.exists("../../../../hold"):
        time.sleep(0.01)
engine.Close()
"""


def words(*more):
    return [
        "run",
        "simulation=command",
        "simulation.format=adios2",
        "simulation.argv=[python3, decay.py, '{k}']",
        "space={k: [0.5, 3]}",
        "budget.members=4",
        "reference=null",
        "kill=never",
        "surrogate.max_updates=200",
        "hydra.run.dir=study",
        *more,
    ]


@pytest.fixture
def coded(world):
    (world.folder / "decay.py").write_text(CODE)
    world.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{world.env['PATH']}"
    return world


def children(pid):
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def nurse_of(controller):
    return [pid for pid in children(controller) if b"alearn.transport.adios.nurse" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_an_sst_reader_that_crashes_costs_one_attempt(coded):
    hold = coded.folder / "hold"
    hold.touch()
    controller = coded.start(*words("transport=adios_sst"))
    try:
        coded.wait_for(lambda: coded.stored() >= 1)  # a member waits after its first step
        (nurse,) = nurse_of(controller.pid)
        os.kill(children(nurse)[0], signal.SIGSEGV)
        hold.unlink()
        assert controller.wait(120) == 0, (coded.folder / "log.txt").read_text()
    finally:
        if controller.poll() is None:
            coded.kill_group(controller)
    status = coded.status()
    assert status["members"]["done"] == 4
    assert status["samples"]["stored"] == 80
    assert check(coded.folder / "study").problems == ()
    attempts = [len(list((coded.folder / "study" / "members" / f"m{n:04d}").iterdir())) for n in range(4)]
    assert sorted(attempts) == [1, 1, 1, 2]
    assert not Path(f"/proc/{nurse}").exists()
    assert not list((coded.folder / "study").rglob("*.sst"))
    assert not coded.processes()


@pytest.mark.slow
def test_our_own_client_over_files(world):
    done = world.alearn(*world.run_words("wave", 4, "transport=adios_bp", "reference=null", "kill=never"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.status()["samples"]["stored"] == 40
    assert check(world.folder / "study").problems == ()


def test_the_format_needs_a_carrier_that_follows(coded):
    done = coded.alearn(*words())
    assert done.returncode != 0
    assert "simulation.format=adios2 needs transport=adios_sst or adios_bp; transport is 'socket'." in done.stderr
