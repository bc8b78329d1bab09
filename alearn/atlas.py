"""Where a study has been: the points of its members in the unit cube, gathered from the events."""

from __future__ import annotations

from alearn import events as ev


class Atlas:
    """Points by what became of them.

    Attributes:
        points: every member's point, in the order in which they were queued.
        with_data: the points of members with at least one stored step.
        failed: the points of failed and of revoked members.
        holdout: the members of the hold-out stream.
        over: what became of members that ended (a lost one may run again).
        costs: core-seconds of the members that ran to their own end, well or not.
    """

    def __init__(self) -> None:
        self.points: dict[str, tuple[float, ...]] = {}
        self.with_data: dict[str, tuple[float, ...]] = {}
        self.failed: list[tuple[float, ...]] = []
        self.holdout: list[str] = []
        self.over: dict[str, str] = {}
        self.costs: dict[str, float] = {}
        self._revoked: set[str] = set()

    def see(self, event: ev.Event) -> None:
        """Take one event in."""
        match event:
            case ev.MemberQueued(member=member, x=x, origin=origin):
                self.points[member] = tuple(x)
                if origin == "holdout":
                    self.holdout.append(member)
            case ev.SamplesStored(member=member, steps=steps) if steps and member not in self._revoked:
                self.with_data[member] = self.points[member]
            case ev.MemberEnded(member=member, state=state, core_s=core_s):
                self.over[member] = state
                if state in ("done", "failed") and core_s > 0:
                    self.costs[member] = core_s
                if state == "failed":
                    self.failed.append(self.points[member])
            case ev.MemberRevoked(member=member):  # what it taught was wrong: no point to trust, nor to choose again
                self._revoked.add(member)
                self.with_data.pop(member, None)
                self.failed.append(self.points[member])
            case ev.MemberLaunched(member=member):
                self.over.pop(member, None)
