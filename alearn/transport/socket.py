"""The default carrier: framed Unix or TCP sockets on the standard library."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, TransportError, UnknownName
from alearn.transport.base import Message
from alearn.transport.certificate import server_context
from alearn.transport.options import check_limits
from alearn.transport.streams import StreamEngine, StreamLimits

KINDS = ("unix", "tcp")
_PATH_LIMIT = 107


class SocketReader:
    """The learner's end of the framed socket.

    Args:
        kind: "unix" (one machine; a socket in a directory of mode 0700) or "tcp" (encrypted by TLS 1.3; both sides prove
            that they hold a key of this study).
        path: where to put the Unix socket; empty makes a fresh directory. A fixed path lets a restarted reader
            be found again by writers that are still alive.
        host: TCP: the address to bind; loopback unless you say otherwise.
        port: TCP: the port; 0 takes a free one.
        advertise: TCP: the host name that writers are told; empty is ``host``.
        key_file: TCP: keep the study's key in this file (made with mode 0600, or read if it is there). Empty is
            ``stream.key`` in the study's directory; a reader without a study hands the key to members in their environment.
        encrypt: TCP: False for clients that were built without TLS: every frame is sealed with the key, so that what
            travels can be read on the network, though not changed.
        window_mb: MiB of unacknowledged steps that each writer may have in flight.
        queue_mb: MiB of samples between reception and ``poll``, all members together.
        deadline_s: how long a writer waits for an acknowledgement before it gives up.
        reconnect_s: how long a writer without a connection tries before it gives up.
        hello_s: how long a new connection may take to introduce itself.
        connections: how many streams may be open at a time.
        step_mb: MiB of the largest step that a schema may announce.
        directory: the study's directory.

    Raises:
        ConfigError: an option is out of range.
        TransportError: the address is taken, or cannot be bound.
    """

    def __init__(
        self,
        *,
        kind: str = "unix",
        path: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str = "",
        key_file: str = "",
        encrypt: bool = True,
        window_mb: float = 32.0,
        queue_mb: float = 256.0,
        deadline_s: float = 600.0,
        reconnect_s: float = 60.0,
        hello_s: float = 5.0,
        connections: int = 512,
        step_mb: float = 1024.0,
        directory: Path | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UnknownName("kind of the socket transport", str(kind), KINDS)
        check_limits(
            window_mb=window_mb, queue_mb=queue_mb, deadline_s=deadline_s, reconnect_s=reconnect_s, hello_s=hello_s,
            connections=connections, step_mb=step_mb,
        )  # fmt: skip
        self._env = {"ALEARN_WINDOW_MB": f"{window_mb:g}", "ALEARN_DEADLINE_S": f"{deadline_s:g}", "ALEARN_RECONNECT_S": f"{reconnect_s:g}"}
        self._directory: Path | None = None
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None
        key: bytes | None = None
        tls, certificate = server_context() if kind == "tcp" and encrypt else (None, b"")
        if kind == "unix":
            listener = self._listen_unix(path)
        else:
            key_file = key_file or ("" if directory is None else str(directory / "stream.key"))
            key = study_key(key_file)
            self._env |= {"ALEARN_KEY_FILE": str(Path(key_file).absolute())} if key_file else {"ALEARN_KEY": key.hex()}
            listener = _listen_tcp(host, port)
            bound = listener.getsockname()
            name, scheme = advertise or host, "tls" if encrypt else "tcp"
            self._env["ALEARN_STREAM"] = f"{scheme}:[{name}]:{bound[1]}" if ":" in name else f"{scheme}:{name}:{bound[1]}"
        limits = StreamLimits(int(queue_mb * (1 << 20)), int(step_mb * (1 << 20)), connections, hello_s)
        self._engine = StreamEngine(listener, key, limits, tls, certificate)

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
        """Hand new values to a running simulation."""
        self._engine.steer(member, attempt, values)

    def close(self) -> None:
        """Close every stream; remove the socket and its directory."""
        try:
            self._engine.close()
        finally:
            if self._path is not None and self._identity == _identity(self._path):  # not one that a successor put there
                self._path.unlink()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)

    def _listen_unix(self, path: str) -> socket.socket:
        if path:
            target = Path(path).absolute()
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(target.parent)
        else:
            self._directory = Path(tempfile.mkdtemp(prefix="alearn-"))
            if len(os.fsencode(self._directory / "stream")) > _PATH_LIMIT:
                self._directory.rmdir()
                self._directory = Path(tempfile.mkdtemp(prefix="alearn-", dir="/tmp"))
            target = self._directory / "stream"
        if len(os.fsencode(target)) > _PATH_LIMIT:
            raise ConfigError(f"The socket's path {target} has more than {_PATH_LIMIT} bytes; give a shorter one, or none.")
        _clear_stale(target)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(target))
            os.chmod(target, 0o600)
            listener.listen(1024)
        except OSError as error:
            listener.close()
            raise TransportError(f"The socket {target} cannot be opened: {error}.") from error
        self._path = target
        self._identity = _identity(target)
        self._env |= {"ALEARN_STREAM": f"unix:{target}", "ALEARN_MEMORY": "1"}
        return listener


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _check_private(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"The socket's directory {directory} has mode {stat.S_IMODE(found.st_mode):04o} and owner {found.st_uid}; "
            "others could reach the socket: it must be yours with mode 0700."
        )


def _clear_stale(path: Path) -> None:
    """Remove the socket that a killed reader left behind; one that answers is somebody's."""
    if _identity(path) is None:
        return
    if not path.is_socket():
        raise TransportError(f"The path {path} is taken by something that is no socket; choose another.")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(2.0)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise TransportError(f"The path {path} is taken by a socket that neither answers nor refuses: {error}.") from error
    else:
        raise TransportError(f"Another live reader listens at {path}; end it, or choose another path.")
    finally:
        probe.close()


def _listen_tcp(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise TransportError(f"The host {host!r} cannot be listened on: {error}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        hint = "; choose another port, or 0 for a free one" if error.errno == errno.EADDRINUSE else ""
        raise TransportError(f"The reader cannot listen on {host} port {port}: {error}{hint}.") from error
    return listener


def study_key(key_file: str) -> bytes:
    """The study's key out of a file, which is made with mode 0600 if it is not there; without a file a fresh one.

    Raises:
        ConfigError: the file cannot be made or read, others can read it, or it holds no key.
    """
    if not key_file:
        return secrets.token_bytes(32)
    path = Path(key_file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(f"The key file {path} has mode {mode:04o}; others can read it: chmod 600 it.") from None
        try:
            key = bytes.fromhex(path.read_text("ascii").strip())
        except ValueError as error:
            raise ConfigError(f"The key file {path} holds no hexadecimal key: {error}.") from error
        if len(key) < 32:
            raise ConfigError(f"The key in {path} has {len(key)} bytes; 32 are needed.") from None
        return key
    except OSError as error:
        raise ConfigError(f"The key file {path} cannot be made: {error}.") from error
    key = secrets.token_bytes(32)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.hex() + "\n")
    return key
