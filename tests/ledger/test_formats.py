"""Ledgers stored by every format so far must still open, be sound, and be taken up again."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from ledger_support import SCHEMA, make_sample, same_sample

from alearn import failpoints
from alearn.errors import LedgerCorrupt, LedgerError
from alearn.events import MemberRevoked
from alearn.ledger import Ledger, database, open_archive, verify
from alearn.types import MemberState

STORED = sorted((Path(__file__).parent / "data").iterdir())
V1 = Path(__file__).parent / "data" / "v1"


def version_of(study: Path) -> int:
    db = sqlite3.connect(study / "ledger.sqlite")
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


@pytest.mark.parametrize("stored", STORED, ids=lambda p: p.name)
def test_a_stored_ledger_still_opens(stored: Path, study: Path) -> None:
    shutil.copytree(stored, study)
    assert verify(study) == []
    assert open_archive(study).stored.values.sum() == 8
    revoked = [("m0003", MemberState.DONE, 1)] if stored.name != "v1" else []
    with Ledger.open(study) as ledger:
        assert ledger.study == "stored"
        assert [(m.id, m.state, m.steps) for m in ledger.members()] == [
            ("m0000", MemberState.DONE, 6),
            ("m0002", MemberState.RUNNING, 2),
            *revoked,
        ]
        n = len(revoked)
        samples = ledger.counts()["samples"]
        assert (samples["streamed"], samples["stored"], samples["duplicates_dropped"]) == (9 + n, 8 + n, 1)
        segments = ledger.counts()["segments"]
        assert (segments["open"], segments["sealed"]) == (1, 1)
        ledger.store([make_sample("m0002", 2)], SCHEMA)
        ledger.seal()
        assert {s.member for s in ledger.samples()} == {"m0000", "m0002"}
        assert all(same_sample(s, make_sample(s.member, s.step)) for s in ledger.samples())
        assert ledger.verify() == []


def test_an_older_ledger_is_brought_up_when_it_is_written_to(study: Path) -> None:
    shutil.copytree(V1, study)
    Ledger.open(study, readonly=True).close()
    assert version_of(study) == 1  # whoever only looks changes nothing
    with Ledger.open(study) as ledger:
        assert ledger.meta()["migrated_from"] == 1
        ledger.append([MemberRevoked(at=11.0, member="m0002", reason="wrong units")])
        assert [m.revoked for m in ledger.members()] == ["", "wrong units"]
        assert ledger.verify() == []
    assert version_of(study) == database.FORMAT
    assert open_archive(study).stored.values.sum() == 6


@pytest.mark.parametrize("action", ["raise", "enospc"])
def test_a_migration_that_is_cut_off_changes_nothing(study: Path, action: str) -> None:
    shutil.copytree(V1, study)
    failpoints.arm(f"ledger.migrate_before_commit:{action}")
    try:
        with pytest.raises((LedgerError, RuntimeError), match=r"format 1 and could not be brought to format 2|armed"):
            Ledger.open(study)
    finally:
        failpoints.arm("")
    assert version_of(study) == 1
    with Ledger.open(study) as ledger:
        assert ledger.verify() == []


def test_a_damaged_row_is_not_migrated(study: Path) -> None:
    shutil.copytree(V1, study)
    db = sqlite3.connect(study / "ledger.sqlite")
    db.execute("UPDATE members SET steps = 5 WHERE number = 0")
    db.commit()
    db.close()
    with pytest.raises(LedgerCorrupt, match="m0000"):
        Ledger.open(study)
    assert version_of(study) == 1


def test_a_ledger_of_the_future_is_refused(study: Path) -> None:
    shutil.copytree(V1, study)
    db = sqlite3.connect(study / "ledger.sqlite")
    db.execute(f"PRAGMA user_version={database.FORMAT + 1}")
    db.close()
    with pytest.raises(LedgerError, match="upgrade alearn"):
        Ledger.open(study)
