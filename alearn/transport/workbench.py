"""The thread in which steps are transformed, so that the loop that takes them in never waits for a transform."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alearn.errors import AlearnError, SchemaError, TransportError
from alearn.transform.pipeline import Pipeline
from alearn.transport.base import Broken, Hello, Message
from alearn.types import Sample, Schema

STEP_BYTES = 1 << 30
"""The largest raw step; a stream may announce anything."""
CLOSE_S = 120.0


@dataclass(frozen=True, slots=True)
class Announced:
    """A hello with what its raw steps carry and what they will carry behind the transforms, or why they cannot be transformed."""

    hello: Hello
    given: Schema
    schema: Schema | None
    why: str = ""

    @property
    def member(self) -> str:
        return self.hello.member


@dataclass(frozen=True, slots=True)
class Done:
    """What became of some messages, in their order; its ``samples`` had so many bytes before and took so many seconds."""

    messages: Sequence[Message | Announced]
    samples: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """A message, and whether it is a sample that is still to be transformed."""

    message: Message
    raw: bool = False


@final
class Workbench:
    """Transforms samples and hellos in a thread of its own, in the order in which they are given.

    numpy lets go of the interpreter during everything that takes long, so the loop goes on beside it.

    Args:
        pipeline: the study's transforms. Who else has them learn something holds ``using`` meanwhile.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.using = threading.Lock()
        self._changed = threading.Condition()
        self._jobs: deque[Sequence[Job]] = deque()
        self._done: deque[Done] = deque()
        self._members: Counter[str] = Counter()
        self._failure: Exception | None = None
        self._closing = self._refresh = self._working = False
        self._thread: threading.Thread | None = None
        self.bytes = 0
        """Of the steps that were given and are not yet taken."""

    @property
    def busy(self) -> bool:
        """Whether something is being done, waits for it, or is done and not yet taken."""
        with self._changed:
            return bool(self._working or self._jobs or self._done or self._refresh)

    def holds(self, member: str) -> bool:
        """Whether anything of a member is here, which its later words must not overtake."""
        return self._members[member] > 0

    def give(self, jobs: Sequence[Job]) -> None:
        """Hand over messages: raw samples are transformed together, hellos get their schema, all else passes."""
        self._members.update(job.message.member for job in jobs)
        self.bytes += _size(jobs)
        with self._changed:
            self._jobs.append(jobs)
            self._start()

    def refresh(self) -> None:
        """Let codecs take notice of what others have learned or could not represent, when there is time."""
        with self._changed:
            self._refresh = True
            self._start()

    def take(self, wait_s: float) -> list[Done]:
        """What is done; waits at most so long for the first of it.

        Raises:
            Exception: what ended the thread.
        """
        with self._changed:
            if wait_s > 0:
                self._changed.wait_for(lambda: self._done or self._failure, wait_s)
            done, self._done = list(self._done), deque()
            if self._failure is not None and not done:
                raise self._failure
        for one in done:
            self._members.subtract(m.member for m in one.messages)
            self.bytes -= one.bytes
        self._members += Counter()  # forgets those of whom nothing is left
        return done

    def knows(self, hello: Hello) -> bool:
        """Whether ``announced`` has nothing to do but look it up: then nobody need wait for what is busy here."""
        return not hello.schema.fields or (not hello.provenance.get("transformed") and hello.schema == self._pipeline.raw)

    def announced(self, hello: Hello) -> Announced:
        """What a stream's steps carry, before and behind the transforms; for the loop too, while nothing is busy here."""
        raw, given = hello.provenance.get("transformed"), hello.schema
        if not given.fields:
            return Announced(hello, given, given)
        try:
            given = Schema.from_json(json.dumps(raw)) if raw else given
            if given.nbytes > STEP_BYTES:
                raise SchemaError(f"Its raw steps have {given.nbytes} bytes; at most {STEP_BYTES} are transformed.")
            return Announced(hello, given, self._pipeline.schema(given))
        except AlearnError as error:
            return Announced(hello, given, None, str(error))

    def close(self) -> None:
        """End the thread; what it has not begun is left, for nobody has acknowledged it.

        Raises:
            TransportError: it does not end.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                raise TransportError(f"A transform did not end in {CLOSE_S:g} s; the process should be ended.")

    # --- the thread ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="alearn-transform", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._refresh or self._closing)
                if self._closing:
                    return
                self._working = True
                jobs = self._jobs.popleft() if self._jobs else None
                self._refresh &= jobs is not None
            try:
                with self.using:
                    done = None if jobs is None else self._work(jobs)
                    if jobs is None:
                        self._pipeline.refresh()
            except Exception as error:  # noqa: BLE001 - told to the loop by take()
                with self._changed:
                    self._failure, self._working = error, False
                    self._changed.notify_all()
                return
            with self._changed:
                self._working = False
                if done is not None:
                    self._done.append(done)
                    self._changed.notify_all()

    def _work(self, jobs: Sequence[Job]) -> Done:
        raw = [job.message for job in jobs if job.raw and isinstance(job.message, Sample)]
        began = time.perf_counter()
        made = iter(self._transformed(raw))
        seconds = time.perf_counter() - began
        out: list[Message | Announced] = []
        for job in jobs:
            message = job.message
            out.append(next(made) if job.raw else self.announced(message) if isinstance(message, Hello) else message)
        return Done(out, len(raw), _size(jobs), seconds)

    def _transformed(self, samples: Sequence[Sample]) -> list[Sample | Broken]:
        try:
            values = self._pipeline.take([s.values for s in samples], [s.key for s in samples]) if samples else []
        except AlearnError:
            return [self._alone(s) for s in samples]  # one of them does not fit: which one?
        return [dataclasses.replace(s, values=v) for s, v in zip(samples, values, strict=True)]

    def _alone(self, sample: Sample) -> Sample | Broken:
        try:
            return dataclasses.replace(sample, values=self._pipeline.take([sample.values], [sample.key])[0])
        except AlearnError as error:
            return Broken(sample.member, sample.attempt, f"step {sample.step}: {error}", fault=True)


def _size(jobs: Sequence[Job]) -> int:
    return sum(v.nbytes for job in jobs if isinstance(job.message, Sample) for v in job.message.values.values())
