from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest
from ledger_support import SCHEMA, launch, make_sample

from alearn.ledger import Ledger, database


def test_the_file_system_is_the_one_of_the_longest_mount(tmp_path: Path) -> None:
    assert database.file_system(Path("/proc/self")) == "proc"
    assert database.file_system(tmp_path) != ""


@pytest.mark.parametrize(("kind", "mode"), [("ext4", "WAL"), ("nfs4", "TRUNCATE"), ("lustre", "TRUNCATE"), ("fuse.sshfs", "TRUNCATE")])
def test_a_shared_file_system_gets_a_rollback_journal_and_says_so(
    study: Path, kind: str, mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "file_system", lambda path: kind)
    with caplog.at_level(logging.WARNING), Ledger.create(study, study="s") as ledger:
        db = sqlite3.connect(study / "ledger.sqlite")
        assert db.execute("PRAGMA journal_mode").fetchone()[0].upper() == ("WAL" if mode == "WAL" else "DELETE")
        db.close()  # TRUNCATE is a property of the writer's connection, not of the file
        assert (f"shared file system ({kind})" in caplog.text) == (mode != "WAL")
        assert ledger.meta()["file_system"] == kind
        with Ledger.open(study, readonly=True) as reader:
            for step in range(3):
                if step == 0:
                    launch(ledger, "m0000")
                ledger.store([make_sample("m0000", step)], SCHEMA)
                assert reader.stored_steps("m0000") == step + 1
        assert ledger.verify() == []
        assert (study / "ledger.sqlite-wal").exists() == (mode == "WAL")
    with Ledger.open(study) as ledger:
        assert ledger.stored_steps("m0000") == 3
