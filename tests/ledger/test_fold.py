from __future__ import annotations

import math

import pytest

from alearn.errors import LedgerError
from alearn.events import (
    Event,
    KillRequested,
    MemberEnded,
    MemberLaunched,
    MemberQueued,
    MemberRescored,
    MemberRunning,
    SamplesStored,
    StudyResumed,
)
from alearn.ledger import MemberTable
from alearn.types import MemberState


def queued(member: str = "m0000", at: float = 1.0) -> MemberQueued:
    return MemberQueued(at=at, member=member, parameters={"a": 1}, x=(0.5,), origin="acquisition", score=2.0, why="far away", round=3)


def fold(*events: Event) -> MemberTable:
    table = MemberTable()
    for event in events:
        table.apply(event)
    return table


def test_a_whole_life() -> None:
    member = fold(
        queued(),
        MemberLaunched(at=2.0, member="m0000", attempt=1),
        MemberRunning(at=3.0, member="m0000", attempt=1),
        SamplesStored(at=4.0, member="m0000", attempt=1, steps=5, last=4, t=0.4),
        SamplesStored(at=4.0, member="m0000", attempt=1, steps=0, last=4, t=0.4, duplicates=2),
        MemberEnded(at=5.0, member="m0000", attempt=1, state="done", core_s=1.5),
    ).get("m0000")
    m = member.member
    assert (m.state, m.attempt, m.steps, m.t, m.core_s, m.round, m.why) == (MemberState.DONE, 1, 5, 0.4, 1.5, 3, "far away")
    assert (m.queued_at, m.started_at, m.ended_at, member.duplicates) == (1.0, 2.0, 5.0, 2)


def test_a_killed_member_keeps_the_reason_of_the_request() -> None:
    table = fold(
        queued(), MemberLaunched(at=2.0, member="m0000", attempt=1), KillRequested(at=3.0, member="m0000", attempt=1, reason="known")
    )
    assert table.get("m0000").member.state is MemberState.STARTING
    table.apply(MemberEnded(at=4.0, member="m0000", attempt=1, state="killed"))
    assert table.get("m0000").member.reason == "known"


def test_a_late_word_of_an_old_attempt_changes_only_the_cost() -> None:
    table = fold(
        queued(),
        MemberLaunched(at=2.0, member="m0000", attempt=1),
        StudyResumed(at=3.0),
        queued(at=4.0),
        MemberLaunched(at=5.0, member="m0000", attempt=2),
        MemberEnded(at=6.0, member="m0000", attempt=1, state="failed", reason="late", core_s=2.0),
        MemberRunning(at=6.0, member="m0000", attempt=1),
    )
    m = table.get("m0000").member
    assert (m.state, m.attempt, m.core_s, m.reason) == (MemberState.STARTING, 2, 2.0, "")


def test_a_withdrawn_member_is_killed_and_a_rescored_one_is_not() -> None:
    table = fold(queued(), MemberRescored(at=2.0, member="m0000", score=0.5))
    assert table.get("m0000").member.score == 0.5
    table.apply(MemberRescored(at=3.0, member="m0000", score=math.nan, withdrawn=True, why="learned meanwhile"))
    assert (table.get("m0000").member.state, table.get("m0000").member.reason) == (MemberState.KILLED, "withdrawn: learned meanwhile")


def test_a_trial_leaves_the_table_alone_until_it_is_merged() -> None:
    table = fold(queued())
    trial = table.trial()
    trial.apply(queued("m0007"))
    trial.apply(MemberLaunched(at=2.0, member="m0000", attempt=1))
    assert [r.member.id for r in table] == ["m0000"]
    assert table.get("m0000").member.state is MemberState.QUEUED
    table.merge(trial)
    assert {r.member.id: r.number for r in table} == {"m0000": 0, "m0007": 7}


def test_numbers_are_unique_whatever_the_ids() -> None:
    table = fold(queued("m0002"), queued("other"), queued("m0003"), queued("m0000"))
    assert {r.member.id: r.number for r in table} == {"m0002": 2, "other": 3, "m0003": 4, "m0000": 0}


@pytest.mark.parametrize(
    ("event", "part"),
    [
        (MemberLaunched(at=1.0, member="m0009", attempt=1), "no member 'm0009'"),
        (queued(), "queued already and is queued"),
        (MemberEnded(at=1.0, member="m0000", attempt=1, state="gone"), "cannot end as 'gone'"),
    ],
)
def test_what_cannot_be_is_refused(event: Event, part: str) -> None:
    with pytest.raises(LedgerError, match=part):
        fold(queued(), event)
