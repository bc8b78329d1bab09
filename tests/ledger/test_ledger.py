from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ledger_support import SCHEMA, launch, make_sample, same_sample

from alearn.errors import LedgerCorrupt, LedgerError, LedgerLocked, SchemaError
from alearn.events import KillRequested, MemberEnded, MemberLaunched, StudyResumed, StudyStarted
from alearn.ledger import Ledger, SampleRefused
from alearn.types import Field, MemberState, Sample, Schema


def test_what_was_stored_is_there_after_reopening(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        launch(ledger, "m0003")
        events = ledger.store([make_sample("m0000", 0), make_sample("m0003", 0), make_sample("m0000", 1)], SCHEMA)
        assert [(e.member, e.steps, e.last) for e in events] == [("m0000", 2, 1), ("m0003", 1, 0)]
        assert ledger.stored_steps("m0000") == 2
    with Ledger.open(study) as ledger:
        assert ledger.study == "s"
        assert ledger.schema() == SCHEMA
        assert [s.key for s in ledger.samples()] == [("m0000", 0), ("m0003", 0), ("m0000", 1)]
        assert all(same_sample(s, make_sample(s.member, s.step)) for s in ledger.samples())
        assert ledger.counts()["samples"] == {"streamed": 3, "stored": 3, "duplicates_dropped": 0}
        assert ledger.counts()["members"]["running"] == 2
        assert ledger.verify() == []


def test_events_come_back_as_they_were_given(study: Path) -> None:
    started = StudyStarted(at=1.5, study="s", arm="active", seed=3, budget={"members": 10})
    with Ledger.create(study, study="s") as ledger:
        ledger.append([started])
        launch(ledger, "m0000")
        assert next(e for _, e in ledger.events()) == started
        assert [n for n, _ in ledger.events(after=2)] == [3, 4]


def test_a_step_that_comes_twice_is_dropped_and_counted(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", 0), make_sample("m0000", 0), make_sample("m0000", 1)], SCHEMA)
        (event,) = ledger.store([make_sample("m0000", 1)], SCHEMA)
        assert (event.steps, event.last, event.duplicates) == (0, 1, 1)
        assert ledger.counts()["samples"] == {"streamed": 4, "stored": 2, "duplicates_dropped": 2}
        assert [s.step for s in ledger.samples()] == [0, 1]
        assert ledger.verify() == []


def test_a_restarted_attempt_goes_on_where_the_first_stopped_and_fences_it(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", 0)], SCHEMA)
        ledger.append([MemberEnded(at=4.0, member="m0000", attempt=1, state="lost")])
        launch(ledger, "m0000", 2, queue=False)
        assert ledger.store([make_sample("m0000", 1, attempt=1)], SCHEMA) == []
        assert ledger.stored_steps("m0000") == 1
        (event,) = ledger.store([make_sample("m0000", 0, 2), make_sample("m0000", 1, 2)], SCHEMA)
        assert (event.attempt, event.steps, event.duplicates) == (2, 1, 1)
        assert [(s.attempt, s.step) for s in ledger.samples()] == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    ("sample", "part"),
    [
        (make_sample("m0000", 2), "sent step 2; step 1 is the next"),
        (make_sample("m0009", 0), "no such member"),
        (Sample("m0000", 1, 1, 0.1, {}, {"y": np.zeros(2)}), "cannot be stored"),
    ],
)
def test_a_sample_that_cannot_be_stored_is_refused_and_costs_only_its_member(study: Path, sample: Sample, part: str) -> None:
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        launch(ledger, "m0001")
        ledger.store([make_sample("m0000", 0)], SCHEMA)
        with pytest.raises(SampleRefused, match=part) as refused:
            ledger.store([make_sample("m0001", 0), sample], SCHEMA)
        assert refused.value.member == sample.member
        assert ledger.stored_steps("m0001") == 0
        ledger.store([make_sample("m0001", 0)], SCHEMA)
        assert ledger.verify() == []


def test_the_first_schema_holds_for_the_study(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        ledger.set_schema(SCHEMA)
        ledger.set_schema(SCHEMA)
        with pytest.raises(SchemaError, match="float32"):
            ledger.set_schema(Schema((Field("y"),)))


def test_members_follow_their_events(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        launch(ledger, "m0001")
        ledger.append([KillRequested(at=5.0, member="m0000", attempt=1, reason="known already")])
        ledger.append([MemberEnded(at=6.0, member="m0000", attempt=1, state="killed", core_s=2.5)])
        member = ledger.members()[0]
        assert (member.state, member.reason, member.core_s, member.ended_at) == (MemberState.KILLED, "known already", 2.5, 6.0)
    with Ledger.open(study) as ledger:
        ledger.append([StudyResumed(at=9.0)])
        assert ledger.members()[1].state is MemberState.LOST
        assert ledger.members()[0].state is MemberState.KILLED


def test_an_event_about_an_unknown_member_adds_nothing(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        with pytest.raises(LedgerError, match="no member 'm0007'"):
            ledger.append([StudyResumed(at=1.0), MemberLaunched(at=1.0, member="m0007", attempt=1)])
        assert ledger.counts()["events"] == 0
        launch(ledger, "m0000")
        with pytest.raises(LedgerError, match="queued already"):
            launch(ledger, "m0000")
        assert ledger.verify() == []


def test_segments_roll_over_and_only_named_fields_are_given(study: Path) -> None:
    with Ledger.create(study, study="s", segment_bytes=500) as ledger:
        launch(ledger, "m0000")
        launch(ledger, "m0001")
        ledger.store([make_sample(m, i) for i in range(10) for m in ("m0000", "m0001")], SCHEMA)
        assert ledger.counts()["segments"]["open"] > 3
        only = list(ledger.samples(members=["m0001"], after=4, fields=["count"]))
        assert [s.step for s in only] == list(range(2, 10))
        assert all(list(s.values) == ["count"] and s.values["count"] == 1000 + s.step for s in only)
        assert ledger.verify() == []


def test_two_threads_share_one_ledger(study: Path) -> None:
    with Ledger.create(study, study="s", segment_bytes=2000) as ledger:
        for i in range(4):
            launch(ledger, f"m000{i}")
        failures: list[BaseException] = []

        def stream(members: tuple[str, str]) -> None:
            try:
                for step in range(40):
                    ledger.store([make_sample(m, step) for m in members], SCHEMA)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=stream, args=(m,)) for m in (("m0000", "m0001"), ("m0002", "m0003"))]
        for thread in threads:
            thread.start()
        for i in range(30):
            ledger.append([StudyResumed(at=float(i))] if i == 15 else [KillRequested(at=1.0, member="m0000", attempt=1, reason=str(i))])
            ledger.seal(everything=False)
        for thread in threads:
            thread.join(60)
        assert not failures
        ledger.seal()
        assert ledger.counts()["samples"]["stored"] == 160
        assert ledger.counts()["segments"]["open"] == 0
        assert all(same_sample(s, make_sample(s.member, s.step)) for s in ledger.samples())
        assert ledger.verify() == []


def test_a_reader_sees_the_writer_move_and_neither_blocks_the_other(study: Path) -> None:
    with Ledger.create(study, study="s", segment_bytes=500) as ledger, Ledger.open(study, readonly=True) as reader:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", i) for i in range(9)], SCHEMA)
        assert reader.stored_steps("m0000") == 9
        half = reader.samples()
        first = next(half)
        ledger.seal()
        ledger.store([make_sample("m0000", i) for i in range(9, 12)], SCHEMA)
        assert [first.step, *[s.step for s in half]] == list(range(12))
        with pytest.raises(LedgerError, match="read-only"):
            reader.append([StudyResumed(at=1.0)])


def test_a_second_live_writer_is_refused_and_the_first_is_named(study: Path) -> None:
    code = f"""
import sys, pathlib
from alearn.ledger import Ledger
ledger = Ledger.create(pathlib.Path({str(study)!r}), study="s")
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(LedgerLocked, match=f"process {other.pid} on"):
            Ledger.open(study)
        Ledger.open(study, readonly=True).close()
        other.kill()
        other.wait(30)
    with Ledger.open(study) as ledger, pytest.raises(LedgerLocked):
        Ledger.open(ledger.directory)


def test_no_study_a_second_create_a_foreign_file_and_a_newer_format_are_told(study: Path) -> None:
    study.mkdir()
    with pytest.raises(LedgerError, match="no study"):
        Ledger.open(study)
    assert list(study.iterdir()) == []
    Ledger.create(study, study="s").close()
    with pytest.raises(LedgerError, match="already a study"):
        Ledger.create(study, study="s")
    db = sqlite3.connect(study / "ledger.sqlite")
    db.execute("PRAGMA user_version=99")
    db.close()
    for readonly in (False, True):
        with pytest.raises(LedgerError, match=r"format 99.*upgrade"):
            Ledger.open(study, readonly=readonly)
    (study / "ledger.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(study)


def test_a_finished_study_opens_in_a_directory_that_cannot_be_written(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", 0)], SCHEMA)
    (study / "segments").chmod(0o555)
    study.chmod(0o555)
    try:
        with Ledger.open(study, readonly=True) as ledger:
            assert [s.key for s in ledger.samples()] == [("m0000", 0)]
    finally:
        study.chmod(0o755)
        (study / "segments").chmod(0o755)


def test_odd_values_survive_nan_empty_fields_and_small_dtypes(study: Path) -> None:
    schema = Schema((Field("flag", (2,), "bool"), Field("half", (3,), "float16"), Field("none", (0, 2)), Field("nan")))
    values = {
        "flag": np.array([True, False]),
        "half": np.array([1.5, np.inf, np.nan], np.float16),
        "none": np.zeros((0, 2)),
        "nan": np.asarray(np.nan),
    }
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        ledger.store([Sample("m0000", 1, 0, float("nan"), {}, values)], schema)
        for _ in range(2):
            (sample,) = ledger.samples()
            assert np.isnan(sample.t)
            for name, value in values.items():
                np.testing.assert_array_equal(sample.values[name], value)
                assert sample.values[name].dtype == value.dtype
            ledger.seal()
        assert ledger.verify() == []


def test_meta_is_kept(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        ledger.set_meta("round", {"n": 3})
    with Ledger.open(study) as ledger:
        assert ledger.meta()["round"] == {"n": 3}


def test_a_segment_that_lost_acknowledged_bytes_is_told_on_open(study: Path) -> None:
    with Ledger.create(study, study="s") as ledger:
        launch(ledger, "m0000")
        ledger.store([make_sample("m0000", 0)], SCHEMA)
    (segment,) = (study / "segments").iterdir()
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(LedgerCorrupt, match="acknowledged samples are gone"):
        Ledger.open(study)
    with Ledger.open(study, readonly=True) as ledger:
        assert any("record 0" in line for line in ledger.verify())


def test_its_time_is_steady_and_never_before_its_last_event(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tomorrow = time.time() + 86400.0
    with Ledger.create(study, study="s") as ledger:
        assert abs(ledger.now() - time.time()) < 60.0
        ledger.append([StudyStarted(at=tomorrow, study="s", arm="active", seed=0, budget={})])
    with Ledger.open(study) as ledger:  # the clock was set back meanwhile
        before = ledger.now()
        assert before >= tomorrow
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert before <= ledger.now() < before + 60.0
