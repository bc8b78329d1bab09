"""Taking a member's samples back, in a study that nobody runs."""

import time

import pytest

from alearn import events as ev
from alearn.atlas import Atlas
from alearn.controller import fold
from alearn.errors import ConfigError, UnknownName
from alearn.ledger import Ledger, open_archive
from alearn.steering import revoke
from alearn.types import Sample, Schema


@pytest.fixture
def study(tmp_path):
    """Two members with three steps each, finished."""
    schema = Schema.of({"y": 1.0})
    with Ledger.create(tmp_path / "s", study="s") as ledger:
        ledger.append([ev.StudyStarted(at=1.0, study="s", arm="active", seed=1)])
        for n, m in enumerate(("m0000", "m0001")):
            ledger.append(
                [
                    ev.MemberQueued(at=2.0, member=m, parameters={"a": 0.5}, x=(0.25 * n,), origin="design"),
                    ev.MemberLaunched(at=2.0, member=m, attempt=1),
                    ev.MemberRunning(at=2.0, member=m, attempt=1),
                ]
            )
            ledger.store([Sample(m, 1, s, float(s), {"a": 0.5}, schema.conform({"y": n})) for s in range(3)], schema)
            ledger.append([ev.MemberEnded(at=time.time(), member=m, attempt=1, state="done")])
        ledger.set_meta("finished", True)
    return tmp_path / "s"


def test_a_revoked_member_leaves_every_view_and_stays_in_the_ledger(study):
    said = revoke(study, "m0001", "the mesh was wrong")
    assert "its 3 stored steps" in said
    assert f"alearn resume {study}" in said
    with open_archive(study) as data:
        assert data.member.values.tolist() == ["m0000"]
    with Ledger.open(study, readonly=True) as ledger:
        assert {s.member for s in ledger.samples()} == {"m0000"}
        assert len(list(ledger.samples(members=["m0001"]))) == 3  # who asks for it by name gets it
        assert [m.revoked for m in ledger.members()] == ["", "the mesh was wrong"]
        assert not ledger.meta()["finished"]
        assert ledger.verify() == []
        events = [e for _, e in ledger.events()]
    state, atlas = fold(events), Atlas()
    for event in events:
        atlas.see(event)
    assert state.revoked == {"m0001"}
    assert state.outdated
    assert state.steps == 6  # they were simulated, and paid for
    assert atlas.with_data == {"m0000": (0.0,)}
    assert atlas.failed == [(0.25,)]


def test_what_cannot_be_revoked_is_told(study):
    with pytest.raises(UnknownName, match="no member 'm0009'"):
        revoke(study, "m0009")
    revoke(study, "m0000")
    with pytest.raises(ConfigError, match="revoked already"):
        revoke(study, "m0000")
    with pytest.raises(ConfigError, match="There is no study"):
        revoke(study / "nowhere", "m0000")


def test_a_snapshot_made_later_knows_nothing_of_it(study):
    revoke(study, "m0001")
    with Ledger.open(study, readonly=True) as ledger:
        state = fold(e for _, e in ledger.events())
    assert not fold_with(state, ev.SnapshotWritten(at=9.0, name="s", updates=5)).outdated


def fold_with(state, event):
    from alearn.controller import apply

    return apply(state, event)
