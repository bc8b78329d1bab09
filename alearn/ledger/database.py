"""The SQLite file: where its pages live, its tables, and the checksum that every row carries."""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alearn import failpoints
from alearn.errors import LedgerCorrupt, LedgerError
from alearn.ledger.fold import Row
from alearn.types import Member, MemberState

NAME = "ledger.sqlite"
FORMAT = 2
"""2: a member's row ends with why it was revoked."""
APPLICATION_ID = 0x414C524E  # "ALRN"

_SHARED = ("nfs", "lustre", "gpfs", "cifs", "smb", "fuse", "beegfs", "afs", "ceph", "9p", "glusterfs", "ocfs2", "gfs2", "panfs", "orangefs")
_log = logging.getLogger("alearn.ledger")

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE events (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, chain INTEGER NOT NULL);
CREATE TABLE members (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, attempt INTEGER NOT NULL,
    steps INTEGER NOT NULL, duplicates INTEGER NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE samples (seq INTEGER PRIMARY KEY, member INTEGER NOT NULL, step INTEGER NOT NULL, attempt INTEGER NOT NULL, t REAL,
    segment INTEGER NOT NULL, record INTEGER NOT NULL, data_crc INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE UNIQUE INDEX samples_identity ON samples (member, step);
CREATE TABLE segments (number INTEGER PRIMARY KEY, records INTEGER NOT NULL, archive_step INTEGER, archive_state TEXT NOT NULL,
    crc INTEGER NOT NULL);
"""

SampleRow = tuple[int, int, int, int, float, int, int, int]
"""seq, member number, step, attempt, t, segment, record, data_crc."""
_SAMPLE = struct.Struct("<qqqqdqqq")


def file_system(path: Path) -> str:
    """The type of the file system that holds ``path``, from /proc/mounts; empty if unknown."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    where = str(path.resolve())
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        mount = fields[1].encode().decode("unicode_escape")
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, fields[2]
    return kind


def journal_mode(directory: Path) -> str:
    """WAL on a local disk, TRUNCATE where the file system is shared; the choice is logged when it is not WAL."""
    kind = file_system(directory)
    if any(kind.startswith(name) for name in _SHARED):
        _log.warning("The study is on a shared file system (%s); the ledger uses a rollback journal instead of WAL, which is slower.", kind)
        return "TRUNCATE"
    return "WAL"


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """Open the database, refuse what is not ours or newer than we are, and set how it is synced.

    Raises:
        LedgerError: no study, not a ledger, or a newer format.
    """
    if not path.is_file():
        raise LedgerError(f"There is no study in {path.parent}: {path.name} is missing; give the directory of a study.")
    try:
        db = _open(path, readonly)
        application, version = db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise LedgerError(f"The ledger {path} cannot be opened: {error}.") from error
    if application != APPLICATION_ID:
        db.close()
        raise LedgerError(f"The file {path} is an SQLite database but no ledger of alearn.")
    if version > FORMAT:
        db.close()
        raise LedgerError(f"The ledger {path} has format {version}; this alearn reads formats up to {FORMAT}: upgrade alearn to open it.")
    if not readonly:
        if version < FORMAT:
            _migrate(path, db, version)
        wanted = journal_mode(path.parent)
        try:
            db.execute("PRAGMA synchronous=FULL")
            got = db.execute(f"PRAGMA journal_mode={wanted}").fetchone()[0]
        except sqlite3.Error as error:
            db.close()
            raise LedgerError(f"The ledger {path} cannot be opened for writing: {error}.") from error
        if got.upper() != wanted:
            _log.warning("The ledger keeps the journal mode %s instead of %s because somebody reads it now.", got, wanted)
    return db


def _migrate(path: Path, db: sqlite3.Connection, version: int) -> None:
    """Bring a ledger of an earlier format up to this one, in one transaction; every row is verified on the way.

    Raises:
        LedgerCorrupt: a row does not match its checksum; nothing was changed.
        LedgerError: the disk does not take it; nothing was changed.
    """
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN IMMEDIATE")
        changed = [member_row(row) for row in read_members(db)]
        db.executemany("UPDATE members SET body = ?, crc = ? WHERE number = ?", [(row[-2], row[-1], row[0]) for row in changed])
        write_meta(db, "migrated_from", version)
        db.execute(f"PRAGMA user_version={FORMAT}")
        failpoints.hit("ledger.migrate_before_commit")
        db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        db.close()
        raise LedgerError(f"The ledger {path} has format {version} and could not be brought to format {FORMAT}: {error}.") from error
    except BaseException:
        db.close()
        raise
    _log.info("The ledger %s was brought from format %d to format %d.", path, version, FORMAT)


def _open(path: Path, readonly: bool) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    if not readonly:
        return sqlite3.connect(uri + "?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=30.0)
    db = sqlite3.connect(uri + "?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        db.execute("SELECT count(*) FROM meta").fetchone()
    except sqlite3.OperationalError:
        db.close()
        if os.path.exists(f"{path}-wal") or os.access(path.parent, os.W_OK):
            raise
        # A finished study in a directory where not even SQLite's shared memory may be written.
        db = sqlite3.connect(uri + "?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    return db


def create(path: Path, facts: Mapping[str, object]) -> None:
    """Make an empty ledger with these facts in its meta table; it appears under its name only when it is whole."""
    draft = path.with_name(path.name + ".new")
    for leftover in (draft, Path(f"{draft}-wal"), Path(f"{draft}-shm"), Path(f"{draft}-journal")):
        leftover.unlink(missing_ok=True)
    db = sqlite3.connect(draft, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; BEGIN; {TABLES} COMMIT;")
        db.execute("BEGIN")
        for key, value in facts.items():
            write_meta(db, key, value)
        db.execute("COMMIT")
    finally:
        db.close()
    failpoints.hit("ledger.create")
    os.rename(draft, path)
    sync_directory(path.parent)
    failpoints.hit("ledger.created")


def sync_directory(directory: Path) -> None:
    """Make the directory's entries durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rows(db: sqlite3.Connection, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """A query's rows.

    Raises:
        LedgerCorrupt: SQLite finds the file malformed.
    """
    try:
        return db.execute(sql, arguments).fetchall()
    except (sqlite3.DatabaseError, OverflowError) as error:
        raise LedgerCorrupt(f"The ledger's database cannot be read ({error}) while answering: {sql[:60]}…") from error


def text_crc(*values: object) -> int:
    """A row's checksum over its values."""
    return zlib.crc32(json.dumps(values, separators=(",", ":")).encode())


def chain(seq: int, body: str, previous: int) -> int:
    """An event's checksum: over its number, its text and the checksum of the event before it."""
    return zlib.crc32(f"{seq}|{body}".encode(), previous)


def sample_crc(row: SampleRow) -> int:
    """The checksum of a samples row (NaN has one spelling because SQLite stores it as NULL).

    Raises:
        LedgerCorrupt: a value is not even of its type.
    """
    try:
        seq, member, step, attempt, t, segment, record, data_crc = row
        return zlib.crc32(_SAMPLE.pack(seq, member, step, attempt, math.nan if t != t else t, segment, record, data_crc))
    except (struct.error, TypeError) as error:
        raise LedgerCorrupt(f"The row {row[0]!r} of the samples table is damaged: {error}.") from error


def checked_sample(raw: tuple[Any, ...]) -> SampleRow:
    """The row without its checksum, which is verified.

    Raises:
        LedgerCorrupt: it does not match.
    """
    row: SampleRow = (*raw[:4], math.nan if raw[4] is None else raw[4], *raw[5:8])
    if sample_crc(row) != raw[8]:
        raise LedgerCorrupt(
            f"The row {raw[0]!r} of the samples table (member number {raw[1]!r}, step {raw[2]!r}) does not match its checksum."
        )
    return row


def member_row(row: Row) -> tuple[Any, ...]:
    """A members row, checksum last."""
    m = row.member
    body = json.dumps(
        [
            dict(m.parameters),
            list(m.x),
            m.reason,
            m.origin,
            m.score,
            m.why,
            m.round,
            m.t,
            m.core_s,
            m.queued_at,
            m.started_at,
            m.ended_at,
            m.revoked,
        ],
        separators=(",", ":"),
    )
    values = (row.number, m.id, m.state.value, m.attempt, m.steps, row.duplicates, body)
    return (*values, text_crc(*values))


def checked_member(raw: tuple[Any, ...]) -> Row:
    """The member of a members row.

    Raises:
        LedgerCorrupt: the checksum does not match.
    """
    *values, crc = raw
    try:
        sound = text_crc(*values) == crc
    except TypeError:
        sound = False
    if not sound:
        raise LedgerCorrupt(f"The row of member {raw[1]!r} (number {raw[0]!r}) in the members table does not match its checksum.")
    number, name, state, attempt, steps, duplicates, body = values
    parameters, x, reason, origin, score, why, round_, t, core_s, queued_at, started_at, ended_at, *later = json.loads(body)
    member = Member(
        id=name, parameters=parameters, x=tuple(x), state=MemberState(state), attempt=attempt, reason=reason, origin=origin,
        score=score, why=why, round=round_, steps=steps, t=t, core_s=core_s, queued_at=queued_at, started_at=started_at,
        ended_at=ended_at, revoked=later[0] if later else "",
    )  # fmt: skip
    return Row(number, member, duplicates)


def read_members(db: sqlite3.Connection) -> Iterator[Row]:
    """The members table, verified, in the order of numbers."""
    for raw in rows(db, "SELECT number, id, state, attempt, steps, duplicates, body, crc FROM members ORDER BY number"):
        yield checked_member(raw)


def read_meta(db: sqlite3.Connection) -> dict[str, Any]:
    """The key-value facts, verified.

    Raises:
        LedgerCorrupt: a checksum does not match.
    """
    out = {}
    for key, value, crc in rows(db, "SELECT key, value, crc FROM meta"):
        if text_crc(key, value) != crc:
            raise LedgerCorrupt(f"The fact '{key}' in the ledger's meta table does not match its checksum.")
        out[key] = json.loads(value)
    return out


def write_meta(db: sqlite3.Connection, key: str, value: object) -> None:
    """Set a key-value fact inside the caller's transaction."""
    text = json.dumps(value)
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, text, text_crc(key, text)))
