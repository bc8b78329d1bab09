"""The learner's end of ADIOS2 streams: one reader process for each, and what they say brought in order."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError
from alearn.transport.adios.follower import Order
from alearn.transport.adios.forks import Forks
from alearn.transport.adios.page import NAME as PAGE
from alearn.transport.adios.page import SETTINGS, STREAM, Page, Told, Waiting
from alearn.transport.base import Broken, End, Hello, Message
from alearn.transport.options import check_limits
from alearn.transport.socket import SocketReader
from alearn.types import Parameters, Sample

log = logging.getLogger(__name__)

_CRASHES = 10
"""So many reader processes of one attempt may die in a row without having brought a step."""
_STRAY_S = 0.5
_SOCKET_BROKE = "the connection broke"


@dataclass(frozen=True, slots=True)
class Engine:
    """How streams are written and read.

    Args:
        name: "SST" or "BP".
        stream: pattern of the streams' names in a member's directory, e.g. "*" or "*.bp".
        reading: parameters of ADIOS2's engine where it reads.
        writing: parameters of ADIOS2's engine where our own client writes, and in ``adios2.xml``.
        operators: of each variable where our own client writes, and in ``adios2.xml``: mappings with "type" and, if it
            is not for all of them, "variable"; all else are the operator's parameters.
        variables: which variables become fields; empty takes every numeric one.
        time: the variable that is the simulation time; empty looks for t, time, physical_time.
        io: the IO of the code for which an ``adios2.xml`` is laid into each member's directory; empty writes none.
        poll_s: how often a growing file is looked at.
    """

    name: str
    stream: str
    reading: Mapping[str, str] = field(default_factory=dict)
    writing: Mapping[str, str] = field(default_factory=dict)
    operators: Sequence[Mapping[str, str]] = ()
    variables: tuple[str, ...] = ()
    time: str = ""
    io: str = ""
    poll_s: float = 0.02


@dataclass(slots=True)
class _Attempt:
    """What is known of one attempt's streams."""

    directory: Path
    parameters: Parameters
    told: Told
    temporary: bool
    number: int = 1
    """The stream that is followed, or that was followed last."""
    greeted: int = 0
    following: bool = True
    over: bool = False
    """A last End or Broken was delivered."""
    crashes: int = 0
    alive_at: float = 0.0
    broken: Broken | None = None
    report: dict[str, Any] | None = None
    hung: bool = False


class AdiosReader:
    """The learner's end for members that write ADIOS2, by our own client or by themselves.

    Args:
        engine: how streams are written and read.
        window_mb: MiB of unacknowledged steps that our own client may have in flight.
        queue_mb: MiB of samples between reception and ``poll``, all members together.
        deadline_s: how long our own client waits for an acknowledgement before it gives up.
        reconnect_s: how long our own client without a stream tries before it gives up.
        drain_s: how long a reader process may go on without a step after its writer has ended.

    Raises:
        ConfigError: a limit is out of range.
    """

    def __init__(self, engine: Engine, *, window_mb: float, queue_mb: float, deadline_s: float, reconnect_s: float, drain_s: float) -> None:
        check_limits(drain_s=drain_s, window_mb=window_mb, queue_mb=queue_mb, deadline_s=deadline_s, reconnect_s=reconnect_s)
        self._engine = engine
        self._drain_s = drain_s
        self._inner = SocketReader(window_mb=window_mb, queue_mb=queue_mb, deadline_s=deadline_s, reconnect_s=reconnect_s, connections=4096)
        self._root = Path(tempfile.mkdtemp(prefix="alearn-adios-"))
        self._forks = Forks(self._root / "readers.log")
        self._places: dict[tuple[str, int], tuple[Path, Parameters]] = {}
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._stored: dict[str, int] = {}
        self._closed = False

    def follow(self, member: str, attempt: int, parameters: Parameters, directory: Path) -> None:
        """Say where an attempt will run and with which parameters, before ``address``: its writer may not know us."""
        self._places[member, attempt] = (directory, dict(parameters))

    def address(self, member: str, attempt: int) -> Mapping[str, str]:
        """Announce the attempt, start to follow it; returns the variables of its environment."""
        env = dict(self._inner.address(member, attempt))
        for (name, older), fenced in self._attempts.items():
            if name == member and older < attempt:
                self._refuse(fenced, f"attempt {older} of member {member} was replaced by attempt {attempt}")
                self._end(name, older, fenced)
        found = self._attempts.get((member, attempt))
        if found is None:
            found = self._attempts[member, attempt] = self._begin(member, attempt, env["ALEARN_STREAM"])
        interface = self._engine.writing.get("NetworkInterface")
        if interface:
            env["ADIOS2_INTERFACE"] = interface  # what SST asks in codes that name none
        env["ALEARN_STREAM"] = f"adios_{self._engine.name.lower()}:{found.directory}"
        return env

    def poll(self, timeout_s: float, max_messages: int = 256) -> Sequence[Message]:
        """What arrived, in order for each member and fair across members.

        Raises:
            TransportError: the reader is closed or its thread has failed.
        """
        out: list[Message] = []
        now = time.monotonic()
        for message in self._inner.poll(timeout_s, max_messages):
            found = self._attempts.get((message.member, message.attempt))
            if found is None:
                out.append(message)
                continue
            found.alive_at = now
            match message:
                case Hello():
                    found.greeted = int(message.provenance.get("stream", 1))
                    found.over = False
                case Sample():
                    found.crashes = 0
                case End():
                    found.over = True
                    self._tell(found, replace(found.told, ended=found.greeted))
                case Broken():
                    found.broken = message
                    if not found.told.refused:
                        continue  # told with what its reader process says
                    found.over = True
            out.append(message)
        if self._forks.started:
            self._hear()
            self._look_after(out, now)
        return out

    def acknowledge(self, member: str, attempt: int, steps: int) -> None:
        """Tell the writer, if it is our own client, that steps ``0 … steps-1`` are durable; answers a Hello too."""
        self._inner.acknowledge(member, attempt, steps)
        self._stored[member] = max(steps, self._stored.get(member, 0))
        found = self._attempts.get((member, attempt))
        if found is not None:
            self._tell(found, replace(found.told, acknowledged=self._stored[member], welcomed=found.greeted))

    def stop(self, member: str, attempt: int) -> None:
        """Ask the writer, if it is our own client, to stop."""
        found = self._attempts.get((member, attempt))
        if found is not None:
            self._tell(found, replace(found.told, stop=True))

    def ended(self, member: str, attempt: int) -> None:
        """The attempt's process is gone: read what it left, then deliver a last End or Broken, if none was."""
        found = self._attempts.get((member, attempt))
        if found is not None and not found.told.gone:
            found.alive_at = time.monotonic()
            self._tell(found, replace(found.told, gone=True))

    def close(self) -> None:
        """End every reader process and remove what was created. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            self._forks.close()
            self._inner.close()
        finally:
            for found in self._attempts.values():
                if not found.temporary:
                    _tidy(found)
            shutil.rmtree(self._root, ignore_errors=True)

    # -- attempts -----------------------------------------------------------------------------------------

    def _begin(self, member: str, attempt: int, learner: str) -> _Attempt:
        place = self._places.pop((member, attempt), None)
        directory, parameters = place or (self._root / f"{member}.{attempt}", {})
        directory = directory.absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = Told(acknowledged=self._stored.get(member, 0))
        found = _Attempt(directory, parameters, told, temporary=place is None, alive_at=time.monotonic())
        page = Page(directory, create=True)
        page.tell(told)
        page.close()
        settings = {"parameters": dict(self._engine.writing), "operators": [dict(o) for o in self._engine.operators]}
        (directory / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        if self._engine.io:
            (directory / "adios2.xml").write_text(_xml(self._engine), encoding="utf-8")
        self._learner = learner.removeprefix("unix:")
        while (directory / f"{STREAM}-{found.number}.hello").exists():  # of a learner before this one
            found.number += 1
        self._start(member, attempt, found)
        return found

    def _start(self, member: str, attempt: int, found: _Attempt) -> None:
        with contextlib.suppress(FileNotFoundError), contextlib.closing(Page(found.directory)) as page:
            page.follow(found.number)
        e = self._engine
        found.following, found.broken, found.report, found.hung = True, None, None, False
        self._forks.follow(
            Order(
                member,
                attempt,
                found.number,
                e.name,
                str(found.directory),
                e.stream,
                self._learner,
                parameters=found.parameters,
                acknowledged=self._stored.get(member, 0),
                engine_parameters=e.reading,
                variables=e.variables,
                time=e.time,
                poll_s=e.poll_s,
            )
        )

    def _tell(self, found: _Attempt, told: Told) -> None:
        found.told = told
        with contextlib.suppress(FileNotFoundError), contextlib.closing(Page(found.directory)) as page:
            page.tell(told)

    def _refuse(self, found: _Attempt, reason: str) -> None:
        self._tell(found, replace(found.told, refused=reason))

    def _end(self, member: str, attempt: int, found: _Attempt) -> None:
        if found.following:
            self._forks.end((member, attempt, found.number))

    # -- what reader processes say ------------------------------------------------------------------------

    def _hear(self) -> None:
        """Take the reports of reader processes that have ended."""
        for report in self._forks.reports():
            member, attempt, number = report["key"]
            found = self._attempts.get((member, attempt))
            if found is not None and found.number == number:
                found.following, found.report, found.alive_at = False, report, time.monotonic()

    def _look_after(self, out: list[Message], now: float) -> None:
        """Deliver the ends that are due, follow the next stream, end what hangs."""
        for (member, attempt), found in list(self._attempts.items()):
            report = found.report
            if report is not None:
                if report["state"] == "broken" and found.broken is None and not self._silent(found, report, now):
                    continue  # its steps are still on their way, and the socket's own word comes behind them
                found.report = None
                if report["state"] != "done" and not (found.over and found.told.refused):
                    broken = self._broke(member, attempt, found, report)
                    if found.over:
                        out.append(broken)
                    else:  # the files are still there, and are read again from their beginning
                        log.warning("A reader process of member %s ended (%s); another reads its files.", member, broken.reason)
            elif found.following and found.told.gone and now - found.alive_at > self._drain_s and not found.hung:
                found.hung = True
                self._end(member, attempt, found)
            if found.over and not found.following and found.told.gone:
                del self._attempts[member, attempt]
                _tidy(found)

    def _silent(self, found: _Attempt, report: Mapping[str, Any], now: float) -> bool:
        """Whether nothing more comes from a stream that has broken off: it had not said hello."""
        greeted = found.greeted == found.number or bool(report["steps"])
        return not greeted and now - max(found.alive_at, 0.0) > _STRAY_S

    def _broke(self, member: str, attempt: int, found: _Attempt, report: Mapping[str, Any]) -> Broken:
        """What a broken stream means, and whether another is followed in its place."""
        reason = report["reason"] or "its stream broke off"
        if found.broken is not None and found.broken.reason != _SOCKET_BROKE:
            reason = found.broken.reason
        if found.hung:
            reason = f"its reader process read nothing for {self._drain_s:g} s after the writer had ended, and was ended: ADIOS2 hung"
        own = (found.directory / f"{STREAM}-{found.number}.hello").exists()
        final = bool(report["final"]) or found.told.gone or bool(found.told.refused)
        if report["crashed"]:
            found.crashes += 1
            seen = found.greeted == found.number
            final |= found.crashes >= _CRASHES or (seen and not own and self._engine.name == "SST")
        waiting = Waiting(found.number, found.number, final, reason)
        with contextlib.suppress(FileNotFoundError), contextlib.closing(Page(found.directory)) as page:
            page.wait(waiting)
        found.over = final or own or self._engine.name == "SST"
        if not final:
            found.number += 1
            self._start(member, attempt, found)
        lost = final and not found.told.gone and not found.told.refused
        return Broken(member, attempt, reason, final=lost, fault=bool(report["fault"]))


def _tidy(found: _Attempt) -> None:
    """Remove what an attempt's streams left: a stale contact file could crash whoever has its port next."""
    if found.temporary:
        shutil.rmtree(found.directory, ignore_errors=True)
        return
    for pattern in ("*.sst", PAGE, SETTINGS, f"{STREAM}-*.hello", f"{STREAM}-*.end"):
        for path in found.directory.glob(pattern):
            path.unlink(missing_ok=True)


def _xml(engine: Engine) -> str:
    """An ``adios2.xml`` that chooses the engine and its policies for a code that reads one."""
    from xml.sax.saxutils import quoteattr

    parameters = "".join(f"\n      <parameter key={quoteattr(k)} value={quoteattr(v)}/>" for k, v in engine.writing.items())
    variables = ""
    for operator in engine.operators:
        rest = {k: v for k, v in operator.items() if k not in ("type", "variable")}
        inner = "".join(f"\n        <parameter key={quoteattr(k)} value={quoteattr(v)}/>" for k, v in rest.items())
        if "variable" in operator:
            variables += (
                f"\n    <variable name={quoteattr(operator['variable'])}>"
                f"\n      <operation type={quoteattr(operator['type'])}>{inner}\n      </operation>\n    </variable>"
            )
    kind = "SST" if engine.name == "SST" else "BP5"
    return (
        f'<?xml version="1.0"?>\n<adios-config>\n  <io name={quoteattr(engine.io)}>\n'
        f'    <engine type="{kind}">{parameters}\n    </engine>{variables}\n  </io>\n</adios-config>\n'
    )


def texts(what: str, given: Mapping[str, Any] | None) -> dict[str, str]:
    """Options as ADIOS2 wants them: all text.

    Raises:
        ConfigError: a value is no plain one.
    """
    out = {}
    for key, value in (given or {}).items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        if not isinstance(value, (str, int, float)):
            raise ConfigError(f"The option {what}.{key} is {value!r}; ADIOS2 takes a text or a number.")
        out[str(key)] = str(value)
    return out


def operators(given: Sequence[Mapping[str, Any]] | None) -> list[dict[str, str]]:
    """The operators of a configuration.

    Raises:
        ConfigError: one has no type.
    """
    out = [texts("operators", o) for o in given or ()]
    for operator in out:
        if "type" not in operator:
            raise ConfigError(f"The operator {operator} has no type; write e.g. {{type: zfp, variable: u, accuracy: 0.001}}.")
    return out
