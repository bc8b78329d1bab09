"""Time division: simulations and training take turns on the same cores."""

from __future__ import annotations

from collections.abc import Sequence

from alearn.controller.decisions import Decision, Duplicate, Evaluate, Launch, Refit


def take_turns(decisions: Sequence[Decision], *, running: bool, training: bool) -> list[Decision]:
    """What of these may be done now, if members and training must not run at the same time.

    Training waits until no member runs; while it waits and while it lasts no member starts. So the running members end, the
    surrogate is trained on all cores, and the next members start with what it has learned.

    Args:
        decisions: of the policy, which decides the same again until it is done.
        running: a member runs.
        training: the learner is at work.
    """
    wanted = training or any(isinstance(d, (Refit, Evaluate)) for d in decisions)
    held: tuple[type[Decision], ...] = ()
    if wanted:
        held += (Launch, Duplicate)
    if running:
        held += (Refit, Evaluate)
    return [d for d in decisions if not isinstance(d, held)]
