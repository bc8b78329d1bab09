"""The nurse: imports adios2 once and forks a reader process for every order, so that a stream costs a fork and no start.

``python -P -m alearn.transport.adios.nurse FD`` with the learner's end of a socket pair. In come JSON lines, ``{"follow":
ORDER}`` and ``{"end": KEY}``; out go ``{"key": KEY, ...}`` when a reader process has ended, with what it said and by which
signal it died. When the learner is gone, so are the nurse and all that it forked.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from alearn.transport.adios.follower import Follower, Order
from alearn.transport.adios.library import load_bindings
from alearn.transport.adios.page import Page
from alearn.transport.adios.stream import sentence

_PDEATHSIG = 1


class Nurse:
    """Forks and ends reader processes.

    Args:
        control: the socket to the learner.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._bindings: ModuleType = load_bindings()
        self._libc = ctypes.CDLL(None)
        self._readers: dict[int, tuple[Order, int]] = {}
        self._heard = b""

    def run(self) -> None:
        """Serve until the learner closes the socket or dies."""
        wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the socket ends this process
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        gc.freeze()
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(wake, select.POLLIN)
        while True:
            for handle, _ in poller.poll():
                if handle == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 512)
                    self._reap()
                elif not self._listen():
                    self._end_all()
                    return

    def _listen(self) -> bool:
        chunk = self._control.recv(1 << 16)
        if not chunk:
            return False
        *lines, self._heard = (self._heard + chunk).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "follow" in said:
                self._fork(Order.from_json(json.dumps(said["follow"])))
            else:
                key = tuple(said["end"])
                for pid, (order, _) in self._readers.items():
                    if order.key == key:
                        os.kill(pid, signal.SIGKILL)  # not yet waited for, so the id is still its own
        return True

    def _fork(self, order: Order) -> None:
        hear, say = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        pid = os.fork()
        if pid:
            os.close(say)
            self._readers[pid] = (order, hear)
            return
        code = 1
        try:
            self._libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != me:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for _, other in self._readers.values():
                os.close(other)
            said = _followed(order, self._bindings)
            os.write(say, json.dumps(said).encode())
            code = 0
        finally:
            os._exit(code)  # ADIOS2's threads and destructors are not waited for

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            order, hear = self._readers.pop(pid)
            report: dict[str, Any] = {"state": "broken", "reason": "", "final": False, "fault": False, "steps": 0}
            said = os.read(hear, 1 << 16)
            os.close(hear)
            if said:
                report = json.loads(said)
            elif os.WIFSIGNALED(status):
                report["reason"] = f"its reader process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
            else:
                report["reason"] = f"its reader process ended with exit code {os.WEXITSTATUS(status)}"
            self._control.sendall(json.dumps({"key": order.key, "pid": pid, "crashed": not said, **report}).encode() + b"\n")

    def _end_all(self) -> None:
        for pid in self._readers:
            os.kill(pid, signal.SIGKILL)
        for pid, (order, _) in self._readers.items():
            os.waitpid(pid, 0)
            with contextlib.suppress(OSError), contextlib.closing(Page(Path(order.directory))) as page:
                page.give_up(order.number, "the learner has closed its reader")


def _followed(order: Order, bindings: ModuleType) -> dict[str, Any]:
    """Follow a stream; whatever goes wrong inside is told and costs this stream."""
    try:
        return Follower(order, bindings).run()
    except Exception as error:
        reason = f"its reader process failed with {type(error).__name__}: {sentence(error)}"
        return {"state": "broken", "reason": reason, "final": False, "fault": False, "steps": 0}


if __name__ == "__main__":
    Nurse(socket.socket(fileno=int(sys.argv[1]))).run()
