"""The learner's handle of the nurse: orders go out, reports of ended reader processes come in."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alearn.transport.adios.follower import Order

Key = tuple[str, int, int]


class Forks:
    """Starts the nurse with the first order and again if it dies.

    Args:
        log: where ADIOS2's own messages go.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._nurse: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._heard = b""
        self._orders: set[Key] = set()

    @property
    def started(self) -> bool:
        """Whether anything was ever ordered."""
        return self._control is not None or bool(self._orders)

    @property
    def pid(self) -> int:
        """The nurse's process id; 0 before the first order."""
        return 0 if self._nurse is None else self._nurse.pid

    def follow(self, order: Order) -> None:
        """Let a reader process follow a stream."""
        self._orders.add(order.key)
        self._say({"follow": asdict(order)})

    def end(self, key: Key) -> None:
        """Kill the reader process of a stream; its report follows."""
        if key in self._orders:
            self._say({"end": key})

    def reports(self) -> Iterator[dict[str, Any]]:
        """The reader processes that have ended since the last call."""
        while self._control is not None:
            try:
                chunk = self._control.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                chunk = b""
            if not chunk:
                yield from self._bereaved()
                return
            *lines, self._heard = (self._heard + chunk).split(b"\n")
            for line in lines:
                report = json.loads(line)
                report["key"] = tuple(report["key"])
                self._orders.discard(report["key"])
                yield report

    def close(self) -> None:
        """End every reader process and the nurse, and wait until they are gone."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._nurse is not None:
            try:
                self._nurse.wait(10.0)
            except subprocess.TimeoutExpired:
                self._nurse.kill()  # its reader processes die with it
                self._nurse.wait()
            self._nurse = None
        self._orders.clear()

    def _say(self, what: dict[str, Any]) -> None:
        if self._control is None:
            self._start()
        assert self._control is not None
        with contextlib.suppress(OSError):  # it has died: reports() tells, and what it followed is ordered anew
            self._control.sendall(json.dumps(what).encode() + b"\n")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with open(self._log, "ab") as log:
            self._nurse = subprocess.Popen(
                [sys.executable, "-P", "-m", "alearn.transport.adios.nurse", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=env,
            )
        theirs.close()
        self._control = ours

    def _bereaved(self) -> Iterator[dict[str, Any]]:
        """The nurse is dead, and with it all that it forked."""
        assert self._control is not None
        assert self._nurse is not None
        self._control.close()
        self._control, self._heard = None, b""
        code = self._nurse.wait()
        lost, self._orders = self._orders, set()
        reason = f"the parent of its reader process ended with code {code}{_last_line(self._log)}"
        for key in lost:
            yield {"key": key, "crashed": True, "state": "broken", "reason": reason, "final": False, "fault": False, "steps": 0}


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace")[-4000:].splitlines() if line.strip()]
        if lines:
            return f": {lines[-1].strip()[:300]}"
    return ""
