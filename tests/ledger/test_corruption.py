"""Bit rot: single flipped bits in every place that holds truth are found and named."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from ledger_support import SCHEMA, launch, make_sample

from alearn.errors import LedgerCorrupt, LedgerError
from alearn.ledger import Ledger, verify
from alearn.ledger.segments import HEAD


@pytest.fixture
def full(study: Path) -> Path:
    """A study with a sealed segment, an open one, and a few events; closed."""
    with Ledger.create(study, study="s", segment_bytes=600) as ledger:
        launch(ledger, "m0000")
        launch(ledger, "m0001")
        ledger.store([make_sample("m0000", i) for i in range(7)], SCHEMA)
        ledger.seal(everything=False)
        ledger.store([make_sample("m0001", i) for i in range(2)], SCHEMA)
        ledger.set_meta("fact", "value")
        assert ledger.counts()["segments"]["sealed"] == 1
    assert verify(study) == []
    return study


def change(study: Path, sql: str, *arguments: object) -> None:
    db = sqlite3.connect(study / "ledger.sqlite")
    with db:
        assert db.execute(sql, arguments).rowcount == 1
    db.close()


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("UPDATE events SET body = replace(body, 'm0001', 'm0003') WHERE seq = 4", "event 4"),
        ("UPDATE events SET chain = chain + 1 WHERE seq = 8", "event 8"),
        ("UPDATE events SET body = CAST(body AS BLOB) WHERE seq = 2", "event 2"),
        ("DELETE FROM events WHERE seq = 3", "events 3 to 3 are missing"),
        ("UPDATE members SET steps = 6 WHERE id = 'm0000'", "row of member 'm0000'"),
        ("UPDATE members SET body = replace(body, 'red', 'rad') WHERE id = 'm0001'", "row of member 'm0001'"),
        ("DELETE FROM members WHERE id = 'm0001'", "'m0001' is missing"),
        ("UPDATE samples SET t = t + 1 WHERE seq = 3", "row 3 of the samples table"),
        ("UPDATE samples SET step = 99 WHERE seq = 9", "row 9 of the samples table"),
        ("UPDATE samples SET member = 'x' WHERE seq = 1", "row 1 of the samples table"),
        ("DELETE FROM samples WHERE seq = 9", "the samples table has 1"),
        ("DELETE FROM samples WHERE seq = 2", "rows 2 to 2 of the samples table"),
        ("UPDATE segments SET records = 3 WHERE number = 0", "segment 0"),
        ("UPDATE meta SET value = '7' WHERE key = 'fact'", "'fact'"),
    ],
)
def test_a_changed_row_is_found_and_named(full: Path, sql: str, named: str) -> None:
    change(full, sql)
    assert any(named in line for line in verify(full)), verify(full)


def test_reading_refuses_a_damaged_event_member_and_sample(full: Path) -> None:
    change(full, "UPDATE events SET body = replace(body, 'm0001', 'm0003') WHERE seq = 4")
    change(full, "UPDATE samples SET record = record + 1 WHERE seq = 2")
    with Ledger.open(full, readonly=True) as ledger:
        with pytest.raises(LedgerCorrupt, match="event 4"):
            list(ledger.events())
        with pytest.raises(LedgerCorrupt, match="row 2"):
            list(ledger.samples())
    change(full, "UPDATE members SET attempt = 3 WHERE id = 'm0000'")
    with pytest.raises(LedgerCorrupt, match="m0000"):
        Ledger.open(full)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_a_segment_is_found_and_named(full: Path, seed: int) -> None:
    segment = max((full / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    bit = random.Random(seed).randrange(HEAD * 8, len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    segment.write_bytes(data)
    assert any("Record" in line and segment.name in line for line in verify(full))
    with Ledger.open(full) as ledger, pytest.raises(LedgerCorrupt, match="Record"):
        list(ledger.samples())


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_the_archive_changes_no_sample_silently(full: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = full / "archive.bp" / chance.choice(["data.0", "md.0", "mmd.0", "md.idx"])
    data = bytearray(path.read_bytes())
    bit = chance.randrange(64 * 8 if path.name == "md.idx" else 0, len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    problems = verify(full)
    if path.name != "data.0":
        assert any("metadata of the archive" in line for line in problems)
    if not problems:  # the bit lay in padding: what is read is what was written
        with Ledger.open(full, readonly=True) as ledger:
            for s in ledger.samples():
                assert s.values["y"] == make_sample(s.member, s.step).values["y"]


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_in_the_database_is_never_silent(full: Path, tmp_path: Path, seed: int) -> None:
    """Whatever byte of SQLite's file flips: reading gives the truth or an error, and what differs is in verify."""
    with Ledger.open(full, readonly=True) as ledger:
        truth = (list(map(str, ledger.events())), list(map(str, ledger.members())), [str(s) for s in ledger.samples()])
    broken = tmp_path / "broken"
    shutil.copytree(full, broken)
    path = broken / "ledger.sqlite"
    data = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    try:
        with Ledger.open(broken, readonly=True) as ledger:
            found = (list(map(str, ledger.events())), list(map(str, ledger.members())), [str(s) for s in ledger.samples()])
    except LedgerError:
        return
    if found != truth:
        assert verify(broken)
