"""Replay: what a policy decides on recorded events, and where that differs from what was done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from alearn import events as ev
from alearn.controller.decisions import Acquire, Checkpoint, Decision, Evaluate, Kill, Launch, Pause, Refit, Requeue, Spare, Stop, Withdraw
from alearn.controller.folding import apply
from alearn.controller.policy import Policy
from alearn.controller.state import StudyState

_KINDS: dict[type[ev.Event], type[Decision]] = {
    ev.MemberLaunched: Launch,
    ev.KillRequested: Kill,
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
    for number, event in enumerate(events):
        decisions = tuple(policy.decide(state, event.at))
        yield Step(number, event, decisions, _agrees(event, decisions))
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


def _agrees(event: ev.Event, decisions: tuple[Decision, ...]) -> bool | None:
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
