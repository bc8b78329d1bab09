"""The sample protocol within one process: for tests, and for simulations that are threads."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from alearn import client
from alearn.errors import TransportError
from alearn.transport.base import Message
from alearn.transport.options import check_limits
from alearn.transport.streams import StreamEngine, StreamLimits

_NUMBERS = itertools.count()


class InProcessReader:
    """A reader for writers in this very process: the same engine and the same bytes, over socket pairs.

    Args:
        window_mb: MiB of unacknowledged steps that each writer may have in flight.
        queue_mb: MiB of samples between reception and ``poll``, all members together.
        deadline_s: how long a writer waits for an acknowledgement before it gives up.
        reconnect_s: how long a writer without a connection tries before it gives up.
        hello_s: how long a new connection may take to introduce itself.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        *,
        window_mb: float = 32.0,
        queue_mb: float = 256.0,
        deadline_s: float = 600.0,
        reconnect_s: float = 60.0,
        hello_s: float = 5.0,
    ) -> None:
        check_limits(window_mb=window_mb, queue_mb=queue_mb, deadline_s=deadline_s, reconnect_s=reconnect_s, hello_s=hello_s)
        self._name = f"{os.getpid()}-{next(_NUMBERS)}"
        self._env = {
            "ALEARN_STREAM": f"inprocess:{self._name}",
            "ALEARN_WINDOW_MB": f"{window_mb:g}",
            "ALEARN_DEADLINE_S": f"{deadline_s:g}",
            "ALEARN_RECONNECT_S": f"{reconnect_s:g}",
        }
        self._engine = StreamEngine(None, None, StreamLimits(queue_bytes=int(queue_mb * (1 << 20)), hello_s=hello_s))
        client.DIALERS[self._name] = self._dial

    def address(self, member: str, attempt: int) -> Mapping[str, str]:
        """Announce the attempt; returns what ``client.connect(environ=...)`` needs in this process."""
        acknowledged = self._engine.announce(member, attempt)
        return {**self._env, "ALEARN_MEMBER": member, "ALEARN_ATTEMPT": str(attempt), "ALEARN_ACKNOWLEDGED": str(acknowledged)}

    def poll(self, timeout_s: float, max_messages: int = 256) -> Sequence[Message]:
        """What arrived, in order for each member and fair across members."""
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
        """Close every stream."""
        client.DIALERS.pop(self._name, None)
        self._engine.close()

    def _dial(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            self._engine.adopt(ours)
        except TransportError as error:
            ours.close()
            theirs.close()
            raise ConnectionRefusedError(str(error)) from error
        return theirs


def connect_inprocess(
    reader: InProcessReader, member: str, attempt: int = 1, parameters: Mapping[str, Any] | None = None, *, steps_total: int = 0
) -> client.Run:
    """Announce an attempt and open its run, in this process."""
    run = client.connect(steps_total=steps_total, environ=reader.address(member, attempt))
    run.parameters.update(parameters or {})
    return run
