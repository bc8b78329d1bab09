"""A state machine: whatever is stored, appended, sealed and reopened, the ledger equals a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger_support import SCHEMA, launch, make_sample, same_sample

from alearn import failpoints
from alearn.events import MemberEnded
from alearn.ledger import Ledger, SampleRefused

MEMBERS = st.sampled_from(["m0000", "m0001", "x7", "m0004"])


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp()) / "study"
        self.ledger = Ledger.create(self.directory, study="s", segment_bytes=900)
        self.attempts: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.order: list[tuple[str, int, int]] = []
        self.duplicates = 0

    def teardown(self) -> None:
        failpoints.arm("")
        self.reopen()  # what an interrupted write left behind is told until then
        problems = self.ledger.verify()
        self.ledger.close()
        shutil.rmtree(self.directory.parent)
        assert problems == []

    @rule(member=MEMBERS)
    def begin(self, member: str) -> None:
        attempt = self.attempts.get(member, 0) + 1
        if attempt > 1:
            self.ledger.append([MemberEnded(at=1.0, member=member, attempt=attempt - 1, state="lost")])
        launch(self.ledger, member, attempt, queue=attempt == 1)
        self.attempts[member] = attempt
        self.steps.setdefault(member, 0)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), fail=st.sampled_from(["", "", "", "before_write", "after_sync", "before_commit", "after_commit"]))
    def store(self, data: st.DataObject, fail: str) -> None:
        batch = []
        expected: list[tuple[str, int, int]] = []
        steps, twice, gap = dict(self.steps), 0, False
        for member in data.draw(st.lists(st.sampled_from(sorted(self.attempts)), max_size=4, unique=True)):
            attempt = data.draw(st.integers(max(1, self.attempts[member] - 1), self.attempts[member]))
            start = data.draw(st.integers(max(0, steps[member] - 2), steps[member] + (data.draw(st.integers(0, 20)) == 0)))
            for step in range(start, start + data.draw(st.integers(1, 5))):
                batch.append(make_sample(member, step, attempt))
                if attempt < self.attempts[member] or gap:
                    continue
                if step < steps[member]:
                    twice += 1
                elif step > steps[member]:
                    gap = True
                else:
                    steps[member] += 1
                    expected.append((member, step, attempt))
        if gap:
            with pytest.raises(SampleRefused):
                self.ledger.store(batch, SCHEMA)
            return
        if fail and (expected or twice):
            failpoints.arm(f"ledger.{fail}:interrupt")
            try:
                self.ledger.store(batch, SCHEMA)
            except KeyboardInterrupt:
                if fail != "after_commit":
                    return
            finally:
                failpoints.arm("")
        else:
            self.ledger.store(batch, SCHEMA)
        self.steps, self.duplicates = steps, self.duplicates + twice
        self.order.extend(expected)

    @rule(everything=st.booleans(), fail=st.sampled_from(["", "", "seal_written", "seal_before_commit", "seal_committed"]))
    def seal(self, everything: bool, fail: str) -> None:
        failpoints.arm(f"ledger.{fail}:interrupt" if fail else "")
        try:
            self.ledger.seal(everything=everything)
        except KeyboardInterrupt:
            pass
        finally:
            failpoints.arm("")

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.directory)

    @invariant()
    def the_ledger_equals_the_model(self) -> None:
        assert {m: self.ledger.stored_steps(m) for m in self.steps} == self.steps
        assert {m.id: m.attempt for m in self.ledger.members()} == self.attempts
        counts = self.ledger.counts()["samples"]
        assert counts["stored"] == len(self.order)
        assert counts["duplicates_dropped"] == self.duplicates

    @rule()
    def read_everything(self) -> None:
        with Ledger.open(self.directory, readonly=True) as reader:
            for ledger in (self.ledger, reader):
                samples = list(ledger.samples())
                assert [(s.member, s.step, s.attempt) for s in samples] == self.order
                assert all(same_sample(s, make_sample(s.member, s.step)) for s in samples)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
