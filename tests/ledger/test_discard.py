"""Studies that keep no archive: segments go once two snapshots hold what training needs of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ledger_support import SCHEMA, launch, make_sample, same_sample

from alearn.errors import LedgerError
from alearn.ledger import Ledger, open_archive

CRASH = """
import sys
from pathlib import Path
from alearn.ledger import Ledger
with Ledger.open(Path(sys.argv[1])) as ledger:
    ledger.discard(10)
"""


@pytest.fixture
def unkept(study: Path) -> Path:
    """A study without an archive: one member of 9 steps in segments of four."""
    with Ledger.create(study, study="unkept", segment_bytes=460, archive="none") as ledger:
        launch(ledger, "m0001")
        ledger.store([make_sample("m0001", i) for i in range(9)], SCHEMA)
        assert ledger.counts()["segments"]["open"] == 3
    return study


def test_what_a_snapshot_holds_goes_and_the_rest_stays(unkept: Path) -> None:
    with Ledger.open(unkept) as ledger:
        assert ledger.seal() == 0
        assert ledger.discard(3) == 0
        assert ledger.discard(8) == 2
        assert ledger.discard(9) == 0  # the segment that still grows
        assert ledger.counts()["discarded"] == {"samples": 8, "segments": 2}
        assert ledger.counts()["segments"] == {"open": 1, "sealed": 0}
        assert [s.step for s in ledger.samples()] == [8]
        assert same_sample(next(iter(ledger.samples())), make_sample("m0001", 8))
        assert ledger.stored_steps("m0001") == 9
        ledger.store([make_sample("m0001", 9)], SCHEMA)
        assert [s.step for s in ledger.samples()] == [8, 9]
        assert ledger.verify() == []
    assert len(list((unkept / "segments").iterdir())) == 1
    data = open_archive(unkept)
    assert data.attrs["discarded"] == 8
    assert data.stored.values.sum() == 2
    assert data.y.isel(member=0, step=8) == make_sample("m0001", 8).values["y"]


def test_a_study_with_an_archive_discards_nothing(study: Path) -> None:
    with Ledger.create(study, study="kept", segment_bytes=460) as ledger:
        launch(ledger, "m0001")
        ledger.store([make_sample("m0001", i) for i in range(9)], SCHEMA)
        assert ledger.discard(9) == 0
        assert ledger.seal() == 3


def test_a_dataset_opened_before_says_what_became_of_its_samples(unkept: Path) -> None:
    data = open_archive(unkept)
    with Ledger.open(unkept) as ledger:
        ledger.discard(8)
    with pytest.raises(LedgerError, match=r"were discarded, because the study keeps no archive"):
        data.y.load()


@pytest.mark.parametrize("point", ["ledger.discard_before_commit", "ledger.discard_committed", "ledger.discard_removed"])
def test_a_crash_while_discarding_leaves_all_or_none(unkept: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    monkeypatch.setenv("ALEARN_FAILPOINT", f"{point}:kill")
    assert subprocess.run([sys.executable, "-c", CRASH, str(unkept)], check=False, timeout=60).returncode == -9
    monkeypatch.delenv("ALEARN_FAILPOINT")
    with Ledger.open(unkept) as ledger:
        left = 1 if point != "ledger.discard_before_commit" else 3
        assert len(list((unkept / "segments").iterdir())) == left
        assert [s.step for s in ledger.samples()] == ([8] if left == 1 else list(range(9)))
        assert ledger.verify() == []
