"""Replay: what a policy decides on recorded events, and where that differs from what was done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from alearn import events as ev
from alearn.controller.decisions import (
    Acquire,
    Checkpoint,
    Decision,
    Duplicate,
    Evaluate,
    Kill,
    Launch,
    Pause,
    Refit,
    Requeue,
    Spare,
    Stop,
    Withdraw,
)
from alearn.controller.folding import apply
from alearn.controller.policy import Policy
from alearn.controller.state import StudyState
from alearn.controller.stragglers import COPY

_LEARNED = (Acquire, Refit, Evaluate, Checkpoint)
"""Decisions that the learner carries out while the study goes on: their event comes later, and finds another state."""

BY_USER = "by the user"
"""How the reason of what the user did ends."""

_KINDS: dict[type[ev.Event], type[Decision]] = {
    ev.MemberLaunched: Launch,
    ev.KillRequested: Kill,
    ev.CopyLaunched: Duplicate,
    ev.GhostSpared: Spare,
    ev.MemberRequeued: Requeue,
    ev.RoundDecided: Acquire,
    ev.Refitted: Refit,
    ev.Evaluated: Evaluate,
    ev.SnapshotWritten: Checkpoint,
    ev.StudyPaused: Pause,
    ev.StudyEnded: Stop,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded event and what the policy decides on the state before it.

    Args:
        number: place of the event, from 0.
        event: as recorded.
        decisions: the policy's, at the event's time.
        agrees: True or False if the event carries out a decision of the policy or not; None if the event is a
            fact that no policy decides.
    """

    number: int
    event: ev.Event
    decisions: tuple[Decision, ...]
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where the policy decides otherwise than was recorded, as one sentence."""

    number: int
    at: float
    what: str


def replay(events: Iterable[ev.Event], policy: Policy) -> Iterator[Step]:
    """Re-derive the decisions of a study from its events.

    Args:
        events: in their order.
        policy: the one that decides.

    Yields:
        A step for every event.

    Raises:
        IllegalEvent: the events do not follow from each other.
    """
    state = StudyState()
    standing: dict[type[Decision], Decision] = {}
    for number, event in enumerate(events):
        decisions = tuple(policy.decide(state, event.at))
        standing |= {type(d): d for d in decisions if isinstance(d, _LEARNED)}
        asked = tuple(d for d in standing.values() if type(d) is _KINDS.get(type(event)))
        yield Step(number, event, decisions, _agrees(event, (*decisions, *asked)))
        for d in asked:
            del standing[type(d)]
        apply(state, event)


def differences(events: Iterable[ev.Event], policy: Policy) -> list[Difference]:
    """Where the policy would have decided otherwise.

    Only the next step is compared, on the recorded state: what would have come of another decision is not
    simulated, because nobody ran those members. Kills are compared in both directions: recorded ones that the
    policy does not want, and wanted ones that never happened.
    """
    out: list[Difference] = []
    wanted: dict[tuple[str, int], tuple[int, float, Kill]] = {}
    for step in replay(events, policy):
        for d in step.decisions:
            if isinstance(d, Kill):
                wanted.setdefault((d.member, d.attempt), (step.number, step.event.at, d))
        e = step.event
        if isinstance(e, ev.KillRequested):
            wanted.pop((e.member, e.attempt), None)
        elif isinstance(e, ev.MemberEnded):
            missed = wanted.pop((e.member, e.attempt), None)
            if missed is not None:
                number, at, kill = missed
                out.append(
                    Difference(number, at, f"{e.member} would have been killed here ({kill.reason}); it went on and ended {e.state}")
                )
        if step.agrees is False:
            out.append(Difference(step.number, e.at, f"{_said(e)}; the policy decides {_wants(step.decisions)}"))
    return sorted(out, key=lambda d: d.number)


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What another kill policy would have done on the recorded members, as far as anybody can know.

    Args:
        members: members that streamed.
        scored: scores of running members that the study wrote down; without them no value can be judged.
        earlier: members that it would have killed and that ran on: their steps are known, and so is what it would have saved.
        saved_steps: steps that those members made after that.
        same: recorded kills that it wants too, at the latest when they happened.
        unwanted: recorded kills that it does not want.
        unknown_steps: steps that those members were expected to make and nobody simulated.
        spared: members that it would have let run on as ghosts.
    """

    members: int
    scored: int
    earlier: tuple[str, ...]
    saved_steps: int
    same: int
    unwanted: tuple[str, ...]
    unknown_steps: int
    spared: int


def hindsight(events: Iterable[ev.Event], policy: Policy) -> Hindsight:
    """Ask another policy about the kills of a recorded study.

    A kill that it wants before the member ended is taken at its word: what the member did after it counts as saved. It
    is judged on the recorded state, so with the surrogate, the queue and the budget as they were.

    Raises:
        IllegalEvent: the events do not follow from each other.
    """
    wanted: dict[tuple[str, int], int] = {}
    ghosts: set[str] = set()
    steps: dict[str, int] = {}
    earlier: dict[str, int] = {}
    unwanted: dict[str, int] = {}
    scored = same = 0
    for step in replay(events, policy):
        for d in step.decisions:
            if isinstance(d, Kill) and not d.fault and (d.member, d.attempt) not in wanted:
                wanted[d.member, d.attempt] = steps.get(d.member, 0)
            elif isinstance(d, Spare):
                ghosts.add(d.member)
        match step.event:
            case ev.SamplesStored(member=m, steps=n):
                steps[m] = steps.get(m, 0) + n
            case ev.MemberScored():
                scored += 1
            case ev.KillRequested(member=m, attempt=a, fault=False, reason=why, cause=cause) if cause != COPY and not why.endswith(BY_USER):
                if (m, a) in wanted:
                    same += 1
                else:
                    unwanted[m] = step.event.saved_steps
            case ev.MemberEnded(member=m, attempt=a) if (m, a) in wanted:
                after = steps.get(m, 0) - wanted.pop((m, a))
                if after > 0:
                    earlier[m] = after
    return Hindsight(
        members=len(steps),
        scored=scored,
        earlier=tuple(earlier),
        saved_steps=sum(earlier.values()),
        same=same,
        unwanted=tuple(unwanted),
        unknown_steps=sum(unwanted.values()),
        spared=len(ghosts),
    )


def _agrees(event: ev.Event, decisions: tuple[Decision, ...]) -> bool | None:
    if getattr(event, "reason", "").endswith(BY_USER):
        return None  # nobody's decision but the user's
    if isinstance(event, ev.MemberRescored):
        if not event.withdrawn:
            return None
        return any(isinstance(d, Withdraw) and d.member == event.member for d in decisions)
    kind = _KINDS.get(type(event))
    if kind is None:
        return None
    for d in decisions:
        if type(d) is not kind:
            continue
        if isinstance(d, Launch | Kill | Spare | Requeue):
            if d.member == getattr(event, "member", ""):
                return True
        elif isinstance(d, Acquire) and isinstance(event, ev.RoundDecided):
            return d.q >= event.q
        elif isinstance(d, Stop) and isinstance(event, ev.StudyEnded):
            return d.state == event.state
        else:
            return True
    return False


def _said(event: ev.Event) -> str:
    member = getattr(event, "member", "")
    reason = getattr(event, "reason", "")
    return type(event).__name__ + (f" of {member}" if member else "") + (f" ({reason})" if reason else "")


def _wants(decisions: tuple[Decision, ...]) -> str:
    if not decisions:
        return "nothing"
    words = [type(d).__name__.lower() + (f" {m}" if (m := getattr(d, "member", "")) else "") for d in decisions[:4]]
    return ", ".join(words) + (f" and {len(decisions) - 4} more" if len(decisions) > 4 else "")
