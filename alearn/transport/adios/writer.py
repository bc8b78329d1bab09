"""Our own client's end: it writes plain ADIOS2, and hears of acknowledgements by the page.

What the client says beside its steps (hello, end) lies in small files next to the stream; see docs/adios2.md.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from alearn import client as wire
from alearn.transport.adios.library import descriptors, load_bindings, no_delay, require_operator
from alearn.transport.adios.page import SETTINGS, STREAM, Page
from alearn.transport.adios.stream import STORED_AS, own_names, sentence
from alearn.types import Schema

_LEFT: list[Any] = []
_CONNECTING = 3
"""First steps in which SST may still open connections."""


class AdiosLink:
    """What a run queues becomes ADIOS2 steps; what the page says becomes frames. Stands where a socket's link does.

    Args:
        engine: "SST" or "BP5".
        directory: the member's.

    Raises:
        ConnectionRefusedError: no reader process waits for a stream there.
    """

    out = ()
    """Nothing is ever left in line: a step is written, or waits inside ADIOS2 for the reader's room."""

    def __init__(self, engine: str, directory: str) -> None:
        self._directory = Path(directory)
        try:
            self._page = Page(self._directory)
        except OSError as error:
            raise ConnectionRefusedError(f"there is no reader: {error}") from error
        waiting = self._page.waiting()
        if waiting.ready <= waiting.broken:
            self._page.close()
            raise ConnectionRefusedError(waiting.reason or "no reader process waits for its stream")
        self._kind = engine
        self._number = waiting.ready
        self._name = f"{STREAM}-{self._number}"
        self._engine: Any = None
        self._before = descriptors()
        self._written = 0
        self._hello: dict[str, Any] = {}
        self._schema = Schema(())
        self._variables: list[Any] = []
        self._acknowledged = -1
        self._flags = 0
        self._welcomed = False
        self._broken = ""
        self._refused = ""

    def queue(self, *parts: bytes | bytearray) -> None:
        """Write one frame: hello and end as files, a step by ADIOS2; no parts, no frame."""
        if not any(parts) or self._broken or self._refused:
            return
        kind, head = parts[0][4], bytes(parts[0][wire.HEADER_BYTES :])
        try:
            if kind == wire.HELLO:
                self._introduce(head)
            elif kind == wire.STEP:
                step, t = wire.STEP_HEAD.unpack(head)
                self._write(step, t, parts[1])
            elif kind == wire.END:
                self._leave("end", head)
                self._shut()
        except (RuntimeError, ValueError, OSError) as error:
            reason = f"ADIOS2 cannot write the stream {self._name}: {sentence(error)}"
            if kind == wire.STEP and self._engine is None:
                self._refused = reason  # it could not be opened, and another would not fare better
            else:
                self._broken = reason

    def send(self, wait_s: float = 0.0) -> str:
        """Why the stream is broken, if it is; all that was queued has been written."""
        return self._broken

    def wait(self, timeout_s: float) -> int:
        """Wait for news on the page, at most so long; returns whether there are any."""
        until, pause = time.monotonic() + timeout_s, 0.0005
        while not self._news():
            left = until - time.monotonic()
            if left <= 0:
                return 0
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.005)
        return 1

    def receive(self, most: int = 1 << 16) -> list[tuple[int, int, bytes]]:
        """What the page says anew, as the frames (kind, flags, head) that a socket would bring.

        Raises:
            ConnectionResetError: the stream broke off at the reader's end.
        """
        told, waiting = self._page.told(), self._page.waiting()
        refused = self._refused or told.refused
        broken = waiting.broken >= self._number
        if broken and waiting.final:
            refused = refused or waiting.reason
        if refused:
            return [(wire.ERROR, 0, json.dumps({"reason": refused, "final": True}).encode())]
        flags = (wire.ACK_STOP if told.stop else 0) | (wire.ACK_END if told.ended >= self._number else 0)
        head = wire.ACK_HEAD.pack(told.acknowledged, flags)
        if not self._welcomed and told.welcomed >= self._number:
            self._welcomed = True
            self._acknowledged, self._flags = told.acknowledged, flags
            return [(wire.WELCOME, 0, head)]
        if broken and not flags & wire.ACK_END:
            raise ConnectionResetError(waiting.reason or "its reader process has ended")
        if (told.acknowledged, flags) == (self._acknowledged, self._flags):
            return []
        self._acknowledged, self._flags = told.acknowledged, flags
        return [(wire.ACK, 0, head)]

    def expect(self, kind: int, until: float) -> NoReturn:
        """There is no authentication on the page, whose directory is the user's own."""
        raise ConnectionResetError("the reader did not answer the authentication")

    def close(self) -> None:
        """Close the stream; a reader process that has had no end before tells that it broke off."""
        with contextlib.suppress(RuntimeError, ValueError):
            self._shut()
        self._page.close()

    def _news(self) -> bool:
        told, waiting = self._page.told(), self._page.waiting()
        flags = (wire.ACK_STOP if told.stop else 0) | (wire.ACK_END if told.ended >= self._number else 0)
        return bool(
            (told.acknowledged, flags) != (self._acknowledged, self._flags)
            or (not self._welcomed and told.welcomed >= self._number)
            or told.refused
            or waiting.broken >= self._number
        )

    def _leave(self, what: str, content: bytes) -> None:
        """Put a file beside the stream, whole or not at all.

        Raises:
            FileExistsError: it is there.
        """
        part = self._directory / f"{self._name}.{what}.{os.getpid()}"
        part.write_bytes(content)
        try:
            os.link(part, self._directory / f"{self._name}.{what}")
        finally:
            part.unlink()

    def _introduce(self, head: bytes) -> None:
        self._hello = json.loads(head)
        self._schema = Schema.from_json(json.dumps(self._hello["schema"]))
        try:
            self._leave("hello", head)
        except FileExistsError:
            there = json.loads((self._directory / f"{self._name}.hello").read_bytes())
            if there["session"] == self._hello["session"]:
                self._broken = "no reader process waits for its stream yet"
                return
            self._refused = (
                f"another process already writes attempt {self._hello['attempt']} of member {self._hello['member']}; "
                "only one (MPI: rank 0) may"
            )

    def _write(self, step: int, t: float, body: bytes | bytearray) -> None:
        if self._engine is None:
            self._open()
        assert self._engine is not None
        data = body if isinstance(body, bytearray) else bytearray(body)  # ADIOS2 refuses what is read-only
        self._engine.BeginStep()
        sync, at = self._b.Mode.Sync, 0
        self._engine.Put(self._step, np.array([step], np.uint64), sync)
        self._engine.Put(self._t, np.array([t]), sync)
        for f, variable in zip(self._schema.fields, self._variables, strict=True):
            if variable is not None:
                array = np.frombuffer(data, STORED_AS.get(f.dtype, f.dtype), math.prod(f.shape), at).reshape(f.shape)
                self._engine.Put(variable, array, sync)
            at += f.nbytes
        self._engine.EndStep()
        if self._written < _CONNECTING and self._kind == "SST":
            no_delay(self._before)
        self._written += 1

    def _open(self) -> None:
        b = self._b = load_bindings()
        settings = json.loads((self._directory / SETTINGS).read_text(encoding="utf-8"))
        for kind in {operator["type"] for operator in settings["operators"]}:
            require_operator(kind)
        self._adios = b.ADIOS()  # must outlive what is made of it
        io = self._adios.DeclareIO(STREAM)
        io.SetEngine(self._kind)
        io.SetParameters(settings["parameters"])
        self._step = io.DefineVariable("alearn_step", np.zeros(1, np.uint64))
        self._t = io.DefineVariable("alearn_t", np.zeros(1))
        for f, name in zip(self._schema.fields, own_names(self._schema), strict=True):
            variable = None
            if f.nbytes:
                shape = list(f.shape)
                sample = np.zeros(f.shape, STORED_AS.get(f.dtype, f.dtype))
                variable = io.DefineVariable(name, sample, shape, [0] * len(shape), shape, True)
                for operator in settings["operators"]:
                    if f.shape and operator.get("variable", name) == name:
                        options = {k: v for k, v in operator.items() if k not in ("type", "variable")}
                        variable.AddOperation(operator["type"], options)
                if f.unit:
                    io.DefineAttribute("units", f.unit, name, "/")
            self._variables.append(variable)
        io.DefineAttribute("member", self._hello["member"], "", "/")
        io.DefineAttribute("parameters", json.dumps(self._hello["parameters"]), "", "/")
        path = self._directory / (self._name if self._kind == "SST" else f"{self._name}.bp")
        self._engine = io.Open(str(path), b.Mode.Write)

    def _shut(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if self._kind != "SST" and not self._directory.exists():
            _LEFT.append((self._adios, engine))  # BP5 aborts the process if it is closed, or freed, without its files
            return
        engine.Close()
