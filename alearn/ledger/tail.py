"""A study's samples as they become durable, for who learns from them in another process: read-only, each once, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from alearn.errors import LedgerCorrupt
from alearn.ledger import database
from alearn.ledger.data import DISCARDED, DataReader, read_rows
from alearn.ledger.database import SampleRow, checked_member, checked_sample, rows
from alearn.ledger.segments import Layout
from alearn.types import Member, Sample, Schema

CHUNK_ROWS = 1024
CHUNK_BYTES = 16 << 20

_COLUMNS = "seq, member, step, attempt, t, segment, record, data_crc, crc"
_KEPT = f"segment NOT IN (SELECT number FROM segments WHERE archive_step = {DISCARDED})"


class Tail:
    """Reads what a writer beside it has stored; costs the same however much was stored before.

    Args:
        directory: the study's.
        fields: the fields that are read; None is all.

    Raises:
        LedgerError: there is no study, or its steps are not known yet.
    """

    def __init__(self, directory: Path, fields: Sequence[str] | None = None) -> None:
        self._db = database.connect(directory / database.NAME, readonly=True)
        text = database.read_meta(self._db).get("schema")
        if text is None:
            raise LedgerCorrupt(f"The ledger in {directory} does not say what a time step carries.")
        self.schema = Schema.from_json(text)
        self.fields = self.schema.names if fields is None else tuple(fields)
        nbytes = 64 + sum(f.nbytes for f in self.schema.fields if f.name in self.fields)
        self._limit = max(1, min(CHUNK_ROWS, CHUNK_BYTES // nbytes))
        self._reader = DataReader(directory, Layout(self.schema), self._db)
        self._members: dict[int, Member] = {}
        self._read = 0

    def close(self) -> None:
        """Release the files."""
        self._reader.close()
        self._db.close()

    def read(self, upto: int) -> Iterator[list[Sample]]:
        """The samples behind those read so far, the study's first ``upto`` at most, in chunks; without revoked members'.

        Raises:
            LedgerCorrupt: a checksum does not match.
        """
        while self._read < upto:
            sql = f"SELECT {_COLUMNS} FROM samples WHERE seq > ? AND seq <= ? AND {_KEPT} ORDER BY seq LIMIT ?"
            chunk = [checked_sample(raw) for raw in rows(self._db, sql, (self._read, upto, self._limit))]
            if not chunk:
                break
            self._read = chunk[-1][0]
            found = self._samples(chunk)
            if found:
                yield found
        self._read = max(self._read, upto)

    def steps(self, member: str, steps: Iterable[int]) -> Iterator[list[Sample]]:
        """Those steps of one member that are stored, in chunks.

        Raises:
            LedgerCorrupt: a checksum does not match.
        """
        wanted = set(steps)
        first, last = min(wanted, default=0), max(wanted, default=-1)
        sql = (
            f"SELECT {_COLUMNS} FROM samples WHERE member = (SELECT number FROM members WHERE id = ?) AND step BETWEEN ? AND ? "
            f"AND {_KEPT} ORDER BY step LIMIT ?"
        )
        while first <= last:
            chunk = [checked_sample(raw) for raw in rows(self._db, sql, (member, first, last, self._limit))]
            if not chunk:
                return
            first = chunk[-1][2] + 1
            found = self._samples([row for row in chunk if row[2] in wanted])
            if found:
                yield found

    def _samples(self, chunk: Sequence[SampleRow]) -> list[Sample]:
        kept = [row for row in chunk if not self._member(row[1]).revoked]
        found = []
        for row, values in read_rows(self._reader.read, kept, self.fields):
            member = self._member(row[1])
            found.append(Sample(member.id, row[3], row[2], row[4], member.parameters, values))
        return found

    def _member(self, number: int) -> Member:
        if number not in self._members:
            sql = "SELECT number, id, state, attempt, steps, duplicates, body, crc FROM members WHERE number = ?"
            found = rows(self._db, sql, (number,))
            if not found:
                raise LedgerCorrupt(f"A sample names member number {number}, which the ledger does not have.")
            self._members[number] = checked_member(found[0]).member
        return self._members[number]
