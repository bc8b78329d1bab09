"""The learner as the study's loop sees it, wherever it runs."""

from __future__ import annotations

import time
from typing import Any, Protocol

from alearn.errors import DeadlineExceeded
from alearn.learner import Answer, Fact, Question, Vitals

LOOK_S = 0.01


class Learning(Protocol):
    """A learner somewhere. No method waits for it but ``close``."""

    def tell(self, fact: Fact) -> None:
        """A fact; in order with everything told and asked."""
        ...

    def ask(self, question: Question) -> None:
        """Ask; the answer comes by ``answers``."""
        ...

    def answers(self) -> list[Answer]:
        """The answers since the last call, in the order of their questions.

        Raises:
            StudyFailed: the learner broke; the sentence says where and why.
        """
        ...

    def vitals(self) -> Vitals:
        """How it is, as far as is known now."""
        ...

    def close(self) -> None:
        """End it after what it is doing now, and for certain at a deadline."""
        ...


def wait(learner: Learning, question: Question, deadline_s: float) -> Any:
    """Ask and wait for the answer (at the end of a study, or in one that is asked and told; never inside the loop).

    Raises:
        DeadlineExceeded: it did not answer in time; says what it is doing.
        StudyFailed: it broke.
    """
    learner.ask(question)
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        for answer in learner.answers():
            if answer.question is question:
                return answer.result
        time.sleep(LOOK_S)
    raise DeadlineExceeded(
        f"The learner did not answer '{type(question).__name__}' within {deadline_s:.0f} s; it is {learner.vitals().doing}."
    )
