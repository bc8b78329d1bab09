"""Disks that are full, read-only or forgetful, for the ledger, the archive and the snapshots."""

import contextlib
import os
import re
import subprocess
import time

import numpy as np
import pytest

from alearn import events as ev
from alearn.errors import AlearnError, ConfigError, LedgerError
from alearn.ledger import Ledger
from alearn.testing.checker import check
from alearn.testing.faults import Ordeal
from alearn.types import Field, Sample, Schema

SCHEMA = Schema((Field("y"), Field("u", (2000,))))


def fill(disk, leave_kb):
    """Fill the disk up to so many kB with a ballast; returns the ballast."""
    ballast = disk / "ballast"
    stat = os.statvfs(disk)
    free = stat.f_bavail * stat.f_frsize
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:  # others write to the disk meanwhile
        file.write(bytes(max(0, free - leave_kb * 1024)))
    return ballast


def begin(directory):
    ledger = Ledger.create(directory, study="s")
    ledger.append(
        [
            ev.StudyStarted(at=1.0, study="s", arm="active", seed=1),
            ev.MemberQueued(at=1.0, member="m0000", parameters={"a": 0.5}, x=(0.5,), origin="design"),
            ev.MemberLaunched(at=1.0, member="m0000", attempt=1),
            ev.MemberRunning(at=1.0, member="m0000", attempt=1),
        ]
    )
    return ledger


def sample(step):
    return Sample("m0000", 1, step, float(step), {"a": 0.5}, {"y": np.asarray(1.0 * step), "u": np.full(2000, 1.0 * step)})


def test_a_full_disk_stops_the_ledger_and_loses_nothing_that_was_acknowledged(small_disk):
    acknowledged = 0
    with begin(small_disk / "s") as ledger:
        ledger.store([sample(0)], SCHEMA)
        ballast = fill(small_disk, 200)
        told = ""
        for step in range(1, 200):
            try:
                ledger.store([sample(step)], SCHEMA)
            except LedgerError as error:
                told = str(error)
                break
            acknowledged = step + 1
        assert re.search("No space left|full", told)
        assert "everything acknowledged is safe" in told
        with pytest.raises(LedgerError):  # it does not go on as if nothing had been
            ledger.store([sample(acknowledged)], SCHEMA)
    ballast.unlink()
    with Ledger.open(small_disk / "s") as ledger:
        assert ledger.stored_steps("m0000") >= acknowledged > 0
        ledger.store([sample(s) for s in range(ledger.stored_steps("m0000"), 60)], SCHEMA)
        assert ledger.verify() == []
    assert check(small_disk / "s", over=False).problems == ()


def test_a_full_disk_leaves_samples_in_their_segments_when_they_are_sealed(small_disk):
    with begin(small_disk / "s") as ledger:
        ledger.store([sample(s) for s in range(60)], SCHEMA)
        ballast = fill(small_disk, 100)
        with pytest.raises((LedgerError, OSError)):
            ledger.seal()
    ballast.unlink()
    with Ledger.open(small_disk / "s") as ledger:
        assert ledger.seal() == 1
        assert ledger.verify() == []
    assert check(small_disk / "s", over=False).problems == ()


def test_a_full_disk_keeps_the_last_whole_snapshot(small_disk):
    from alearn.space import Space
    from alearn.trainer import InlineTrainer

    space = Space.from_config({"a": [0, 1]})
    trainer = InlineTrainer(space, Schema((Field("y"),)), surrogate_options={"estimators": 2, "width": 64}, seed=1)
    trainer.add([Sample("m0000", 1, s, float(s), {"a": 0.5}, {"y": np.asarray(float(s))}) for s in range(8)])
    trainer.snapshot(small_disk / "snapshots")
    ballast = fill(small_disk, 20)
    with pytest.raises((AlearnError, OSError, RuntimeError)):
        trainer.snapshot(small_disk / "snapshots")
    ballast.unlink()
    again = InlineTrainer(space, Schema((Field("y"),)), surrogate_options={"estimators": 2, "width": 64}, seed=1)
    assert again.restore(small_disk / "snapshots")
    assert again.samples == 8


def test_a_study_on_a_full_disk_says_so_and_goes_on_when_there_is_room(small_disk, tmp_path):
    ordeal = Ordeal(tmp_path, members=6, sleep_s=0.05, words=[f"hydra.run.dir={small_disk}/study"])
    (tmp_path / "study").symlink_to(small_disk / "study")
    try:
        ordeal.start()
        until = time.monotonic() + 120
        while not list(small_disk.glob("study/segments/*.seg")):
            assert time.monotonic() < until, ordeal.output
            time.sleep(0.02)
        ballast = fill(small_disk, 0)
        assert ordeal.wait(120.0) == 1, ordeal.output
        assert "No space left" in ordeal.output or "full" in ordeal.output
        assert "alearn resume" in ordeal.output
        assert "Traceback" not in ordeal.output
        ballast.unlink()
        ordeal.start()
        assert ordeal.wait(180.0) == 0, ordeal.output
    finally:
        ordeal.end()
    verdict = check(small_disk / "study")
    assert verdict.problems == ()
    assert len(verdict.samples) == 120


def test_a_read_only_directory_is_told_before_anything_is_started(small_disk):
    with begin(small_disk / "s"):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(LedgerError, match=r"[Rr]ead-only|cannot be"):
        Ledger.open(small_disk / "s")
    with pytest.raises((LedgerError, ConfigError), match=r"cannot be made"):
        Ledger.create(small_disk / "other", study="s")
    with Ledger.open(small_disk / "s", readonly=True) as ledger:  # looking is always possible
        assert [m.id for m in ledger.members()] == ["m0000"]
