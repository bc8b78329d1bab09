"""A reader process: it follows one stream of one attempt and passes its steps on to the learner.

Whatever SST does (hang, crash, leak), it does it here, where it costs one stream. The process is forked by ``nurse``,
and the learner's socket is its only way to it; when that breaks, or the stream ends, it ends.
"""

from __future__ import annotations

import fnmatch
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from alearn import client as wire
from alearn.errors import SchemaError
from alearn.transport.adios.library import Sockets
from alearn.transport.adios.page import STREAM, Page, Told, Waiting
from alearn.transport.adios.stream import Steps, sentence
from alearn.types import Schema

_OPEN_S = 10


@dataclass(frozen=True, slots=True)
class Order:
    """What to follow.

    Args:
        member: the member's id.
        attempt: which attempt.
        number: which stream of this attempt (1 unless earlier ones broke off).
        engine: "SST" or "BP" (files, of whatever version).
        directory: where the writer runs.
        stream: pattern of the stream's name within it.
        learner: path of the learner's Unix socket.
        parameters: the member's.
        acknowledged: steps that the learner has.
        engine_parameters: for ADIOS2's engine.
        variables: which become fields; empty takes all.
        time: the variable that is the time.
        poll_s: how often a file is looked at.
    """

    member: str
    attempt: int
    number: int
    engine: str
    directory: str
    stream: str
    learner: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    acknowledged: int = 0
    engine_parameters: Mapping[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    time: str = ""
    poll_s: float = 0.02

    @property
    def key(self) -> tuple[str, int, int]:
        return (self.member, self.attempt, self.number)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Inverse of ``to_json``."""
        said = json.loads(text)
        return cls(**{**said, "variables": tuple(said["variables"])})


class Broke(Exception):
    """The stream ended otherwise than by its end.

    Args:
        reason: one line for people.
        final: another stream of the same attempt would fare no better.
    """

    def __init__(self, reason: str, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class Uplink:
    """The learner's socket, seen from a reader process: frames go out and are waited for.

    Args:
        path: of the learner's Unix socket.
    """

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._sock.connect(path)
        self._heard = bytearray()
        self.ended = False

    def send(self, head: bytes, body: memoryview | bytes = b"") -> None:
        """Send a frame; waits while the learner has no room.

        Raises:
            Broke: the learner refused the stream, or is gone.
        """
        self.hear()
        try:
            sent = self._sock.sendmsg([head, body])
            if sent < len(head):
                self._sock.sendall(memoryview(head)[sent:])
                sent = len(head)
            if sent - len(head) < len(body):
                self._sock.sendall(memoryview(body)[sent - len(head) :])
        except OSError as error:
            self.hear()
            raise Broke(f"the learner's end broke: {error}", final=False) from error

    def hear(self, wait_s: float = 0.0) -> None:
        """Take in what the learner has said.

        Raises:
            Broke: it refused the stream, or is gone.
        """
        self._sock.settimeout(wait_s)
        try:
            chunk = self._sock.recv(65536)
        except (BlockingIOError, TimeoutError):
            return
        except OSError as error:
            raise Broke(f"the learner's end broke: {error}", final=False) from error
        finally:
            self._sock.settimeout(None)
        self._heard += chunk
        while len(self._heard) >= wire.HEADER_BYTES:
            _, kind, _, _, length, _ = wire.HEADER.unpack_from(self._heard)
            end = wire.HEADER_BYTES + length
            if len(self._heard) < end:
                break
            head = bytes(self._heard[wire.HEADER_BYTES : end])
            del self._heard[:end]
            if kind == wire.ERROR:
                said = json.loads(head)
                raise Broke(str(said["reason"]), bool(said["final"]))
            if kind in (wire.WELCOME, wire.ACK):
                self.ended |= bool(wire.ACK_HEAD.unpack(head)[1] & wire.ACK_END)
        if not chunk:
            raise Broke("the learner closed the connection", final=False)

    def end(self, said: bytes) -> None:
        """Say the end and wait until the learner has it."""
        self.send(wire.frame(wire.END, said))
        while not self.ended:
            self.hear(1.0)


class Follower:
    """Follows one stream to its end.

    Args:
        order: what to follow.
        bindings: adios2's.
    """

    def __init__(self, order: Order, bindings: ModuleType) -> None:
        self._order = order
        self._b = bindings
        self._directory = Path(order.directory)
        self._page = Page(self._directory)
        self._own = f"{STREAM}-{order.number}"
        self._suffix = ".sst" if order.engine == "SST" else ".bp"
        self._uplink: Uplink | None = None
        self._schema: Schema | None = None
        self._seen: set[str] = set()
        self._body = memoryview(b"")
        self._opened = self._whole = False
        self.steps = 0

    def run(self) -> dict[str, Any]:
        """Follow; returns how it ended: "state" ("done", "broken" or "nothing"), "reason", "final", "fault", "steps"."""
        state, reason, final, fault = "done", "", False, False
        try:
            if not self._follow():
                state, reason = "nothing", "the attempt ended without opening a stream"
        except Broke as error:
            state, reason, final = "broken", str(error), error.final
        except SchemaError as error:
            state, reason, final, fault = "broken", str(error), True, True
        if state == "broken" and self._schema is not None:
            waiting = self._page.waiting()
            self._page.wait(Waiting(waiting.ready, self._order.number, final, reason))
        return {"state": state, "reason": reason[:1500], "final": final, "fault": fault, "steps": self.steps}

    # -- the stream's life --------------------------------------------------------------------------------

    def _follow(self) -> bool:
        for path in self._streams():
            self._read(path)
            if self._schema is not None:
                break
        if self._schema is not None:
            end = self._said("end")
            if end is None:
                raise Broke("the writer ended its stream without saying the end", final=False)
            assert self._uplink is not None
            self._uplink.end(end)
            return True
        if self._uplink is None:
            return False
        if not self._whole:
            raise Broke("the writer ended without closing its file; every step that it completed has arrived", final=False)
        self._uplink.end(json.dumps({"steps": self.steps, "status": "done", "reason": ""}).encode())
        return True

    def _streams(self) -> Iterator[Path]:
        """The streams to read, as they appear: our own client's, or one (SST) or more (files) of another writer."""
        began, pause = time.monotonic(), 0.004
        while True:
            gone = self._told().gone  # asked first: what a writer left before it went must be seen
            if self._schema is None and self._uplink is None:
                self._greet()
            if self._schema is not None:
                path = self._directory / (self._own + self._suffix)
                if _ready(path):
                    yield path
                if self._said("end") is not None:
                    return
                assert self._uplink is not None
                self._uplink.hear()
            else:
                for path in self._foreign():
                    self._seen.add(path.name)
                    yield path
                    if self._order.engine == "SST":
                        return
                    began, pause = time.monotonic(), 0.004
            if gone and not self._foreign():
                return
            time.sleep(pause)
            pause = 0.004 if time.monotonic() - began < 2.0 else 0.02

    def _foreign(self) -> list[Path]:
        """Streams of the asked name that have not been read, in the order of their names."""
        if self._schema is not None:
            return []
        pattern = self._order.stream + (".sst" if self._order.engine == "SST" else "")
        names = sorted(n for n in os.listdir(self._directory) if fnmatch.fnmatchcase(n, pattern) and not n.startswith(f"{STREAM}-"))
        return [path for n in names if n not in self._seen and _ready(path := self._directory / n)]

    def _greet(self) -> None:
        """Pass our own client's hello on, if there is one."""
        hello = self._said("hello")
        if hello is None:
            return
        said = json.loads(hello)
        self._schema = Schema.from_json(json.dumps(said["schema"]))
        said["provenance"]["stream"] = self._order.number
        self._uplink = Uplink(self._order.learner)
        self._uplink.send(wire.frame(wire.HELLO, json.dumps(said).encode()))

    def _said(self, what: str) -> bytes | None:
        try:
            return (self._directory / f"{self._own}.{what}").read_bytes()
        except FileNotFoundError:
            return None

    def _told(self) -> Told:
        return self._page.told()

    # -- its steps ----------------------------------------------------------------------------------------

    def _read(self, path: Path) -> None:
        """Read one stream from its first step to its end.

        Raises:
            Broke: it broke off.
        """
        b = self._b
        sst = self._order.engine == "SST"
        adios = b.ADIOS()  # must outlive what is made of it
        io = adios.DeclareIO("follower")
        io.SetEngine("SST" if sst else "BPFile")
        io.SetParameters({"OpenTimeoutSecs": str(_OPEN_S), **self._order.engine_parameters})
        sockets = Sockets()
        try:
            engine = io.Open(str(path.with_suffix("") if sst else path), b.Mode.Read)
        except (RuntimeError, ValueError) as error:
            raise Broke(f"ADIOS2 cannot open the stream {path.name}: {sentence(error)}", final=sst) from error
        steps = Steps(b, io, engine, variables=self._order.variables, time=self._order.time, schema=self._schema)
        self._whole = False
        while True:
            if sst:
                sockets.hasten()
                status = engine.BeginStep(b.StepMode.Read, -1.0)
            else:
                gone = self._told().gone
                status = engine.BeginStep(b.StepMode.Read, 0.0)
            if status == b.StepStatus.OK:
                self._pass_on(steps)
                engine.EndStep()
            elif status == b.StepStatus.EndOfStream:
                self._whole = True
                break
            elif sst:
                raise Broke(
                    "the writer's end of the SST stream broke off; steps that it had published and that were not read are lost", True
                )
            elif gone:
                break
            else:
                if self._uplink is not None:
                    self._uplink.hear()
                time.sleep(self._order.poll_s)
        sockets.close()
        engine.Close()

    def _pass_on(self, steps: Steps) -> None:
        schema = steps.describe()
        if self._uplink is None:
            self._introduce(schema, steps.attributes())
        assert self._uplink is not None
        if len(self._body) != schema.nbytes:
            self._body = memoryview(bytearray(schema.nbytes))
        number = self.steps
        if self._schema is not None:
            number = steps.own_number()
        elif number < self._order.acknowledged:  # a restarted attempt writes again what is stored
            self.steps += 1
            return
        t = steps.take(self._body, number)
        self._uplink.send(wire.frame(wire.STEP, wire.STEP_HEAD.pack(number, t), len(self._body)), self._body)
        self.steps = number + 1

    def _introduce(self, schema: Schema, attributes: Mapping[str, str]) -> None:
        """Say hello for a writer that knows nothing of us."""
        order = self._order
        total = attributes.get("steps_total", "0")
        said = {
            "protocol": wire.PROTOCOL,
            "member": order.member,
            "attempt": order.attempt,
            "session": os.urandom(8).hex(),
            "schema": json.loads(schema.to_json()),
            "steps_total": int(total) if total.isdigit() else 0,
            "parameters": dict(order.parameters),
            "provenance": {
                "host": socket.gethostname(),
                "client": f"adios2 {order.engine}",
                "stream": order.number,
                "attributes": attributes,
            },
        }
        self._uplink = Uplink(order.learner)
        self._uplink.send(wire.frame(wire.HELLO, json.dumps(said).encode()))


def _ready(path: Path) -> bool:
    """Whether a stream can be opened: its contact file is whole, or its file has an index."""
    try:
        return (path.stat() if path.suffix == ".sst" else (path / "md.idx").stat()).st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False
