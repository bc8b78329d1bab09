"""The checker against real ledgers: sound ones pass, and every kind of damage is named."""

import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from alearn import events as ev
from alearn.errors import ConfigError
from alearn.ledger import Ledger
from alearn.testing import checker
from alearn.types import Sample, Schema


def write_study(directory: Path, *, members: int = 3, steps: int = 5, seal: bool = False, shift: float = 0.0, **budget: float) -> Path:
    now = time.time()
    with Ledger.create(directory, study="s") as ledger:
        ledger.append([ev.StudyStarted(at=now, study="s", arm="active", seed=1, budget=budget)])
        schema = Schema.of({"y": 1.0, "u": np.zeros((2, 3), dtype="float32"), "flag": np.bool_(True)})
        ledger.set_schema(schema)
        for n in range(members):
            m = f"m{n:04d}"
            ledger.append(
                [
                    ev.MemberQueued(at=now, member=m, parameters={"a": 0.5}, x=(0.5,), origin="design"),
                    ev.MemberLaunched(at=now, member=m, attempt=1),
                    ev.MemberRunning(at=now, member=m, attempt=1),
                ]
            )
            values = {"y": n + shift, "u": np.full((2, 3), n, dtype="float32"), "flag": np.bool_(n % 2)}
            ledger.store([Sample(m, 1, s, float(s), {"a": 0.5}, schema.conform(values)) for s in range(steps)], schema)
            state = "killed" if n == 1 else "done"
            ledger.append([ev.MemberEnded(at=now, member=m, attempt=1, state=state, reason="nothing left" if n == 1 else "")])
        if seal:
            ledger.seal()
    return directory


def edit(directory: Path, sql: str) -> None:
    with sqlite3.connect(directory / "ledger.sqlite") as db:
        db.execute(sql)
    db.close()


@pytest.mark.parametrize("seal", [False, True])
def test_a_sound_study_is_sound(tmp_path, seal):
    verdict = checker.check(write_study(tmp_path / "s", seal=seal))
    assert verdict.problems == ()
    assert verdict.sound
    assert (verdict.launched, verdict.stored, len(verdict.samples)) == (3, 15, 15)


def test_the_same_samples_compare_equal_wherever_they_lie(tmp_path):
    one = checker.check(write_study(tmp_path / "a"))
    two = checker.check(write_study(tmp_path / "b", seal=True))
    assert checker.differences(one, two) == []
    other = checker.check(write_study(tmp_path / "c", members=2, shift=1.0))
    found = checker.differences(one, other)
    assert found[0] == "m0002 step 0 is only in the first"
    assert found[-1] == "m0001 step 4 has other bytes"


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DELETE FROM samples WHERE step = 2 AND member = 0", "m0000 should have steps 0 to 4; it has 4 steps with gaps"),
        ("UPDATE samples SET record = 0 WHERE record = 1", "is named twice"),
        ("UPDATE samples SET data_crc = data_crc + 1 WHERE record = 1", "do not match their checksum"),
        ("UPDATE samples SET attempt = 2 WHERE record = 1", "belong to another sample"),
        ("UPDATE members SET state = 'failed' WHERE number = 0", "m0000 is failed (attempt 1, 5 steps) in the table, done"),
        ("DELETE FROM members WHERE number = 2", "m0002 was queued and is not in the table"),
        ("DELETE FROM events WHERE seq = 3", "the chain of events is broken at event 4"),
        ("UPDATE events SET body = replace(body, 'nothing left', '') WHERE body LIKE '%nothing left%'", "nobody gave a reason"),
    ],
)
def test_damage_is_named(tmp_path, sql, words):
    directory = write_study(tmp_path / "s")
    edit(directory, sql)
    verdict = checker.check(directory)
    assert any(words in p for p in verdict.problems), verdict.problems


def test_a_flipped_bit_in_the_data_is_found(tmp_path):
    directory = write_study(tmp_path / "s")
    (segment,) = (directory / "segments").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[checker.HEAD + 60] ^= 4
    segment.write_bytes(data)
    problems = checker.check(directory).problems
    assert len(problems) == 1
    assert "m0000 step 0" in problems[0]
    segment.unlink()
    assert sum("are missing" in p for p in checker.check(directory).problems) == 15


def test_an_overrun_budget_and_a_member_left_behind_are_found(tmp_path):
    directory = write_study(tmp_path / "s", members=2)
    assert checker.check(directory).sound
    with Ledger.open(directory) as ledger:
        now = time.time()
        ledger.append([ev.BudgetChanged(at=now, budget={"members": 2.0, "steps": 10.0})])
        ledger.append([ev.MemberQueued(at=now, member="m0002", parameters={"a": 0.5}, x=(0.5,), origin="user")])
        ledger.append([ev.MemberLaunched(at=now, member="m0002", attempt=1)])
    problems = " | ".join(checker.check(directory).problems)
    assert "m0002 is member 3 of at most 2" in problems
    assert "launched after 10 of at most 10 steps" in problems
    assert "still active: m0002" in problems


def test_no_ledger_is_said(tmp_path):
    with pytest.raises(ConfigError, match="give the directory of a study"):
        checker.check(tmp_path)
