"""The reader's engine: many streams, one background thread, bounded queues between reception and ``poll``."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alearn import client as wire
from alearn.errors import TransportError
from alearn.transport.base import Broken, Message, Steered
from alearn.transport.connection import Buffers, Connection, Frame, ProtocolError
from alearn.transport.words import read_end, read_hello, read_steered, steer_head
from alearn.types import Sample, Schema

QUANTUM = 1 << 20
"""Bytes that one stream may deliver before the next has its turn."""
OVERHEAD = 512
"""What a queued message costs besides its bytes."""
_STRANGERS = 64


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of a reader.

    Args:
        queue_bytes: bytes of samples between reception and ``poll``; beyond it the writers wait.
        step_bytes: the largest step that a schema may announce.
        connections: streams open at a time; more wait in the listener's backlog.
        hello_s: seconds within which a new connection must have introduced itself.
    """

    queue_bytes: int = 256 << 20
    step_bytes: int = 1 << 30
    connections: int = 512
    hello_s: float = 5.0


@dataclass(slots=True)
class _Attempt:
    """The attempt that may write for a member."""

    attempt: int
    parameters: dict[str, Any] = field(default_factory=dict)
    schema: Schema | None = None
    acknowledged: int = 0
    stop: bool = False
    wishes: dict[int, dict[str, Any]] = field(default_factory=dict)
    wish: int = 0
    connection: Connection | None = None


@dataclass(slots=True)
class _Queue:
    messages: deque[tuple[Message, int]] = field(default_factory=deque)
    bytes: int = 0


class StreamEngine:
    """Serves the sample protocol on the connections of one listener, or on sockets handed to ``adopt``.

    Args:
        listener: a listening socket, owned from here on; None if connections are only adopted.
        key: the study's key; with it every peer must prove that it holds it too.
        limits: see ``StreamLimits``.
        tls: encrypt every connection with this; needs the key.
        certificate: SHA-256 of the certificate in ``tls``, which the proofs cover.
    """

    def __init__(
        self,
        listener: socket.socket | None,
        key: bytes | None,
        limits: StreamLimits,
        tls: ssl.SSLContext | None = None,
        certificate: bytes = b"",
    ) -> None:
        self._listener = listener
        self._key = key
        self._tls = tls
        self._certificate = certificate
        self._limits = limits
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._attempts: dict[str, _Attempt] = {}
        self._queues: dict[str, _Queue] = {}
        self._turns: deque[str] = deque()
        self._connections: set[Connection] = set()
        self._paused: set[Connection] = set()
        self._timed: set[Connection] = set()
        self._chores: deque[Connection] = deque()
        self._adopted: deque[socket.socket] = deque()
        self._buffers = Buffers()
        self._listening = False
        self._listen_again = 0.0
        self._closing = False
        self._failure: BaseException | None = None
        self._selector = selectors.DefaultSelector()
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wakes, selectors.EVENT_READ)
        if listener is not None:
            listener.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="alearn-transport", daemon=True)
        self._thread.start()

    # -- what the owner calls -----------------------------------------------------------------------------

    def announce(self, member: str, attempt: int) -> int:
        """Let this attempt write; lower ones are fenced off.

        Returns:
            How many steps of the member are known to be durable.

        Raises:
            TransportError: a higher attempt was announced before, or the reader is closed.
        """
        with self._lock:
            self._check()
            known = self._attempts.get(member)
            if known is None:
                self._attempts[member] = _Attempt(attempt)
                return 0
            if attempt < known.attempt:
                raise TransportError(f"Attempt {attempt} of member {member} cannot be announced: attempt {known.attempt} already was.")
            if attempt > known.attempt:
                old = known.connection
                self._attempts[member] = _Attempt(attempt, acknowledged=known.acknowledged)
                if old is not None:
                    self._refuse(old, f"attempt {old.attempt} of member {member} was replaced by attempt {attempt}", final=True)
            return self._attempts[member].acknowledged

    def poll(self, timeout_s: float, max_messages: int) -> list[Message]:
        """Take messages, one from each member in turn; waits at most ``timeout_s`` for the first."""
        out: list[Message] = []
        with self._arrived:
            if not self._turns and timeout_s > 0:
                self._arrived.wait_for(lambda: self._turns or self._closing or self._failure, timeout_s)
            if not self._turns:
                self._check()
            while self._turns and len(out) < max_messages:
                member = self._turns.popleft()
                queue = self._queues[member]
                message, weight = queue.messages.popleft()
                queue.bytes -= weight
                out.append(message)
                if queue.messages:
                    self._turns.append(member)
                else:
                    del self._queues[member]
            for connection in [c for c in self._paused if self._queued(c) * 2 <= self._share()]:
                self._paused.discard(connection)
                self._ask(connection)
        return out

    def acknowledge(self, member: str, attempt: int, steps: int) -> None:
        """Steps ``0 … steps-1`` are durable; tell the writer, if it is still this attempt that writes."""
        with self._lock:
            known = self._attempts.get(member)
            if known is None or self._closing:
                return
            known.acknowledged = max(known.acknowledged, steps)
            if known.attempt == attempt and known.connection is not None:
                known.connection.ack_due = True
                self._push(known.connection)

    def stop(self, member: str, attempt: int) -> None:
        """Ask the writer to stop, now or when it next connects."""
        with self._lock:
            known = self._attempts.get(member)
            if known is None or known.attempt != attempt or self._closing:
                return
            known.stop = True
            connection = known.connection
            if connection is not None and connection.welcomed:
                connection.say(wire.STOP)
                self._push(connection)

    def steer(self, member: str, attempt: int, values: Mapping[str, Any]) -> None:
        """Hand new values to the writer, now or when it next connects; ``Steered`` tells when it has taken them."""
        with self._lock:
            known = self._attempts.get(member)
            if known is None or known.attempt != attempt or self._closing:
                return
            known.wish += 1
            known.wishes[known.wish] = dict(values)
            connection = known.connection
            if connection is not None and connection.welcomed:
                connection.say(wire.STEER, steer_head(known.wish, known.wishes[known.wish]))
                self._push(connection)

    def adopt(self, sock: socket.socket) -> None:
        """Serve a socket that is connected already."""
        with self._lock:
            self._check()
            self._adopted.append(sock)
        self._wake()

    def close(self) -> None:
        """Close every stream and end the thread."""
        with self._arrived:
            if self._closing:
                return
            self._closing = True
            self._arrived.notify_all()
        self._wake()
        self._thread.join(10.0)
        if self._thread.is_alive():
            raise TransportError("The reader's thread did not end in 10 s; the process should be ended.")

    def _check(self) -> None:
        if self._failure is not None:
            raise TransportError(f"The reader's thread ended with {type(self._failure).__name__}: {self._failure}.") from self._failure
        if self._closing:
            raise TransportError("The reader is closed; open a new one to go on.")

    # -- shared, under the lock ---------------------------------------------------------------------------

    def _share(self) -> int:
        """Bytes that one stream may have queued, so that a fast one cannot take the others' room."""
        return self._limits.queue_bytes // max(1, len(self._connections))

    def _queued(self, connection: Connection) -> int:
        queue = self._queues.get(connection.member)
        return 0 if queue is None else queue.bytes

    def _deliver(self, member: str, message: Message, size: int = 0) -> None:
        queue = self._queues.get(member)
        if queue is None:
            queue = self._queues[member] = _Queue()
            self._turns.append(member)
        if not member and len(queue.messages) >= _STRANGERS:
            return  # a flood of strangers must not fill the memory
        queue.messages.append((message, size + OVERHEAD))
        queue.bytes += size + OVERHEAD
        self._arrived.notify()

    def _push(self, connection: Connection) -> None:
        """Send what is due; what the kernel does not take now, the thread sends later."""
        if connection.closed:
            return
        if connection.tls is not None and threading.current_thread() is not self._thread:
            self._ask(connection)  # OpenSSL cannot read in one thread and write in another
            return
        alive = connection.send()
        if alive and connection.ack_due and not connection.out:  # only the newest acknowledgement matters
            known = self._attempts[connection.member]
            flags = (wire.ACK_STOP if known.stop else 0) | (wire.ACK_END if connection.ended else 0)
            kind = wire.ACK if connection.welcomed else wire.WELCOME
            connection.say(kind, wire.ACK_HEAD.pack(known.acknowledged, flags))
            for number, values in () if connection.welcomed else list(known.wishes.items()):
                connection.say(wire.STEER, steer_head(number, values))
            connection.welcomed, connection.ack_due = True, False
            alive = connection.send()
        if not alive or connection.out:
            self._ask(connection)

    def _ask(self, connection: Connection) -> None:
        """Let the thread look after a connection."""
        self._chores.append(connection)
        self._wake()

    def _wake(self) -> None:
        if threading.current_thread() is not self._thread:
            with contextlib.suppress(OSError):  # it is awake already, or gone
                self._waker.send(b"\0")

    def _refuse(self, connection: Connection, reason: str, *, final: bool) -> None:
        """Tell the peer why, then throw away what it still sends until it closes."""
        if connection.closed or connection.state == "refused":
            return
        known = self._attempts.get(connection.member)
        if known is not None and known.connection is connection:
            known.connection = None
        if connection.state in ("open", "ended"):
            self._deliver(connection.member, Broken(connection.member, connection.attempt, reason))
        else:
            self._deliver("", Broken("", 0, f"A connection was refused: {reason}."))
        connection.state = "refused"
        connection.deadline = time.monotonic() + 1.0
        self._timed.add(connection)
        connection.say(wire.ERROR, json.dumps({"reason": reason, "final": final}).encode())
        self._paused.discard(connection)
        self._ask(connection)

    # -- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._listen()
                for key, mask in self._selector.select(self._patience()):
                    if key.fileobj is self._wakes:
                        self._wakes.recv(4096)
                    elif key.fileobj is self._listener:
                        self._accept()
                    else:
                        if mask & selectors.EVENT_WRITE:
                            with self._lock:
                                self._push(key.data)
                        if mask & selectors.EVENT_READ:
                            self._read(key.data)
                        self._interest(key.data)
                self._do_chores()
                self._expire()
        except BaseException as error:  # noqa: BLE001 - told to the owner by poll()
            with self._arrived:
                self._failure = error
                self._arrived.notify_all()
        finally:
            self._release()

    def _patience(self) -> float:
        with self._lock:
            deadlines = [c.deadline for c in self._timed if c.deadline is not None]
        if self._listener is not None and not self._listening:
            deadlines.append(max(self._listen_again, time.monotonic() + 0.05))
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else 5.0

    def _listen(self) -> None:
        """Listen while there is room for another connection."""
        if self._listener is None:
            return
        room = len(self._connections) < self._limits.connections and time.monotonic() >= self._listen_again
        if room and not self._listening:
            self._selector.register(self._listener, selectors.EVENT_READ)
        elif self._listening and not room:
            self._selector.unregister(self._listener)
        self._listening = room

    def _accept(self) -> None:
        assert self._listener is not None
        while len(self._connections) < self._limits.connections:
            try:
                sock = self._listener.accept()[0]
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors: others must close first
                self._listen_again = time.monotonic() + 0.2
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        state = "hello" if self._key is None else "proof"
        if self._tls is not None:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:  # gone already
                sock.close()
                return
            state = "tls"
        connection = Connection(sock, state, time.monotonic() + self._limits.hello_s, self._buffers)
        with self._lock:
            self._connections.add(connection)
            self._timed.add(connection)
            if state == "proof":
                self._challenge(connection)
        self._interest(connection)

    def _challenge(self, connection: Connection) -> None:
        connection.state, connection.nonce = "proof", os.urandom(32)
        connection.say(wire.CHALLENGE, connection.nonce, wire.SEALED if self._tls is None else 0)
        self._push(connection)

    def _interest(self, connection: Connection) -> None:
        """Tell the selector what this connection now waits for."""
        with self._lock:
            mask = 0
            if not connection.closed:
                mask = (0 if connection in self._paused else selectors.EVENT_READ) | (selectors.EVENT_WRITE if connection.out else 0)
        if mask == connection.registered:
            return
        if not connection.registered:
            self._selector.register(connection.sock, mask, connection)
        elif mask:
            self._selector.modify(connection.sock, mask, connection)
        else:
            self._selector.unregister(connection.sock)
        connection.registered = mask

    def _do_chores(self) -> None:
        while True:
            with self._lock:
                if self._adopted:
                    self._take(self._adopted.popleft())
                    continue
                if not self._chores:
                    return
                connection = self._chores.popleft()
                if connection.closed:
                    continue
                alive = connection.send()
                if alive:
                    self._push(connection)
            if alive:
                self._interest(connection)
            else:
                self._drop(connection, "the connection broke")

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            expired = [c for c in self._timed if c.deadline is not None and c.deadline <= now]
        for connection in expired:
            if connection.state == "tls":
                self._drop(connection, f"no TLS handshake came in {self._limits.hello_s:g} s")
            elif connection.state in ("proof", "hello"):
                with self._lock:
                    self._refuse(connection, f"it did not introduce itself within {self._limits.hello_s:g} s", final=False)
            else:
                self._drop(connection, "")

    def _drop(self, connection: Connection, why: str) -> None:
        """Close a connection; told to the owner unless its end had come."""
        with self._lock:
            if connection.closed:
                return
            connection.closed = True
            self._connections.discard(connection)
            self._timed.discard(connection)
            self._paused.discard(connection)
            known = self._attempts.get(connection.member)
            if known is not None and known.connection is connection:
                known.connection = None
            if connection.state == "open" and why:
                self._deliver(connection.member, Broken(connection.member, connection.attempt, why))
            elif connection.state in ("tls", "proof", "hello") and why:
                self._deliver("", Broken("", 0, f"A connection closed before it had introduced itself: {why}."))
        self._interest(connection)
        connection.close()

    def _read(self, connection: Connection) -> None:
        if connection.closed:
            return
        if connection.state == "refused":
            if connection.discard():
                self._drop(connection, "")
            return
        if connection.state == "tls" and not self._shake_hands(connection):
            return
        again = True
        while again:
            frames, closed = connection.receive(QUANTUM)
            error = connection.error
            try:
                while frames:
                    changed = self._judge(connection, frames)
                    frames = connection.more() if changed and connection.error is None else []
                error = connection.error
            except ProtocolError as found:
                error = found
            if error is not None:
                with self._lock:
                    self._refuse(connection, str(error), final=error.final)
            if closed and connection.state != "refused":
                self._drop(connection, "the connection broke")
            again = connection.pending

    def _shake_hands(self, connection: Connection) -> bool:
        try:
            done = connection.shake_hands()
        except OSError as error:
            self._drop(connection, f"the TLS handshake failed ({error})")
            return False
        if done:
            with self._lock:
                self._challenge(connection)
        return done

    def _judge(self, connection: Connection, frames: list[Frame]) -> bool:
        """Act on frames; returns whether the connection's state has changed, so that more may be parsed."""
        if connection.state == "open":
            messages: list[tuple[Message, int]] = []
            error = None
            try:
                for f in frames:
                    messages.append(self._message(connection, f))
            except ProtocolError as found:
                error = found
            with self._lock:
                if connection.state != "open":  # fenced meanwhile
                    return False
                for (message, size), f in zip(messages, frames, strict=False):
                    if not isinstance(message, Steered) or message.values:
                        self._deliver(connection.member, message, size)
                    if f.kind == wire.END:
                        connection.state, connection.ended, connection.ack_due = "ended", True, True
                        connection.deadline = time.monotonic() + 60.0
                        self._timed.add(connection)
                        self._push(connection)
                if self._queued(connection) > self._share():
                    self._paused.add(connection)
            if error is not None:
                raise error
            return False
        if connection.state == "proof":
            self._authenticate(connection, frames[0].head)
        elif connection.state == "hello":
            self._introduce(connection, frames[0].head)
        return connection.state in ("hello", "open")

    def _message(self, connection: Connection, f: Frame) -> tuple[Message, int]:
        known = self._attempts[connection.member]
        if f.kind == wire.END:
            return read_end(connection.member, connection.attempt, f.head), 0
        if f.kind == wire.STEERED:
            return self._taken(connection, known, f.head), 0
        step, t = wire.STEP_HEAD.unpack_from(f.head)
        if connection.next_step is None:
            if step > known.acknowledged:
                raise ProtocolError(f"its first step is {step}; steps from {known.acknowledged} on are missing")
        elif step != connection.next_step and not connection.next_step < step <= known.acknowledged:
            raise ProtocolError(f"it sent step {step} where step {connection.next_step} was due")
        connection.next_step = step + 1
        sample = Sample(connection.member, connection.attempt, step, t, known.parameters, connection.unpack(f.body))
        return sample, connection.step_bytes

    def _taken(self, connection: Connection, known: _Attempt, head: bytes) -> Steered:
        """What a writer says to have taken, which counts once: after a reconnection it is said again."""
        number, step = read_steered(head)
        taken: dict[str, Any] = {}
        for n in [n for n in list(known.wishes) if n <= number]:
            taken |= known.wishes.pop(n)
        return Steered(connection.member, connection.attempt, step, taken)

    def _authenticate(self, connection: Connection, answer: bytes) -> None:
        assert self._key is not None
        nonce, mac = answer[:32], answer[32:]
        with self._lock:
            if not hmac.compare_digest(mac, wire.proof(self._key, "writer", connection.nonce, nonce, self._certificate)):
                self._refuse(connection, "it does not hold this study's key", final=True)
                return
            connection.state = "hello"
            connection.say(wire.PROOF, wire.proof(self._key, "reader", connection.nonce, nonce, self._certificate))
            if self._tls is None:
                connection.seals = (
                    wire.Seal(self._key, "writer", connection.nonce, nonce),
                    wire.Seal(self._key, "reader", connection.nonce, nonce),
                )
            self._push(connection)

    def _introduce(self, connection: Connection, head: bytes) -> None:
        hello, session = read_hello(head, self._limits.step_bytes)
        with self._lock:
            known = self._attempts.get(hello.member)
            if known is None or hello.attempt > known.attempt:
                self._refuse(connection, f"attempt {hello.attempt} of member {hello.member} was not announced to this reader", final=False)
                return
            if hello.attempt < known.attempt:
                reason = f"attempt {hello.attempt} of member {hello.member} was replaced by attempt {known.attempt}"
                self._refuse(connection, reason, final=True)
                return
            old = known.connection
            if old is not None and old.session != session:
                reason = f"another process already writes attempt {hello.attempt} of member {hello.member}; only one (MPI: rank 0) may"
                self._refuse(connection, reason, final=True)
                return
            if known.schema is not None and known.schema != hello.schema:
                self._refuse(connection, f"the schema of member {hello.member} changed within attempt {hello.attempt}", final=True)
                return
            if old is not None:
                self._refuse(old, "its writer has connected anew", final=False)
            known.connection, known.schema, known.parameters = connection, hello.schema, dict(hello.parameters)
            connection.member, connection.attempt, connection.session = hello.member, hello.attempt, session
            connection.accept(hello.schema)
            connection.state, connection.deadline = "open", None
            self._timed.discard(connection)
            self._deliver(hello.member, hello, len(head))
        connection.grow()

    def _release(self) -> None:
        with self._lock:
            self._closing = self._closing or self._failure is None
            for connection in self._connections:
                connection.closed = True
                connection.close()
            for sock in self._adopted:
                sock.close()
            self._connections.clear()
            self._paused.clear()
        self._selector.close()
        for end in (self._wakes, self._waker, self._listener):
            if end is not None:
                end.close()
