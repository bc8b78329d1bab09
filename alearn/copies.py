"""Copies of stragglers: the same attempt a second time, beside itself, in a free slot.

A copy runs under a name of its own (``m0007.copy``), so that every fence that stands between members, in launcher and
carrier, stands between the two. What it streams is its member's: the same point, so the same (member, step), and the
ledger stores each step once, whoever sends it first.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from alearn import events as ev
from alearn.assembly import Rooms
from alearn.chronicle import Chronicle
from alearn.errors import LaunchError
from alearn.transport.base import Broken, End
from alearn.types import Exit, ExitCause, MemberState, Sample, copied_member, copy_name


class Copies:
    """Starts copies, hears them for their members, and ends them.

    Args:
        rooms: of the arm.
        chronicle: the arm's facts.
        directory: the arm's.
    """

    def __init__(self, rooms: Rooms, chronicle: Chronicle, directory: Path) -> None:
        self.rooms, self.chronicle, self.directory = rooms, chronicle, directory

    def launch(self, member: str, reason: str) -> None:
        """Start the copy of a member's present attempt."""
        record = self.chronicle.state.active[member]
        job = self.rooms.job(copy_name(member), record.attempt, record.parameters, self.directory)
        now = self.chronicle.ledger.now
        self.chronicle.record(ev.CopyLaunched(at=now(), member=member, attempt=record.attempt, reason=reason))
        try:
            self.rooms.launcher.submit(job)
        except LaunchError as error:
            if self.rooms.following is not None:
                self.rooms.following.ended(copy_name(member), record.attempt)
            self.chronicle.record(ev.CopyEnded(at=now(), member=member, attempt=record.attempt, state="failed", reason=str(error)))

    def wanted(self, member: str, attempt: int) -> bool:
        """Whether this attempt has a copy, and both may run on."""
        copy, record = self.chronicle.state.copies.get(member), self.chronicle.state.active.get(member)
        running = copy is not None and copy.attempt == attempt and not copy.cut
        return running and record is not None and record.attempt == attempt and not record.kill

    def may_save(self, member: str) -> bool:
        """Whether what goes wrong with a member's own process may be made good by its copy, or has been."""
        record = self.chronicle.state.active.get(member)
        return record is not None and (record.won or self.wanted(member, record.attempt))

    def take(self, sample: Sample) -> Sample | None:
        """A copy's step as its member's; None if it must not be stored. An alarm ends the copy and condemns nobody."""
        member = copied_member(sample.member)
        assert member is not None
        if not self.wanted(member, sample.attempt) or self.chronicle.state.active[member].state is not MemberState.RUNNING:
            return None
        alarm = self.rooms.monitors.see(sample, self.chronicle.ledger.now())
        if alarm is not None:
            self.cut(member, alarm.reason)
            return None
        return dataclasses.replace(sample, member=member)

    def cut(self, member: str, reason: str) -> None:
        """End a member's copy."""
        copy = self.chronicle.state.copies.get(member)
        if copy is None or copy.cut:
            return
        now = self.chronicle.ledger.now()
        self.chronicle.record(ev.CopyCut(at=now, member=member, attempt=copy.attempt, reason=reason))
        self.rooms.reader.stop(copy_name(member), copy.attempt)
        self.rooms.launcher.cancel(copy_name(member), copy.attempt)

    def ended(self, gone: Exit, stream: End | Broken | None) -> None:
        """A copy's process is gone and its stream has run dry."""
        member = copied_member(gone.member)
        assert member is not None
        self.rooms.monitors.forget(gone.member, gone.attempt)
        copy = self.chronicle.state.copies.get(member)
        if copy is None or copy.attempt != gone.attempt:  # that of a controller before this one
            return
        ledger = self.chronicle.ledger
        whole = isinstance(stream, End) and stream.status == "done" and 0 < stream.steps <= ledger.stored_steps(member)
        done = whole and gone.cause is ExitCause.DONE and self.wanted(member, gone.attempt)
        core_s, wall_s = (v if math.isfinite(v) else 0.0 for v in (gone.core_s, gone.wall_s))
        reason = copy.cut or gone.detail or gone.cause.value
        self.chronicle.record(
            ev.CopyEnded(
                at=ledger.now(),
                member=member,
                attempt=gone.attempt,
                state="done" if done else "lost",
                reason=reason,
                core_s=core_s,
                wall_s=wall_s,
            )
        )
