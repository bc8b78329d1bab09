"""Reading samples back, wherever they lie: in a segment that is still a file, or sealed into the archive."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alearn.errors import LedgerCorrupt, LedgerError
from alearn.ledger import archive
from alearn.ledger.database import SampleRow, checked_sample, rows, text_crc
from alearn.ledger.fold import MemberTable
from alearn.ledger.segments import Layout, Records, SegmentReader, path_of
from alearn.types import Array, MemberState

_OPEN_SEGMENTS = 8
DISCARDED = -1
"""In place of an archive step: the segment was discarded, because the study keeps no archive."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of the segments table; ``archive_step`` is None while the segment is a file (else the step of the archive that
    it became, or ``DISCARDED``), ``archive_state`` the store's after it was sealed."""

    number: int
    records: int
    archive_step: int | None = None
    archive_state: str = ""

    @property
    def sealed(self) -> bool:
        return self.archive_step is not None and self.archive_step != DISCARDED

    @property
    def discarded(self) -> bool:
        return self.archive_step == DISCARDED

    @property
    def moved(self) -> bool:
        """Whether it is no longer a file: sealed or discarded."""
        return self.archive_step is not None

    @property
    def crc(self) -> int:
        return text_crc(self.number, self.records, self.archive_step, self.archive_state)


def read_segments(db: sqlite3.Connection) -> dict[int, Segment]:
    """The segments table, verified.

    Raises:
        LedgerCorrupt: a row does not match its checksum.
    """
    out = {}
    for *values, crc in rows(db, "SELECT number, records, archive_step, archive_state, crc FROM segments ORDER BY number"):
        segment = Segment(*values)
        if segment.crc != crc:
            raise LedgerCorrupt(f"The row of segment {segment.number!r} in the segments table does not match its checksum.")
        out[segment.number] = segment
    return out


def archive_state(segments: Mapping[int, Segment]) -> dict[str, int] | None:
    """The archive's state after its last named step; None if nothing was sealed yet."""
    last = max((s for s in segments.values() if s.sealed), key=lambda s: s.archive_step or 0, default=None)
    return None if last is None else dict(json.loads(last.archive_state))


def discardable(segments: Mapping[int, Segment], capacity: int, samples: int) -> list[Segment]:
    """The full segments whose samples are all among the study's first ``samples``, as they will be once discarded."""
    gone, before = [], 0
    for segment in segments.values():
        before += segment.records
        if before > samples or segment.records < capacity:
            break
        if not segment.moved:
            gone.append(Segment(segment.number, segment.records, DISCARDED))
    return gone


def counts(table: MemberTable, segments: Mapping[int, Segment]) -> dict[str, Any]:
    """How many members by state, samples and segments there are."""
    by_state = Counter(row.member.state.value for row in table)
    stored = sum(row.member.steps for row in table)
    duplicates = sum(row.duplicates for row in table)
    sealed = sum(s.sealed for s in segments.values())
    gone = [s.records for s in segments.values() if s.discarded]
    return {
        "members": {state.value: by_state[state.value] for state in MemberState},
        "samples": {"streamed": stored + duplicates, "stored": stored, "duplicates_dropped": duplicates},
        "segments": {"open": len(segments) - sealed - len(gone), "sealed": sealed},
        "discarded": {"samples": sum(gone), "segments": len(gone)},
    }


def sample_rows(db: sqlite3.Connection, after: int, wanted: str | None, limit: int, *, discarded: bool = False) -> list[SampleRow]:
    """The next rows of the samples table, verified.

    Args:
        db: the ledger's database.
        after: only rows with a number above this one.
        wanted: the numbers of the members as a JSON list; None is all.
        limit: the most rows.
        discarded: whether those count whose data are gone.
    """
    only = "" if wanted is None else "AND member IN (SELECT value FROM json_each(?)) "
    if not discarded:
        only += f"AND segment NOT IN (SELECT number FROM segments WHERE archive_step = {DISCARDED}) "
    sql = f"SELECT seq, member, step, attempt, t, segment, record, data_crc, crc FROM samples WHERE seq > ? {only}ORDER BY seq LIMIT ?"
    arguments = (after, limit) if wanted is None else (after, wanted, limit)
    return [checked_sample(raw) for raw in rows(db, sql, arguments)]


class DataReader:
    """Reads records by segment and number. Follows a segment that is sealed while it is being read."""

    def __init__(self, directory: Path, layout: Layout, db: sqlite3.Connection) -> None:
        self.directory = directory
        self.layout = layout
        self._db = db
        self._files: dict[int, SegmentReader] = {}
        self._archive: archive.ArchiveReader | None = None
        self._segments: dict[int, Segment] = {}

    def close(self) -> None:
        for reader in self._files.values():
            reader.close()
        self._files.clear()
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def read(self, segment: int, records: Array, names: Sequence[str]) -> Records:
        """The records with these ascending numbers, verified.

        Raises:
            LedgerCorrupt: a checksum does not match, or the segment is gone.
            LedgerError: the segment was discarded.
        """
        known = self._segments.get(segment)
        if known is None or not known.moved:
            try:
                return self._file(segment).read(records, names)
            except FileNotFoundError:
                self._segments = read_segments(self._db)
                known = self._segments.get(segment)
                self._drop_archive()  # it ends before the steps that were sealed since
        if known is not None and known.discarded:
            raise LedgerError(
                f"The samples in segment {segment} of {self.directory} were discarded, because the study keeps no "
                "archive (archive=none); open it again to see what is there now."
            )
        if known is None or known.archive_step is None:
            raise LedgerCorrupt(
                f"The segment {path_of(self.directory, segment)} is gone, and the ledger names no place in the archive for it."
            )
        if self._archive is None:
            state = archive_state(self._segments)
            assert state is not None
            self._archive = archive.ArchiveReader(self.directory, self.layout, state)
        return self._archive.read(known.archive_step, records, names)

    def _file(self, number: int) -> SegmentReader:
        if number not in self._files:
            while len(self._files) >= _OPEN_SEGMENTS:
                self._files.pop(next(iter(self._files))).close()
            self._files[number] = SegmentReader(self.directory, number, self.layout)
        return self._files[number]

    def _drop_archive(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def read_rows(
    read: Callable[[int, Array, Sequence[str]], Any], chunk: Sequence[SampleRow], names: Sequence[str]
) -> Iterator[tuple[SampleRow, dict[str, Array]]]:
    """The values behind rows of the samples table, each compared with what its row says.

    Raises:
        LedgerCorrupt: the data there belong to another sample, or do not match.
    """
    start = 0
    while start < len(chunk):
        stop = start
        while stop < len(chunk) and chunk[stop][5] == chunk[start][5]:
            stop += 1
        part = chunk[start:stop]
        records = read(part[0][5], np.asarray([row[6] for row in part]), names)
        expected = np.asarray([(row[1], row[2], row[3], row[7]) for row in part], np.int64)
        found = np.stack([records.facts[name].astype(np.int64) for name in ("member", "step", "attempt", "crc")], axis=1)
        for i in np.flatnonzero((found != expected).any(axis=1))[:1]:
            row = part[int(i)]
            raise LedgerCorrupt(
                f"The samples table names record {row[6]} of segment {row[5]} for member number {row[1]}, "
                f"step {row[2]}; another sample lies there."
            )
        columns = records.values.items()
        for i, row in enumerate(part):
            yield row, {name: column[i, ...] for name, column in columns}
        start = stop
