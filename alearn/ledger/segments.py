"""Segments: append-only files of fixed-size records, a checksum for every field of every sample.

A segment is a 64-byte head and records. A record is a sample's small facts (member number, attempt, step, t, one
CRC-32 a field, and a CRC-32 over all of these) followed by its fields, little endian, in the schema's order.
How many records of a segment exist is said by the ledger alone: bytes behind them were never acknowledged.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alearn import failpoints
from alearn.errors import LedgerCorrupt, LedgerError
from alearn.ledger.database import sync_directory
from alearn.types import Array, Schema

DIRECTORY = "segments"
HEAD = 64
_HEAD = struct.Struct("<8s16sQQ")  # magic, study, segment number, record size
_MAGIC = b"alearn1\n"
_FACTS = struct.Struct("<IIId")
_IOV_MAX = 512
_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a record of a schema."""

    schema: Schema

    @property
    def facts_size(self) -> int:
        """Bytes before the fields."""
        return _FACTS.size + 4 * len(self.schema.fields) + 4

    @property
    def record_size(self) -> int:
        return self.facts_size + self.schema.nbytes

    @property
    def facts_dtype(self) -> np.dtype[Any]:
        """The record's small facts as a structured dtype."""
        return np.dtype(
            [
                ("member", "<u4"),
                ("attempt", "<u4"),
                ("step", "<u4"),
                ("t", "<f8"),
                ("crcs", "<u4", (len(self.schema.fields),)),
                ("crc", "<u4"),
            ]
        )

    def offset(self, name: str) -> int:
        """Where the field starts inside the record."""
        at = self.facts_size
        for f in self.schema.fields:
            if f.name == name:
                return at
            at += f.nbytes
        raise LedgerError(f"There is no field '{name}'; the study has {list(self.schema.names)}.")

    def capacity(self, segment_bytes: int) -> int:
        """How many records a segment of at most this size holds; at least one."""
        return max(1, (segment_bytes - HEAD) // self.record_size)


@dataclass(frozen=True, slots=True)
class Records:
    """Some records read back: ``facts`` is a structured array of ``n``, ``values`` maps a field to ``n x shape``."""

    facts: Array
    values: dict[str, Array]


def encode(
    layout: Layout, member: int, attempt: int, step: int, t: float, arrays: dict[str, Array]
) -> tuple[list[memoryview | bytes], int]:
    """A record's buffers, in order, and the checksum over its facts. ``arrays`` are as ``Schema.conform`` returns them."""
    buffers: list[memoryview | bytes] = []
    crcs = []
    for f in layout.schema.fields:
        array = arrays[f.name].astype(np.dtype(f.dtype).newbyteorder("<"), copy=False)
        data = array.reshape(-1).view(np.uint8).data if f.nbytes else b""
        crcs.append(zlib.crc32(data))
        if f.nbytes:
            buffers.append(data)
    facts = _FACTS.pack(member, attempt, step, t) + struct.pack(f"<{len(crcs)}I", *crcs)
    crc = zlib.crc32(facts)
    return [facts + struct.pack("<I", crc), *buffers], crc


def path_of(directory: Path, number: int) -> Path:
    """The file of a segment."""
    return directory / DIRECTORY / f"{number:06d}.seg"


class SegmentFile:
    """The one segment that is being written. Positions come from the ledger, so leftovers are overwritten."""

    def __init__(self, directory: Path, study: bytes, number: int, layout: Layout, *, new: bool) -> None:
        self.number = number
        self.layout = layout
        self.path = path_of(directory, number)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if new else 0), 0o644)
        if new:
            os.pwrite(self._fd, _HEAD.pack(_MAGIC, study, number, layout.record_size).ljust(HEAD, b"\0"), 0)
            failpoints.hit("ledger.segment_created")
            os.fsync(self._fd)
            sync_directory(self.path.parent)
            failpoints.hit("ledger.segment_synced")

    def write(self, record: int, buffers: Sequence[memoryview | bytes]) -> None:
        """Write records from number ``record`` on; nothing is durable before ``sync``."""
        at = HEAD + record * self.layout.record_size
        for i in range(0, len(buffers), _IOV_MAX):
            group = list(buffers[i : i + _IOV_MAX])
            size = sum(len(b) for b in group)
            keep = failpoints.cut("ledger.write", size)
            if keep < size:
                os.pwrite(self._fd, b"".join(group)[:keep], at)
                failpoints.die()
            while group:
                done = os.pwritev(self._fd, group, at)
                at += done
                while group and done >= len(group[0]):
                    done -= len(group.pop(0))
                if done:
                    group[0] = memoryview(group[0])[done:]

    def sync(self) -> None:
        """Make what was written durable."""
        failpoints.hit("ledger.before_sync")
        os.fdatasync(self._fd)
        failpoints.hit("ledger.after_sync")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SegmentReader:
    """Reads records of a segment by number, only the named fields, verified."""

    def __init__(self, directory: Path, number: int, layout: Layout) -> None:
        """Open the segment.

        Raises:
            FileNotFoundError: it was sealed meanwhile (or is lost): look it up again.
            LedgerCorrupt: its head is damaged.
        """
        self.path = path_of(directory, number)
        self.layout = layout
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        head = os.pread(self._fd, HEAD, 0)
        if len(head) < HEAD or _HEAD.unpack_from(head)[0] != _MAGIC or _HEAD.unpack_from(head)[2:] != (number, layout.record_size):
            self.close()
            raise LedgerCorrupt(f"The head of the segment {self.path} is damaged.")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, records: Array, names: Sequence[str]) -> Records:
        """The records with these ascending numbers.

        Raises:
            LedgerCorrupt: a checksum does not match, or bytes are missing.
        """
        layout, size = self.layout, self.layout.record_size
        fields = [f for f in layout.schema.fields if f.name in names]
        facts = np.empty(len(records), layout.facts_dtype)
        values = {f.name: np.empty((len(records), *f.shape), np.dtype(f.dtype)) for f in fields}
        whole = size <= 16384 or len(fields) == len(layout.schema.fields)
        for a, b in runs(records, max(1, _READ_BYTES // size) if whole else 1):
            at = HEAD + int(records[a]) * size
            if whole:
                raw = np.frombuffer(self._bytes(at, (b - a) * size), np.uint8).reshape(b - a, size)
                facts[a:b] = np.ascontiguousarray(raw[:, : layout.facts_size]).view(layout.facts_dtype)[:, 0]
                for f in fields:
                    start = layout.offset(f.name)
                    values[f.name][a:b] = _as_field(np.ascontiguousarray(raw[:, start : start + f.nbytes]), f.dtype, (b - a, *f.shape))
            else:
                facts[a] = np.frombuffer(self._bytes(at, layout.facts_size), layout.facts_dtype)[0]
                for f in fields:
                    data = np.frombuffer(self._bytes(at + layout.offset(f.name), f.nbytes), np.uint8)
                    values[f.name][a] = _as_field(data, f.dtype, f.shape)
        check(layout, facts, values, str(self.path), records)
        return Records(facts, values)

    def _bytes(self, at: int, size: int) -> bytearray:
        out = bytearray(size)
        view = memoryview(out)
        done = 0
        while done < size:
            n = os.preadv(self._fd, [view[done:]], at + done)
            if n == 0:
                record = (at - HEAD) // self.layout.record_size
                raise LedgerCorrupt(
                    f"The segment {self.path} ends at byte {at + done}, inside or before its record {record}, which the ledger names."
                )
            done += n
        return out


def _as_field(data: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    return data.reshape(-1).view(np.dtype(dtype).newbyteorder("<")).reshape(shape)


def runs(numbers: Array, longest: int) -> Iterator[tuple[int, int]]:
    """Positions ``[a, b)`` of the stretches of consecutive numbers, none longer than ``longest``."""
    if len(numbers) == 0:
        return
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    edges = [0, *breaks.tolist(), len(numbers)]
    for start, stop in itertools.pairwise(edges):
        for a in range(start, stop, longest):
            yield a, min(a + longest, stop)


def check(layout: Layout, facts: Array, values: dict[str, Array], where: str, records: Array) -> None:
    """Verify the checksums of records.

    Raises:
        LedgerCorrupt: naming the place, the record and the field.
    """
    size = layout.facts_size
    raw = np.ascontiguousarray(facts).view(np.uint8).reshape(len(facts), size)
    expected = facts["crc"].tolist()
    for i in range(len(facts)):
        if zlib.crc32(raw[i, : size - 4].data) != expected[i]:
            raise LedgerCorrupt(f"Record {int(records[i])} in {where}: its facts (member, attempt, step, t) do not match their checksum.")
    for j, f in enumerate(layout.schema.fields):
        if f.name not in values:
            continue
        crcs = facts["crcs"][:, j].tolist()
        data = np.ascontiguousarray(values[f.name])
        flat = data.reshape(len(data), -1).view(np.uint8) if f.nbytes else np.empty((len(data), 0), np.uint8)
        for i in range(len(facts)):
            if zlib.crc32(flat[i].data) != crcs[i]:
                raise LedgerCorrupt(
                    f"Record {int(records[i])} in {where}: the field '{f.name}' (member number {int(facts['member'][i])}, "
                    f"step {int(facts['step'][i])}) does not match its checksum."
                )
