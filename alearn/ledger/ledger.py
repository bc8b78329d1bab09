"""The ledger: the one truth of a study, durable before it says so.

A commit is: the samples' bytes are written to a segment and synced; then one SQLite transaction adds the rows
that name them, the events, and the members that these events change. Only then may a sample be acknowledged.
Whatever a crash leaves behind that no commit names is dropped when the ledger is opened next; what a commit
names is never touched again except by sealing, which copies it into the archive, syncs, commits the new place,
and removes the old one last.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alearn import failpoints
from alearn.errors import LedgerCorrupt, LedgerError, SchemaError
from alearn.events import Event, SamplesStored, decode
from alearn.ledger import archive, database
from alearn.ledger.batch import describe, sort_out
from alearn.ledger.data import DataReader, Segment, archive_state, counts, discardable, read_rows, sample_rows
from alearn.ledger.database import SampleRow, rows
from alearn.ledger.lock import WriterLock
from alearn.ledger.recovery import drop_leftovers
from alearn.ledger.segments import DIRECTORY, Layout, path_of
from alearn.ledger.tables import Tables
from alearn.ledger.writer import SegmentWriter
from alearn.types import Array, Member, Sample, Schema

_log = logging.getLogger("alearn.ledger")
_CHUNK_ROWS = 4096
_CHUNK_BYTES = 16 << 20


class Ledger:
    """Events, members and samples of one study directory. Thread-safe; made by ``create`` or ``open``."""

    def __init__(self, directory: Path, db: sqlite3.Connection, lock: WriterLock | None) -> None:
        self.directory = directory
        self._db = db
        self._writer = lock
        self._lock = threading.RLock()
        self._sealing = threading.Lock()
        self._failed = ""
        self._closed = False
        self._reader: DataReader | None = None
        self._version = -1
        self._closing = -1  # the number of the segment that is being sealed and takes no more samples
        self._known_schema: tuple[str, Schema] | None = None
        self._tables = Tables(db)
        self._epoch = max(time.time(), self._tables.last_at) - time.monotonic()
        meta = self._tables.meta
        self._segment_writer = SegmentWriter(directory, bytes.fromhex(meta["uuid"]), int(meta["segment_bytes"]))

    @classmethod
    def create(cls, directory: Path, *, study: str, segment_bytes: int = 32 << 20, archive: str = "bp5") -> Ledger:
        """Make a new study directory's ledger and open it.

        Args:
            directory: the study directory; made if it is not there.
            study: the study's name.
            segment_bytes: size at which a segment is full and may be sealed.
            archive: "bp5", or "none" for a study too large to keep: segments are then discarded, not sealed.

        Raises:
            LedgerError: there is a study already, or the directory cannot be written.
            LedgerLocked: another controller is creating it.
        """
        directory = Path(directory)
        try:
            (directory / DIRECTORY).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"The study directory {directory} cannot be made: {error.strerror}; choose another place.") from error
        lock = WriterLock(directory)
        try:
            if (directory / database.NAME).exists():
                raise LedgerError(f"There is already a study in {directory}; resume it (alearn resume), or choose another directory.")
            kind = database.file_system(directory)
            facts = {"study": study, "uuid": os.urandom(16).hex(), "segment_bytes": segment_bytes, "file_system": kind, "archive": archive}
            database.create(directory / database.NAME, facts)
            ledger = cls._started(directory, lock)
        except (OSError, sqlite3.Error) as error:
            lock.release()
            raise LedgerError(f"The ledger in {directory} cannot be made: {error}.") from error
        except BaseException:
            lock.release()
            raise
        return ledger

    @classmethod
    def open(cls, directory: Path, *, readonly: bool = False) -> Ledger:
        """Open a study's ledger: to go on with it, or read-only beside its writer.

        Raises:
            LedgerLocked: another live controller owns the study.
            LedgerCorrupt: a checksum does not match, or acknowledged bytes are missing.
            LedgerError: there is no study, or it was written by a newer alearn.
        """
        directory = Path(directory)
        if readonly:
            return cls(directory, database.connect(directory / database.NAME, readonly=True), None)
        if not (directory / database.NAME).is_file():
            database.connect(directory / database.NAME)  # says that there is no study, before a lock is made
        lock = WriterLock(directory)
        try:
            ledger = cls._started(directory, lock)
            ledger._clean_up()
        except BaseException:
            lock.release()
            raise
        return ledger

    @classmethod
    def _started(cls, directory: Path, lock: WriterLock) -> Ledger:
        db = database.connect(directory / database.NAME)
        try:
            return cls(directory, db, lock)
        except BaseException:
            db.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the files and the writer's lock; everything that was stored is durable already."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._segment_writer.close()
            self._drop_reader()
            self._db.close()
            if self._writer is not None:
                self._writer.release()

    # --- what is known -------------------------------------------------------------------------------------

    def now(self) -> float:
        """The study's time, Unix s: the wall clock's when the ledger was opened, never before its last event, and steady since.

        Paces, waits and budgets follow from the times of events; were these the wall clock's, setting the clock would end a study
        or stop it. What is written down may be off by as much as the clock was set.
        """
        return self._epoch + time.monotonic()

    @property
    def study(self) -> str:
        """The study's name."""
        return str(self.meta().get("study", ""))

    @property
    def readonly(self) -> bool:
        return self._writer is None

    @property
    def last_sample(self) -> int:
        """The number of the sample stored last, counted from 1 over the whole study."""
        return self._tables.samples

    @property
    def archived(self) -> bool:
        """Whether samples are kept for good; without an archive only what came since the last snapshots is there."""
        return str(self.meta().get("archive", "bp5")) != "none"

    def discarded_segments(self) -> set[int]:
        """The numbers of the segments whose samples are gone, because the study keeps no archive."""
        with self._lock:
            self._refresh()
            return {s.number for s in self._tables.segments.values() if s.discarded}

    def schema(self) -> Schema | None:
        """What every time step of the study carries; None before the first hello."""
        with self._lock:
            self._refresh()
            text = self._tables.meta.get("schema")
            if text is None:
                return None
            if self._known_schema is None or self._known_schema[0] != text:
                self._known_schema = (text, Schema.from_json(text))
            return self._known_schema[1]

    def meta(self) -> dict[str, Any]:
        """Small facts about the study, by key."""
        with self._lock:
            self._refresh()
            return dict(self._tables.meta)

    def members(self) -> list[Member]:
        """Every member, in the order of their numbers."""
        with self._lock:
            self._refresh()
            return [row.member for row in sorted(self._tables.members, key=lambda r: r.number)]

    def member_numbers(self) -> dict[str, int]:
        """The small integers under which members stand in the samples table, segments and archive."""
        with self._lock:
            self._refresh()
            return {row.member.id: row.number for row in self._tables.members}

    def stored_steps(self, member: str) -> int:
        """How many steps of the member, from 0 on without a gap, are durable: what may be acknowledged."""
        with self._lock:
            self._refresh()
            row = self._tables.members.find(member)
            return 0 if row is None else row.member.steps

    def counts(self) -> dict[str, Any]:
        """How much there is: members by state, samples, events, segments, bytes that a crash left torn."""
        with self._lock:
            self._refresh()
            torn = int(self._tables.meta.get("torn_bytes_dropped", 0))
            return {**counts(self._tables.members, self._tables.segments), "events": self._tables.events, "torn_bytes_dropped": torn}

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """The events with a sequence number above ``after``, verified.

        Raises:
            LedgerCorrupt: naming the first event whose checksum does not match.
        """
        with self._lock:
            before = rows(self._db, "SELECT chain FROM events WHERE seq = ?", (after,))
        chain = before[0][0] if before else 0
        while True:
            with self._lock:
                batch = rows(self._db, "SELECT seq, body, chain FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (after, _CHUNK_ROWS))
            if not batch:
                return
            for seq, body, crc in batch:
                if seq != after + 1 or database.chain(seq, body, chain) != crc:
                    raise LedgerCorrupt(
                        f"The event {after + 1} in the ledger does not match its checksum (or the one before it is damaged)."
                    )
                yield seq, decode(body)
                after, chain = seq, crc

    def samples(self, members: Sequence[str] | None = None, after: int = 0, fields: Sequence[str] | None = None) -> Iterator[Sample]:
        """The samples in the order in which they were stored, verified; without those that ``discard`` dropped.

        Args:
            members: only those of these members; None is all but the revoked.
            after: leave out the first so many samples of the study.
            fields: only these fields are read; None is all.

        Raises:
            LedgerCorrupt: naming the member and step whose checksum does not match.
        """
        schema = self.schema()
        if schema is None:
            return
        names = schema.names if fields is None else tuple(fields)
        for name in names:
            if name not in schema.names:
                raise LedgerError(f"There is no field '{name}'; the study has {list(schema.names)}.")
        nbytes = 64 + sum(f.nbytes for f in schema.fields if f.name in names)
        limit = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // nbytes))
        wanted = self._numbers_of(members)
        by_number: dict[int, Member] = {}
        while True:
            with self._lock:
                chunk = sample_rows(self._db, after, wanted, limit)
                if not chunk:
                    return
                if any(row[1] not in by_number for row in chunk):
                    by_number = self._members_by_number()
                parts = list(self._read(chunk, names))
            for row, values in parts:
                member = by_number[row[1]]
                yield Sample(member.id, row[3], row[2], row[4], member.parameters, values)
            after = chunk[-1][0]

    def sample_rows(self, members: Sequence[str] | None = None) -> Iterator[list[SampleRow]]:
        """Where the samples of all or some members lie, or lay before they were discarded: verified rows, in chunks."""
        after = 0
        wanted = self._numbers_of(members)
        while True:
            with self._lock:
                chunk = sample_rows(self._db, after, wanted, 16 * _CHUNK_ROWS, discarded=True)
            if not chunk:
                return
            yield chunk
            after = chunk[-1][0]

    def verify(self) -> list[str]:
        """Check every checksum, the tables against the events, and the data against both; a sentence for each problem."""
        from alearn.ledger.verify import verify

        return verify(self.directory)

    # --- what changes it -----------------------------------------------------------------------------------

    def set_meta(self, key: str, value: object) -> None:
        """Keep a small fact (anything JSON can hold), durably."""
        with self._lock:
            self._writable()
            self._set({key: value})

    def set_schema(self, schema: Schema) -> None:
        """Fix what every time step carries; the first call of a study decides.

        Raises:
            SchemaError: it is already fixed to something else.
        """
        with self._lock:
            known = self.schema()
            if known == schema:
                return
            if known is not None:
                raise SchemaError(
                    f"The steps carry {describe(schema)}; the study was begun with {describe(known)}. All members of a study must agree."
                )
            self._writable()
            self._set({"schema": schema.to_json()})

    def append(self, events: Sequence[Event]) -> None:
        """Add events and what they change in the members table; durable when it returns.

        Raises:
            LedgerError: an event names an unknown member (nothing was added), or the ledger cannot be written.
        """
        with self._lock:
            self._writable()
            if not events:
                return
            with self._writing():
                self._tables.commit(events)

    def store(self, samples: Sequence[Sample], schema: Schema) -> list[SamplesStored]:
        """Make samples durable in one group commit.

        Samples that are stored already are dropped and counted; samples of an attempt below the member's
        current one change nothing.

        Args:
            samples: of any members, each member's in ascending order of steps.
            schema: what they carry; fixes the study's if it is the first.

        Returns:
            The events that were appended: one for each member of which something counted.

        Raises:
            SampleRefused: a gap, an unknown member, or values that do not fit; nothing of the batch was stored.
            SchemaError: the schema is not the study's.
            LedgerError: the ledger cannot be written; it takes no further writes.
        """
        with self._lock:
            self._writable()
            if not samples:
                return []
            self.set_schema(schema)
            fresh, tally = sort_out(self._tables.members, samples, schema)
            if not tally:
                return []
            now = self.now()
            events = [
                SamplesStored(at=now, member=member, attempt=attempt, steps=new, last=last, t=t, duplicates=twice)
                for member, (attempt, new, last, t, twice) in tally.items()
            ]
            with self._writing():
                failpoints.hit("ledger.before_write")
                tables = self._tables
                placed, segments = self._segment_writer.write(fresh, Layout(schema), tables.segments, tables.samples, self._closing)
                self._tables.commit(events, placed, segments)
            return events

    def seal(self, *, everything: bool = True) -> int:
        """Move segments into the archive (BP5); other threads may store meanwhile.

        Args:
            everything: also the segment that is not full yet (the end of a study); False moves full ones only.

        Returns:
            How many segments were moved; none if the study keeps no archive.

        Raises:
            LedgerError: the archive cannot be written; the samples stay safe in their segments.
        """
        moved = 0
        with self._sealing:
            while self.archived and (segment := self._next_to_seal(everything)) is not None:
                try:
                    self._seal(segment)
                finally:
                    self._closing = -1
                moved += 1
        return moved

    def discard(self, samples: int) -> int:
        """Drop the full segments of a study that keeps no archive, as far as a snapshot holds what training needs of them.

        Args:
            samples: how many of the study's first samples may go; a segment goes when all of its own may.

        Returns:
            How many segments were dropped.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        with self._lock:
            self._writable()
            schema = self.schema()
            gone = (
                []
                if self.archived or schema is None
                else discardable(self._tables.segments, Layout(schema).capacity(int(self._tables.meta["segment_bytes"])), samples)
            )
            if not gone:
                return 0
            with self._writing():
                self._tables.move(gone, "discard")
            self._drop_reader()
            self._segment_writer.close()
            for segment in gone:
                path_of(self.directory, segment.number).unlink(missing_ok=True)
                failpoints.hit("ledger.discard_removed")
            database.sync_directory(self.directory / DIRECTORY)
            return len(gone)

    # --- inside --------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Let a read-only ledger see what its writer did since."""
        if self._closed:
            raise LedgerError(f"The ledger of {self.directory} is closed.")
        if self._writer is None:
            version = rows(self._db, "PRAGMA data_version")[0][0]
            if version != self._version:
                self._tables.load()
                self._version = version

    def _writable(self) -> None:
        if self._closed:
            raise LedgerError(f"The ledger of {self.directory} is closed.")
        if self._writer is None:
            raise LedgerError(f"The ledger of {self.directory} was opened read-only; it cannot be changed.")
        if self._failed:
            raise LedgerError(self._failed)
        self._writer.beat()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What a failing write means. Nothing is cut off or undone here: the commit may have succeeded."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._failed = (
                f"The ledger of {self.directory} stopped taking writes because one failed ({error}); everything acknowledged is safe: "
                "make room or repair the disk, then resume the study."
            )
            self._roll_back()
            _log.error("%s", self._failed)
            raise LedgerError(self._failed) from error
        except LedgerError:
            self._roll_back()
            raise
        except BaseException:
            self._roll_back()
            try:
                self._tables.load()  # whether it was committed, only the database knows
            except Exception as error:
                self._failed = f"The ledger of {self.directory} was interrupted and cannot be read again ({error}); resume the study."
            raise

    def _roll_back(self) -> None:
        self._segment_writer.close()
        if self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _set(self, facts: dict[str, object]) -> None:
        with self._writing():
            self._tables.note(facts)

    def _next_to_seal(self, everything: bool) -> Segment | None:
        with self._lock:
            self._writable()
            schema = self.schema()
            if schema is None:
                return None
            capacity = Layout(schema).capacity(int(self._tables.meta["segment_bytes"]))
            for segment in self._tables.segments.values():
                if not segment.moved and segment.records and (everything or segment.records >= capacity):
                    self._closing = segment.number
                    self._segment_writer.close()
                    return segment
        return None

    def _seal(self, segment: Segment) -> None:
        with self._lock:
            schema = self.schema()
            assert schema is not None
            state = archive_state(self._tables.segments)
            members = self._members_by_number()
            step = sum(s.sealed for s in self._tables.segments.values())
        layout = Layout(schema)
        with contextlib.closing(DataReader(self.directory, layout, self._db)) as reader:
            records = reader.read(segment.number, np.arange(segment.records), schema.names)
        there = {int(k): members[int(k)] for k in np.unique(records.facts["member"])}
        failpoints.hit("ledger.seal_before")
        after = archive.append(self.directory, self.study, layout, records, there, state)
        failpoints.hit("ledger.seal_synced")
        sealed = Segment(segment.number, segment.records, step, json.dumps(after))
        with self._lock:
            self._writable()
            with self._writing():
                self._tables.move([sealed], "seal")
            self._drop_reader()
        path_of(self.directory, segment.number).unlink(missing_ok=True)
        failpoints.hit("ledger.seal_removed")
        database.sync_directory(self.directory / DIRECTORY)

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _clean_up(self) -> None:
        dropped = drop_leftovers(self.directory, self._tables.segments, self.schema())
        if dropped:
            _log.warning("%d bytes that a crash left in %s were dropped; none of them had been acknowledged.", dropped, self.directory)
            self._set({"torn_bytes_dropped": int(self._tables.meta.get("torn_bytes_dropped", 0)) + dropped})

    def _members_by_number(self) -> dict[int, Member]:
        self._refresh()
        return {row.number: row.member for row in self._tables.members}

    def _numbers_of(self, members: Sequence[str] | None) -> str | None:
        """The members' numbers as JSON for ``_sample_rows``; of all that are not revoked if none are named."""
        everyone = self.members()
        chosen = {m.id for m in everyone if not m.revoked} if members is None else set(members)
        if members is None and len(chosen) == len(everyone):
            return None
        return json.dumps([number for m, number in self.member_numbers().items() if m in chosen])

    def _read(self, chunk: Sequence[SampleRow], names: Sequence[str]) -> Iterator[tuple[SampleRow, dict[str, Array]]]:
        schema = self.schema()
        assert schema is not None
        if self._reader is None:
            self._reader = DataReader(self.directory, Layout(schema), self._db)
        yield from read_rows(self._reader.read, chunk, names)
