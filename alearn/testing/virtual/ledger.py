"""A ledger in memory that keeps the real one's promises, and breaks down when it is told to."""

from __future__ import annotations

from collections.abc import Sequence

from alearn import events as ev
from alearn.errors import LedgerError
from alearn.launcher.virtual import STEPS, Crash, Faults, Word


class ControllerDied(Exception):
    """The controller of a virtual study dies here; the ledger keeps what was committed."""

    def __init__(self, crash: Crash) -> None:
        super().__init__(f"the controller died at commit {crash.commit}")
        self.crash = crash


class VirtualLedger:
    """Events, and how many steps of each member are stored.

    Args:
        faults: at which commits it fails or the controller dies.
        keep: whether to keep the events (without them nothing can be resumed).

    Attributes:
        stored: steps of each member that are durable, from 0 on without a gap.
        attempts: the latest attempt of each member that was launched.
        total: the sum of ``stored``.
    """

    def __init__(self, faults: Faults | None = None, keep: bool = True) -> None:
        self.events: list[ev.Event] = []
        self.stored: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.total = 0
        self.commits = 0
        self.full = False
        self._faults = faults or Faults()
        self._keep = keep
        self._crashes = {c.commit: c for c in reversed(self._faults.crashes)}

    def append(self, happened: Sequence[ev.Event]) -> None:
        """Make events durable.

        Raises:
            LedgerError: the disk is full; nothing was added, and nothing more is taken.
            ControllerDied: the schedule of faults says so.
        """
        number, self.commits = self.commits, self.commits + 1
        if number == self._faults.disk_full:
            self.full = True
        if self.full:
            raise LedgerError("The virtual ledger stopped taking writes because the disk is full; make room, then resume the study.")
        crash = self._crashes.get(number)
        if crash is not None and not crash.durable:
            raise ControllerDied(crash)
        for event in happened:
            if isinstance(event, ev.SamplesStored):
                self.total += event.steps
                self.stored[event.member] = event.last + 1
            elif isinstance(event, ev.MemberLaunched):
                self.attempts[event.member] = event.attempt
        if self._keep:
            self.events += happened
        if crash is not None:
            raise ControllerDied(crash)

    def store(self, words: Sequence[Word], at: float) -> list[ev.SamplesStored]:
        """Make steps durable in one commit; what is stored already is dropped and counted, late writers are fenced off.

        Raises:
            LedgerError, ControllerDied: see ``append``.
            AssertionError: a stream left a gap, which the protocol does not allow.
        """
        tally: dict[str, list[int]] = {}
        for word in words:
            assert word.kind == STEPS
            if word.attempt < self.attempts.get(word.member, 0):
                continue
            mine = tally.setdefault(word.member, [word.attempt, 0, self.stored.get(word.member, 0), 0])
            if word.first > mine[2]:
                raise AssertionError(f"{word.member} sent step {word.first} although {mine[2]} is the next: a gap in the virtual transport")
            new = max(0, word.first + word.n - mine[2])
            mine[1] += new
            mine[2] += new
            mine[3] += word.n - new
        stored = [
            ev.SamplesStored(at=at, member=m, attempt=attempt, steps=new, last=upto - 1, t=float(upto), duplicates=twice)
            for m, (attempt, new, upto, twice) in tally.items()
        ]
        if stored:
            self.append(stored)
        return stored
