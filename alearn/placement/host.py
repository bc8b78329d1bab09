"""What runs in a learner's process.

The main thread learns and answers; another listens and gives the pulse, so that a long fit is not taken for silence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from alearn.assembly import find_reference, make_trainer
from alearn.config import Config
from alearn.errors import AlearnError, TransportError
from alearn.learner import Answer, Fact, Gone, Hold, Learner, Question, Stored, Vitals
from alearn.ledger import Ledger
from alearn.ledger.tail import Tail
from alearn.placement.opening import take_up
from alearn.placement.process import STARTING
from alearn.placement.ranks import Follower, RankLost, Together, meeting
from alearn.placement.recall import ReadBack
from alearn.placement.words import Asked, Broke, Close, Message, Opening, Said, Told, Unpacker, pack
from alearn.registry import build
from alearn.space import Space
from alearn.surrogate.base import Parallel
from alearn.trainer import InlineTrainer
from alearn.transform.pipeline import Pipeline
from alearn.types import Sample, Schema

PULSE_S = 0.25
CHUNK = 1 << 18


class Line:
    """The connection to the controller (or of another rank to rank 0)."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._unpacker = Unpacker()
        self._waiting: list[Message] = []
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Say something; any thread may."""
        with self._lock:
            self._channel.sendall(pack(message))

    def next(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None if there is none within the time.

        Raises:
            EOFError: the other side is gone.
        """
        while not self._waiting:
            if not select.select([self._channel], [], [], timeout_s)[0]:
                return None
            data = self._channel.recv(CHUNK)
            if not data:
                raise EOFError
            self._waiting += self._unpacker.feed(data)
        return self._waiting.pop(0)


class _LogToLine(logging.Handler):
    """What the learner logs appears in the controller's log."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.WARNING)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line.send(Said(record.levelno, record.getMessage()))


class Host:
    """The learner of a study, in this process.

    Args:
        opening: what it is made from.
        line: to the controller.
    """

    def __init__(self, opening: Opening, line: Line) -> None:
        self.opening, self.line = opening, line
        self.config = Config.from_mapping(opening.config)
        self.directory = Path(opening.directory)
        self._inbox: queue.SimpleQueue[Fact | Question | None] = queue.SimpleQueue()
        self._numbers: dict[int, int] = {}
        self._stop = threading.Event()
        self._learner: Learner | None = None
        self._tail: Tail | None = None
        self._pipeline: Pipeline | None = None
        self.listener = threading.Thread(target=self._listen, name="alearn-listen", daemon=True)

    def run(self) -> None:
        """Make the learner and serve until the controller closes it."""
        self.listener.start()
        with contextlib.ExitStack() as group:
            learner = self._make()
            if self.opening.followers:
                self._meet(learner.trainer, group)
            self._learner = learner
            learner.run(self._inbox, self._answer, self._stop)

    @property
    def doing(self) -> str:
        """What it is doing, in words."""
        return STARTING if self._learner is None else self._learner.doing

    def _make(self) -> Learner:
        config, space = self.config, Space.from_config(self.config.space)
        with Ledger.open(self.directory, readonly=True) as ledger:
            stored = ledger.schema()
            assert stored is not None
            trainer = make_trainer(config, space, self._learned(stored))
            if not self.opening.fresh:
                take_up(trainer, self.directory, ledger)
        fields = trainer.fields if self._pipeline is None else None
        self._tail = Tail(self.directory, fields)
        trainer.recall_from(ReadBack(self.directory, fields, self._prepared))
        acquisition = build("acquisition", config.acquisition.name, config.acquisition.options, seed=config.seed)
        return Learner(trainer, acquisition, space, find_reference(config, space), config.seed)

    def _meet(self, trainer: InlineTrainer, group: contextlib.ExitStack) -> None:
        """Let the other ranks train with this one until ``group`` is left."""
        channels = [group.enter_context(socket.socket(fileno=number)) for number in self.opening.followers]
        together = Together(channels, self.opening, trainer)
        group.enter_context(meeting(self.opening, trainer.device, 0, 1 + len(channels)))
        group.callback(together.close)
        assert isinstance(trainer.surrogate, Parallel)
        trainer.surrogate.work_with(together)
        trainer.work_with(together)

    def _learned(self, stored: Schema) -> Schema:
        """What is learned of steps that are stored so."""
        wish = self.config.transform
        if not (wish.steps and wish.on_read):
            return stored
        self._pipeline = wish.pipeline()
        self._pipeline.keep_in(self.directory, learn=False)
        return self._pipeline.schema(stored)

    def _samples(self, upto: int) -> Iterator[Sequence[Sample]]:
        """What was stored since, read when the learner takes it in."""
        assert self._tail is not None
        for chunk in self._tail.read(upto):
            yield self._prepared(chunk)

    def _prepared(self, stored: list[Sample]) -> list[Sample]:
        """Stored samples as they are learned from."""
        if self._pipeline is None:
            return stored
        return [Sample(s.member, s.attempt, s.step, s.t, s.parameters, self._pipeline.apply(s.values)) for s in stored]

    def _answer(self, answer: Answer) -> None:
        number = self._numbers.pop(id(answer.question))
        self.line.send(Told(number, answer.seconds, type(answer.question).__name__, answer.result))

    # --- the other thread ------------------------------------------------------------------------------------

    def _listen(self) -> None:
        due = time.monotonic()
        try:
            while True:
                if time.monotonic() >= due:
                    self.line.send(Vitals(doing=self.doing) if self._learner is None else self._learner.vitals())
                    due = time.monotonic() + PULSE_S
                message = self.line.next(max(0.0, due - time.monotonic()))
                if message is not None:
                    self._hear(message)
        except (EOFError, OSError, TransportError):
            os._exit(0)  # the controller is gone, and this process with it

    def _hear(self, message: Message) -> None:
        match message:
            case Asked():
                question: Question = message.question
                self._numbers[id(question)] = message.number
                self._inbox.put(question)
            case Stored():
                self._inbox.put(Stored(message.upto, self._samples(message.upto)))
            case Gone() | Hold():
                self._inbox.put(message)
            case Close():
                self._stop.set()
                self._inbox.put(None)


def follow(line: Line, opening: Opening, rank: int, ranks: int) -> None:
    """Serve rank 0 until it says that it is over."""
    follower = Follower(opening, rank, ranks)
    with meeting(opening, follower.device, rank, ranks):
        while (message := line.next()) is None or follower.heed(message):
            pass


def serve(channel: int, rank: int, ranks: int) -> int:
    """Be the learner's process of that rank; returns the exit code."""
    line = Line(socket.socket(fileno=channel))
    opening = line.next()
    assert isinstance(opening, Opening)
    sys.path += [folder for folder in opening.path if folder not in sys.path]
    if rank:
        follow(line, opening, rank, ranks)
        return 0
    logging.getLogger("alearn").addHandler(_LogToLine(line))
    host = Host(opening, line)
    try:
        host.run()
    except BaseException as error:
        traceback.print_exc()
        text = str(error) if isinstance(error, AlearnError) else f"{type(error).__name__}: {error}"
        line.send(Broke(host.doing, text, again=isinstance(error, RankLost)))
        return 1
    return 0
