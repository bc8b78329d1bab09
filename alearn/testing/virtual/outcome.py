"""What became of a virtual study, and what happened in it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alearn import events as ev


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a virtual study.

    Args:
        state, reason: as it ended; "stuck" if nothing could happen any more, for a cause that the faults explain.
        wall_s: virtual seconds.
        slot_s: slot-seconds that members held.
        core_s: core-seconds that members used.
        utilisation: share of the slots that was held, over the whole time.
        counts: members by state.
        members, steps, saved_steps: launched; stored; not simulated because of kills.
        events, turns, controllers: of the loop; how many controllers the study needed.
        rounds, refits: of the learner.
        error: the last measurement.
    """

    state: str
    reason: str
    wall_s: float
    slot_s: float
    core_s: float
    utilisation: float
    counts: Mapping[str, int]
    members: int
    steps: int
    saved_steps: int
    events: int
    turns: int
    controllers: int
    rounds: int
    refits: int
    error: Mapping[str, float]


def line(event: ev.Event) -> str:
    """An event in one line of the trace."""
    parts = [type(event).__name__]
    for name in ("member", "attempt", "steps", "last", "duplicates", "state", "cause", "reason", "q", "slots"):
        value = getattr(event, name, None)
        if value not in (None, ""):
            parts.append(f"{name}={value}")
    return " ".join(parts)
