"""What a simulation imports to stream its time steps: ``connect()``, then ``run.put(...)``.

::

    from alearn.client import connect

    with connect(default={"kappa": 0.1}) as run:
        for step in range(200):
            ...
            run.put(t=time, u=u, energy=energy)

This one file needs nothing but the standard library and imports nothing else of alearn (but for the study's
transforms, where they are to run here), so it may be copied beside a simulation: that is why it is one file, however
long. Arrays may be numpy arrays or anything with the buffer protocol; numpy is imported only for values that need it.
Outside a study, that is without ``ALEARN_STREAM`` in the environment, ``connect`` returns a run that checks what is put
and sends nothing.

The errors here are the client's own, for the reason that the file stands alone: they are not those of
``alearn.errors``, which no simulation needs to import. ::

    StreamError
    ├── Stopped            the learner asked this member to stop: leave the loop; not a failure
    ├── DeadlineExceeded   a wait ended without what it waited for
    ├── Refused            the learner refused this stream for good (fenced attempt, wrong key, bad frame)
    └── SchemaError        a step's names, shapes or dtypes are not what the first step announced

The bytes on the wire are described in docs/wire.md. A run belongs to one thread of one process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import select
import socket
import struct
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple

__all__ = ["DeadlineExceeded", "Refused", "Run", "SchemaError", "Stopped", "StreamError", "connect"]

PROTOCOL = 1
MAGIC = b"ALRN"
HEADER = struct.Struct("<4sBBHIQ")
"""magic, kind, flags, 0, length of the head, length of the body; the CRC-32 of these 20 bytes and the head follows."""
CRC = struct.Struct("<I")
STEP_HEAD = struct.Struct("<Qd")
PLACED_HEAD = struct.Struct("<QdQ")
"""Of a STEP whose body lies in the memory that the writer shares: number, t, and where."""
ACK_HEAD = struct.Struct("<QI")
HEADER_BYTES = HEADER.size + CRC.size
LARGE = 1 << 15
"""Bytes from which a step's buffer is used again."""
SEND_BUFFER = 400 << 10
"""Bytes that the kernel holds of a Unix stream: more would leave the processor's cache before they are read."""

HELLO, WELCOME, STEP, ACK, STOP, END, ERROR, CHALLENGE, PROOF, STEER, STEERED = range(1, 12)
BODY_CRC = 1
"""Flag of a STEP: its head ends with the CRC-32 of the body."""
IN_MEMORY = 2
"""Flag of a STEP: it has no body, and its head says where in the shared memory the fields lie."""
SEALED = 1
"""Flag of a CHALLENGE over plain TCP: after the proofs every frame ends with a seal. A writer accepts no other."""
SEAL_BYTES = 16
RECORD = 1 << 14
"""The most bytes of one TLS record."""
LOOK_S = 0.0005
"""How often a writer of small steps looks for acknowledgements while its window has room."""
PATIENCE_S = 1.0
"""How long a step that the kernel does not take as a whole keeps ``put``: what is left would lie here until the next."""
ACK_STOP, ACK_END = 1, 2
"""Flags in an ACK's or WELCOME's head: please stop; your END has arrived."""

DTYPES = {
    "float64": "d", "float32": "f", "float16": "e", "int64": "q", "int32": "i", "int16": "h", "int8": "b",
    "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "?",
}  # fmt: skip
DIALERS: dict[str, Callable[[], socket.socket]] = {}
"""Readers of this very process, for addresses ``inprocess:NAME``."""


class StreamError(Exception):
    """The stream to the learner cannot be opened or kept."""


class Stopped(StreamError):
    """The learner asked this member to stop; not a failure."""


class DeadlineExceeded(StreamError):
    """A wait ended without what it waited for."""


class Refused(StreamError):
    """The learner refused this stream for good."""


class SchemaError(StreamError):
    """A step is not what the first step announced."""


class _Lost(Exception):
    """The connection broke; another may be made."""


class Field(NamedTuple):
    """One value of every step: its name, shape, dtype and unit."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str = ""


class Limits(NamedTuple):
    """How much a run may hold back and how long it may wait.

    Args:
        window: bytes of steps that may be sent and not yet acknowledged; a full window makes ``put`` wait.
        deadline_s: longest wait for an acknowledgement while the learner is connected.
        reconnect_s: longest time without a connection to the learner before the run gives up.
    """

    window: int = 32 << 20
    deadline_s: float = 600.0
    reconnect_s: float = 60.0


def frame(kind: int, head: bytes = b"", body: int = 0, flags: int = 0) -> bytes:
    """A frame up to its body: the header, its checksum and the head.

    Args:
        kind: HELLO … STEERED.
        head: the head's bytes.
        body: how many bytes of body the caller will send after this.
        flags: of this kind.
    """
    first = HEADER.pack(MAGIC, kind, flags, 0, len(head), body)
    return first + CRC.pack(zlib.crc32(head, zlib.crc32(first))) + head


def proof(key: bytes, side: str, reader_nonce: bytes, writer_nonce: bytes, certificate: bytes = b"") -> bytes:
    """The HMAC-SHA256 by which one side shows the other that it holds the study's key.

    Under TLS it covers the SHA-256 of the reader's certificate: whoever sits between has another one, and no use of the proofs.
    """
    import hmac

    label = b"alearn 1 tls " if certificate else b"alearn 1 sealed "
    return hmac.digest(key, label + side.encode() + reader_nonce + writer_nonce + certificate, "sha256")


class Seal:
    """The authentication code that ends each frame of one direction of one TCP connection.

    Keyed BLAKE2b (RFC 7693) of 16 bytes over the frame's number on this connection and the frame, so that a frame
    can be neither made, changed, repeated, left out nor moved by somebody without the study's key.

    Args:
        key: the study's key.
        side: who sends, "writer" or "reader".
        reader_nonce: of this connection's challenge.
        writer_nonce: of this connection's proof.
    """

    def __init__(self, key: bytes, side: str, reader_nonce: bytes, writer_nonce: bytes) -> None:
        import hashlib
        import hmac

        self._key = hmac.digest(key, b"alearn 1 seal " + side.encode() + reader_nonce + writer_nonce, "sha256")
        self._code = hashlib.blake2b
        self._frames = 0

    def __call__(self, *parts: bytes | bytearray | memoryview) -> bytes:
        """The seal of the next frame, whose bytes are these parts."""
        code = self._code(self._frames.to_bytes(8, "little"), digest_size=SEAL_BYTES, key=self._key)
        for part in parts:
            code.update(part)
        self._frames += 1
        return code.digest()


def connect(
    default: Mapping[str, Any] | None = None,
    *,
    steps_total: int = 0,
    units: Mapping[str, str] | None = None,
    window_mb: float | None = None,
    deadline_s: float | None = None,
    reconnect_s: float | None = None,
    environ: Mapping[str, str] | None = None,
) -> Run:
    """Open this member's run from the environment that the launcher set.

    Nothing is sent before the first ``put`` (the schema is inferred from it).

    Args:
        default: the parameters to use when the code runs by itself, outside a study.
        steps_total: how many steps will be put, if known.
        units: unit of each field, for the archive.
        window_mb: MiB of steps that may await acknowledgement (``ALEARN_WINDOW_MB``, 32).
        deadline_s: longest wait for an acknowledgement (``ALEARN_DEADLINE_S``, 600).
        reconnect_s: longest time without a connection (``ALEARN_RECONNECT_S``, 60).
        environ: read this mapping instead of ``os.environ``.

    Raises:
        StreamError: the environment is incomplete or wrong.
    """
    env = os.environ if environ is None else environ
    address = env.get("ALEARN_STREAM", "")
    if not address:
        return Run("", 0, dict(default or {}), None, steps_total=steps_total, units=units)
    member = env.get("ALEARN_MEMBER", "")
    if not member:
        raise StreamError("ALEARN_STREAM is set but ALEARN_MEMBER is not; both come from the launcher of a study.")

    def number(given: float | None, name: str, otherwise: float) -> float:
        text = env.get(name, "")
        try:
            value = float(text or otherwise) if given is None else float(given)
        except ValueError:
            value = math.nan
        if not value >= 0:
            raise StreamError(f"{name} is {text or given!r}; a number ≥ 0 is needed.")
        return value

    limits = Limits(
        int(number(window_mb, "ALEARN_WINDOW_MB", 32) * (1 << 20)),
        number(deadline_s, "ALEARN_DEADLINE_S", 600),
        number(reconnect_s, "ALEARN_RECONNECT_S", 60),
    )
    return Run(
        member,
        int(number(None, "ALEARN_ATTEMPT", 1)),
        _parameters(env),
        Address.parse(address, _key(env)),
        acknowledged=int(number(None, "ALEARN_ACKNOWLEDGED", 0)),
        limits=limits,
        steps_total=steps_total,
        units=units,
        transform=env.get("ALEARN_TRANSFORM", ""),
        memory=bool(env.get("ALEARN_MEMORY", "")),
    )


class Address(NamedTuple):
    """Where the reader listens; ``scheme`` is unix, tls, tcp, inprocess, adios_sst or adios_bp, and TLS and TCP ask for the key."""

    text: str
    scheme: str
    target: Any
    key: bytes | None

    @classmethod
    def parse(cls, text: str, key: bytes | None = None) -> Address:
        """Read ``unix:PATH``, ``tls:HOST:PORT``, ``tcp:HOST:PORT`` (sealed, not secret), ``inprocess:NAME``,
        ``redis:CHANNEL@URL#PASSWORD_FILE``, ``adios_sst:DIRECTORY`` or ``adios_bp:DIRECTORY``.

        Raises:
            StreamError: the text is none of these.
        """
        scheme, _, rest = text.partition(":")
        if scheme in ("unix", "inprocess", "adios_sst", "adios_bp") and rest:
            return cls(text, scheme, rest, key)
        host, _, port = rest.rpartition(":")
        if scheme == "redis" and "@" in rest and key is not None:
            return cls(text, scheme, rest, key)
        if scheme in ("tls", "tcp") and host and port.isdigit():
            if key is None:
                raise StreamError(f"The stream {text} needs the study's key; set ALEARN_KEY or ALEARN_KEY_FILE as the launcher does.")
            return cls(text, scheme, (host.strip("[]"), int(port)), key)
        raise StreamError(f"ALEARN_STREAM is {text!r}; unix:PATH, tls:HOST:PORT or tcp:HOST:PORT is needed.")

    def dial(self, timeout_s: float) -> socket.socket:
        """A connected socket."""
        if self.scheme == "inprocess":
            if self.target not in DIALERS:
                raise ConnectionRefusedError("no reader of that name in this process")
            return DIALERS[self.target]()
        if self.scheme == "redis":
            try:
                from alearn.clients import redis  # not in this file: only those who stream over Redis need it
            except ImportError as error:
                raise StreamError(f"Streams over Redis need more than this file ({error}): pip install 'alearn[redis]'") from error
            return redis.dial(self.target, timeout_s)
        if self.scheme in ("tls", "tcp"):
            sock = socket.create_connection(self.target, timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock if self.scheme == "tcp" else _encrypted(sock)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.settimeout(timeout_s)
            sock.connect(self.target)
        except OSError:
            sock.close()
            raise
        return sock


def _encrypted(sock: socket.socket) -> socket.socket:
    """TLS 1.3 on a connected socket. Whose certificate it is, the proofs inside will tell.

    Raises:
        StreamError: this Python was built without TLS.
    """
    try:
        import ssl
    except ImportError as error:
        sock.close()
        raise StreamError(
            "The stream is encrypted and this Python has no ssl module; use another, or set transport.encrypt=false in the study."
        ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


class Run:
    """One attempt of one member: its parameters, and the stream of its steps. Made by ``connect``.

    Args:
        member: the member's id; empty outside a study.
        attempt: which attempt this is (1 is the first).
        parameters: what to simulate.
        address: where the reader is; None sends nothing.
        acknowledged: steps of this member that the learner is known to have.
        limits: the window and the deadlines.
        steps_total: how many steps will be put, if known.
        units: unit of each field.
        transform: the study's transforms, if they are to run here; they need alearn, not only this file.
        memory: large steps may go through memory that this process shares with the reader, if the reader is on this machine.
    """

    def __init__(
        self,
        member: str,
        attempt: int,
        parameters: dict[str, Any],
        address: Address | None,
        *,
        acknowledged: int = 0,
        limits: Limits | None = None,
        steps_total: int = 0,
        units: Mapping[str, str] | None = None,
        transform: str = "",
        memory: bool = False,
    ) -> None:
        self.member = member
        self.attempt = attempt
        self.parameters = parameters
        self.acknowledged = acknowledged
        self.step = 0
        """The number of the next step to be put."""
        self._address = address
        self._limits = limits or Limits()
        self._steps_total = steps_total
        self._units = dict(units or {})
        self._schema: tuple[Field, ...] | None = None
        self._transform = _transforms(transform, member) if transform else None
        self._link: _Link | None = None
        self._share = memory
        self._memory: _Memory | None = None
        self._size = 0
        self._window: deque[_Kept] = deque()
        self._window_bytes = 0
        self._spare: list[bytearray] = []
        self._end = b""
        self._stop = self._ended = self._closed = False
        self._opened = self._welcomed = False
        self._news: dict[str, Any] = {}
        self._steered: dict[str, Any] = {}
        self._wish = self._taken = self._taken_at = 0
        self._look_at = 0.0
        self._first, self._first_crc = b"", 0
        self._lost_since: float | None = None
        self._tries = 0
        self._why = "it was never reached"
        self._progress = time.monotonic()
        self._heard: float | None = None
        self._pid = os.getpid()
        self._session = os.urandom(8).hex()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Close the run; an exception is told to the learner, and ``Stopped`` ends the block quietly."""
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.close()
        elif isinstance(error, Stopped):
            self.close("stopped")
        elif isinstance(error, (DeadlineExceeded, Refused)):
            self._leave()
        else:
            said = f"exit code {error.code}" if isinstance(error, SystemExit) else " ".join(str(error).split())
            self._limits = Limits(self._limits.window, min(self._limits.deadline_s, 10.0), min(self._limits.reconnect_s, 10.0))
            with contextlib.suppress(StreamError):  # the user's own exception is what matters now
                self.close("failed", f"{type(error).__name__}: {said}"[:500])
        return isinstance(error, Stopped)

    def announce(self, values: Mapping[str, Any] | None = None, **fields: Any) -> int:
        """Open the stream before the first step, with values like those that will be put.

        Needed only by a simulation that wants to know first how many steps the learner has.

        Returns:
            ``acknowledged``: the steps that need not be sent again.
        """
        given = _merge(values, fields)
        self._ready()
        if self._schema is None:
            self._settle(given)
        if self._address is not None:
            self._wait(lambda: self._welcomed, "the reader to welcome it")
        return self.acknowledged

    def resume_at(self, step: int) -> None:
        """Say that the next ``put`` is step number ``step``: for a simulation restarted from its own checkpoint.

        Raises:
            StreamError: steps before it would be missing.
        """
        if step > max(self.acknowledged, self.step):
            raise StreamError(f"Step {step} cannot be next: the learner has {self.acknowledged} steps of member {self.member}.")
        self.step = step

    def put(self, t: float, values: Any = None, **fields: Any) -> None:
        """Send the next step: ``run.put(t=0.1, u=u)`` or ``run.put(0.1, {"u": u})``.

        The values are copied before it returns. It waits while the window of unacknowledged bytes is full.

        Args:
            t: simulation time.
            values: the fields as a mapping.
            fields: the fields by name: numbers, or arrays of numbers.

        Raises:
            Stopped: the learner asked this member to stop.
            DeadlineExceeded: no acknowledgement, or no connection, came within the deadline.
            SchemaError: the step is not like the first.
            Refused: the learner refused this stream.
        """
        given = _merge(values, fields)
        if self._transform is None:
            self._put(t, given)
        else:
            self._transform.watch(self._put, t, given)

    def _put(self, t: float, given: dict[str, Any]) -> None:
        self._ready()
        if self._schema is None:
            self._settle(given)
        if self._address is None:
            self._pack(given)
            self.step += 1
            return
        if self._link is None:
            self._open()
        now = time.monotonic()
        if now >= self._look_at or self._window_bytes * 2 > self._limits.window:
            self._look_at = now + LOOK_S
            self._turn(0.0)
        if self._stop:
            raise Stopped(f"The learner asked member {self.member} to stop before step {self.step}.")
        if self.step < self.acknowledged:
            self.step += 1
            return
        if self._window and self._window_bytes + self._size > self._limits.window:
            self._wait(
                lambda: self._stop or not self._window or self._window_bytes + self._size <= self._limits.window,
                f"step {self._window[0].step} to be acknowledged ({self._window_bytes} bytes are in flight, the window is full)",
            )
            if self._stop:
                raise Stopped(f"The learner asked member {self.member} to stop before step {self.step}.")
        kept = self._keep(t, self._pack(given))
        if self._link is None:
            self._open()
        self._window.append(kept)
        self._window_bytes += self._size
        self.step += 1
        self._queue(kept.head, kept.body)
        # A slow reader may leave bytes here while the window has room: they follow with the next put, whenever that is.
        patience = now + PATIENCE_S
        if self._link is not None:
            self._link.send(0.05)
        while (self._link is None or self._link.out) and time.monotonic() < patience:
            self._turn(0.05)

    def _keep(self, t: float, parts: list[Any]) -> _Kept:
        """The next step's frame and copy, which stays until it is acknowledged."""
        if self._memory is not None:
            place = self._memory.write(parts)
            return _Kept(self.step, frame(STEP, PLACED_HEAD.pack(self.step, t, place), flags=IN_MEMORY), b"", place)
        head = STEP_HEAD.pack(self.step, t)
        first = self._first + CRC.pack(zlib.crc32(head, self._first_crc)) + head
        if self._size < LARGE:
            return _Kept(self.step, first, b"".join(parts), -1)
        # Large steps go into buffers of earlier ones: memory fresh from the system costs more than the copy.
        body = self._spare.pop() if self._spare else bytearray(self._size)
        with memoryview(body) as view:
            _fill(view, parts)
        return _Kept(self.step, first, body, -1)

    def steering(self) -> dict[str, Any]:
        """The values that somebody has steered this member to since the last call (``alearn steer``); mostly none.

        ``parameters`` stay what they were: they are what the member's samples are filed under.
        """
        self._take()
        new, self._news = self._news, {}
        return new

    def steered(self, name: str, otherwise: Any = None) -> Any:
        """What a knob of the simulation is to be from now on: ``dt = run.steered("dt", dt)``.

        Args:
            name: the knob's name, as ``alearn steer`` gives it.
            otherwise: its present value, which stays if nobody has steered it.
        """
        self._take()
        return self._steered.get(name, otherwise)

    @property
    def stopped(self) -> bool:
        """True once the learner has asked this member to stop. A broken connection is mended first, as in ``put``."""
        if not self._stop and self._opened and not self._closed:
            self._turn(0.0)
        return self._stop

    def close(self, status: str = "done", reason: str = "") -> None:
        """Wait until every step is acknowledged, then say the end. Closing twice is harmless.

        Args:
            status: "done", "stopped" or "failed".
            reason: one line for people.

        Raises:
            DeadlineExceeded: an acknowledgement did not come.
            Refused: the learner refused this stream.
        """
        if self._closed or self._address is None or os.getpid() != self._pid:
            self._closed = True
            return
        if self._schema is None:
            self._schema = ()
        try:
            self._wait(lambda: not self._window, lambda: f"step {self._window[0].step} to be acknowledged")
            said = json.dumps({"steps": max(self.step, self.acknowledged), "status": status, "reason": reason})
            self._end = frame(END, said.encode())
            if self._link is not None:
                self._queue(self._end)
            self._wait(lambda: self._ended, "the end to be acknowledged")
        finally:
            if self._transform is not None:
                self._transform.report()
            self._leave()

    # -- the stream ---------------------------------------------------------------------------------------

    def _settle(self, given: dict[str, Any]) -> None:
        """What the first step carries is what every step will carry."""
        announced = None if self._transform is None else _transforming(self._transform.schema, given, self._units)
        if announced is None:
            self._schema = tuple(Field(n, *_raw(n, v)[:2], self._units.get(n, "")) for n, v in given.items())
        else:
            self._schema = tuple(Field(f.name, f.shape, f.dtype, f.unit) for f in announced.fields)
        if not self._schema:
            raise SchemaError("The step carries no values; give at least one named number or array besides t.")
        self._size = sum(math.prod(f.shape) * struct.calcsize(DTYPES[f.dtype]) for f in self._schema)
        self._first = HEADER.pack(MAGIC, STEP, 0, 0, STEP_HEAD.size, self._size)
        self._first_crc = zlib.crc32(self._first)
        if self._share and self._size >= LARGE and self._address is not None and self._address.scheme == "unix":
            with contextlib.suppress(OSError, AttributeError, ImportError, ValueError):  # not here: through the socket then
                self._memory = _Memory(self._size, max(1, self._limits.window // self._size))

    def _ready(self) -> None:
        if self._closed:
            raise StreamError(f"The run of member {self.member} is closed; nothing can be put after the end.")
        if os.getpid() != self._pid:
            raise StreamError(f"The run of member {self.member} was opened by process {self._pid}; a fork of it cannot put steps.")

    def _pack(self, given: dict[str, Any]) -> list[Any]:
        """The bytes of every field, in the schema's order."""
        if self._transform is not None:
            given = _transforming(self._transform, given, self.step)
        schema = self._schema or ()
        if len(given) != len(schema) or any(f.name not in given for f in schema):
            names = [f.name for f in schema]
            missing, extra = [n for n in names if n not in given], [n for n in given if n not in names]
            raise SchemaError(f"The step's fields changed: missing {missing}, unexpected {extra}; every step must carry {names}.")
        return [_conform(f, given[f.name]) for f in schema]

    def _forget(self, steps: int) -> None:
        """Let go of steps that are acknowledged; the buffers of large ones are kept for the next."""
        while self._window and self._window[0].step < steps:
            kept = self._window.popleft()
            self._window_bytes -= self._size
            if self._memory is not None:
                self._memory.free(kept.place)  # a reader that has yet to look there drops what it finds: it has that step
                continue
            body = kept.body
            # an acknowledgement may overtake a step that an earlier attempt has sent, too: then its bytes are still needed
            unsent = self._link is not None and any(part.obj is body for part in self._link.out)
            room = self._window_bytes + (len(self._spare) + 1) * len(body) <= self._limits.window
            if isinstance(body, bytearray) and room and not unsent:
                self._spare.append(body)

    def _queue(self, *parts: bytes | bytearray) -> None:
        if self._link is not None:
            self._link.queue(*parts)

    def _wait(self, done: Callable[[], bool], missing: str | Callable[[], str]) -> None:
        """Turn until ``done``; the deadline starts anew with every acknowledgement."""
        began = time.monotonic()
        while not done():
            left = max(began, self._progress) + self._limits.deadline_s - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(
                    f"Member {self.member} waited {self._limits.deadline_s:g} s for "
                    f"{missing() if callable(missing) else missing}; {self._life()}. Is the learner paused or overloaded?"
                )
            self._turn(min(left, 1.0))

    def _life(self) -> str:
        if self._heard is None:
            return "the learner has given no sign of life"
        return f"the learner's last sign of life was {time.monotonic() - self._heard:.1f} s ago"

    def _turn(self, wait_s: float) -> None:
        """Connect if need be, send what is queued, take in what came; wait at most ``wait_s`` for either."""
        if self._link is None:
            self._open()
            wait_s = 0.0  # what was waited for may have come with the welcome
        link = self._link
        if link is None:
            return
        try:
            idle = not link.out
            broken = link.send(wait_s)
            if idle and wait_s > 0:
                link.wait(wait_s)
            for kind, _, head in link.receive():
                self._handle(kind, head)
            if broken:
                raise _Lost(broken)
        except (_Lost, OSError) as error:
            self._drop(str(error) or type(error).__name__)

    def _leave(self) -> None:
        self._closed = True
        self._drop("the run was closed")
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _drop(self, why: str) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self._why = why or self._why

    def _open(self) -> None:
        """Connect and say hello, again and again until the reconnect deadline."""
        assert self._address is not None
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since = now
            self._tries = 0
        until = self._lost_since + self._limits.reconnect_s
        while self._link is None:
            now = time.monotonic()
            if now > until and self._tries:
                raise DeadlineExceeded(
                    f"No reader has opened member {self.member}'s stream at {self._address.text} in "
                    f"{now - self._lost_since:.1f} s ({self._why}); {self._life()}. Is the learner still running?"
                )
            if self._tries:
                time.sleep(max(0.0, min(0.5, 0.01 * 2 ** min(self._tries, 6), until - now)))
            self._tries += 1
            try:
                if self._address.scheme.startswith("adios_"):
                    self._link = _adios(self._address)
                else:
                    self._link = _Link(self._address.dial(max(0.1, min(10.0, until - now))), self._address.scheme == "tls")
                if self._address.scheme in ("tls", "tcp", "redis"):
                    self._authenticate(self._link, time.monotonic() + 10.0)
            except (_Lost, OSError) as error:
                self._drop(str(error) or type(error).__name__)
                continue
            self._welcomed = False
            if self._memory is not None and isinstance(self._link, _Link):
                self._link.descriptor = self._memory.descriptor
            self._queue(self._hello())
            # Steps may follow the hello at once, except where the reader may have some of them already.
            if self._opened or self.attempt > 1:
                self._await_welcome()
            self._opened = True
            for kept in self._window:
                if kept.step >= self.acknowledged:
                    self._queue(kept.head, kept.body)
            self._queue(self._told() if self._taken else b"")
            self._queue(self._end)

    def _await_welcome(self) -> None:
        began = time.monotonic()
        while self._link is not None and not self._welcomed:
            if time.monotonic() - began > self._limits.deadline_s:
                raise DeadlineExceeded(
                    f"Member {self.member} is connected to {self._address.text if self._address else ''} but was not welcomed in "
                    f"{self._limits.deadline_s:g} s; {self._life()}. Is the learner paused?"
                )
            self._turn(min(1.0, self._limits.deadline_s))

    def _hello(self) -> bytes:
        said = {
            "protocol": PROTOCOL,
            "member": self.member,
            "attempt": self.attempt,
            "session": self._session,
            "schema": [{"name": f.name, "shape": list(f.shape), "dtype": f.dtype, "unit": f.unit} for f in self._schema or ()],
            "steps_total": self._steps_total,
            "parameters": self.parameters,
            "provenance": {
                "host": socket.gethostname(),
                "pid": self._pid,
                "client": f"python {sys.version.split()[0]}",
                "transformed": [] if self._transform is None else self._transform.raw,
            },
        }
        return frame(HELLO, json.dumps(said).encode())

    def _take(self) -> None:
        """Look for values to steer by; those that came hold from the next step on, and the learner is told so."""
        if self._opened and not self._closed and (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_S
            self._turn(0.0)
        if self._taken != self._wish:
            self._taken, self._taken_at = self._wish, self.step
            self._queue(self._told())

    def _told(self) -> bytes:
        """The frame by which the learner hears that its newest wish was taken, and before which step."""
        return frame(STEERED, json.dumps({"number": self._taken, "step": self._taken_at}).encode())

    def _authenticate(self, link: _Link, until: float) -> None:
        """Mutual challenge and response: the reader proves itself before it learns anything of this member."""
        assert self._address is not None
        assert self._address.key is not None
        where, key, certificate = self._address.text, self._address.key, link.certificate()
        flags, theirs = link.expect(CHALLENGE, until)
        if not certificate and not flags & SEALED:
            raise Refused(f"The reader at {where} offers a connection without seals; update it.")
        ours = os.urandom(32)
        link.queue(frame(PROOF, ours + proof(key, "writer", theirs, ours, certificate)))
        _, answer = link.expect(PROOF, until)
        if not _same(answer, proof(key, "reader", theirs, ours, certificate)):
            raise Refused(f"Whoever listens at {where} does not hold this study's key.")
        if not certificate:
            link.seals = Seal(key, "writer", theirs, ours), Seal(key, "reader", theirs, ours)

    def _handle(self, kind: int, head: bytes) -> None:
        self._heard = time.monotonic()
        if kind in (WELCOME, ACK):
            if len(head) != ACK_HEAD.size:
                raise _Lost("the reader sent an acknowledgement of a wrong length")
            steps, flags = ACK_HEAD.unpack(head)
            self.acknowledged = max(self.acknowledged, steps)
            self._forget(steps)
            self._progress = self._heard
            self._stop |= bool(flags & ACK_STOP)
            self._ended |= bool(flags & ACK_END)
            if kind == WELCOME:
                self._welcomed = True
                self._lost_since = None
        elif kind == STOP:
            self._stop = True
        elif kind == STEER:
            try:
                said = json.loads(head)
                number, values = int(said["number"]), dict(said["values"])
            except (ValueError, KeyError, TypeError) as error:
                raise _Lost("the reader sent values to steer by that cannot be read") from error
            if number > self._wish:  # after a reconnection some come again
                self._wish = number
                self._news.update(values)
                self._steered.update(values)
        elif kind == ERROR:
            _raise_error(head)


class _Kept(NamedTuple):
    """A step that is not yet acknowledged: its frame, and its body there or its place in the shared memory."""

    step: int
    head: bytes
    body: bytes | bytearray
    place: int


class _Memory:
    """Memory that the reader sees too, in which large steps stay until they are acknowledged.

    Written once here and copied once there, a step costs this process nothing but the copy, and the reader may come when it
    likes. Linux only (``memfd_create``); the file has no name and goes with its last process. It can be neither shortened nor
    grown, or touching it might kill the reader.

    Args:
        size: bytes of a step.
        count: how many there may be.

    Raises:
        OSError: the system does not give the memory.
    """

    def __init__(self, size: int, count: int) -> None:
        import fcntl
        import mmap

        stride = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.descriptor = os.memfd_create("alearn", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, stride * count)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._map = mmap.mmap(self.descriptor, stride * count)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._view = memoryview(self._map)
        self._free = list(range(0, stride * count, stride))[::-1]

    def write(self, parts: list[Any]) -> int:
        """Put a step where there is room, rather where the last one was freed, which is in the processor's cache; returns where."""
        place = self._free.pop()
        _fill(self._view[place:], parts)
        return place

    def free(self, place: int) -> None:
        self._free.append(place)

    def close(self) -> None:
        self._view.release()
        self._map.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_free"):  # made as a whole, and perhaps never closed
            self.close()


def _fill(view: memoryview, parts: list[Any]) -> None:
    at = 0
    for part in parts:
        view[at : at + len(part)] = part
        at += len(part)


class _Link:
    """One connected socket, with TLS or without: bytes queued to go out, frames cut from what came in.

    ``seals`` are those of what is sent and of what is received, once both sides have proved themselves without TLS.
    """

    def __init__(self, sock: socket.socket, tls: bool = False) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = tls
        self._again: tuple[type[OSError], ...] = (BlockingIOError,)
        if tls:
            import ssl

            self._again = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._in = bytearray()
        self.out: deque[memoryview] = deque()
        self.seals: tuple[Seal, Seal] | None = None
        self.descriptor: int | None = None
        """Of a file that goes to the reader with the next bytes."""

    def certificate(self) -> bytes:
        """SHA-256 of the reader's certificate; empty without TLS."""
        if not self._tls:
            return b""
        import hashlib
        import ssl

        assert isinstance(self._sock, ssl.SSLSocket)
        return hashlib.sha256(self._sock.getpeercert(binary_form=True) or b"").digest()

    def queue(self, *parts: bytes | bytearray) -> None:
        """Put one frame in line; no parts, no frame."""
        if any(parts):
            if self.seals is not None:
                parts = (*parts, self.seals[0](*parts))
            if self._tls and sum(map(len, parts)) <= RECORD:
                parts = (b"".join(parts),)  # one record instead of two
            self.out.extend([memoryview(p) for p in parts if p])

    def send(self, wait_s: float = 0.0) -> str:
        """Send what is queued as far as the kernel takes it, waiting so long for room while nothing comes from the reader.

        Returns why the connection is broken, if it is: not raised, for the reader's reason may still lie in the other direction.
        """
        out = self.out
        until = 0.0
        while out:
            try:
                sent = self._sock.send(out[0]) if self._tls else self._sock.sendmsg(list(islice(out, 16)), self._enclosed())
            except self._again:
                until = until or time.monotonic() + wait_s
                if wait_s <= 0 or time.monotonic() >= until or self.wait(wait_s) & select.POLLIN:
                    return ""
                continue
            except OSError as error:
                return str(error)
            self.descriptor = None
            while out and sent >= len(out[0]):
                sent -= len(out.popleft())
            if sent:
                out[0] = out[0][sent:]
        return ""

    def _enclosed(self) -> list[tuple[int, int, bytes]]:
        return [] if self.descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", self.descriptor))]

    def wait(self, timeout_s: float) -> int:
        """Wait for something to come, or for room if something is to be sent; returns poll's flags."""
        self._poller.modify(self._sock, select.POLLIN | (select.POLLOUT if self.out else 0))
        found = self._poller.poll(math.ceil(timeout_s * 1000))
        return found[0][1] if found else 0

    def receive(self, most: int = 1 << 16) -> list[tuple[int, int, bytes]]:
        """The frames that have come, at most so many, as (kind, flags, head).

        Raises:
            _Lost: the other side closed, or sent something that is not a frame.
        """
        closed = False
        while True:
            try:
                chunk = self._sock.recv(65536)
            except self._again:
                break
            self._in += chunk
            closed = not chunk
            if closed or (len(chunk) < 65536 and not self._tls):
                break
        frames: list[tuple[int, int, bytes]] = []
        while len(self._in) >= HEADER_BYTES and len(frames) < most:
            magic, kind, flags, _, length, body = HEADER.unpack_from(self._in)
            if magic != MAGIC or length > 1 << 16 or body:
                raise _Lost("what the reader sent is not a frame of this protocol")
            end = HEADER_BYTES + length
            sealed = end + (SEAL_BYTES if self.seals is not None else 0)
            if len(self._in) < sealed:
                break
            whole, seal = bytes(self._in[:end]), bytes(self._in[end:sealed])
            head = whole[HEADER_BYTES:]
            if CRC.unpack_from(whole, HEADER.size)[0] != zlib.crc32(head, zlib.crc32(whole[: HEADER.size])):
                raise _Lost("a frame from the reader was damaged on its way")
            if self.seals is not None and not _same(seal, self.seals[1](whole)):
                raise _Lost("a frame from the reader was changed on its way, or was not from it (its seal does not match)")
            del self._in[:sealed]
            frames.append((kind, flags, head))
        if closed and not frames:
            raise _Lost("the reader closed the connection")
        return frames

    def expect(self, kind: int, until: float) -> tuple[int, bytes]:
        """Flags and head of the next frame, which must be of this kind."""
        while time.monotonic() < until:
            broken = self.send()
            self.wait(min(1.0, max(0.0, until - time.monotonic())))
            for got, flags, head in self.receive(1):
                if got == ERROR:
                    _raise_error(head)
                if got != kind:
                    raise _Lost(f"the reader sent a frame of kind {got} where {kind} was due")
                return flags, head
            if broken:
                raise _Lost(broken)
        raise _Lost("the reader did not answer the authentication")

    def close(self) -> None:
        self._sock.close()


def _adios(address: Address) -> Any:
    """A link that writes ADIOS2 into the member's directory.

    Raises:
        StreamError: alearn is not installed beside this file.
    """
    try:
        writer = importlib.import_module("alearn.transport.adios.writer")
    except ImportError as error:
        raise StreamError(f"The stream {address.text} is ADIOS2's and needs more than this file ({error}): pip install alearn.") from error
    return writer.AdiosLink("SST" if address.scheme == "adios_sst" else "BP5", address.target)


def _same(a: bytes, b: bytes) -> bool:
    import hmac

    return hmac.compare_digest(a, b)


def _raise_error(head: bytes) -> None:
    try:
        said = json.loads(head)
        reason, final = str(said["reason"]), bool(said["final"])
    except (ValueError, KeyError, TypeError):
        reason, final = "the reader sent an error that cannot be read", True
    if final:
        raise Refused(reason)
    raise _Lost(reason)


# -- values to bytes --------------------------------------------------------------------------------------


def _merge(values: Any, fields: dict[str, Any]) -> dict[str, Any]:
    if values is None:
        return fields
    if isinstance(values, Mapping):
        return {**values, **fields}
    return {"values": values, **fields}  # a field of that name


def _conform(field: Field, value: Any) -> Any:
    """The value's bytes, exactly as announced."""
    shape, dtype, data = _raw(field.name, value)
    if shape != field.shape:
        raise SchemaError(f"The step's field '{field.name}' has shape {shape}; it was announced with {field.shape}.")
    if dtype != field.dtype:
        try:
            import numpy as np
        except ImportError:
            np = None  # type: ignore[assignment]
        if np is None or not np.can_cast(np.asarray(value).dtype, field.dtype, casting="same_kind"):
            raise SchemaError(f"The step's field '{field.name}' has dtype {dtype}; it was announced with {field.dtype}.")
        return np.asarray(value).astype(np.dtype(field.dtype).newbyteorder("<")).tobytes()
    return data


def _raw(name: str, value: Any) -> tuple[tuple[int, ...], str, Any]:
    """Shape, dtype and little-endian C-order bytes of a number or an array."""
    if isinstance(value, (float, int)):
        try:
            return (), "float64", struct.pack("<d", value)
        except (OverflowError, struct.error) as error:
            raise SchemaError(f"The step's value '{name}' is an integer too large for float64.") from error
    if isinstance(value, (list, tuple)) and not any(hasattr(v, "__array__") for v in value):
        shape, flat = _flatten(name, value)
        return shape, "float64", struct.pack(f"<{len(flat)}d", *flat)
    try:
        view = None if isinstance(value, (str, bytes, bytearray)) or sys.byteorder == "big" else memoryview(value)
    except (TypeError, ValueError, BufferError):
        view = None
    dtype = "" if view is None else _dtype(view)
    if view is None or not dtype:
        return _through_numpy(name, value)
    shape = tuple(view.shape or ())
    if view.nbytes == 0:
        return shape, dtype, b""
    # tobytes() walks in C order whatever the strides are: transposed and sliced arrays come out right
    return shape, dtype, view.cast("B") if view.c_contiguous else view.tobytes()


def _dtype(view: memoryview) -> str:
    code, bits = view.format.lstrip("@="), 8 * view.itemsize
    if code in ("d", "f", "e"):
        return f"float{bits}"
    if code in tuple("bhilqn"):
        return f"int{bits}"
    if code in tuple("BHILQN"):
        return f"uint{bits}"
    return "bool" if code == "?" else ""


def _through_numpy(name: str, value: Any) -> tuple[tuple[int, ...], str, bytes]:
    try:
        import numpy as np

        array = np.asarray(value)
        dtype = array.dtype.name
    except ImportError:
        dtype = type(value).__name__
    except (TypeError, ValueError, RuntimeError) as error:
        raise SchemaError(f"The step's value '{name}' cannot be made an array: {error}") from error
    if dtype not in DTYPES:
        raise SchemaError(f"The step's value '{name}' has dtype {dtype}; numeric arrays are needed ({', '.join(DTYPES)}).")
    return array.shape, dtype, array.astype(array.dtype.newbyteorder("<")).tobytes()


def _flatten(name: str, value: Any) -> tuple[tuple[int, ...], list[float]]:
    if isinstance(value, (float, int)):
        return (), [value]
    if not isinstance(value, (list, tuple)):
        raise SchemaError(f"The step's value '{name}' holds a {type(value).__name__}; numbers are needed.")
    shapes, flat = set(), []
    for item in value:
        shape, numbers = _flatten(name, item)
        shapes.add(shape)
        flat += numbers
    if len(shapes) > 1:
        raise SchemaError(f"The step's value '{name}' is a ragged list; every row must be of one length.")
    return (len(value), *(shapes.pop() if shapes else ())), flat


# -- transforms ---------------------------------------------------------------------------------------------


def _transforms(text: str, member: str) -> Any:
    """The study's transforms; None where alearn is not installed: raw steps go out then, and the reader transforms them."""
    try:
        from alearn.transform.writer import AtWriter
    except ImportError:
        return None
    return _transforming(AtWriter, text, member)


def _transforming(do: Callable[..., Any], first: Any, second: Any) -> Any:
    try:
        return do(first, second)
    except Exception as error:
        raise SchemaError(f"The study's transforms cannot be applied here. {error}") from error


# -- the environment --------------------------------------------------------------------------------------


def _parameters(env: Mapping[str, str]) -> dict[str, Any]:
    path = env.get("ALEARN_PARAMETERS_FILE", "")
    where = f"the file {path}" if path else "ALEARN_PARAMETERS"
    try:
        if path:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        else:
            text = env.get("ALEARN_PARAMETERS", "{}")
        parameters = json.loads(text)
    except (OSError, ValueError) as error:
        raise StreamError(f"The parameters in {where} cannot be read: {error}.") from error
    if not isinstance(parameters, dict):
        raise StreamError(f"The parameters in {where} are no JSON object: {text[:80]!r}.")
    return parameters


def _key(env: Mapping[str, str]) -> bytes | None:
    text, path = env.get("ALEARN_KEY", ""), env.get("ALEARN_KEY_FILE", "")
    if not text and not path:
        return None
    try:
        if not text:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        key = bytes.fromhex(text)
    except (OSError, ValueError) as error:
        raise StreamError(f"The study's key cannot be read from {path or 'ALEARN_KEY'}: {error}.") from error
    if len(key) < 32:
        raise StreamError(f"The study's key has {len(key)} bytes; 32 are needed (64 hexadecimal digits).")
    return key
