"""Nurses and lines to what they fork, as the launcher sees them."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.errors import LaunchError
from alearn.launcher import supervisor
from alearn.launcher.base import Job
from alearn.launcher.checks import DIRECTORY

_SEND_S = 10.0


@dataclass(slots=True, eq=False)
class Running:
    """An attempt that was submitted and has not been reported yet."""

    job: Job
    tag: str
    spec: dict[str, Any]
    env: dict[str, str]
    cpus: list[int] | None
    cores: int
    gpus: list[str]
    line: Line | None = None
    again: bool = False
    begun: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Line:
    """The connection to one supervisor, or to the ward of one warm process.

    Attributes:
        channel: the socket; its end is the end of what listens.
        running: the attempt that is served now; None for a ward that waits.
        kind: what a ward has imported, with which variables; None for a supervisor.
        heard: the beginning of a message.
        pid: the member's process, once it is known.
    """

    channel: socket.socket
    running: Running | None
    kind: Kind | None = None
    heard: bytes = b""
    pid: int = 0

    def send(self, data: bytes) -> None:
        """Write all of it, within a deadline.

        Raises:
            OSError: nobody listens.
        """
        with contextlib.suppress(BlockingIOError):
            data = data[self.channel.send(data) :]
        if not data:
            return
        self.channel.settimeout(_SEND_S)
        try:
            self.channel.sendall(data)
        finally:
            self.channel.setblocking(False)


@dataclass(frozen=True, slots=True)
class Kind:
    """What members must have in common to share a warm process: the function, and variables that are read at import."""

    target: str
    environ: tuple[tuple[str, str], ...]


class Nursery:
    """A nurse process, started on first use and again if it died.

    Args:
        argv: its command, without the number of the control socket.
        behind: further arguments, behind that number.
        environ: its environment; None is the launcher's.
    """

    def __init__(self, argv: Sequence[str], behind: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        self._argv, self._behind, self._environ = list(argv), list(behind), environ
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @classmethod
    def cold(cls) -> Nursery:
        """One that knows nothing but the member supervisor."""
        return cls([sys.executable, "-S", "-I", str(Path(supervisor.__file__).with_name("nurse.py"))])

    @classmethod
    def warm(cls, kind: Kind, reuse: int, directory: str) -> Nursery:
        """One that has imported a simulation; ``directory`` is that of a member, by which ``sweep`` finds it."""
        environ = {**os.environ, **dict(kind.environ), DIRECTORY: directory}
        return cls([sys.executable, "-P", "-m", "alearn.launcher.warm"], [kind.target, str(reuse)], environ)

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def deliver(self, spec: bytes, channel: socket.socket) -> None:
        """Hand over a specification (JSON) and the supervisor's end of its channel.

        Raises:
            LaunchError: no nurse can be started.
        """
        framed = len(spec).to_bytes(4, "big") + spec
        trouble: Exception | None = None
        for _ in range(2):
            try:
                control = self._ready()
                sent = socket.send_fds(control, [framed], [channel.fileno()])
                control.sendall(framed[sent:])
                return
            except OSError as error:
                trouble = error
                self.dismiss()
                self.wait(1.0)  # it is dead or dying: another takes its place
        raise LaunchError(f"No supervisor can be started: {trouble}.")

    def dismiss(self) -> None:
        """Tell it that nothing more will come; it ends after its last supervisor."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, and make one at the deadline."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> socket.socket:
        if self._control is not None and self.alive:
            return self._control
        self.dismiss()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_SEND_S)
        with theirs:
            self._process = subprocess.Popen(
                [*self._argv, str(theirs.fileno()), *self._behind],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=self._environ,
                start_new_session=True,  # a Ctrl-C in the terminal is the controller's to answer
            )
        return self._control


class WarmPool:
    """The warm processes of a launcher, busy and waiting, and the nurses that fork them.

    Args:
        reuse: members that one warm process runs.
        selector: where every line is registered.
    """

    def __init__(self, reuse: int, selector: selectors.BaseSelector) -> None:
        self._reuse = reuse
        self._selector = selector
        self._nurseries: dict[Kind, Nursery] = {}
        self._waiting: dict[Kind, list[Line]] = {}
        self._unfit: set[Kind] = set()

    def fits(self, kind: Kind) -> bool:
        """False for a function that could not be imported ahead; its members say why, each in a process of its own."""
        return kind not in self._unfit

    def take(self, kind: Kind, directory: str) -> Line:
        """A ward that waits, or a new one. Where each runs one member only, the next gets ready meanwhile.

        Args:
            kind: what it must have imported.
            directory: of the member that it is for.

        Raises:
            LaunchError: none can be started.
        """
        waiting = self._waiting.setdefault(kind, [])
        line = waiting.pop() if waiting else self._new(kind, directory)
        if self._reuse == 1 and not waiting:
            waiting.append(self._new(kind, directory))
        return line

    def give(self, line: Line) -> None:
        """Take a ward back whose member has ended well."""
        line.running = None
        assert line.kind is not None
        self._waiting[line.kind].append(line)

    def drop(self, line: Line) -> None:
        """Forget a ward that has ended, or end one: its warm process goes with its line."""
        assert line.kind is not None
        waiting = self._waiting[line.kind]
        if line in waiting:
            waiting.remove(line)
        self._selector.unregister(line.channel)
        line.channel.close()

    def unfit(self, kind: Kind) -> None:
        """Note that this function cannot be imported ahead."""
        self._unfit.add(kind)
        for line in list(self._waiting.get(kind, ())):
            self.drop(line)

    def close(self, timeout_s: float) -> None:
        """End every warm process and every nurse."""
        for waiting in self._waiting.values():
            for line in list(waiting):
                self.drop(line)
        for nursery in self._nurseries.values():
            nursery.dismiss()
        for nursery in self._nurseries.values():
            nursery.wait(timeout_s)

    def _new(self, kind: Kind, directory: str) -> Line:
        if kind not in self._nurseries:
            self._nurseries[kind] = Nursery.warm(kind, self._reuse, directory)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._nurseries[kind].deliver(b"{}", theirs)
            except LaunchError:
                with contextlib.suppress(OSError):
                    ours.close()
                raise
        ours.setblocking(False)
        line = Line(ours, None, kind)
        self._selector.register(ours, selectors.EVENT_READ, line)
        return line
