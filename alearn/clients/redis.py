"""The writer's side of the Redis carrier: a socket whose other end is carried through two Redis streams.

``alearn.client`` loads this by itself when the learner's address is ``redis:NAME@URL#PASSWORD_FILE``; no simulation imports it.
It needs the package ``redis``. For each connection the frames of docs/wire.md go, as they are, into the stream
``alearn:NAME:up:ID``, and the learner's acknowledgements come out of ``alearn:NAME:down:ID``. Nothing here is trusted with the
protocol: frames are sealed with the study's key, acknowledged when durable, and sent again after a break, as on any carrier.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

from alearn.client import Refused, StreamError

CHUNK = 1 << 20
GROUP = "learner"
BEAT_S = 1.0
BLOCK_MS = 200
_DATA, _END = b"d", b"end"


def keys(name: str, connection: str = "") -> dict[str, str]:
    """The Redis keys of a reader, and of one connection to it."""
    own = {"hello": f"alearn:{name}:hello", "reader": f"alearn:{name}:reader"}
    if connection:
        own |= {kind: f"alearn:{name}:{kind}:{connection}" for kind in ("up", "down", "alive")}
    return own


def server(url: str, password_file: str, timeout_s: float = 10.0) -> Any:
    """A connection to the Redis server.

    Args:
        url: ``unix:///path``, ``redis://host:port/db`` or ``rediss://…`` (TLS), without a password.
        password_file: the file that holds it; empty for none.
        timeout_s: for each command.

    Raises:
        StreamError: the package is missing, or the password cannot be read.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise StreamError("Streams over Redis need the package 'redis', which is not installed: pip install 'alearn[redis]'") from error
    password = None
    if password_file:
        try:
            with open(password_file, encoding="utf-8") as file:
                password = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StreamError(f"The password of the Redis server cannot be read from {password_file}: {error}.") from error
    options = {"socket_timeout": timeout_s, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
    if not url.startswith("unix:"):
        options |= {"socket_connect_timeout": timeout_s, "socket_keepalive": True}
    return redis.Redis.from_url(url, password=password, **options)


def entry(data: bytes) -> dict[bytes, bytes]:
    """A stream's entry that carries bytes; no bytes are the end of the connection."""
    return {_DATA: data} if data else {_END: b"1"}


def data_of(fields: dict[bytes, bytes]) -> bytes:
    """The inverse of ``entry``."""
    return fields.get(_DATA, b"")


def dial(target: str, timeout_s: float) -> socket.socket:
    """A connected socket to the reader behind ``NAME@URL#PASSWORD_FILE``.

    Raises:
        ConnectionError: the server cannot be reached, or has no reader of that name.
        Refused: the server refuses the password.
    """
    import redis

    where, _, password_file = target.partition("#")
    name, _, url = where.partition("@")
    remote = server(url, password_file, timeout_s)
    try:
        reader = remote.get(keys(name)["reader"])
        if reader is None:
            raise ConnectionRefusedError(f"the Redis server at {url} has no reader of the name {name}")
        session, _, lease = reader.partition(b" ")
        bridge = _Bridge(remote, name, session, float(lease))
    except redis.exceptions.AuthenticationError as error:
        remote.close()
        raise Refused(f"The Redis server at {url} refuses the password in {password_file or '(no password file)'}: {error}") from error
    except redis.exceptions.RedisError as error:
        remote.close()
        raise ConnectionRefusedError(f"the Redis server at {url} does not answer: {error}") from error
    except ConnectionError:
        remote.close()
        raise
    return bridge.start()


class _Bridge:
    """Carries one connection: a thread for each direction, which end when either side closes."""

    def __init__(self, remote: Any, name: str, session: bytes, lease_s: float) -> None:
        self._remote = remote
        self._keys = keys(name, os.urandom(8).hex())
        self._session = session
        self._lease_s = lease_s
        self._ours, self._theirs = socket.socketpair()
        self._left = 2
        self._lock = threading.Lock()
        try:
            pipe = remote.pipeline()
            pipe.xgroup_create(self._keys["up"], GROUP, "0", mkstream=True)
            self._beat(pipe)
            pipe.xadd(self._keys["hello"], {b"id": self._keys["up"].rpartition(":")[2]})
            pipe.execute()
        except BaseException:
            self._ours.close()
            self._theirs.close()
            raise

    def start(self) -> socket.socket:
        for work in (self._up, self._down):
            threading.Thread(target=self._guarded, args=(work,), name="alearn-redis", daemon=True).start()
        return self._theirs

    def _beat(self, pipe: Any) -> None:
        """This writer lives; its keys go by themselves some time after it does no more."""
        pipe.set(self._keys["alive"], b"1", px=int(self._lease_s * 1000))
        for key in ("up", "down"):
            pipe.expire(self._keys[key], int(2 * self._lease_s) + 10)

    def _guarded(self, work: Any) -> None:
        import redis

        try:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):  # the client sees its socket close, and connects anew
                work()
        finally:
            with contextlib.suppress(OSError):
                self._ours.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._left -= 1
                last = self._left == 0
            if last:
                self._ours.close()
                self._remote.close()

    def _up(self) -> None:
        try:
            while data := self._ours.recv(CHUNK):
                self._remote.xadd(self._keys["up"], entry(data))
        finally:
            pipe = self._remote.pipeline()
            pipe.xadd(self._keys["up"], entry(b""))
            pipe.expire(self._keys["up"], int(2 * self._lease_s) + 10)
            pipe.execute()

    def _down(self) -> None:
        last, beat = "0", time.monotonic()
        while self._left == 2:
            if time.monotonic() - beat > min(BEAT_S, self._lease_s / 4):
                beat = time.monotonic()
                pipe = self._remote.pipeline()
                self._beat(pipe)
                pipe.get(self._keys["reader"])
                if not (pipe.execute()[-1] or b"").startswith(self._session):
                    return  # the reader is gone, or another has taken its place
            for _, entries in self._remote.xread({self._keys["down"]: last}, block=BLOCK_MS):
                for at, fields in entries:
                    last = at
                    data = data_of(fields)
                    if not data:
                        return
                    self._ours.sendall(data)
                self._remote.xdel(self._keys["down"], *(at for at, _ in entries))
