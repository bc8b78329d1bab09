"""Time division: the learner in a thread of the controller's process. torch lets the loop go on while it computes."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import final

from alearn.errors import StudyFailed
from alearn.learner import Answer, Fact, Learner, Question, Stored, Vitals
from alearn.types import Sample

log = logging.getLogger(__name__)

CLOSE_S = 20.0


@final
class InlineLearner:
    """A learner in a thread.

    Args:
        learner: what runs there.
        samples: what is to be taken in of a fact that samples are stored; called in the thread that tells it.
    """

    def __init__(self, learner: Learner, samples: Callable[[Stored], Iterable[Sequence[Sample]]] = lambda fact: fact.samples or ()) -> None:
        self._learner = learner
        self._samples = samples
        self._inbox: queue.SimpleQueue[Fact | Question | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alearn-learner", daemon=True)
        self._thread.start()

    def tell(self, fact: Fact) -> None:
        """A fact; samples are prepared at once, and learned in the thread."""
        self._inbox.put(Stored(fact.upto, list(self._samples(fact))) if isinstance(fact, Stored) else fact)

    def ask(self, question: Question) -> None:
        """Ask; the answer comes by ``answers``."""
        self._inbox.put(question)

    def answers(self) -> list[Answer]:
        """The answers since the last call.

        Raises:
            StudyFailed: the learner broke; the cause is chained.
        """
        found: list[Answer] = []
        while True:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return found
            if isinstance(answer, BaseException):
                raise StudyFailed(f"The learner failed while {self._learner.doing}: {type(answer).__name__}: {answer}") from answer
            found.append(answer)

    def vitals(self) -> Vitals:
        """How it is, without waiting."""
        return self._learner.vitals()

    def close(self) -> None:
        """Stop the thread after what it is doing now."""
        self._stop.set()
        self._inbox.put(None)
        self._thread.join(timeout=CLOSE_S)

    def _run(self) -> None:
        try:
            self._learner.run(self._inbox, self._answers.put, self._stop)
        except BaseException as error:
            log.exception("the learner failed")
            self._answers.put(error)
