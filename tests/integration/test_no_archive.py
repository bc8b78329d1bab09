"""A study that keeps no archive: killed and resumed, it ends like any other, and says what it no longer has."""

import os
import shutil
import signal

import pytest

from alearn.ledger import Ledger, open_archive

BIG = '''
import math
import time
import numpy as np


def big(a: float):
    """Twelve steps of two MiB each."""
    for step in range(12):
        time.sleep(0.03)
        yield {"t": 0.1 * step, "y": math.sin(6 * a) * step, "u": np.full((512, 512), a + step)}
'''


@pytest.mark.slow
def test_killed_and_resumed_it_knows_what_it_learned_and_says_what_is_gone(world):
    (world.folder / "big.py").write_text(BIG)
    words = ["run", "simulation=python", "simulation.target=big.py:big", "space={a: [0, 1]}", "budget.members=8", "hydra.run.dir=study"]
    words += ["archive=none", "snapshot_s=1", "kill=never", "view=plain", "design.holdout=0", "outputs=y", "launcher.slots=2"]
    process = world.start(*words)
    segments = world.folder / "study" / "segments"
    world.wait_for(lambda: process.poll() is not None or (world.stored() > 34 and not (segments / "000000.seg").exists()))
    assert process.poll() is None, (world.folder / "log.txt").read_text()
    assert "archive=none: a sample is discarded once" in (world.folder / "log.txt").read_text()
    world.kill_group(process)
    with Ledger.open(world.folder / "study", readonly=True) as ledger:
        before, gone = ledger.counts()["samples"]["stored"], ledger.counts()["discarded"]["samples"]
        assert 0 < gone < before
    shutil.copytree(world.folder / "study", world.folder / "torn")
    for path in (world.folder / "torn" / "snapshots").glob("snapshot-*.pt"):
        path.unlink()
    torn = world.start("resume", "torn")
    world.wait_for(lambda: "archive=none: the newest whole snapshot knows 0 of" in (world.folder / "log.txt").read_text())
    world.kill_group(torn)
    done = world.alearn("resume", "study")
    assert done.returncode == 0, done.stderr
    assert world.status()["samples"]["stored"] == 96
    with Ledger.open(world.folder / "study", readonly=True) as ledger:
        updates = [e.samples for _, e in ledger.events() if type(e).__name__ == "Refitted"]
    assert updates[-1] == 96  # training knows all of them, those that are gone included
    assert not (world.folder / "study" / "archive.bp").exists()
    said = world.alearn("verify", "study")
    assert said.returncode == 0, said.stderr
    assert "of 96 samples were discarded;" in said.stdout
    data = open_archive(world.folder / "study")
    assert data.attrs["discarded"] == 96 - int(data.stored.sum())
    assert "were discarded" in done.stdout
    assert os.stat(world.folder / "study" / "report.html").st_size > 1000
    assert process.returncode == -signal.SIGKILL
    for path in (world.folder / "study" / "snapshots").glob("*.pt"):
        path.write_bytes(b"torn")
    damaged = world.alearn("verify", "study")
    assert damaged.returncode == 1
    assert "surrogate.pt cannot be read" in damaged.stderr
