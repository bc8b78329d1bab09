"""Members as supervised processes of this machine: no server, nothing to install, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, LaunchError
from alearn.launcher import supervisor
from alearn.launcher.base import Job
from alearn.launcher.checks import DIRECTORY, THREADS, check_name, check_program, make_directory
from alearn.types import Exit, ExitCause

_SEND_S = 10.0


@dataclass(slots=True)
class _Running:
    """An attempt that was submitted and has not been reported yet."""

    job: Job
    channel: socket.socket
    tag: str
    cpus: list[int] | None
    cores: int
    gpus: list[str]
    spec: bytes
    heard: bytes = b""
    pid: int = 0
    again: bool = False
    begun: float = field(default_factory=time.monotonic)


class LocalLauncher:
    """Runs members as processes of this machine, each under a supervisor that kills its whole tree for certain.

    If this process dies, however it dies, every member's tree is gone within about a second.

    Args:
        slots: how many members run at a time; None is two, or one on a machine of one core.
        cores: cores of each member (a job may ask for more); their thread pools are told so.
        grace_s: seconds between SIGTERM and SIGKILL when a member is cancelled or reaches its wall time.
        pin: keep each member on cores of its own.
        oversubscribe: allow more slots times cores than this machine has.
        gpus: the GPUs that members may use, as CUDA_VISIBLE_DEVICES names them; a job gets as many as it asks for.
        memory_mb: memory limit of a member's process tree, where its job sets none.
        wall_s: wall-time limit of a member in seconds, where its job sets none.

    Raises:
        ConfigError: more is asked for than this machine has, or a value makes no sense.
    """

    def __init__(
        self,
        slots: int | None = None,
        cores: int = 1,
        grace_s: float = 2.0,
        pin: bool = False,
        oversubscribe: bool = False,
        gpus: Sequence[str | int] = (),
        memory_mb: int | None = None,
        wall_s: float | None = None,
    ) -> None:
        self._closed = True  # until it is made, so that a failed construction has nothing to close
        self._machine = sorted(os.sched_getaffinity(0))
        if cores < 1 or (slots is not None and slots < 1):
            raise ConfigError(f"A launcher needs at least one slot of one core; slots={slots} and cores={cores} were given.")
        if not grace_s >= 0:
            raise ConfigError(f"grace_s={grace_s} is no waiting time; give seconds ≥ 0.")
        have = len(self._machine)
        if slots is None:
            slots = max(1, min(2, have // cores))
        if slots * cores > have and not oversubscribe:
            raise ConfigError(
                f"{slots} slots of {cores} core(s) need {slots * cores} cores, but this process may use {have}; "
                f"set launcher.slots={max(1, have // cores)}, or launcher.oversubscribe=true to share cores."
            )
        if pin and oversubscribe:
            raise ConfigError("pin=true gives each member cores of its own, which oversubscribe=true contradicts; set one of them.")
        self._slots = slots
        self.cores = cores
        self.grace_s = grace_s
        self._oversubscribe = oversubscribe
        self._pin = pin
        self._memory_mb = memory_mb
        self._wall_s = wall_s
        self._free_cpus = list(self._machine)
        self._free_gpus = [str(g) for g in gpus]
        self._gpus = len(self._free_gpus)
        self._running: dict[tuple[str, int], _Running] = {}
        self._exits: list[Exit] = []
        self._selector = selectors.EpollSelector()
        self._nurse: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._prefix = uuid.uuid4().hex[:16]
        self._closed = False

    # -- the protocol --------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, job: Job) -> None:
        """Start an attempt. Returns once its supervisor has been told, which takes about a millisecond.

        Raises:
            LaunchError: no such program, no free slot, cores or GPUs, an id that is no name, or this attempt already runs.
        """
        key = (job.member, job.attempt)
        cores = max(job.cores, self.cores)
        if self._closed:
            raise LaunchError(f"Member {job.member} cannot start: this launcher is closed.")
        check_name(job.member)
        if key in self._running:
            raise LaunchError(f"Attempt {job.attempt} of member {job.member} is already running.")
        if len(self._running) >= self._slots:
            raise LaunchError(f"All {self._slots} slots are taken; poll() frees the slot of a member that ended.")
        if cores > len(self._machine) and not self._oversubscribe:
            raise LaunchError(f"Member {job.member} asks for {cores} cores, but this process may use {len(self._machine)}.")
        if cores > self._cores_left() and not self._oversubscribe:
            raise LaunchError(f"Member {job.member} asks for {cores} cores, but {self._cores_left()} are free now.")
        if job.gpus > len(self._free_gpus):
            raise LaunchError(f"Member {job.member} asks for {job.gpus} GPU(s); {len(self._free_gpus)} of launcher.gpus are free.")
        environ = {**os.environ, **dict.fromkeys(THREADS, str(cores)), **job.env, DIRECTORY: str(job.directory.resolve())}
        check_program(job, environ)
        make_directory(job)
        gpus = [self._free_gpus.pop(0) for _ in range(job.gpus)]
        if self._gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        cpus = [self._free_cpus.pop(0) for _ in range(cores)] if self._pin else None
        tag = f"{self._prefix}.{job.member}.{job.attempt}"
        spec = {
            "member": job.member,
            "attempt": job.attempt,
            "argv": list(job.argv),
            "directory": environ[DIRECTORY],
            "tag": tag,
            "environ": environ,
            "cpus": cpus,
            "memory_mb": job.memory_mb if job.memory_mb is not None else self._memory_mb,
            "wall_s": job.wall_s if job.wall_s is not None else self._wall_s,
            "output_mb": job.output_mb,
            "grace_s": self.grace_s,
        }
        ours, theirs = socket.socketpair()
        running = _Running(job, ours, tag, cpus, cores, gpus, json.dumps(spec).encode())
        self._running[key] = running
        try:
            with theirs:
                self._begin(running, theirs)
        except LaunchError:
            del self._running[key]
            ours.close()
            self._release(running)
            raise

    def poll(self) -> Sequence[Exit]:
        """The attempts that ended since the last call, each exactly once. Returns at once."""
        self._turn(0.0)
        ended, self._exits = self._exits, []
        return ended

    def cancel(self, member: str, attempt: int, grace_s: float | None = None) -> None:
        """End an attempt; the Exit follows by poll. An attempt that is not running is none of our business: nothing happens.

        Args:
            member: the member's id.
            attempt: which attempt.
            grace_s: seconds between SIGTERM and SIGKILL; None is the launcher's own.
        """
        running = self._running.get((member, attempt))
        if running is not None:
            with contextlib.suppress(OSError):  # it has just ended; its exit is on the way
                running.channel.send(b"cancel %.3f\n" % (self.grace_s if grace_s is None else grace_s))

    def close(self, deadline_s: float = 10.0) -> None:
        """End everything that still runs and wait until it is gone; the last exits can still be polled.

        Raises:
            LaunchError: something was still alive at the deadline.
        """
        if self._closed:
            return
        self._closed = True
        until = time.monotonic() + deadline_s
        for member, attempt in list(self._running):
            self.cancel(member, attempt, min(self.grace_s, deadline_s / 3))
        while self._running and time.monotonic() < until:
            self._turn(min(0.5, until - time.monotonic()))
        left = sorted(member for member, _ in self._running)
        for running in list(self._running.values()):  # closing the channel is the last word: the supervisor goes on killing
            self._forget(running)
        if self._control is not None:
            self._control.close()
        if self._nurse is not None:
            try:
                self._nurse.wait(max(1.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._nurse.kill()
                self._nurse.wait()
        self._selector.close()
        if left:
            raise LaunchError(f"After {deadline_s:g} s these members are still not gone: {', '.join(left)}; their supervisors go on.")

    # -- beyond the protocol -------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A file descriptor that becomes readable when ``poll`` may have something (for select and epoll)."""
        return self._selector.fileno()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until an attempt has ended, at most ``timeout_s``; True if ``poll`` has something."""
        until = time.monotonic() + timeout_s
        while not self._exits and self._running:
            left = until - time.monotonic()
            if left <= 0:
                break
            self._turn(left)
        return bool(self._exits)

    def pids(self) -> Mapping[tuple[str, int], int]:
        """Process ids of the running attempts that have begun, by (member, attempt)."""
        self._turn(0.0)
        return {key: r.pid for key, r in self._running.items() if r.pid}

    def __enter__(self) -> LocalLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------

    def _cores_left(self) -> int:
        return len(self._machine) - sum(r.cores for r in self._running.values())

    def _begin(self, running: _Running, channel: socket.socket) -> None:
        """Hand the specification and its channel to the nurse, which is started on first use and again if it died."""
        framed = len(running.spec).to_bytes(4, "big") + running.spec
        trouble: Exception | None = None
        for _ in range(2):
            try:
                control = self._ready()
                sent = socket.send_fds(control, [framed], [channel.fileno()])
                control.sendall(framed[sent:])
                break
            except OSError as error:
                trouble = error
                if self._control is not None:
                    self._control.close()
                    self._control = None
        else:
            raise LaunchError(f"No supervisor can be started: {trouble}.")
        running.channel.setblocking(False)
        self._selector.register(running.channel, selectors.EVENT_READ, (running.job.member, running.job.attempt))

    def _ready(self) -> socket.socket:
        if self._control is not None and self._nurse is not None and self._nurse.poll() is None:
            return self._control
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_SEND_S)
        with theirs:
            self._nurse = subprocess.Popen(
                [sys.executable, "-S", "-I", str(Path(supervisor.__file__).with_name("nurse.py")), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is the controller's to answer
            )
        return self._control

    def _turn(self, timeout_s: float) -> None:
        """Take in what the supervisors say."""
        if not self._running:
            return
        for key, _ in self._selector.select(timeout_s):
            running = self._running.get(key.data)
            if running is None:
                continue
            try:
                data = running.channel.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            *lines, running.heard = (running.heard + data).split(b"\n")
            for line in lines:
                fact = json.loads(line)
                if "started" in fact:
                    running.pid = int(fact["started"])
                elif "exit" in fact:
                    self._ended(running, _exit(fact["exit"]))
            if not data and key.data in self._running:
                self._silent(running)

    def _ended(self, running: _Running, gone: Exit) -> None:
        self._forget(running)
        self._exits.append(gone)

    def _forget(self, running: _Running) -> None:
        del self._running[running.job.member, running.job.attempt]
        self._selector.unregister(running.channel)
        running.channel.close()
        self._release(running)

    def _release(self, running: _Running) -> None:
        self._free_gpus += running.gpus
        if running.cpus:
            self._free_cpus = sorted([*self._free_cpus, *running.cpus])

    def _silent(self, running: _Running) -> None:
        """An attempt's channel ended without an exit: its supervisor was killed, or the nurse before there was one."""
        if running.pid or running.again or self._closed:
            self._ended(running, self._orphaned(running))
            return
        _slay_marked([f"{supervisor.TAG}={running.tag}\0"], deadline_s=5.0)
        self._selector.unregister(running.channel)
        running.channel.close()
        running.channel, theirs = socket.socketpair()
        running.again = True
        try:
            with theirs:
                self._begin(running, theirs)
        except LaunchError as error:
            self._selector.register(running.channel, selectors.EVENT_READ, (running.job.member, running.job.attempt))
            gone = Exit(running.job.member, running.job.attempt, ExitCause.NODE_LOST, detail=str(error))
            self._ended(running, gone)

    def _orphaned(self, running: _Running) -> Exit:
        """The supervisor fell silent, so somebody killed it: end what it watched, and say what is known."""
        killed = _slay_marked([f"{supervisor.TAG}={running.tag}\0"], deadline_s=5.0)
        known = past_exit(running.job.directory)
        if known is not None and (known.member, known.attempt) == (running.job.member, running.job.attempt):
            return known
        detail = "its supervisor was killed" + (f"; {killed} process(es) it watched were ended" if killed else "")
        wall_s = time.monotonic() - running.begun
        return Exit(running.job.member, running.job.attempt, ExitCause.NODE_LOST, detail=detail, wall_s=wall_s)


def past_exit(directory: Path) -> Exit | None:
    """How the attempt in this directory ended, as its supervisor wrote it down; None if it did not come to that."""
    try:
        return _exit(json.loads((directory / supervisor.EXIT_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sweep(root: Path, deadline_s: float = 5.0) -> int:
    """Kill every process of this machine that a member of the study at ``root`` left behind.

    For ``resume``: after a machine-wide ``kill -9`` even supervisors are gone, and a daemon may have outlived them.

    Args:
        root: the study's directory.
        deadline_s: give up after this long.

    Returns:
        How many processes were killed.

    Raises:
        LaunchError: some cannot be killed.
    """
    return _slay_marked([f"{DIRECTORY}={root.resolve()}/"], deadline_s)


def _slay_marked(marks: Sequence[str], deadline_s: float) -> int:
    raw = [os.fsencode(mark) for mark in marks]
    me = os.getpid()

    def ours(pid: int) -> bool:
        return pid != me and supervisor.carries(pid, raw)

    def find() -> list[int]:
        return [pid for pid in supervisor.processes() if ours(pid)]

    until = time.monotonic() + deadline_s
    killed: set[int] = set()
    while found := find():
        if time.monotonic() > until:
            raise LaunchError(f"The processes {found[:5]} do not end although they were killed; look at them with ps.")
        killed.update(found)
        supervisor.slay(find, ours)
        time.sleep(0.005)
    return len(killed)


def _exit(record: Mapping[str, Any]) -> Exit:
    return Exit(
        member=str(record["member"]),
        attempt=int(record["attempt"]),
        cause=ExitCause(record["cause"]),
        code=record.get("code"),
        signal=record.get("signal"),
        detail=str(record.get("detail", "")),
        wall_s=float(record.get("wall_s", math.nan)),
        core_s=float(record.get("core_s", math.nan)),
        max_rss=int(record.get("max_rss", 0)),
    )
