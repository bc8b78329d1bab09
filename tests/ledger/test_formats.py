"""Ledgers stored by every format so far must still open, be sound, and be taken up again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ledger_support import SCHEMA, make_sample, same_sample

from alearn.ledger import Ledger, open_archive, verify
from alearn.types import MemberState

STORED = sorted((Path(__file__).parent / "data").iterdir())


@pytest.mark.parametrize("stored", STORED, ids=lambda p: p.name)
def test_a_stored_ledger_still_opens(stored: Path, study: Path) -> None:
    shutil.copytree(stored, study)
    assert verify(study) == []
    assert open_archive(study).stored.values.sum() == 8
    with Ledger.open(study) as ledger:
        assert ledger.study == "stored"
        assert [(m.id, m.state, m.steps) for m in ledger.members()] == [("m0000", MemberState.DONE, 6), ("m0002", MemberState.RUNNING, 2)]
        assert ledger.counts()["samples"] == {"streamed": 9, "stored": 8, "duplicates_dropped": 1}
        assert ledger.counts()["segments"] == {"open": 1, "sealed": 1}
        ledger.store([make_sample("m0002", 2)], SCHEMA)
        ledger.seal()
        assert all(same_sample(s, make_sample(s.member, s.step)) for s in ledger.samples())
        assert ledger.verify() == []
