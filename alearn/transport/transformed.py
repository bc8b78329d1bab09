"""A reader whose steps come out transformed, wherever that happens: at their writers, or here between stream and ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from alearn.transform.base import Described, listed
from alearn.transform.pipeline import FOLDER, Pipeline, arrays
from alearn.transform.planner import Place, Planner
from alearn.transform.writer import COSTS, VARIABLE, spec
from alearn.transport.base import Broken, End, Hello, Message, Reader
from alearn.transport.workbench import Announced, Done, Job, Workbench
from alearn.types import Array, Sample, Schema

log = logging.getLogger(__name__)

PLAN = "plan.json"
HOLD_S = 2.0
"""How long the first steps may wait until a codec has as many as it would like to learn from."""
LOOK_S = 1.0
_BENCH_BYTES = 64 << 20
"""Bytes of steps that may wait for their transform, before the carrier is asked for no more."""
_GLANCE_S = 0.005
"""How long the loop waits for a transform at a time; between two looks it takes in what has come."""


@final
class TransformedReader:
    """Wraps a reader. Steps of writers that transform pass; those of others are transformed here.

    The transforms run in a thread beside the loop (``Workbench``). While a codec has nothing to encode with, steps are held back,
    unacknowledged, until it has seen enough of them or ``HOLD_S`` is over. A stream that does not fit the transforms costs its
    member, with the reason.

    Args:
        reader: the carrier's.
        pipeline: the study's transforms; the codecs in it learn here.
        planner: says where each attempt transforms.
        directory: the arm's directory; versions and plan are kept in its folder ``transform``.
        on_read: give the steps out as they are; ``prepared`` transforms those that are learned from.
    """

    def __init__(self, reader: Reader, pipeline: Pipeline, planner: Planner, directory: Path, on_read: bool = False) -> None:
        self._reader, self.pipeline, self.planner, self._directory = reader, pipeline, planner, directory
        self._on_read = on_read
        (directory / FOLDER).mkdir(parents=True, exist_ok=True)
        pipeline.keep_in(directory, learn=True)
        self._bench = Workbench(pipeline)
        self._attempts: dict[tuple[str, int], Place] = {}
        self._refused: set[tuple[str, int]] = set()
        self._held: deque[Job] = deque()
        self._held_since = 0.0
        self._left = self._prepared_s = 0.0
        self._given: dict[Place, int] = {}
        self._described = False
        self._looked = 0.0
        self.said: deque[str] = deque(maxlen=16)
        """Sentences for people."""
        self.steps: dict[Place, int] = {"writer": 0, "reader": 0}
        self.read = 0
        """Samples that were transformed when they were read."""
        self._resume()

    # --- what the loop calls ---------------------------------------------------------------------------------

    @property
    def carrier(self) -> Reader:
        """The reader behind this one."""
        return self._reader

    def address(self, member: str, attempt: int) -> Mapping[str, str]:
        """The reader's variables, and what the attempt is to do with its steps."""
        costs = self._costs(member, attempt)
        at = self.planner.assign(costs, self.pipeline.ready)
        pipeline = self.pipeline if at == "writer" else None
        self._attempts[member, attempt] = at
        return {**self._reader.address(member, attempt), VARIABLE: spec(pipeline, self._directory, costs)}

    def poll(self, timeout_s: float, max_messages: int = 256) -> Sequence[Message]:
        """What arrived, transformed.

        Raises:
            Exception: what a transform raised that is no fault of a stream (a full disk, a bug in it).
        """
        self._account()
        out: list[Message] = []
        until = time.monotonic() + timeout_s
        while True:
            left = max(0.0, until - time.monotonic())
            if self._bench.bytes < _BENCH_BYTES:  # beyond it the writers wait
                for message in self._reader.poll(0.0 if out or self._due() or self._bench.busy else left, max_messages):
                    self._sort(message, out)
            if self._due():
                held, self._held = list(self._held), deque()
                self._bench.give([job for job in held if not (job.raw and (job.message.member, job.message.attempt) in self._refused)])
            wait = min(_GLANCE_S, until - time.monotonic()) if self._bench.busy and not out else 0.0
            for done in self._bench.take(wait):
                self._hand_out(done, out)
            if out or time.monotonic() >= until:
                break
        self._look()
        self._given = {}
        for message in out:
            if isinstance(message, Sample):
                at = self._attempts.get((message.member, message.attempt), "reader")
                self._given[at] = self._given.get(at, 0) + 1
                self.steps[at] += 1
        self._left = time.perf_counter()
        return out

    def acknowledge(self, member: str, attempt: int, steps: int) -> None:
        """Passes on."""
        self._reader.acknowledge(member, attempt, steps)

    def stop(self, member: str, attempt: int) -> None:
        """Passes on."""
        self._reader.stop(member, attempt)

    def close(self) -> None:
        """Write the plan down and close the carrier."""
        try:
            self._bench.close()
            self._save()
        finally:
            self._reader.close()

    def told(self, member: str, steps: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> tuple[Schema, list[dict[str, Array]]]:
        """Steps that the user ran: what is stored of them, and its schema.

        Raises:
            SchemaError: a transform does not fit.
        """
        with self._bench.using:
            return self._told(member, steps, units)

    def _told(self, member: str, steps: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> tuple[Schema, list[dict[str, Array]]]:
        raw = Schema.of(steps[0], units) if self.pipeline.raw is None else self.pipeline.raw
        schema = self.pipeline.schema(raw)
        self.planner.sizes(raw.nbytes, schema.nbytes)
        self.steps["reader"] += len(steps)
        if self._on_read:
            return raw, [raw.conform(s) for s in steps]
        self.pipeline.describe_in(self._directory)
        return schema, self.pipeline.take([arrays(s) for s in steps], [(member, i) for i in range(len(steps))])

    def learned(self, stored: Schema) -> Schema:
        """What the learner is given of steps that are stored so."""
        return self.pipeline.schema(stored) if self._on_read else stored

    def prepared(self, samples: Sequence[Sample], fields: Sequence[str]) -> list[Sample]:
        """Stored samples as the learner is given them: transformed now, if that is when it is done and it needs any of it."""
        raw = self.pipeline.raw
        if not self._on_read or raw is None or not samples:
            return list(samples)
        plain = {f.name for f in raw.fields} & {f.name for f in self.pipeline.schema(raw).fields if f in raw.fields}
        if plain.issuperset(fields):
            return list(samples)
        began = time.perf_counter()
        values = [self.pipeline.apply(s.values) for s in samples]
        self._prepared_s = time.perf_counter() - began
        self.planner.transformed(self._prepared_s, len(samples))
        self.read += len(samples)
        return [dataclasses.replace(s, values=v) for s, v in zip(samples, values, strict=True)]

    def needed(self, fields: Sequence[str]) -> Sequence[str] | None:
        """Which stored fields are read for those that are learned; None is all."""
        return None if self._on_read else fields

    # --- inside ----------------------------------------------------------------------------------------------

    def _sort(self, message: Message, out: list[Message]) -> None:
        """Give a message out, hold it back, hand it to the bench, or drop it."""
        key = (message.member, message.attempt)
        if isinstance(message, Sample) and key in self._refused:
            return
        if isinstance(message, Hello) and message.schema.fields:
            at: Place = "writer" if message.provenance.get("transformed") else "reader"
            if at == "reader" and self._attempts.get(key) == "writer":
                self.planner.foreign()
            self._attempts[key] = at
        raw = isinstance(message, Sample) and not self._on_read and self._attempts.get(key) != "writer"
        if raw or any(job.message.member == message.member for job in self._held):
            if not self._held:
                self._held_since = time.monotonic()
            self._held.append(Job(message, raw))  # an end waits for the steps before it
        elif self._bench.holds(message.member) or (isinstance(message, Hello) and self._bench.busy and not self._bench.knows(message)):
            self._bench.give([Job(message)])
        else:
            self._pass(self._bench.announced(message) if isinstance(message, Hello) else message, out)

    def _hand_out(self, done: Done, out: list[Message]) -> None:
        if done.samples:
            self.planner.transformed(done.seconds, done.samples)
        for message in done.messages:
            self._pass(message, out)

    def _pass(self, message: Message | Announced, out: list[Message]) -> None:
        """Give a message out, if its stream was not refused meanwhile."""
        if isinstance(message, Announced):
            self._refused.discard((message.member, message.hello.attempt))
            message = self._opened(message)
        key = (message.member, message.attempt)
        if isinstance(message, End):
            self.planner.ended(self._costs(*key))
        if isinstance(message, (Sample, Broken)) and key in self._refused:
            return  # a step before it did not fit
        out.append(message)
        if isinstance(message, Broken) and message.fault:
            self._refuse(key)

    def _opened(self, announced: Announced) -> Hello | Broken:
        """What a stream announces, as it is given out."""
        hello, given, schema = announced.hello, announced.given, announced.schema
        if not hello.schema.fields:
            return hello
        if schema is None:
            return Broken(hello.member, hello.attempt, announced.why, fault=True)
        if hello.provenance.get("transformed") and schema != hello.schema:
            said = (
                f"It transforms to {listed(hello.schema)}; the study's transforms give {listed(schema)}: is it another version of alearn?"
            )
            return Broken(hello.member, hello.attempt, said, fault=True)
        self.planner.sizes(given.nbytes, schema.nbytes)
        if not self._described:
            if not self._on_read:
                self.pipeline.describe_in(self._directory)
            self._described = True
        return hello if self._on_read else dataclasses.replace(hello, schema=schema)

    def _due(self) -> bool:
        """Whether what is held may be transformed."""
        if not self._held:
            return False
        return sum(job.raw for job in self._held) >= self.pipeline.wanted or time.monotonic() - self._held_since > HOLD_S

    def _refuse(self, key: tuple[str, int]) -> None:
        self._refused.add(key)
        self._reader.stop(*key)

    def _account(self) -> None:
        """How long the loop was busy with what it was given."""
        if self._given:
            self.planner.handled(time.perf_counter() - self._left - self._prepared_s, self._given)
        self._prepared_s = 0.0

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if self.pipeline.learning:
            self._bench.refresh()
        sentence = self.planner.look()
        if sentence:
            self.said.append(sentence)
            self._save()

    def _costs(self, member: str, attempt: int) -> Path:
        return (self._directory / "members" / member / str(attempt) / COSTS).resolve()

    def _resume(self) -> None:
        """Go on from the accounts of an earlier controller; without them, or from damaged ones, anew."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads((self._directory / FOLDER / PLAN).read_text())
            self.planner.sizes(said["raw_bytes"], said["out_bytes"])
            self.planner.resume(said)
            self.steps = {"writer": int(said["steps"]["writer"]), "reader": int(said["steps"]["reader"])}
            self.read = int(said["read"])

    def _save(self) -> None:
        codecs = [t.described() for t in self.pipeline.transforms if isinstance(t, Described)]
        said: dict[str, Any] = {
            **self.planner.account(),
            "steps": self.steps,
            "read": self.read,
            "on_read": self._on_read,
            "codecs": codecs,
        }
        path = self._directory / FOLDER / PLAN
        draft = path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk must not keep the study from closing
            draft.write_text(json.dumps(said, indent=1))
            draft.replace(path)
