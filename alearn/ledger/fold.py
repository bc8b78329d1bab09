"""Members from events: the one place where the members table comes from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from alearn.errors import LedgerError
from alearn.events import (
    CopyEnded,
    Event,
    KillRequested,
    MemberEnded,
    MemberLaunched,
    MemberQueued,
    MemberRequeued,
    MemberRescored,
    MemberRevoked,
    MemberRunning,
    SamplesStored,
    StudyResumed,
)
from alearn.types import Member, MemberState


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the members table: a small integer key, the member, and how many of its samples came twice."""

    number: int
    member: Member
    duplicates: int = 0


class MemberTable:
    """Folds events into members. Nothing here knows a file, so verify, resume and the ledger share it."""

    def __init__(self, rows: Iterable[Row] = (), base: MemberTable | None = None) -> None:
        self.rows: dict[str, Row] = {row.member.id: row for row in rows}
        self._base = base
        self._numbers = {row.number for row in self.rows.values()}

    def __iter__(self) -> Iterator[Row]:
        if self._base is not None:
            yield from (row for row in self._base if row.member.id not in self.rows)
        yield from self.rows.values()

    def find(self, member: str) -> Row | None:
        """The member's row, or None."""
        row = self.rows.get(member)
        return self._base.find(member) if row is None and self._base is not None else row

    def get(self, member: str) -> Row:
        """The member's row.

        Raises:
            LedgerError: no such member.
        """
        row = self.find(member)
        if row is None:
            raise LedgerError(f"The study has no member '{member}'; it must be queued (MemberQueued) before anything else.")
        return row

    def trial(self) -> MemberTable:
        """A table over this one to try events on; ``merge`` takes the outcome in."""
        return MemberTable(base=self)

    def merge(self, trial: MemberTable) -> None:
        """Take in what a trial changed."""
        self.rows.update(trial.rows)
        self._numbers |= trial._numbers

    def apply(self, event: Event) -> list[Row]:
        """Take one event in and return the rows that it changed.

        Raises:
            LedgerError: it names a member that was never queued, or queues one twice.
        """
        changed = list(self._changes(event))
        for row in changed:
            self.rows[row.member.id] = row
            self._numbers.add(row.number)
        return changed

    def _changes(self, event: Event) -> Iterator[Row]:
        if isinstance(event, MemberQueued):
            yield self._queued(event)
        elif isinstance(event, StudyResumed):
            for row in list(self):
                if row.member.state.active:
                    reason = "its controller died" + (f" ({event.reason})" if event.reason else "")
                    yield _with(row, state=MemberState.LOST, reason=reason, ended_at=event.at)
        elif isinstance(event, MemberRescored):
            row = self.get(event.member)
            if event.withdrawn:
                reason = f"withdrawn: {event.why}" if event.why else "withdrawn"
                yield _with(row, state=MemberState.KILLED, score=event.score, reason=reason, ended_at=event.at)
            else:
                yield _with(row, score=event.score, why=event.why or row.member.why)
        elif isinstance(event, MemberRequeued):
            yield _with(self.get(event.member), state=MemberState.QUEUED, reason="")
        elif isinstance(event, CopyEnded):
            row = self.get(event.member)
            yield _with(row, core_s=row.member.core_s + event.core_s)
        elif isinstance(event, MemberRevoked):
            yield _with(self.get(event.member), revoked=event.reason or "revoked")
        elif isinstance(event, SamplesStored):
            row = self.get(event.member)
            changed = dataclasses.replace(row, duplicates=row.duplicates + event.duplicates)
            attempt = max(row.member.attempt, event.attempt)
            if event.steps:
                yield _with(changed, steps=row.member.steps + event.steps, t=event.t, attempt=attempt)
            else:
                yield _with(changed, attempt=attempt)
        elif isinstance(event, (MemberLaunched, MemberRunning, KillRequested, MemberEnded)):
            row = self.get(event.member)
            if event.attempt >= row.member.attempt:
                yield _attempt(row, event)
            elif isinstance(event, MemberEnded):  # an attempt that was given up still cost what it cost
                yield _with(row, core_s=row.member.core_s + event.core_s)

    def _queued(self, event: MemberQueued) -> Row:
        known = self.find(event.member)
        if known is not None:
            if known.member.state is not MemberState.LOST:
                raise LedgerError(
                    f"The member '{event.member}' was queued already and is {known.member.state}; only a lost one may be again."
                )
            return _with(known, state=MemberState.QUEUED, reason="", queued_at=event.at, score=event.score, why=event.why)
        member = Member(
            id=event.member,
            parameters=dict(event.parameters),
            x=tuple(event.x),
            origin=event.origin,
            score=event.score,
            why=event.why,
            round=event.round,
            queued_at=event.at,
        )
        return Row(self._number(event.member), member)

    def _number(self, member: str) -> int:
        """The number inside an id like m0012, so that archives read naturally; otherwise the next free one."""
        match = re.fullmatch(r"m(\d{4,9})", member)
        if match and not self._taken(int(match[1])):
            return int(match[1])
        return max((row.number for row in self), default=-1) + 1

    def _taken(self, number: int) -> bool:
        return number in self._numbers or (self._base is not None and self._base._taken(number))


def _attempt(row: Row, event: MemberLaunched | MemberRunning | KillRequested | MemberEnded) -> Row:
    member = row.member
    if isinstance(event, MemberLaunched):
        return _with(row, state=MemberState.STARTING, attempt=event.attempt, reason="", started_at=event.at)
    if isinstance(event, MemberRunning):
        return _with(row, state=MemberState.RUNNING, attempt=event.attempt, reason="")
    if isinstance(event, KillRequested):
        return _with(row, attempt=event.attempt, reason=event.reason)
    if event.state not in ("done", "killed", "failed", "lost"):
        raise LedgerError(f"The member '{event.member}' cannot end as '{event.state}'; it ends done, killed, failed or lost.")
    return _with(
        row,
        state=MemberState(event.state),
        attempt=event.attempt,
        reason=event.reason or member.reason,
        core_s=member.core_s + event.core_s,
        ended_at=event.at,
    )


def _with(row: Row, **changes: object) -> Row:
    return dataclasses.replace(row, member=dataclasses.replace(row.member, **changes))  # type: ignore[arg-type]
