"""The checker: a verdict on a study directory from its ledger and its data alone.

Written apart from the code that writes them: it opens ``ledger.sqlite`` with sqlite3, parses segments with struct and
reads the archive with adios2, and imports nothing of ``alearn.ledger``. Only the study must not be running.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alearn import events as ev
from alearn.controller import StudyState, apply
from alearn.errors import AlearnError, ConfigError, MissingDependency
from alearn.types import MemberState

HEAD = 64
FACTS = struct.Struct("<IIId")
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker found.

    Args:
        launched: members that were launched at least once.
        stored: samples in the ledger.
        samples: a checksum over time and fields for every (member, step), for comparison with another study.
        problems: one sentence for everything that is not as promised; none is the verdict "sound".
    """

    launched: int
    stored: int
    samples: Mapping[Key, int] = field(repr=False)
    problems: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.problems


def check(directory: Path, *, over: bool = True) -> Verdict:
    """Check a study: every sample once, without gaps, readable and as it was sent; every state and kill explained.

    Args:
        directory: the study's.
        over: the study has ended, so that nothing may be active any more.

    Raises:
        ConfigError: there is no ledger.
    """
    path = Path(directory) / "ledger.sqlite"
    if not path.is_file():
        raise ConfigError(f"There is no ledger.sqlite in {directory}; give the directory of a study.")
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return _Check(Path(directory), db, over).verdict()
    except sqlite3.DatabaseError as error:
        return Verdict(0, 0, {}, (f"the database cannot be read: {error}",))
    finally:
        db.close()


def differences(one: Verdict, other: Verdict) -> list[str]:
    """Where two studies do not hold the same samples, byte for byte."""
    out = [f"{m} step {s} is only in the first" for m, s in sorted(one.samples.keys() - other.samples.keys())]
    out += [f"{m} step {s} is only in the second" for m, s in sorted(other.samples.keys() - one.samples.keys())]
    both = sorted(one.samples.keys() & other.samples.keys())
    return out + [f"{m} step {s} has other bytes" for m, s in both if one.samples[m, s] != other.samples[m, s]]


class _Check:
    def __init__(self, directory: Path, db: sqlite3.Connection, over: bool) -> None:
        self.directory, self.db, self.over = directory, db, over
        self.problems: list[str] = []
        self.samples: dict[Key, int] = {}

    def verdict(self) -> Verdict:
        (sound,) = self.db.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            self.problems.append(f"SQLite finds the database damaged: {sound}")
        state = self._events()
        names = self._members(state)
        stored = self._samples(names)
        return Verdict(state.launched_total, stored, self.samples, tuple(self.problems))

    def _events(self) -> StudyState:
        """Replay the events: the chain holds, every event is legal, the budget was never overrun, kills have reasons."""
        state, previous, expected = StudyState(), 0, 1
        told: dict[tuple[str, int], str] = {}
        for seq, body, crc in self.db.execute("SELECT seq, body, chain FROM events ORDER BY seq"):
            if seq != expected or zlib.crc32(f"{seq}|{body}".encode(), previous) != crc:
                self.problems.append(f"the chain of events is broken at event {seq}")
            previous, expected = crc, seq + 1
            try:
                event = ev.decode(body)
                apply(state, event)
            except AlearnError as error:
                self.problems.append(f"event {seq}: {error}")
                continue
            if isinstance(event, ev.KillRequested):
                told[event.member, event.attempt] = event.reason
            elif isinstance(event, ev.MemberEnded) and event.state == "killed":
                if not (event.reason or told.get((event.member, event.attempt))):
                    self.problems.append(f"event {seq}: {event.member} was killed without a reason")
            elif isinstance(event, ev.MemberLaunched):
                self._within_budget(seq, state, event)
        if self.over and state.active:
            self.problems.append(f"still active: {', '.join(sorted(state.active)[:5])}")
        return state

    def _within_budget(self, seq: int, state: StudyState, event: ev.MemberLaunched) -> None:
        limit = state.budget
        if state.launched_total > limit.get("members", np.inf) and event.attempt == 1:
            self.problems.append(f"event {seq}: {event.member} is member {state.launched_total} of at most {limit['members']:g}")
        if state.steps >= limit.get("steps", np.inf):
            self.problems.append(f"event {seq}: {event.member} was launched after {state.steps} of at most {limit['steps']:g} steps")

    def _members(self, state: StudyState) -> dict[int, str]:
        """The members table says what the events say."""
        names: dict[int, str] = {}
        known = set(state.records) | set(state._settled)
        for number, name, how, attempt, steps in self.db.execute("SELECT number, id, state, attempt, steps FROM members"):
            names[number] = name
            if name not in known:
                self.problems.append(f"member {name} is in the table and was never queued")
                continue
            known.discard(name)
            seen = state.look(name)
            if (seen.state.value, seen.attempt, seen.steps) != (how, attempt, steps):
                self.problems.append(
                    f"member {name} is {how} (attempt {attempt}, {steps} steps) in the table, "
                    f"{seen.state} (attempt {seen.attempt}, {seen.steps} steps) by its events"
                )
            if seen.state is MemberState.DONE and seen.steps == 0:
                self.problems.append(f"member {name} is done and has no step")
        self.problems += [f"member {name} was queued and is not in the table" for name in sorted(known)]
        return names

    def _samples(self, names: Mapping[int, str]) -> int:
        """Every (member, step) once, without gaps, as many as the members table says, and its bytes are there."""
        wanted: dict[int, dict[int, tuple[Key, int, int]]] = {}
        steps: dict[int, list[int]] = {}
        stored = 0
        for number, step, attempt, segment, record, crc in self.db.execute(
            "SELECT member, step, attempt, segment, record, data_crc FROM samples"
        ):
            stored += 1
            if number not in names:
                self.problems.append(f"a sample names the member number {number}, which does not exist")
                continue
            steps.setdefault(number, []).append(step)
            place = wanted.setdefault(segment, {})
            if record in place:
                self.problems.append(f"record {record} of segment {segment} is named twice")
            place[record] = ((names[number], step), attempt, crc)
        for number, count in self.db.execute("SELECT number, steps FROM members"):
            have = sorted(steps.get(number, []))
            if have != list(range(count)):
                twice = [s for s, n in Counter(have).items() if n > 1]
                what = f"step {twice[0]} twice" if twice else f"{len(have)} steps with gaps or extras"
                self.problems.append(f"member {names[number]} should have steps 0 to {count - 1}; it has {what}")
        self._bytes(wanted, {name: number for number, name in names.items()})
        return stored

    def _bytes(self, wanted: Mapping[int, Mapping[int, tuple[Key, int, int]]], numbers: Mapping[str, int]) -> None:
        row = self.db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row is None:
            if wanted:
                self.problems.append("there are samples and no schema")
            return
        fields = json.loads(json.loads(row[0]))
        sealed = dict(self.db.execute("SELECT number, archive_step FROM segments WHERE archive_step IS NOT NULL"))
        archive = self._archive(fields) if sealed else {}
        for segment, records in wanted.items():
            there = archive.get(sealed[segment], {}) if segment in sealed else dict(self._segment(segment, fields))
            for record, (key, attempt, crc) in records.items():
                found = there.get(record)
                where = f"{key[0]} step {key[1]} (record {record} of segment {segment})"
                if found is None:
                    self.problems.append(f"the bytes of {where} are missing")
                    continue
                facts, data, named, content = found
                if facts[:3] != (numbers[key[0]], attempt, key[1]):
                    self.problems.append(f"the bytes of {where} belong to another sample: {facts[:3]}")
                if not data or named != crc:
                    self.problems.append(f"the bytes of {where} do not match their checksum")
                self.samples[key] = content

    def _segment(self, number: int, fields: list[dict[str, Any]]) -> Iterator[tuple[int, tuple[tuple[Any, ...], bool, int, int]]]:
        """Record number, (facts, whether every checksum holds, that over the facts, that of the content) of a segment's file."""
        path = self.directory / "segments" / f"{number:06d}.seg"
        if not path.is_file():
            return
        sizes = [int(np.dtype(f["dtype"]).itemsize * np.prod(f["shape"], dtype=int)) for f in fields]
        head = FACTS.size + 4 * len(fields)
        size = head + 4 + sum(sizes)
        data = path.read_bytes()
        for record in range((len(data) - HEAD) // size):
            at = HEAD + record * size
            facts = data[at : at + head]
            (named,) = struct.unpack_from("<I", data, at + head)
            good, place = zlib.crc32(facts) == named, at + head + 4
            for crc, n in zip(struct.unpack_from(f"<{len(fields)}I", facts, FACTS.size), sizes, strict=True):
                good = good and zlib.crc32(data[place : place + n]) == crc
                place += n
            yield record, (FACTS.unpack_from(facts), good, named, _digest(facts))

    def _archive(self, fields: list[dict[str, Any]]) -> dict[int, dict[int, tuple[tuple[Any, ...], bool, int, int]]]:
        """The same of every step of the archive."""
        adios2 = _adios2()
        out: dict[int, dict[int, tuple[tuple[Any, ...], bool, int, int]]] = {}
        with adios2.Stream(str(self.directory / "archive.bp"), "r") as stream:
            for at, step in enumerate(stream.steps()):
                have = set(step.available_variables())
                column = {name: np.asarray(step.read(name)) for name in ("member", "attempt", "step", "t", "crc", "crcs")}
                n = len(column["member"])
                good = np.ones(n, dtype=bool)
                crcs = column["crcs"].reshape(n, len(fields))
                for i, f in enumerate(fields):
                    name = f["name"] if f["name"] in have and f["name"] not in column else f"field_{f['name']}"
                    values = np.asarray(step.read(name)).astype(np.dtype(f["dtype"]).newbyteorder("<"))
                    good &= np.array([zlib.crc32(np.ascontiguousarray(v).tobytes()) == c for v, c in zip(values, crcs[:, i], strict=True)])
                out[at] = {}
                for r in range(n):
                    facts = (int(column["member"][r]), int(column["attempt"][r]), int(column["step"][r]), float(column["t"][r]))
                    packed = FACTS.pack(*facts) + struct.pack(f"<{len(fields)}I", *(int(c) for c in crcs[r]))
                    whole = bool(good[r]) and zlib.crc32(packed) == int(column["crc"][r])
                    out[at][r] = (facts, whole, int(column["crc"][r]), _digest(packed))
        return out


def _digest(facts: bytes) -> int:
    """A checksum over what a sample is, whoever sent it: all of the facts but the attempt."""
    return zlib.crc32(facts[8:], zlib.crc32(facts[:4]))


def _adios2() -> Any:
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # its import would cost seconds
    try:
        import adios2
    except ImportError as error:
        raise MissingDependency("adios2", "Checking a sealed archive", "archive") from error
    finally:
        if hide and sys.modules.get("torch", 0) is None:
            del sys.modules["torch"]
    return adios2
