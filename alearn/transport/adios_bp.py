"""ADIOS2's files as a carrier: read while they grow, and when they are finished (docs/adios2.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alearn.errors import ConfigError
from alearn.transport.adios import reader


def adios_bp(
    *,
    stream: str = "*.bp",
    variables: Sequence[str] = (),
    time: str = "",
    writing: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    operators: Sequence[Mapping[str, Any]] = (),
    io: str = "",
    poll_s: float = 0.02,
    window_mb: float = 32.0,
    queue_mb: float = 256.0,
    deadline_s: float = 600.0,
    reconnect_s: float = 60.0,
    drain_s: float = 30.0,
) -> reader.AdiosReader:
    """A reader for members that leave ADIOS2 files (BP5, BP4) in their directories.

    Args:
        stream: pattern of the files' names in the member's directory; several are read in the order of their names.
        variables: which variables become fields; empty takes every numeric one.
        time: the scalar variable that is the simulation time; empty looks for t, time, physical_time.
        writing: BP5's parameters where our own client writes, and in ``adios2.xml``.
        reading: BP5's parameters where we read.
        operators: of our own client's variables, and in ``adios2.xml``: ``{type: zfp, variable: u, accuracy: 0.001}``.
        io: the code's IO for which an ``adios2.xml`` is laid into each member's directory; empty writes none.
        poll_s: seconds between looks at a growing file.
        window_mb: MiB of unacknowledged steps that our own client may have in flight.
        queue_mb: MiB of samples between reception and ``poll``, all members together.
        deadline_s: how long our own client waits for an acknowledgement before it gives up.
        reconnect_s: how long our own client without a stream tries before it gives up.
        drain_s: how long a reader process may go on without a step after its writer has ended.

    Raises:
        ConfigError: a parameter is no plain value.
    """
    if not poll_s > 0:
        raise ConfigError(f"transport.poll_s is {poll_s}; seconds > 0 between two looks at a file are needed.")
    engine = reader.Engine(
        "BP",
        stream,
        reading=reader.texts("reading", reading),
        writing=reader.texts("writing", writing),
        operators=reader.operators(operators),
        variables=tuple(variables),
        time=time,
        io=io,
        poll_s=poll_s,
    )
    return reader.AdiosReader(
        engine, window_mb=window_mb, queue_mb=queue_mb, deadline_s=deadline_s, reconnect_s=reconnect_s, drain_s=drain_s
    )
