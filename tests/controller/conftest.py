"""A small way to write down studies as events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alearn import events as ev
from alearn.controller import (
    BudgetSpent,
    FailureBudget,
    KeepSlotsFull,
    Learn,
    NeverKill,
    Policy,
    Retry,
    Rounds,
    StudyState,
    apply,
)
from alearn.types import member_id


class Story:
    """Writes events one after the other, a second apart, and folds them."""

    def __init__(self, **budget: float) -> None:
        self.state = StudyState()
        self.events: list[ev.Event] = []
        self.now = 0.0
        self.tell(ev.StudyStarted, study="s", arm="active", seed=1, budget=budget)

    def tell(self, kind: type[ev.Event], **fields: Any) -> StudyState:
        self.now += 1.0
        event = kind(at=self.now, **fields)
        apply(self.state, event)
        self.events.append(event)
        return self.state

    def queue(self, n: int = 1, origin: str = "acquisition", score: float = 1.0, round: int = 1) -> list[str]:
        ids = [member_id(self.state.queued_total + i) for i in range(n)]
        for i in ids:
            self.tell(ev.MemberQueued, member=i, parameters={"a": 0.5}, x=(0.5,), origin=origin, score=score, round=round)
        return ids

    def launch(self, member: str, attempt: int = 1, steps_total: int = 0) -> None:
        self.tell(ev.MemberLaunched, member=member, attempt=attempt)
        self.tell(ev.MemberRunning, member=member, attempt=attempt, steps_total=steps_total)

    def steps(self, member: str, n: int, attempt: int = 1) -> None:
        have = self.state.look(member).steps
        self.tell(ev.SamplesStored, member=member, attempt=attempt, steps=n, last=have + n - 1, t=float(have + n))

    def end(self, member: str, state: str = "done", attempt: int = 1, **more: Any) -> None:
        self.tell(ev.MemberEnded, member=member, attempt=attempt, state=state, **more)

    def whole(self, origin: str = "acquisition", steps: int = 10, state: str = "done", **more: Any) -> str:
        (member,) = self.queue(origin=origin)
        self.launch(member)
        self.steps(member, steps)
        self.end(member, state, **more)
        return member

    def refit(self, **more: Any) -> None:
        self.tell(ev.Refitted, updates=self.state.updates + 10, samples=self.state.steps, **more)

    def evaluate(self, **error: float) -> None:
        self.tell(ev.Evaluated, simulated_steps=self.state.steps, members=self.state.with_data, error=error)

    def score(self, member: str, remaining: float, best: float = 1.0, step: int | None = None, left: int = 0) -> None:
        at = self.state.look(member).steps - 1 if step is None else step
        self.tell(ev.MemberScored, member=member, step=at, remaining_value=remaining, best_value=best, remaining_steps=left)


@pytest.fixture
def story() -> Callable[..., Story]:
    return Story


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    def make(**parts: Any) -> Policy:
        standard: dict[str, Any] = {
            "launch": KeepSlotsFull(),
            "kill": NeverKill(),
            "acquire": Rounds(design=4, q=2),
            "learn": Learn(),
            "stop": [BudgetSpent(), FailureBudget()],
            "failure": Retry(),
        }
        return Policy(**{**standard, **parts})

    return make
