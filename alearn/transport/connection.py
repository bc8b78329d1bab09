"""One accepted stream: bytes in, frames out. Knows the wire, nothing of members or queues."""

from __future__ import annotations

import fcntl
import hmac
import mmap
import os
import socket
import ssl
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alearn import client as wire
from alearn.types import Schema

HELLO_BYTES = 1 << 20
END_BYTES = 1 << 16
STEERED_BYTES = 1 << 10
PROOF_BYTES = 64
_BUFFER = 1 << 16
_DISCARDED = 64 << 20
_POOLED = 32 << 20
_POOLED_SIZES = 4
_STEP_BYTES = wire.HEADER_BYTES + wire.STEP_HEAD.size
_PLACED_BYTES = wire.HEADER_BYTES + wire.PLACED_HEAD.size
_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ProtocolError(Exception):
    """What arrived is not what the protocol allows here; it costs this connection."""

    final = True


class Damaged(ProtocolError):
    """A checksum does not match; the writer may connect anew and send it again."""

    final = False


class Buffers:
    """Buffers for large bodies, used again when no array looks into them any more.

    Memory fresh from the system costs a page fault for every 4 KiB, more than the bytes' own way through the socket; and the
    buffer that was given back last is the one that still lies in the processor's cache. At most 32 MiB a size and four sizes
    are kept.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[bytearray]] = {}

    def take(self, length: int) -> memoryview:
        """A writable buffer of this length with arbitrary content."""
        if length < wire.LARGE or length > _POOLED:
            return np.empty(length, np.uint8).data
        free = self._free.get(length)
        if free is None:
            if len(self._free) == _POOLED_SIZES:
                del self._free[next(iter(self._free))]
            free = self._free[length] = []
        memory = free.pop() if free else bytearray(length)
        lease = _Lease(length, np.uint8, memory)
        lease.memory, lease.home = memory, free
        return lease.data


class _Lease(np.ndarray[Any, np.dtype[np.uint8]]):
    """Memory that goes home when the last view of it is gone, in whatever thread that is.

    The memory is no array itself: numpy would name that as the base of the views, and let go of the lease.
    """

    memory: bytearray | None = None
    home: list[bytearray]

    def __del__(self) -> None:
        if self.memory is not None and (len(self.home) + 1) * len(self.memory) <= _POOLED:
            self.home.append(self.memory)


class SharedMemory:
    """Memory of a writer's, seen from here; read only.

    Args:
        descriptor: of a memory file, closed here. It must be sealed against shortening: touching what is gone would kill us.

    Raises:
        ProtocolError: it is none.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ProtocolError("the memory that it shares may be shortened; it must be sealed against that")
            self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        except (OSError, ValueError, AttributeError) as error:
            raise ProtocolError(f"what it shares is no memory that can be seen here: {error}") from error
        finally:
            os.close(descriptor)

    def copy(self, place: int, into: memoryview) -> None:
        """Copy what lies at a place.

        Raises:
            ProtocolError: there is not so much.
        """
        if place + len(into) > len(self._map):
            raise ProtocolError(f"it points to byte {place} of the {len(self._map)} that it shares; a step of {len(into)} ends behind them")
        source = np.frombuffer(self._map, np.uint8, len(into), place)
        np.copyto(np.frombuffer(into, np.uint8), source)  # numpy lets others run meanwhile

    def close(self) -> None:
        self._map.close()


class Frame(NamedTuple):
    """A frame that arrived whole: its kind, head and (for a STEP) its read-only body."""

    kind: int
    head: bytes
    body: memoryview


@dataclass(eq=False)
class Connection:
    """The reader's side of one socket.

    ``seals`` are those of what is received and of what is sent, once both sides have proved themselves.
    ``state`` is "tls" (its handshake is under way), "proof" (authentication is due), "hello", "open", "ended" or "refused"
    (an ERROR was sent and what still comes is thrown away). ``deadline`` bounds every state but "open".

    Args:
        sock: the connected socket; made non-blocking.
        state: "tls", "proof" or "hello".
        deadline: monotonic time by which the state must be left.
        buffers: where the bodies of steps come from.
    """

    sock: socket.socket
    state: str
    deadline: float | None
    buffers: Buffers = field(default_factory=Buffers)
    nonce: bytes = b""
    seals: tuple[wire.Seal, wire.Seal] | None = None
    member: str = ""
    attempt: int = 0
    session: str = ""
    step_bytes: int = 0
    told: int = 0
    next_step: int | None = None
    welcomed: bool = False
    ack_due: bool = False
    ended: bool = False
    registered: int = 0
    closed: bool = False
    discarded: int = 0
    out: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.sock.setblocking(False)
        self.tls = self.sock if isinstance(self.sock, ssl.SSLSocket) else None
        self._expected, self._expected_crc = b"", 0
        self._buffer = bytearray(4096)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._filling: memoryview | None = None
        self._filled = 0
        self._descriptors: list[int] = []
        self._memory: SharedMemory | None = None
        self.error: ProtocolError | None = None
        self._frame: tuple[int, int, bytes] = (0, 0, b"")
        self._layout: list[tuple[str, tuple[int, ...], np.dtype[Any], int]] = []

    def accept(self, schema: Schema) -> None:
        """The writer is known: steps of this schema may come.

        Raises:
            ProtocolError: it enclosed something other than memory that can be shared.
        """
        if self._descriptors:
            self._memory = SharedMemory(self._descriptors.pop())
        self.step_bytes = schema.nbytes
        self._expected = wire.HEADER.pack(wire.MAGIC, wire.STEP, 0, 0, wire.STEP_HEAD.size, schema.nbytes)
        self._expected_crc = zlib.crc32(self._expected)
        self._layout = []
        at = 0
        for f in schema.fields:
            self._layout.append((f.name, f.shape, np.dtype(f.dtype).newbyteorder("<"), at))
            at += f.nbytes

    def unpack(self, body: memoryview) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a step: read-only views of its body."""
        return {name: np.ndarray(shape, dtype, body, at) for name, shape, dtype, at in self._layout}

    def shake_hands(self) -> bool:
        """Go on with the TLS handshake; returns whether it is done.

        Raises:
            OSError: the other side does not speak TLS 1.3, or is gone.
        """
        assert self.tls is not None
        try:
            self.tls.do_handshake()
        except _AGAIN:
            return False
        return True

    @property
    def pending(self) -> bool:
        """Whether TLS holds bytes that the kernel will not tell of again."""
        return self.tls is not None and not self.closed and self.state not in ("tls", "refused") and self.tls.pending() > 0

    def grow(self) -> None:
        """Give the stream its full receive buffer."""
        kept = bytes(self._view[self._start : self._end])
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start, self._end = 0, len(kept)
        self._view[: len(kept)] = kept

    def receive(self, quantum: int) -> tuple[list[Frame], bool]:
        """Read up to about ``quantum`` bytes.

        Returns:
            The frames that are now whole, and whether the other side has closed. What this state does not allow
            is left in ``error``; the frames before it are good.
        """
        frames: list[Frame] = []
        left = quantum
        # a large body is followed by the next frame's header only, so that the next body lands in its own buffer at once
        ahead = wire.HEADER_BYTES + 20 if self.step_bytes >= wire.LARGE else len(self._buffer)
        if self._memory is not None:  # each of these frames stands for a whole step
            ahead = _PLACED_BYTES * max(1, quantum // max(1, self.step_bytes))
        while left > 0:
            self._compact()
            tail = self._view[self._end : min(self._end + ahead, len(self._buffer))]
            try:
                if self._filling is None:
                    room = len(tail)
                    got = self.sock.recv_into(tail) if self.state != "hello" else self._enclosed(tail)
                    self._end += got
                else:
                    rest = self._filling[self._filled :]
                    room = len(rest) + len(tail)
                    got = self.sock.recvmsg_into([rest, tail])[0] if self.tls is None else self.tls.recv_into(rest)
                    into = min(got, len(rest))
                    self._filled += into
                    self._end += got - into
            except _AGAIN:
                return frames, False
            except OSError:
                return frames, True
            if got == 0:
                return frames, True
            left -= got
            before = len(frames)
            self._cut(frames)
            if self._memory is not None:
                left -= self.step_bytes * (len(frames) - before)
            if self.state != "open" or self.error is not None:
                break  # the owner must look at a hello or a proof before what follows can be judged
            if got < room and self.tls is None:
                break  # the kernel has no more
        return frames, False

    def _enclosed(self, tail: memoryview) -> int:
        """Receive what may be a hello, which may bring a descriptor with it."""
        if self.sock.family != socket.AF_UNIX or self.tls is not None:
            return self.sock.recv_into(tail)
        got, enclosed, _, _ = self.sock.recvmsg_into([tail], socket.CMSG_SPACE(4), getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        for level, kind, data in enclosed:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors += struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
        while len(self._descriptors) > 1:  # a flood of files must not take all there are
            os.close(self._descriptors.pop())
        return got

    def close(self) -> None:
        """Close the socket and let go of the writer's memory."""
        self.sock.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    def more(self) -> list[Frame]:
        """The frames that the buffer already holds, after the state has changed."""
        frames: list[Frame] = []
        self._cut(frames)
        return frames

    def _cut(self, frames: list[Frame]) -> None:
        try:
            if self._filling is not None and self._filled == len(self._filling):
                frames.append(self._whole())
            if self._filling is None:
                self._parse(frames)
        except ProtocolError as error:
            self.error = error

    def _compact(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and len(self._buffer) - self._end < 256:
            self._view[: self._end - self._start] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, self._end - self._start

    def _parse(self, frames: list[Frame]) -> None:
        view = self._view
        while self._end - self._start >= wire.HEADER_BYTES and self._filling is None:
            if frames and self.state != "open":
                return  # what this frame changes decides how the next is read: the owner calls ``more``
            at = self._start
            first = bytes(view[at : at + _STEP_BYTES])
            if first[: wire.HEADER.size] == self._expected:
                if self._end - at < _STEP_BYTES:
                    return
                if wire.CRC.unpack_from(first, wire.HEADER.size)[0] != zlib.crc32(first[wire.HEADER_BYTES :], self._expected_crc):
                    raise Damaged("a frame was damaged on its way (its checksum does not match)")
                kind, flags, length = wire.STEP, 0, self.step_bytes
            else:
                magic, kind, flags, _, head_bytes, length = wire.HEADER.unpack_from(view, at)
                if magic != wire.MAGIC:
                    raise ProtocolError("its bytes are not frames of this protocol")
                self._check(kind, flags, head_bytes, length)
                if kind == wire.STEP:
                    if self._end - at < wire.HEADER_BYTES + head_bytes:
                        return
                    first = bytes(view[at : at + wire.HEADER_BYTES + head_bytes])
                    self._verify(first)
                    if flags & wire.IN_MEMORY:
                        self._start = at + len(first)
                        frames.append(Frame(kind, first[wire.HEADER_BYTES :], self._copied(first)))
                        continue
                else:
                    first = first[: wire.HEADER_BYTES]  # the header waits for the head that it vouches for
                    length = head_bytes
            at += len(first)
            length += 0 if self.seals is None else wire.SEAL_BYTES
            self._frame = (kind, flags, first)
            here = min(length, self._end - at)
            if here == length and length < wire.LARGE:
                self._start = at + length
                self._filling = memoryview(bytes(view[at : at + length]))
                self._filled = length
            else:
                self._filling = self.buffers.take(length)
                self._filling[:here] = view[at : at + here]
                self._start = at + here
                self._filled = here
            if self._filled == length:
                frames.append(self._whole())

    def _check(self, kind: int, flags: int, head_bytes: int, body_bytes: int) -> None:
        """Everything that can be refused before a byte is allocated for it."""
        due = {"proof": wire.PROOF, "hello": wire.HELLO}.get(self.state)
        if self.state == "open":
            if kind not in (wire.STEP, wire.END, wire.STEERED):
                raise ProtocolError(f"it sent a frame of kind {kind} where a step or the end was due")
        elif kind != due:
            raise ProtocolError(f"it sent a frame of kind {kind} where {'nothing' if due is None else f'kind {due}'} was due")
        if kind == wire.STEP and flags & wire.IN_MEMORY:
            if self._memory is None or head_bytes != wire.PLACED_HEAD.size or body_bytes:
                raise ProtocolError("it says that a step lies in memory, which it has not shared or does not point into")
            return
        if kind == wire.STEP:
            wanted = wire.STEP_HEAD.size + (wire.CRC.size if flags & wire.BODY_CRC else 0)
            if head_bytes != wanted:
                raise ProtocolError(f"it sent a step with a head of {head_bytes} bytes; {wanted} are due")
            if body_bytes != self.step_bytes:
                raise ProtocolError(f"it sent a step of {body_bytes} bytes; its schema says {self.step_bytes}")
            return
        limit = {wire.PROOF: PROOF_BYTES, wire.HELLO: HELLO_BYTES, wire.END: END_BYTES, wire.STEERED: STEERED_BYTES}[kind]
        if head_bytes > limit or body_bytes:
            raise ProtocolError(f"it sent a frame of kind {kind} with {head_bytes} + {body_bytes} bytes; at most {limit} + 0 are allowed")

    def _copied(self, first: bytes) -> memoryview:
        """A step out of the writer's memory, read-only."""
        assert self._memory is not None
        place = wire.PLACED_HEAD.unpack_from(first, wire.HEADER_BYTES)[2]
        body = self.buffers.take(self.step_bytes)
        self._memory.copy(place, body)
        return body.toreadonly()

    def _whole(self) -> Frame:
        assert self._filling is not None
        kind, flags, first = self._frame
        data = self._filling.toreadonly()
        self._filling = None
        if self.seals is not None:
            data, seal = data[: -wire.SEAL_BYTES], data[-wire.SEAL_BYTES :]
            if not hmac.compare_digest(seal, self.seals[0](first, data)):
                raise Damaged("a frame was changed on its way, or was not from this writer (its seal does not match)")
        if kind == wire.STEP:
            head = first[wire.HEADER_BYTES :]
            if flags & wire.BODY_CRC and wire.CRC.unpack_from(head, wire.STEP_HEAD.size)[0] != zlib.crc32(data):
                raise Damaged("a step was damaged on its way (its checksum does not match)")
            return Frame(kind, head, data)
        self._verify(first + data)
        return Frame(kind, bytes(data), data[:0])

    def _verify(self, first: bytes) -> None:
        head = first[wire.HEADER_BYTES :]
        if wire.CRC.unpack_from(first, wire.HEADER.size)[0] != zlib.crc32(head, zlib.crc32(first[: wire.HEADER.size])):
            raise Damaged("a frame was damaged on its way (its checksum does not match)")

    def discard(self) -> bool:
        """Throw away what comes after a refusal; returns whether it is over, for it ended or is too much."""
        try:
            got = len(self.sock.recv(_BUFFER))
        except _AGAIN:
            return False
        except OSError:
            got = 0
        self.discarded += got
        return not got or self.discarded > _DISCARDED

    def say(self, kind: int, head: bytes = b"", flags: int = 0) -> None:
        """Put a frame in line to be sent."""
        frame = wire.frame(kind, head, flags=flags)
        self.out += frame if self.seals is None else frame + self.seals[1](frame)

    def send(self) -> bool:
        """Send what is due as far as the kernel takes it now.

        Returns:
            False if the other side is gone.
        """
        try:
            while self.out:
                del self.out[: self.sock.send(self.out)]
            if self.state == "refused":
                self.sock.shutdown(socket.SHUT_WR)  # the reason is read before the end, which a close could overtake
        except _AGAIN:
            pass
        except OSError:
            return False
        return True
