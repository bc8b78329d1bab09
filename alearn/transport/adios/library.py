"""The one file of this room that imports adios2, and what its SST engine needs from outside."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from types import ModuleType
from typing import cast

from alearn.errors import MissingDependency

_OPENING, _LOOK_EVERY = 8, 64
"""In its first steps SST still opens connections; later it is enough to look for new ones now and then."""


def load_bindings() -> ModuleType:
    """adios2's bindings, without the torch (seconds, hundreds of megabytes) that their package drags in.

    Raises:
        MissingDependency: adios2 is not installed.
    """
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import adios2.bindings
    except ImportError as error:
        raise MissingDependency("adios2", "The ADIOS2 transport", "archive") from error
    finally:
        if hide and sys.modules.get("torch", 0) is None:
            del sys.modules["torch"]
    return cast(ModuleType, adios2.bindings)


_PROBE = """
import sys
import numpy as np
from alearn.transport.adios.library import load_bindings
adios = load_bindings().ADIOS()
adios.DeclareIO("probe").DefineVariable("u", np.zeros(8), [8], [0], [8], True).AddOperation(sys.argv[1], {})
"""


def require_operator(kind: str) -> None:
    """See in another process whether this ADIOS2 has an operator: its bindings abort the one that asks in vain.

    Raises:
        ValueError: it was built without.
    """
    if subprocess.run([sys.executable, "-P", "-c", _PROBE, kind], capture_output=True, timeout=60).returncode:
        raise ValueError(f"it was built without the operator '{kind}'; set transport.operators=[], or use a build that has it")


class Sockets:
    """Makes the TCP connections that SST opens in this process answer at once. For a process with one stream.

    SST leaves Nagle's algorithm and delayed acknowledgements on, which together hold a small step back for up to 40 ms.
    Both are settings of a socket that can be changed beside its owner. The kernel takes quick acknowledgements back
    by itself, so ``hasten`` is called for every step.
    """

    def __init__(self) -> None:
        self._before = descriptors()
        self._known: frozenset[int] = frozenset()
        self._handles: list[socket.socket] = []
        self._calls = 0

    def hasten(self) -> None:
        """Apply the settings to every TCP connection that was opened since this object was made."""
        if self._calls < _OPENING or self._calls % _LOOK_EVERY == 0:
            self._look()
        self._calls += 1
        for handle in self._handles:
            with contextlib.suppress(OSError):  # its other end has gone
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _look(self) -> None:
        now = descriptors() - self._before - {handle.fileno() for handle in self._handles}
        if now != self._known:
            self.close()
            self._handles = [handle for descriptor in now if (handle := _tcp(descriptor)) is not None]
            self._known = now

    def close(self) -> None:
        """Let go of the sockets; they stay as they are."""
        for handle in self._handles:
            handle.close()
        self._handles = []
        self._known = frozenset()


def no_delay(before: frozenset[int]) -> None:
    """Turn Nagle's algorithm off on every TCP connection that is not among the descriptors ``before``."""
    for descriptor in descriptors() - before:
        handle = _tcp(descriptor)
        if handle is not None:
            handle.close()


def descriptors() -> frozenset[int]:
    """This process's open file descriptors."""
    return frozenset(int(name) for name in os.listdir("/proc/self/fd"))


def _tcp(descriptor: int) -> socket.socket | None:
    """A second handle of a TCP connection, with Nagle's algorithm off; None if the descriptor is something else."""
    try:
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
            return None
        handle = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    try:
        if handle.family in (socket.AF_INET, socket.AF_INET6) and handle.type == socket.SOCK_STREAM:
            handle.getpeername()
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return handle
    except OSError:  # a listening socket
        pass
    handle.close()
    return None
