"""Members as supervised processes of this machine: no server, nothing to install, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, LaunchError, UnknownName
from alearn.launcher import proctree, supervisor
from alearn.launcher.base import Job
from alearn.launcher.checks import DIRECTORY, THREADS, check_name, check_program, make_directory
from alearn.launcher.nursery import Kind, Line, Nursery, Running, WarmPool
from alearn.types import Exit, ExitCause

WARM = (False, True, "auto")
PLACEMENTS = ("free", "space", "time")
SHORT_S = 2.0
"""``warm="auto"``: members that are done within this time are worth a warm process…"""
SHORT_MEMBERS = 3
"""… once so many of them were seen."""


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
        disk_mb: limit of what a member's directory holds, where its job sets none.
        warm: run Python functions in processes that have imported them already; "auto" does so once members turn out short.
        placement: "free" (the operating system deals out the cores), "space" (the learner, that is this thread and those that
            it starts, has cores of its own and members have the others) or "time" (members and training take turns on all cores).
        learner_cores: with "space", how many cores the learner has.
        ranks: MPI ranks of each member, of ``cores`` cores each.
        reuse: members that a warm process runs one after another. With 1 each is forked for one member and shares nothing;
            with more, what a member leaves in the module's globals is there for the next one.

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
        disk_mb: float | None = None,
        warm: bool | str = False,
        reuse: int = 1,
        ranks: int = 1,
        placement: str = "free",
        learner_cores: int = 1,
    ) -> None:
        self._closed = True  # until it is made, so that a failed construction has nothing to close
        self._machine = sorted(os.sched_getaffinity(0))
        self._learner_cpus: list[int] = []
        if cores < 1 or (slots is not None and slots < 1):
            raise ConfigError(f"A launcher needs at least one slot of one core; slots={slots} and cores={cores} were given.")
        if not grace_s >= 0:
            raise ConfigError(f"grace_s={grace_s} is no waiting time; give seconds ≥ 0.")
        if warm not in WARM:
            raise ConfigError(f"launcher.warm is {warm!r}; write true, false or auto.")
        if reuse < 1:
            raise ConfigError(f"launcher.reuse is {reuse}; a warm process runs at least 1 member.")
        for name, limit in (("memory_mb", memory_mb), ("wall_s", wall_s), ("disk_mb", disk_mb)):
            if limit is not None and not 0 < limit < math.inf:
                raise ConfigError(f"launcher.{name} is {limit}; give a number > 0, or null for no limit.")
        if placement not in PLACEMENTS:
            raise UnknownName("placement", placement, PLACEMENTS)
        if placement == "space":
            if not 0 < learner_cores < len(self._machine):
                raise ConfigError(
                    f"launcher.placement=space gives the learner {learner_cores} of this process's {len(self._machine)} cores and the "
                    "members the rest, so each side needs one at least; set launcher.learner_cores, or launcher.placement=free."
                )
            self._machine, self._learner_cpus = self._machine[learner_cores:], self._machine[:learner_cores]
        have = len(self._machine)
        self.cores = cores
        self.ranks = ranks
        self._oversubscribe = oversubscribe
        self._slots = self._fitting(max(1, min(2, have // (cores * ranks))) if slots is None else slots)
        if pin and oversubscribe:
            raise ConfigError("pin=true gives each member cores of its own, which oversubscribe=true contradicts; set one of them.")
        self.grace_s = grace_s
        self._pin = pin
        self._memory_mb = memory_mb
        self._wall_s = wall_s
        self._disk_mb = disk_mb
        self._warm = warm
        self._short = 0
        self._free_cpus = list(self._machine)
        self._free_gpus = [str(g) for g in gpus]
        self._gpus = len(self._free_gpus)
        self._running: dict[tuple[str, int], Running] = {}
        self._exits: list[Exit] = []
        self._selector = selectors.EpollSelector()
        self._nursery = Nursery.cold()
        self._pool = WarmPool(reuse, self._selector)
        self._thread = threading.get_native_id()
        if self._learner_cpus:
            os.sched_setaffinity(self._thread, self._learner_cpus)
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
        threads = max(job.cores, self.cores)
        cores = threads * self.ranks
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
        check_program(job, {**os.environ, **job.env} if "PATH" in job.env else os.environ)
        make_directory(job)
        env = {**dict.fromkeys(THREADS, str(threads)), **job.env, DIRECTORY: os.path.realpath(job.directory)}
        gpus = [self._free_gpus.pop(0) for _ in range(job.gpus)]
        if self._gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        cpus = [self._free_cpus.pop(0) for _ in range(cores)] if self._pin else None
        if self._learner_cpus and cpus is None:
            cpus = self._machine
        tag = f"{self._prefix}.{job.member}.{job.attempt}"
        spec = {
            "member": job.member,
            "attempt": job.attempt,
            "argv": list(job.argv),
            "directory": env[DIRECTORY],
            "tag": tag,
            "cpus": cpus,
            "memory_mb": job.memory_mb if job.memory_mb is not None else self._memory_mb,
            "disk_mb": job.disk_mb if job.disk_mb is not None else self._disk_mb,
            "wall_s": job.wall_s if job.wall_s is not None else self._wall_s,
            "output_mb": job.output_mb,
            "grace_s": self.grace_s,
        }
        running = Running(job, tag, spec, env, cpus, cores, gpus)
        self._running[key] = running
        try:
            self._begin(running)
        except LaunchError:
            del self._running[key]
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
        if running is not None and running.line is not None and not running.line.pid:
            self._turn(0.0)  # it may have begun by now
            running = self._running.get((member, attempt))
        if running is None or running.line is None:
            return
        if running.line.kind is not None and not running.line.pid:  # what it would run in is still being imported
            self._finish(running, Exit(member, attempt, ExitCause.CANCELLED, detail="cancelled before it began", wall_s=0.0), idle=False)
            return
        with contextlib.suppress(OSError):  # it has just ended; its exit is on the way
            running.line.send(b"cancel %.3f\n" % (self.grace_s if grace_s is None else grace_s))

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
            self._forget(running, idle=False)
        self._nursery.dismiss()
        self._pool.close(max(1.0, until - time.monotonic()))
        self._nursery.wait(max(1.0, until - time.monotonic()))
        self._selector.close()
        if self._learner_cpus:
            with contextlib.suppress(OSError):  # the thread that made this launcher has ended
                os.sched_setaffinity(self._thread, [*self._learner_cpus, *self._machine])
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

    def resize(self, slots: int) -> None:
        """Run up to ``slots`` members at a time from now on; those that run are left alone.

        Raises:
            ConfigError: less than one, or more than this machine's cores allow.
        """
        self._slots = self._fitting(slots)

    def pids(self) -> Mapping[tuple[str, int], int]:
        """Process ids of the running attempts that have begun, by (member, attempt)."""
        self._turn(0.0)
        return {key: r.line.pid for key, r in self._running.items() if r.line is not None and r.line.pid}

    def __enter__(self) -> LocalLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------

    def _fitting(self, slots: int) -> int:
        """This number of slots, if the cores allow it.

        Raises:
            ConfigError: they do not.
        """
        have, each = len(self._machine), self.cores * self.ranks
        if slots < 1:
            raise ConfigError(f"A launcher needs at least one slot of one core; slots={slots} and cores={self.cores} were given.")
        if slots * each > have and not self._oversubscribe:
            of = f"{self.cores} core(s)" if self.ranks == 1 else f"{self.ranks} ranks with {self.cores} core(s)"
            where = "this process may use" if not self._learner_cpus else f"beside the learner's {len(self._learner_cpus)} there are"
            mend = f"set launcher.slots={have // each}, or" if have >= each else "set"
            raise ConfigError(
                f"{slots} slots of {of} need {slots * each} cores, but {where} {have}; {mend} launcher.oversubscribe=true to share cores."
            )
        return slots

    def _cores_left(self) -> int:
        return len(self._machine) - sum(r.cores for r in self._running.values())

    def _kind(self, running: Running) -> Kind | None:
        """What a warm process must have imported to run this attempt; None if it shall have a process of its own."""
        job = running.job
        warm = self._warm is True or (self._warm == "auto" and self._short >= SHORT_MEMBERS)
        if not warm or running.again or not job.warm:
            return None
        read_at_import = [(name, running.env[name]) for name in (*THREADS, "PYTHONPATH", "CUDA_VISIBLE_DEVICES") if name in running.env]
        kind = Kind(job.warm[1], tuple(read_at_import))
        return kind if self._pool.fits(kind) else None

    def _begin(self, running: Running) -> None:
        """Hand an attempt to a warm process that waits, or to a supervisor of its own.

        Raises:
            LaunchError: no supervisor can be started.
        """
        kind = self._kind(running)
        if kind is not None:
            line = self._pool.take(kind, running.env[DIRECTORY])
            cpus = running.cpus or self._machine
            spec = {**running.spec, "argv": [], "env": running.env, "warm": running.job.warm, "cpus": cpus}
            running.line, line.running = line, running
            with contextlib.suppress(OSError):  # it has just ended, as will be seen by the end of the line
                line.send(b"job " + json.dumps(spec).encode() + b"\n")
            return
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._nursery.deliver(json.dumps({**running.spec, "environ": {**os.environ, **running.env}}).encode(), theirs)
        except LaunchError:
            ours.close()
            raise
        ours.setblocking(False)
        running.line = Line(ours, running)
        self._selector.register(ours, selectors.EVENT_READ, running.line)

    def _turn(self, timeout_s: float) -> None:
        """Take in what the supervisors say."""
        if not self._running:
            return
        for key, _ in self._selector.select(timeout_s):
            line: Line = key.data
            try:
                data = line.channel.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            *messages, line.heard = (line.heard + data).split(b"\n")
            for message in messages:
                fact = json.loads(message)
                if "started" in fact:
                    line.pid = int(fact["started"])
                elif "exit" in fact and line.running is not None:
                    self._finish(line.running, _exit(fact["exit"]), idle=fact.get("idle", False))
            if data:
                continue
            if line.running is not None:
                self._silent(line.running)
            elif line.kind is not None and line.channel.fileno() >= 0:
                self._pool.drop(line)

    def _finish(self, running: Running, gone: Exit, idle: bool) -> None:
        if gone.cause is ExitCause.DONE and gone.wall_s < SHORT_S:
            self._short += 1
        self._forget(running, idle)
        self._exits.append(gone)

    def _forget(self, running: Running, idle: bool) -> None:
        """Free what an attempt held; a line whose end is ``idle`` serves another."""
        del self._running[running.job.member, running.job.attempt]
        self._hang_up(running, idle)
        self._release(running)

    def _hang_up(self, running: Running, idle: bool = False) -> None:
        line, running.line = running.line, None
        if line is None:
            return
        line.running = None
        if idle:
            self._pool.give(line)
        else:
            self._selector.unregister(line.channel)
            line.channel.close()

    def _release(self, running: Running) -> None:
        self._free_gpus += running.gpus
        if self._pin and running.cpus:
            self._free_cpus = sorted([*self._free_cpus, *running.cpus])

    def _silent(self, running: Running) -> None:
        """An attempt's line ended without an exit: its supervisor was killed, or the nurse before there was one."""
        line = running.line
        if (line is not None and line.pid) or running.again or self._closed:
            self._finish(running, self._orphaned(running), idle=False)
            return
        if line is not None and line.kind is not None:  # the function cannot be imported ahead
            self._pool.unfit(line.kind)
        _slay_marked([f"{supervisor.TAG}={running.tag}\0"], deadline_s=5.0)
        self._hang_up(running)
        running.again = True
        try:
            self._begin(running)
        except LaunchError as error:
            gone = Exit(running.job.member, running.job.attempt, ExitCause.NODE_LOST, detail=str(error))
            self._finish(running, gone, idle=False)

    def _orphaned(self, running: Running) -> Exit:
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
        return pid != me and proctree.carries(pid, raw)

    def find() -> list[int]:
        return [pid for pid in proctree.processes() if ours(pid)]

    until = time.monotonic() + deadline_s
    killed: set[int] = set()
    while found := find():
        if time.monotonic() > until:
            raise LaunchError(f"The processes {found[:5]} do not end although they were killed; look at them with ps.")
        killed.update(found)
        proctree.slay(find, ours)
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
