"""Every durability boundary, driven in child processes: what was acknowledged is there once, whatever happened."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_support import SCHEMA, launch, make_sample, same_sample

from alearn import failpoints
from alearn.errors import ConfigError, LedgerError
from alearn.ledger import Ledger

CHILD = Path(__file__).with_name("crash_child.py")
LEDGER_SOURCES = Path(failpoints.__file__).with_name("ledger")

STORING = ["before_write", "write", "before_sync", "after_sync", "segment_created", "segment_synced", "before_commit", "after_commit"]
META = ["before_meta_commit", "after_meta_commit"]
SEALING = [
    "seal_before", "seal_writing", "seal_step_ended", "seal_written", "seal_synced", "seal_before_commit", "seal_committed",
    "seal_removed",
]  # fmt: skip
CREATING = ["create", "created"]


MIGRATING = ("migrate_before_commit",)  # in test_formats.py
DISCARDING = ("discard_before_commit", "discard_committed", "discard_removed")  # in test_discard.py


def test_every_failpoint_in_the_ledger_is_driven_here() -> None:
    code = "".join(source.read_text() for source in LEDGER_SOURCES.glob("*.py"))
    found = set(re.findall(r'failpoints\.(?:hit|cut)\("ledger\.(\w+)"', code))
    moves = re.findall(r'_tables\.move\(.+, "(\w+)"\)', code)
    found |= {f"{how}_{when}" for how in moves for when in re.findall(r'failpoints\.hit\(f"ledger\.\{how\}_(\w+)"', code)}
    assert found == {*STORING, *META, *SEALING, *CREATING, *DISCARDING, *MIGRATING}


def run_child(study: Path, failpoint: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """Run a small study; returns how it ended and what it acknowledged (printed after each store)."""
    env = {**os.environ, "ALEARN_FAILPOINT": failpoint}
    done = subprocess.run([sys.executable, str(CHILD), str(study)], env=env, capture_output=True, text=True, timeout=120, check=False)
    acknowledged: dict[str, int] = {}
    for line in done.stdout.splitlines():
        if line.startswith("ack "):
            _, member, steps = line.split()
            acknowledged[member] = int(steps)
    return done, acknowledged


def check_sound(study: Path, acknowledged: dict[str, int]) -> None:
    with Ledger.open(study) as ledger:
        assert ledger.verify() == []
        seen = [s.key for s in ledger.samples()]
        assert len(seen) == len(set(seen))
        for member, steps in acknowledged.items():
            assert ledger.stored_steps(member) >= steps
            assert {(member, i) for i in range(steps)} <= set(seen)
        assert all(same_sample(s, make_sample(s.member, s.step)) for s in ledger.samples())
        assert ledger.counts()["samples"]["stored"] == len(seen)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("name", [*STORING, *SEALING])
def test_killed_at_a_boundary_loses_and_doubles_nothing(study: Path, name: str, nth: int) -> None:
    action = "torn" if name == "write" else "kill"
    done, acknowledged = run_child(study, f"ledger.{name}:{action}@{nth}")
    assert done.returncode == -signal.SIGKILL, done.stderr
    check_sound(study, acknowledged)
    done, acknowledged = run_child(study)  # take it up again, to the end
    assert done.returncode == 0, done.stderr
    assert acknowledged == {"m0000": 12, "m0001": 12}
    check_sound(study, acknowledged)
    with Ledger.open(study, readonly=True) as ledger:
        assert ledger.counts()["segments"]["open"] == 0
        assert not list((study / "segments").iterdir())


@pytest.mark.parametrize("name", CREATING)
def test_killed_while_it_is_created(study: Path, name: str) -> None:
    done, _ = run_child(study, f"ledger.{name}:kill")
    assert done.returncode == -signal.SIGKILL
    done, acknowledged = run_child(study)
    assert done.returncode == 0, done.stderr
    check_sound(study, acknowledged)


@pytest.mark.parametrize("name", META)
def test_killed_while_a_fact_is_set(study: Path, name: str) -> None:
    done, acknowledged = run_child(study, f"ledger.{name}:kill")
    assert done.returncode == -signal.SIGKILL
    check_sound(study, acknowledged)


@pytest.mark.parametrize("action", ["enospc", "raise", "interrupt"])
@pytest.mark.parametrize("name", STORING)
def test_a_failing_write_stops_the_ledger_and_an_interrupt_does_not(study: Path, name: str, action: str) -> None:
    with Ledger.create(study, study="s", segment_bytes=600) as ledger:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", i) for i in range(3)], SCHEMA)
        failpoints.arm(f"ledger.{name}:{action}")
        expected = {"enospc": LedgerError, "raise": RuntimeError, "interrupt": KeyboardInterrupt}[action]
        try:
            with pytest.raises(expected):
                ledger.store([make_sample("m0000", i) for i in range(3, 12)], SCHEMA)
        finally:
            failpoints.arm("")
        if action == "enospc":
            assert ledger.stored_steps("m0000") == 3
            for write in (lambda: ledger.store([make_sample("m0000", 3)], SCHEMA), lambda: ledger.set_meta("a", 1), ledger.seal):
                with pytest.raises(LedgerError, match=r"stopped taking writes.*No space left"):
                    write()
        else:
            stored = ledger.stored_steps("m0000")
            assert stored == (12 if name == "after_commit" else 3)
            ledger.store([make_sample("m0000", i) for i in range(stored, 14)], SCHEMA)
            assert ledger.stored_steps("m0000") == 14
            assert ledger.verify() == []
    check_sound(study, {"m0000": 3 if action == "enospc" else 14})


@pytest.mark.parametrize("name", SEALING)
def test_a_sealing_that_fails_leaves_the_samples_where_they_were(study: Path, name: str) -> None:
    with Ledger.create(study, study="s", segment_bytes=600) as ledger:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", i) for i in range(12)], SCHEMA)
        failpoints.arm(f"ledger.{name}:enospc@2")
        try:
            with pytest.raises((LedgerError, OSError)):
                ledger.seal()
        finally:
            failpoints.arm("")
        assert [s.step for s in ledger.samples()] == list(range(12))
    check_sound(study, {"m0000": 12})
    with Ledger.open(study) as ledger:
        ledger.seal()
    check_sound(study, {"m0000": 12})


def test_garbage_behind_the_last_sample_is_dropped_and_counted(study: Path) -> None:
    with Ledger.create(study, study="s", segment_bytes=600) as ledger:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", i) for i in range(4)], SCHEMA)
        ledger.seal(everything=False)
        ledger.store([make_sample("m0000", 4)], SCHEMA)
    segment = max((study / "segments").iterdir())
    with segment.open("ab") as file:
        file.write(b"\xa5" * 77)
    (study / "segments" / "000077.seg").write_bytes(b"x" * 100)
    for name in ("data.0", "md.0", "mmd.0", "md.idx"):
        if (study / "archive.bp").exists():
            with (study / "archive.bp" / name).open("ab") as file:
                file.write(b"\x07" * 37)
    with Ledger.open(study, readonly=True) as ledger:
        assert [s.step for s in ledger.samples()] == list(range(5))
        assert len(ledger.verify()) >= 2
    with Ledger.open(study) as ledger:
        assert ledger.counts()["torn_bytes_dropped"] >= 77 + 36
        ledger.store([make_sample("m0000", i) for i in range(5, 9)], SCHEMA)
        ledger.seal()
    check_sound(study, {"m0000": 9})


def test_a_failpoint_with_a_wrong_form_is_told() -> None:
    with pytest.raises(ConfigError, match="kill, raise, interrupt"):
        failpoints.parse("ledger.write:explode")
