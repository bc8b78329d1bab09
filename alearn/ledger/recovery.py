"""After a crash: drop what no commit names. Only its owner may do this, and only before it writes anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from alearn.errors import LedgerCorrupt
from alearn.ledger import archive
from alearn.ledger.data import Segment, archive_state
from alearn.ledger.segments import DIRECTORY, HEAD, Layout, path_of
from alearn.types import Schema


def drop_leftovers(directory: Path, segments: Mapping[int, Segment], schema: Schema | None) -> int:
    """Cut torn tails, remove segments that are unnamed or sealed already, cut the archive back; returns the bytes dropped.

    Raises:
        LedgerCorrupt: bytes that the ledger names are missing.
    """
    dropped = 0
    for path in sorted((directory / DIRECTORY).glob("*.seg")):
        segment = segments.get(int(path.stem)) if path.stem.isdigit() else None
        if segment is None:
            dropped += max(0, path.stat().st_size - HEAD)
            path.unlink()
        elif segment.moved:
            path.unlink()
    for segment in segments.values():
        if segment.moved or schema is None:
            continue
        path = path_of(directory, segment.number)
        named = HEAD + segment.records * Layout(schema).record_size
        size = path.stat().st_size if path.exists() else 0
        if size < named:
            raise LedgerCorrupt(
                f"The segment {path} has {size} bytes; the ledger names {named}: acknowledged samples are gone. "
                "Restore the file from a copy, or look at the rest read-only."
            )
        if size > named:
            os.truncate(path, named)
            dropped += size - named
    return dropped + archive.restore(directory, archive_state(segments))
