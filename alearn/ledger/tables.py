"""What the ledger's database holds, as it is in memory; memory follows only what was committed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, final

from alearn import failpoints
from alearn.events import Event, decode, encode
from alearn.ledger import database
from alearn.ledger.data import Segment, read_segments
from alearn.ledger.database import SampleRow, rows
from alearn.ledger.fold import MemberTable


@final
class Tables:
    """The tables in memory, and the transactions that change them and the database together.

    Not thread-safe, and a transaction that fails is left open: its caller rolls back.

    Args:
        db: the open database.

    Attributes:
        meta: small facts about the study, by key.
        members: the members.
        segments: the segments by number.
        events, chain: the number of the last event and its checksum.
        last_at: time of the last event, Unix s; 0 before the first.
        samples: the number of the sample stored last.

    Raises:
        LedgerCorrupt: a row does not match its checksum.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.load()

    def load(self) -> None:
        """Read everything anew, as of one moment.

        Raises:
            LedgerCorrupt: a row does not match its checksum.
        """
        db = self._db
        db.execute("BEGIN")
        try:
            self.meta: dict[str, Any] = database.read_meta(db)
            self.members = MemberTable(database.read_members(db))
            self.segments = read_segments(db)
            at = "CASE WHEN json_valid(body) THEN json_extract(body, '$.at') END"  # a damaged one is named by whoever reads the events
            last = rows(db, f"SELECT seq, chain, {at} FROM events ORDER BY seq DESC LIMIT 1")
            self.events, self.chain, when = last[0] if last else (0, 0, None)
            self.last_at = float(when) if isinstance(when, (int, float)) else 0.0
            self.samples = int(rows(db, "SELECT coalesce(max(seq), 0) FROM samples")[0][0])
        finally:
            db.execute("COMMIT")

    def note(self, facts: Mapping[str, object]) -> None:
        """Write small facts."""
        self._db.execute("BEGIN IMMEDIATE")
        for key, value in facts.items():
            database.write_meta(self._db, key, value)
        failpoints.hit("ledger.before_meta_commit")
        self._db.execute("COMMIT")
        failpoints.hit("ledger.after_meta_commit")
        self.meta.update(facts)

    def commit(self, events: Sequence[Event], samples: Sequence[SampleRow] = (), segments: Sequence[Segment] = ()) -> None:
        """Add events, what they change in the members table, and the rows that name samples and their segments.

        Raises:
            LedgerError: an event names an unknown member; nothing was added.
        """
        db, trial = self._db, self.members.trial()
        bodies = [encode(event) for event in events]
        for body in bodies:
            trial.apply(decode(body))  # what a replay will see, to the last bit
        seq, chain = self.events, self.chain
        event_rows = []
        for body in bodies:
            seq += 1
            chain = database.chain(seq, body, chain)
            event_rows.append((seq, body, chain))
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO events VALUES (?, ?, ?)", event_rows)
        db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [(*row, database.sample_crc(row)) for row in samples])
        db.executemany("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(database.member_row, trial.rows.values()))
        self._write(segments)
        failpoints.hit("ledger.before_commit")
        db.execute("COMMIT")
        failpoints.hit("ledger.after_commit")
        self.members.merge(trial)
        self.events, self.chain = seq, chain
        self.samples += len(samples)
        self.segments.update({s.number: s for s in segments})

    def move(self, segments: Sequence[Segment], how: str) -> None:
        """Write that segments are no files any more; ``how`` names the failpoints around it."""
        self._db.execute("BEGIN IMMEDIATE")
        self._write(segments)
        failpoints.hit(f"ledger.{how}_before_commit")
        self._db.execute("COMMIT")
        failpoints.hit(f"ledger.{how}_committed")
        self.segments.update({s.number: s for s in segments})

    def _write(self, segments: Sequence[Segment]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)",
            [(s.number, s.records, s.archive_step, s.archive_state, s.crc) for s in segments],
        )
