"""The typed decisions of a policy. Each carries a reason that a person understands.

A decision changes nothing by itself: the study's loop carries it out and writes down the event that answers it,
and only that event changes the state. Until then ``decide`` may return the same decision again.

=============  ==========================================================
decision       answered by
=============  ==========================================================
``Launch``     ``MemberLaunched``
``Kill``       ``KillRequested``, later ``MemberEnded``
``Duplicate``  ``CopyLaunched``, later ``CopyEnded``
``Cut``        ``CopyCut``, later ``CopyEnded``
``Spare``      ``GhostSpared``
``Requeue``    ``MemberRequeued``
``Wait``       nothing
``Withdraw``   ``MemberRescored(withdrawn=True)``
``Acquire``    ``RoundDecided`` and a ``MemberQueued`` for each point
``Refit``      ``Refitted``
``Evaluate``   ``Evaluated``
``Checkpoint`` ``SnapshotWritten``
``Pause``      ``StudyPaused``
``Stop``       ``StudyEnded``
=============  ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """Something that the study should do now."""


@dataclass(frozen=True, slots=True)
class Launch(Decision):
    """Start the next attempt of a queued member."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kill(Decision):
    """End a running attempt.

    Args:
        member: the member.
        attempt: the attempt; a later one is left alone.
        reason: one sentence.
        saved_steps: how many steps are expected not to be simulated because of it.
        fault: the member misbehaved (a monitor's alarm), so it ends as failed and teaches infeasibility.
        cause: the monitor that condemned it; empty for a decision about value or budget.
    """

    member: str
    attempt: int
    reason: str
    saved_steps: int = 0
    fault: bool = False
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Duplicate(Decision):
    """Run a straggler's attempt a second time beside itself; the first of the two to finish is taken."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cut(Decision):
    """End the copy of an attempt."""

    member: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spare(Decision):
    """Let a condemned member run on as a ghost, the control of the kill policy."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Requeue(Decision):
    """Queue a lost member again."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait(Decision):
    """A lost member will be queued again, but not before its back-off is over. Nothing is to be done."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Withdraw(Decision):
    """Take a queued member back: it is not worth its cost any more."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Acquire(Decision):
    """Choose ``q`` new points.

    Args:
        q: how many points in all.
        reason: one sentence.
        origin: "design" (space-filling, no surrogate needed) or "acquisition".
        holdout: how many of the ``q`` come from the Sobol stream that is kept beside the acquisition.
    """

    q: int
    reason: str
    origin: str = "acquisition"
    holdout: int = 0


@dataclass(frozen=True, slots=True)
class Refit(Decision):
    """Train the surrogate on what has arrived. ``last`` marks the training after the last sample of the study."""

    reason: str
    last: bool = False


@dataclass(frozen=True, slots=True)
class Evaluate(Decision):
    """Measure the surrogate."""

    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint(Decision):
    """Write a snapshot of the surrogate."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause(Decision):
    """Launch nothing more until a person continues the study."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop(Decision):
    """End the study. ``state`` is done, stopped or failed."""

    state: str
    reason: str
