"""The Redis carrier: the frames of every connection travel through two Redis streams, for sites that have a staging server.

The learner reads as a consumer group and removes what it has handed on; acknowledgements go back through a stream of replies.
Redis keeps nothing for good: a step is acknowledged when the ledger holds it, and what was lost on the way is sent again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.clients.redis import CHUNK, GROUP, data_of, entry, keys, server
from alearn.errors import ConfigError, MissingDependency, TransportError
from alearn.transport.base import Message
from alearn.transport.options import check_limits
from alearn.transport.socket import study_key
from alearn.transport.streams import StreamEngine, StreamLimits

log = logging.getLogger(__name__)

BLOCK_MS = 200
PAUSED_MS = 5
AGAIN_S = 0.3
_ENTRIES = 8


class RedisReader:
    """The learner's end of streams through a Redis server (5 or newer).

    Args:
        url: ``unix:///path/redis.sock``, ``redis://host:port/0``, or ``rediss://…`` for TLS. Without a password in it.
        password_file: a file of mode 0600 that holds the server's password; members read it too.
        channel: this reader's name at the server; empty makes one. A fixed one lets a restarted reader be found again by writers
            that are still alive.
        key_file: the study's key (made with mode 0600, or read if it is there), with which both sides prove themselves and seal
            every frame: others who may use the server can neither read a secret nor forge a step. Empty is ``stream.key`` in
            the study's directory; a reader without a study hands the key to members in their environment.
        lease_s: a side that has not been heard of for so long is taken for dead.
        window_mb: MiB of unacknowledged steps that each writer may have in flight; this bounds what lies in Redis.
        queue_mb: MiB of samples between reception and ``poll``, all members together.
        deadline_s: how long a writer waits for an acknowledgement before it gives up.
        reconnect_s: how long a writer without a connection tries before it gives up.
        hello_s: how long a new connection may take to introduce itself.
        step_mb: MiB of the largest step that a schema may announce.
        directory: the study's directory.

    Raises:
        ConfigError: an option is wrong, or the password is readable by others.
        TransportError: the server does not answer.
        MissingDependency: the package ``redis`` is not installed.
    """

    def __init__(
        self,
        *,
        url: str = "",
        password_file: str = "",
        channel: str = "",
        key_file: str = "",
        lease_s: float = 30.0,
        window_mb: float = 32.0,
        queue_mb: float = 256.0,
        deadline_s: float = 600.0,
        reconnect_s: float = 60.0,
        hello_s: float = 10.0,
        step_mb: float = 1024.0,
        directory: Path | None = None,
    ) -> None:
        _check(url, password_file, channel, lease_s)
        check_limits(
            window_mb=window_mb, queue_mb=queue_mb, deadline_s=deadline_s, reconnect_s=reconnect_s, hello_s=hello_s, step_mb=step_mb
        )
        try:
            import redis  # noqa: F401
        except ImportError as error:
            raise MissingDependency("redis", "transport=redis", "redis") from error
        self._channel = channel or os.urandom(8).hex()
        password_file = str(Path(password_file).absolute()) if password_file else ""
        key_file = key_file or ("" if directory is None else str(directory / "stream.key"))
        key = study_key(key_file)
        self._env = {
            "ALEARN_STREAM": f"redis:{self._channel}@{url}" + (f"#{password_file}" if password_file else ""),
            "ALEARN_WINDOW_MB": f"{window_mb:g}",
            "ALEARN_DEADLINE_S": f"{deadline_s:g}",
            "ALEARN_RECONNECT_S": f"{reconnect_s:g}",
            **({"ALEARN_KEY_FILE": str(Path(key_file).absolute())} if key_file else {"ALEARN_KEY": key.hex()}),
        }
        limits = StreamLimits(queue_bytes=int(queue_mb * (1 << 20)), step_bytes=int(step_mb * (1 << 20)), hello_s=hello_s)
        self._engine = StreamEngine(None, key, limits)
        try:
            self._bridge = _Bridge(server(url, password_file), self._channel, lease_s, self._engine, url)
        except BaseException:
            self._engine.close()
            raise

    def address(self, member: str, attempt: int) -> Mapping[str, str]:
        """Announce the attempt; returns the variables of its environment."""
        acknowledged = self._engine.announce(member, attempt)
        return {**self._env, "ALEARN_MEMBER": member, "ALEARN_ATTEMPT": str(attempt), "ALEARN_ACKNOWLEDGED": str(acknowledged)}

    def poll(self, timeout_s: float, max_messages: int = 256) -> Sequence[Message]:
        """What arrived, in order for each member and fair across members.

        Raises:
            TransportError: the reader is closed or its thread has failed.
        """
        return self._engine.poll(timeout_s, max_messages)

    def acknowledge(self, member: str, attempt: int, steps: int) -> None:
        """Tell the writer that steps ``0 … steps-1`` are durable; answers a Hello too."""
        self._engine.acknowledge(member, attempt, steps)

    def stop(self, member: str, attempt: int) -> None:
        """Ask the writer to stop."""
        self._engine.stop(member, attempt)

    def steer(self, member: str, attempt: int, values: Mapping[str, Any]) -> None:
        """Hand over new values to a simulation that runs."""
        self._engine.steer(member, attempt, values)

    def close(self) -> None:
        """Close every stream and remove this reader's keys from the server."""
        self._engine.close()
        self._bridge.close()


def _check(url: str, password_file: str, channel: str, lease_s: float) -> None:
    scheme, _, rest = url.partition("://")
    if scheme not in ("unix", "redis", "rediss") or not rest or "#" in url:
        raise ConfigError(f"transport.url is {url!r}; give the server's: unix:///path/redis.sock, redis://host:port/0 or rediss://….")
    if "@" in rest:
        raise ConfigError("transport.url holds a password, which every member's environment would show; use transport.password_file.")
    if scheme != "unix" and not password_file:
        raise ConfigError(f"The Redis server at {url} must ask for a password; give it in a file of mode 0600, transport.password_file.")
    if any(not (c.isalnum() or c in "-_.") for c in channel):
        raise ConfigError(f"transport.channel is {channel!r}; use letters, digits, '-', '_' and '.' only.")
    if not lease_s > 0:
        raise ConfigError(f"transport.lease_s is {lease_s!r}; give seconds above 0.")
    if password_file:
        try:
            mode = stat.S_IMODE(os.stat(password_file).st_mode)
        except OSError as error:
            raise ConfigError(f"The password file {password_file} cannot be read: {error}.") from error
        if mode & 0o077:
            raise ConfigError(f"The password file {password_file} has mode {mode:04o}; others can read it: chmod 600 it.")


@dataclass(eq=False)
class _Pipe:
    """One connection: our end of the socket that the engine serves, and what waits to go into it."""

    id: str
    sock: socket.socket
    keys: Mapping[str, str]
    waiting: deque[memoryview] = field(default_factory=deque)
    ended: bool = False


class _Bridge:
    """Carries all connections: one thread from Redis to the engine, one back.

    A broken server costs every connection; both sides connect anew, and the protocol sends again what was not acknowledged.
    """

    def __init__(self, remote: Any, name: str, lease_s: float, engine: StreamEngine, url: str) -> None:
        import redis

        self._errors = (redis.exceptions.RedisError, OSError)
        self._remote, self._name, self._lease_s, self._engine, self._url = remote, name, lease_s, engine, url
        self._keys = keys(name)
        self._session = os.urandom(8).hex().encode()
        self._pipes: dict[str, _Pipe] = {}
        self._lock = threading.Lock()
        self._fresh: deque[_Pipe] = deque()
        self._over: deque[_Pipe] = deque()
        self._closing = False
        self._wakes, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        try:
            self._register()
        except self._errors as error:
            self._wakes.close()
            self._waker.close()
            remote.close()
            said = str(error).rstrip(".")
            raise TransportError(f"The Redis server at {url} does not answer: {said}. Is it started, and the password right?") from error
        self._threads = [threading.Thread(target=work, name="alearn-redis", daemon=True) for work in (self._upward, self._downward)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both threads and remove what is left at the server."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        for thread in self._threads:
            thread.join(20.0)
        with contextlib.suppress(*self._errors):
            pipe = self._remote.pipeline()
            for one in list(self._pipes.values()):
                self._farewell(pipe, one)
            pipe.delete(self._keys["reader"], self._keys["hello"], *(one.keys[k] for one in self._over for k in ("up", "alive")))
            pipe.execute()
        for one in list(self._pipes.values()):
            one.sock.close()
        self._remote.close()
        self._wakes.close()
        self._waker.close()

    # --- from Redis to the engine ----------------------------------------------------------------------------

    def _register(self) -> None:
        pipe = self._remote.pipeline()
        pipe.delete(self._keys["hello"])
        pipe.xgroup_create(self._keys["hello"], GROUP, "0", mkstream=True)
        self._beat(pipe)
        pipe.execute()

    def _beat(self, pipe: Any) -> None:
        pipe.set(self._keys["reader"], self._session + f" {self._lease_s:g}".encode(), px=int(self._lease_s * 1000))
        pipe.expire(self._keys["hello"], int(2 * self._lease_s) + 10)

    def _upward(self) -> None:
        beat = time.monotonic()
        while not self._closing:
            try:
                if time.monotonic() - beat > min(1.0, self._lease_s / 4):
                    beat = time.monotonic()
                    self._look_after()
                self._take()
            except self._errors as error:
                if self._closing:
                    return
                log.warning("The Redis server at %s failed (%s); every stream is opened anew.", self._url, error)
                for one in list(self._pipes.values()):
                    self._forget(one)
                self._recover()
            self._flush()

    def _recover(self) -> None:
        while not self._closing:
            try:
                self._register()
                return
            except self._errors:
                time.sleep(AGAIN_S)

    def _look_after(self) -> None:
        """Say that this reader lives, and close the connections of writers that do no more."""
        known = list(self._pipes.values())
        pipe = self._remote.pipeline()
        self._beat(pipe)
        for one in known:
            pipe.exists(one.keys["alive"])
        for one, alive in zip(known, pipe.execute()[2:], strict=True):
            if not alive:
                one.ended = True

    def _take(self) -> None:
        while self._over:  # here, because a stream must not vanish under the thread that waits for it
            one = self._over.popleft()
            self._remote.delete(one.keys["up"], one.keys["alive"])
        open_ = {one.keys["up"]: one for one in list(self._pipes.values()) if not one.waiting and not one.ended}
        paused = len(open_) < len(self._pipes)
        wanted = dict.fromkeys([self._keys["hello"], *open_], ">")
        found = self._remote.xreadgroup(GROUP, "reader", wanted, count=_ENTRIES, block=PAUSED_MS if paused else BLOCK_MS)
        if not found:
            return
        done = self._remote.pipeline()
        for name, entries in found:
            key = name.decode()
            for _, fields in entries:
                if key == self._keys["hello"]:
                    self._open(fields[b"id"].decode())
                    continue
                data = data_of(fields)
                if data:
                    open_[key].waiting.append(memoryview(data))
                else:
                    open_[key].ended = True
            numbers = [at for at, _ in entries]
            done.xack(key, GROUP, *numbers)
            done.xdel(key, *numbers)
        done.execute()

    def _open(self, connection: str) -> None:
        if not connection.isalnum() or connection in self._pipes:
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        one = _Pipe(connection, ours, keys(self._name, connection))
        try:
            self._engine.adopt(theirs)
        except TransportError:
            ours.close()
            theirs.close()
            return
        with self._lock:
            self._pipes[connection] = one
            self._fresh.append(one)
        self._wake()

    def _flush(self) -> None:
        """Into the engine's sockets what they take; one that takes nothing is not read from Redis meanwhile."""
        for one in list(self._pipes.values()):
            try:
                while one.waiting:
                    sent = one.sock.send(one.waiting[0])
                    if sent < len(one.waiting[0]):
                        one.waiting[0] = one.waiting[0][sent:]
                        break
                    one.waiting.popleft()
                if one.ended and not one.waiting:
                    one.sock.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                continue
            except OSError:
                one.waiting.clear()  # the engine has closed it: the other thread says so to the writer

    # --- from the engine to Redis ----------------------------------------------------------------------------

    def _downward(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakes, selectors.EVENT_READ)
            while not self._closing:
                for key, _ in selector.select(1.0):
                    if key.fileobj is self._wakes:
                        self._wakes.recv(4096)
                        continue
                    self._reply(selector, key.data)
                while self._fresh:
                    one = self._fresh.popleft()
                    with contextlib.suppress(ValueError):  # closed already
                        selector.register(one.sock, selectors.EVENT_READ, one)

    def _reply(self, selector: selectors.BaseSelector, one: _Pipe) -> None:
        try:
            data = one.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            pipe = self._remote.pipeline()
            if data:
                pipe.xadd(one.keys["down"], entry(data))
                pipe.expire(one.keys["down"], int(2 * self._lease_s) + 10)
            else:
                self._farewell(pipe, one)
            pipe.execute()
        except self._errors:
            data = b""  # the writer will see that it is not answered
        if not data:
            selector.unregister(one.sock)
            with self._lock:
                self._pipes.pop(one.id, None)
            one.sock.close()

    def _farewell(self, pipe: Any, one: _Pipe) -> None:
        """The writer is told that the connection is over; its keys go by themselves when it has read that."""
        pipe.xadd(one.keys["down"], entry(b""))
        pipe.expire(one.keys["down"], int(2 * self._lease_s) + 10)
        self._over.append(one)

    def _forget(self, one: _Pipe) -> None:
        """Close our end of a connection; the other thread notices and removes it."""
        one.waiting.clear()
        with contextlib.suppress(OSError):
            one.sock.shutdown(socket.SHUT_RDWR)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
