"""Writes batches of samples into segments; which record comes next is always said by the ledger's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from alearn.ledger.data import Segment
from alearn.ledger.database import SampleRow
from alearn.ledger.fold import Row
from alearn.ledger.segments import Layout, SegmentFile, encode
from alearn.types import Array, Sample


class SegmentWriter:
    """Holds the one segment file that is open for writing."""

    def __init__(self, directory: Path, study: bytes, segment_bytes: int) -> None:
        self._directory = directory
        self._study = study
        self._segment_bytes = segment_bytes
        self._file: SegmentFile | None = None

    def close(self) -> None:
        """Let go of the open file; what it holds is not touched."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(
        self,
        fresh: Sequence[tuple[Row, Sample, dict[str, Array]]],
        layout: Layout,
        segments: Mapping[int, Segment],
        seq: int,
        closed: int,
    ) -> tuple[list[SampleRow], list[Segment]]:
        """Write and sync records.

        Args:
            fresh: the samples with their member's row and conforming arrays.
            layout: of the records.
            segments: as committed.
            seq: the number of the last sample stored.
            closed: the number of a segment that takes no more samples.

        Returns:
            The rows that name the samples, and the segments as they will be, both to be committed.
        """
        out: list[SampleRow] = []
        known = dict(segments)
        capacity = layout.capacity(self._segment_bytes)
        touched: dict[int, Segment] = {}
        while len(out) < len(fresh):
            file = self._open(layout, capacity, known, closed)
            before = known.get(file.number, Segment(file.number, 0))
            part = fresh[len(out) : len(out) + capacity - before.records]
            buffers: list[memoryview | bytes] = []
            for record, (row, sample, arrays) in enumerate(part, before.records):
                data, crc = encode(layout, row.number, sample.attempt, sample.step, float(sample.t), arrays)
                buffers.extend(data)
                seq += 1
                out.append((seq, row.number, sample.step, sample.attempt, float(sample.t), file.number, record, crc))
            file.write(before.records, buffers)
            file.sync()
            touched[file.number] = known[file.number] = Segment(file.number, before.records + len(part))
        return out, list(touched.values())

    def _open(self, layout: Layout, capacity: int, known: Mapping[int, Segment], closed: int) -> SegmentFile:
        last = known[max(known)] if known else None
        new = last is None or last.moved or last.records >= capacity or last.number == closed
        number = 0 if last is None else last.number + new
        if self._file is None or self._file.number != number:
            self.close()
            self._file = SegmentFile(self._directory, self._study, number, layout, new=new)
        return self._file
