"""The audit: every checksum, the tables against the events, the data against the tables."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alearn.errors import LedgerCorrupt, LedgerError
from alearn.events import decode
from alearn.ledger import archive, database
from alearn.ledger.data import DataReader, Segment, archive_state, read_rows, read_segments
from alearn.ledger.database import SampleRow
from alearn.ledger.fold import MemberTable, Row
from alearn.ledger.lock import has_writer
from alearn.ledger.segments import DIRECTORY, HEAD, Layout, path_of
from alearn.types import Member, Schema

_MOST = 50  # sentences of one kind; the rest is counted
_CHUNK = 2048


def verify(directory: Path) -> list[str]:
    """Check a study's ledger and data, read-only and in one snapshot of the database; also while the study runs.

    What a crash left behind is told only while no writer is alive.

    Args:
        directory: the study directory.

    Returns:
        A sentence for each problem; empty if everything is sound.
    """
    directory = Path(directory)
    db = database.connect(directory / database.NAME, readonly=True)
    try:
        db.execute("BEGIN")
        out: list[str] = []
        try:
            for problems in (_database(db), _contents(directory, db)):
                out.extend(problems)
        except (LedgerCorrupt, sqlite3.DatabaseError) as error:
            out.append(f"The ledger cannot be read further: {error}")
        return _shorten(out)
    finally:
        db.close()


def _shorten(sentences: list[str]) -> list[str]:
    if len(sentences) <= _MOST:
        return sentences
    return [*sentences[:_MOST], f"{len(sentences) - _MOST} further problems are not listed."]


def _database(db: sqlite3.Connection) -> Iterator[str]:
    for (line,) in database.rows(db, "PRAGMA integrity_check(20)"):
        if line != "ok":
            yield f"SQLite's own check of the ledger says: {line}."


def _contents(directory: Path, db: sqlite3.Connection) -> Iterator[str]:
    meta: dict[str, Any] = {}
    try:
        meta = database.read_meta(db)
    except (LedgerCorrupt, ValueError) as error:
        yield str(error)
    table, problems = _events(db)
    yield from problems
    yield from _members(db, table)
    segments: dict[int, Segment] = {}
    try:
        segments = read_segments(db)
    except LedgerCorrupt as error:
        yield str(error)
    schema = Schema.from_json(meta["schema"]) if "schema" in meta else None
    yield from _samples(directory, db, table, schema, segments)
    if not has_writer(directory):  # what a live writer is just writing is not a leftover
        yield from _files(directory, schema, segments)


def _events(db: sqlite3.Connection) -> tuple[MemberTable, list[str]]:
    table, problems, chain, expected = MemberTable(), [], 0, 1
    for seq, body, crc in db.execute("SELECT seq, body, chain FROM events ORDER BY seq"):
        if seq != expected:
            problems.append(f"The events {expected} to {seq - 1} are missing.")
        try:
            if not isinstance(body, str) or database.chain(seq, body, chain) != crc:
                problems.append(f"The event {seq} does not match its checksum (or the one before it is damaged).")
            table.apply(decode(body))
        except (LedgerError, ValueError) as error:
            problems.append(f"The event {seq} cannot be applied: {error}")
        except TypeError:
            problems.append(f"The event {seq} is not text.")
        chain = crc if isinstance(crc, int) and 0 <= crc < 1 << 32 else 0
        expected = seq + 1
    return table, problems


def _members(db: sqlite3.Connection, table: MemberTable) -> Iterator[str]:
    seen = set()
    for raw in database.rows(db, "SELECT number, id, state, attempt, steps, duplicates, body, crc FROM members ORDER BY number"):
        try:
            row = database.checked_member(raw)
        except (LedgerCorrupt, ValueError) as error:
            yield str(error)
            seen.add(raw[1])
            continue
        seen.add(row.member.id)
        expected = table.find(row.member.id)
        if expected is None:
            yield f"The member '{row.member.id}' stands in the members table, but no event queued it."
        elif not _same(row, expected):
            differ = [
                f.name for f in dataclasses.fields(Member) if repr(getattr(row.member, f.name)) != repr(getattr(expected.member, f.name))
            ]
            yield f"The member '{row.member.id}' differs from what its events say in {', '.join(differ) or 'number or duplicates'}."
    for row in table:
        if row.member.id not in seen:
            yield f"The member '{row.member.id}' is missing from the members table."


def _same(a: Row, b: Row) -> bool:
    return database.member_row(a) == database.member_row(b)


def _samples(
    directory: Path, db: sqlite3.Connection, table: MemberTable, schema: Schema | None, segments: dict[int, Segment]
) -> Iterator[str]:
    by_number = {row.number: row.member for row in table}
    steps: Counter[int] = Counter()
    records: Counter[int] = Counter()
    # Not in the snapshot: a segment that a live writer seals meanwhile is found in the archive.
    now = database.connect(directory / database.NAME, readonly=True)
    reader = DataReader(directory, Layout(schema), now) if schema is not None else None
    try:
        cursor = db.execute("SELECT seq, member, step, attempt, t, segment, record, data_crc, crc FROM samples ORDER BY seq")
        expected = 1
        while raws := cursor.fetchmany(_CHUNK if schema is None else max(1, min(_CHUNK, (32 << 20) // (schema.nbytes + 1)))):
            good: list[SampleRow] = []
            for raw in raws:
                try:
                    row = database.checked_sample(raw)
                    good.append(row)
                except LedgerCorrupt as error:
                    yield str(error)
                    continue
                finally:
                    if raw[0] != expected:
                        yield f"The rows {expected} to {raw[0] - 1} of the samples table are missing."
                    expected = raw[0] + 1
                steps[row[1]] += 1
                records[row[5]] += 1
                if row[1] not in by_number:
                    yield f"The samples table has member number {row[1]}, step {row[2]}, but no event queued such a member."
                if row[5] not in segments:
                    yield f"The sample of member number {row[1]}, step {row[2]} lies in segment {row[5]}, which the ledger does not know."
            if reader is not None:
                there = [row for row in good if row[5] in segments and not segments[row[5]].discarded]
                yield from _data(reader, there, schema)
    finally:
        now.close()
        if reader is not None:
            reader.close()
    for number, member in by_number.items():
        if steps[number] != member.steps:
            yield f"The events say that {member.steps} steps of '{member.id}' are stored; the samples table has {steps[number]}."
    gaps = "SELECT member, count(*), max(step) FROM samples GROUP BY member HAVING count(*) <> max(step) + 1 OR min(step) <> 0"
    for number, count, last in database.rows(db, gaps):
        yield f"The samples of member number {number} have gaps: {count} steps up to step {last}."
    for segment in segments.values():
        if records[segment.number] != segment.records:
            yield (
                f"The segment {segment.number} holds {segment.records} samples by its own row; "
                f"the samples table names {records[segment.number]}."
            )


def _data(reader: DataReader, chunk: list[SampleRow], schema: Schema | None) -> Iterator[str]:
    names = schema.names if schema is not None else ()
    try:
        for _ in read_rows(reader.read, chunk, names):
            pass
    except LedgerCorrupt as error:
        if len(chunk) == 1:
            yield str(error)
            return
        middle = len(chunk) // 2  # find every bad one, not only the first
        yield from _data(reader, chunk[:middle], schema)
        yield from _data(reader, chunk[middle:], schema)
    except FileNotFoundError as error:
        yield f"The file {error.filename} is missing."
    except LedgerError:  # a live writer has discarded a segment meanwhile
        middle = len(chunk) // 2
        if middle:
            yield from _data(reader, chunk[:middle], schema)
            yield from _data(reader, chunk[middle:], schema)


def _files(directory: Path, schema: Schema | None, segments: dict[int, Segment]) -> Iterator[str]:
    for path in sorted((directory / DIRECTORY).glob("*.seg")):
        segment = segments.get(int(path.stem)) if path.stem.isdigit() else None
        if segment is None:
            yield f"The segment {path} is not named by the ledger (a crash left it; the next resume drops it)."
        elif segment.moved:
            how = "sealed into the archive" if segment.sealed else "discarded"
            yield f"The segment {path} was {how} and not removed (a crash; the next resume drops it)."
    if schema is not None:
        size = Layout(schema).record_size
        for segment in segments.values():
            path = path_of(directory, segment.number)
            if not segment.moved and path.exists() and (extra := path.stat().st_size - HEAD - segment.records * size) > 0:
                yield f"The segment {path} has {extra} bytes behind its last sample (a crash left them; the next resume drops them)."
    extra = archive.surplus(directory, archive_state(segments))
    if extra:
        yield f"The archive has {extra} bytes that the ledger does not name (an interrupted sealing; the next one overwrites them)."
