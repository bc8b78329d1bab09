"""Samples as another process reads them beside their writer."""

import pytest
from ledger_support import SCHEMA, launch, make_sample, same_sample

from alearn.errors import LedgerCorrupt
from alearn.events import MemberEnded, MemberRevoked
from alearn.ledger import Ledger
from alearn.ledger.tail import Tail


def stored(ledger, member, steps):
    ledger.store([make_sample(member, step) for step in steps], SCHEMA)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "study", study="s", segment_bytes=2048) as ledger:
        yield ledger


def test_each_sample_is_read_once_and_no_further_than_told(ledger):
    launch(ledger, "m0")
    stored(ledger, "m0", range(5))
    tail = Tail(ledger.directory)
    first = [s for chunk in tail.read(3) for s in chunk]
    assert [s.key for s in first] == [("m0", 0), ("m0", 1), ("m0", 2)]
    launch(ledger, "m1")  # members and samples that came after the tail was opened
    stored(ledger, "m1", range(3))
    second = [s for chunk in tail.read(ledger.last_sample) for s in chunk]
    assert [s.key for s in second] == [("m0", 3), ("m0", 4), ("m1", 0), ("m1", 1), ("m1", 2)]
    assert all(same_sample(s, make_sample(*s.key)) for s in [*first, *second])
    assert list(tail.read(ledger.last_sample)) == []
    tail.close()


def test_it_goes_on_through_the_archive_with_the_fields_that_are_wanted(ledger):
    launch(ledger, "m0")
    stored(ledger, "m0", range(60))
    tail = Tail(ledger.directory, ["y"])
    read = [s for chunk in tail.read(30) for s in chunk]
    assert ledger.seal() > 1  # while it reads
    read += [s for chunk in tail.read(60) for s in chunk]
    assert [s.step for s in read] == list(range(60))
    assert all(set(s.values) == {"y"} and s.values["y"] == make_sample("m0", s.step).values["y"] for s in read)
    assert [s.step for chunk in tail.steps("m0", [3, 17, 18, 59, 400]) for s in chunk] == [3, 17, 18, 59]
    assert list(tail.steps("m7", [0])) == []
    tail.close()


def test_revoked_members_are_left_out(ledger):
    for member in ("m0", "m1"):
        launch(ledger, member)
        stored(ledger, member, range(2))
        ledger.append([MemberEnded(at=4.0, member=member, attempt=1, state="done")])
    ledger.append([MemberRevoked(at=5.0, member="m0", reason="wrong input")])
    tail = Tail(ledger.directory)
    assert [s.key for chunk in tail.read(4) for s in chunk] == [("m1", 0), ("m1", 1)]
    tail.close()


def test_without_an_archive_what_was_discarded_is_passed_over(tmp_path):
    with Ledger.create(tmp_path / "study", study="s", segment_bytes=2048, archive="none") as ledger:
        launch(ledger, "m0")
        stored(ledger, "m0", range(60))
        assert ledger.discard(40) > 0
        tail = Tail(ledger.directory)
        steps = [s.step for chunk in tail.read(60) for s in chunk]
        assert steps == [s.step for s in ledger.samples()]
        assert 0 < steps[0] <= 40
        assert steps[-1] == 59
        tail.close()


def test_a_study_whose_steps_are_not_known_is_refused(ledger):
    with pytest.raises(LedgerCorrupt, match="does not say what a time step carries"):
        Tail(ledger.directory)
