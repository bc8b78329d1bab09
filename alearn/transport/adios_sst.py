"""ADIOS2's streaming engine SST as a carrier: codes that write it join without a change (docs/adios2.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alearn.transport.adios import reader

READING = {"ControlModule": "epoll"}
"""SST's own choice, select, hangs with file descriptors from 1024 on."""


def adios_sst(
    *,
    stream: str = "*",
    variables: Sequence[str] = (),
    time: str = "",
    interface: str = "lo",
    writing: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    operators: Sequence[Mapping[str, Any]] = (),
    io: str = "",
    window_mb: float = 32.0,
    queue_mb: float = 256.0,
    deadline_s: float = 600.0,
    reconnect_s: float = 60.0,
    drain_s: float = 30.0,
) -> reader.AdiosReader:
    """A reader for members that stream by ADIOS2's SST.

    Args:
        stream: pattern of the name under which the code opens its stream, in its working directory.
        variables: which variables become fields; empty takes every numeric one.
        time: the scalar variable that is the simulation time; empty looks for t, time, physical_time.
        interface: the network interface whose address both sides tell each other; empty lets ADIOS2 choose.
        writing: SST's parameters where our own client writes, and in ``adios2.xml``.
        reading: SST's parameters where we read.
        operators: of our own client's variables, and in ``adios2.xml``: ``{type: zfp, variable: u, accuracy: 0.001}``.
        io: the code's IO for which an ``adios2.xml`` is laid into each member's directory; empty writes none.
        window_mb: MiB of unacknowledged steps that our own client may have in flight.
        queue_mb: MiB of samples between reception and ``poll``, all members together.
        deadline_s: how long our own client waits for an acknowledgement before it gives up.
        reconnect_s: how long our own client without a stream tries before it gives up.
        drain_s: how long a reader process may go on without a step after its writer has ended.

    Raises:
        ConfigError: a parameter is no plain value.
    """
    here = {"NetworkInterface": interface} if interface else {}
    engine = reader.Engine(
        "SST",
        stream,
        reading={**READING, **here, **reader.texts("reading", reading)},
        writing={**here, **reader.texts("writing", writing)},
        operators=reader.operators(operators),
        variables=tuple(variables),
        time=time,
        io=io,
    )
    return reader.AdiosReader(
        engine, window_mb=window_mb, queue_mb=queue_mb, deadline_s=deadline_s, reconnect_s=reconnect_s, drain_s=drain_s
    )
