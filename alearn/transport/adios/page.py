"""The page: 1 KiB in a member's directory on which the learner's side tells our own client what ADIOS2 cannot.

Two halves, each written by one process: the learner's (how many steps are durable, please stop, refused) and the
reader processes' (which stream one of them waits for, which has broken off and why). A half is one small write with a
checksum; a torn read is read again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

NAME = "alearn.page"
STREAM = "alearn"
"""Streams of our own client are called ``alearn-1``, ``alearn-2`` … in the order in which they are opened."""
SETTINGS = f"{STREAM}-writer.json"
"""ADIOS2's parameters and operators for our own client, laid beside the page."""
_HALF = 512
_LEARNER = struct.Struct("<4sIQQQH")
_READERS = struct.Struct("<4sIQQH")
_CRC = struct.Struct("<I")
_MAGIC = b"ALPG"
_REASON = _HALF - _CRC.size - _LEARNER.size


@dataclass(frozen=True, slots=True)
class Told:
    """The learner's half.

    Args:
        acknowledged: steps of the member that are durable.
        welcomed: the latest stream whose hello the learner has answered.
        ended: the latest stream whose end has arrived.
        stop: please stop.
        gone: the attempt's process is gone, nothing more will be written.
        refused: this attempt is over for good, for this reason.
    """

    acknowledged: int = 0
    welcomed: int = 0
    ended: int = 0
    stop: bool = False
    gone: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reader processes' half.

    Args:
        ready: the stream that a reader process waits for or reads.
        broken: the latest stream that broke off; ``final`` if it makes no sense to open another.
        reason: why.
    """

    ready: int = 0
    broken: int = 0
    final: bool = False
    reason: str = ""


class Page:
    """The page in a directory.

    Args:
        directory: where it is.
        create: make it, empty, if it is not there.

    Raises:
        FileNotFoundError: it is not there.
    """

    def __init__(self, directory: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._handle = os.open(directory / NAME, flags, 0o600)

    def tell(self, told: Told) -> None:
        """Write the learner's half."""
        flags = told.stop | told.gone << 1
        reason = told.refused.encode()[:_REASON]
        head = _LEARNER.pack(_MAGIC, flags, told.acknowledged, told.welcomed, told.ended, len(reason))
        self._write(0, head + reason)

    def told(self) -> Told:
        """Read the learner's half; what an empty page tells is nothing."""
        half = self._read(0)
        if half is None:
            return Told()
        _, flags, acknowledged, welcomed, ended, length = _LEARNER.unpack_from(half)
        return Told(acknowledged, welcomed, ended, bool(flags & 1), bool(flags & 2), _text(half, _LEARNER.size, length))

    def wait(self, waiting: Waiting) -> None:
        """Write the reader processes' half."""
        reason = waiting.reason.encode()[:_REASON]
        self._write(_HALF, _READERS.pack(_MAGIC, waiting.final, waiting.ready, waiting.broken, len(reason)) + reason)

    def waiting(self) -> Waiting:
        """Read the reader processes' half."""
        half = self._read(_HALF)
        if half is None:
            return Waiting()
        _, final, ready, broken, length = _READERS.unpack_from(half)
        return Waiting(ready, broken, bool(final), _text(half, _READERS.size, length))

    def follow(self, number: int) -> None:
        """A reader process waits for this stream from now on."""
        with self._alone():
            waiting = self.waiting()
            self.wait(replace(waiting, ready=number, broken=max(waiting.broken, number - 1)))

    def give_up(self, number: int, reason: str) -> None:
        """The reader process of this stream goes; says nothing if a later stream is followed already, by the next learner."""
        with self._alone():
            if self.waiting().ready <= number:
                self.wait(Waiting(number, number, False, reason))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _write(self, at: int, content: bytes) -> None:
        padded = content.ljust(_HALF - _CRC.size, b"\0")
        os.pwrite(self._handle, padded + _CRC.pack(zlib.crc32(padded)), at)

    def _read(self, at: int) -> bytes | None:
        for _ in range(100):
            half = os.pread(self._handle, _HALF, at)
            if not half.startswith(_MAGIC):
                return None
            if len(half) == _HALF and _CRC.unpack_from(half, _HALF - _CRC.size)[0] == zlib.crc32(half[: -_CRC.size]):
                return half
        return None


def _text(half: bytes, at: int, length: int) -> str:
    return half[at : at + length].decode(errors="replace")
