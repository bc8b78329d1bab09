"""Each attempt as a Slurm batch job that outlives the controller."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from alearn.errors import LaunchError
from alearn.launcher import batch
from alearn.launcher.base import Job
from alearn.launcher.checks import DIRECTORY, THREADS, check_name, check_program, make_directory
from alearn.launcher.hosts import Hosts
from alearn.launcher.local import past_exit
from alearn.launcher.slurm_queue import CAUSES, PREFIX, WORDS, Queue, Queued, call, environment, parse, require, squeue_command
from alearn.launcher.supervisor import EXIT_FILE, GIVE_UP_S
from alearn.types import Exit, ExitCause

log = logging.getLogger(__name__)

JOB_FILE = "job.json"
SETTLE_S = 20.0
"""How long after a job's end its exit record may take to be seen here (shared file systems cache)."""
OVERHEAD_MB = 64
"""Memory of the supervisor beside the member's."""
TRIES = 3
_PASSING = ("timed out", "temporarily", "unable to contact", "did not answer", "connection refused", "try again")
"""Words by which sbatch says that it may succeed a moment later."""


@dataclass(frozen=True, slots=True)
class Request:
    """What each member's job asks Slurm for; see ``SlurmLauncher``."""

    cores: int = 1
    gpus: int = 0
    memory_mb: int | None = None
    wall_s: float | None = None
    disk_mb: float | None = None
    tasks: int = 1
    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = ""
    extra: tuple[str, ...] = ()

    def of(self, job: Job) -> Request:
        """This request with the job's own wishes in it."""
        return replace(
            self,
            cores=max(self.cores, job.cores),
            gpus=max(self.gpus, job.gpus),
            memory_mb=job.memory_mb if job.memory_mb is not None else self.memory_mb,
            wall_s=job.wall_s if job.wall_s is not None else self.wall_s,
            disk_mb=job.disk_mb if job.disk_mb is not None else self.disk_mb,
        )

    def options(self, grace_s: float, avoided: Sequence[str] = ()) -> list[str]:
        """The options of sbatch, without the ``avoided`` nodes.

        Slurm's own limits lie a little above the supervisor's, which knows more about the end.
        """
        given = {"--partition": self.partition, "--account": self.account, "--qos": self.qos, "--time": self.time}
        if not self.time and self.wall_s is not None:
            given["--time"] = str(math.ceil((self.wall_s + grace_s + GIVE_UP_S + 60) / 60))
        if self.memory_mb is not None:
            given["--mem"] = f"{self.memory_mb + OVERHEAD_MB}M"
        if self.gpus:
            given["--gpus"] = str(self.gpus)
        nodes = [] if self.tasks > 1 else ["--nodes=1"]
        nodes += [f"--exclude={','.join(avoided)}"] if avoided else []
        sizes = [f"--ntasks={self.tasks}", f"--cpus-per-task={self.cores}", "--no-requeue"]
        return [*nodes, *sizes, *(f"{name}={value}" for name, value in given.items() if value), *self.extra]


@dataclass(slots=True)
class _Attempt:
    """A job of ours that was not reported as ended yet."""

    member: str
    attempt: int
    directory: Path
    id: str
    submitted: float = field(default_factory=time.monotonic)
    beat: int = 0
    beaten: float = 0.0
    cancelled: bool = False
    hard_at: float = math.inf
    queued: Queued | None = None
    over_at: float = math.inf
    record: Exit | None = None
    record_at: float = math.inf


class BatchJobs:
    """The batch mode of ``SlurmLauncher``.

    Args:
        request: what each job asks for.
        slots: jobs at a time, pending ones included.
        grace_s: seconds between SIGTERM and SIGKILL.
        abandon_s: seconds without a controller after which a member ends by itself.
        poll_s: seconds between two looks at the attempts' directories.
        queue_s: seconds between two calls of squeue.
        avoid_after: misfortunes in a row after which a node is avoided; 0 avoids none.

    Raises:
        ConfigError: Slurm's commands are not here.
    """

    def __init__(
        self, request: Request, slots: int, grace_s: float, abandon_s: float, poll_s: float, queue_s: float, avoid_after: int = 3
    ) -> None:
        require("sbatch", "squeue", "scancel")
        self.slots = slots
        self.grace_s = grace_s
        self.abandon_s = abandon_s
        self._request = request
        self._poll_s = poll_s
        self._beat_s = min(abandon_s / 6, 30.0)
        self._looked = 0.0
        self._queue = Queue(queue_s)
        self._hosts = Hosts(avoid_after)
        self._running: dict[tuple[str, int], _Attempt] = {}
        self._exits: list[Exit] = []
        self._commands: list[subprocess.Popen[bytes]] = []
        self._told = {"", "None", "Priority", "Resources"}
        self._closed = False

    def resize(self, slots: int) -> None:
        """Change how many jobs there may be at a time."""
        self.slots = slots

    @property
    def one_host(self) -> bool:
        """True if every node is this host."""
        return only_this_host()

    # --- in ------------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Hand an attempt to sbatch; returns once Slurm has taken it."""
        key = (job.member, job.attempt)
        if self._closed:
            raise LaunchError(f"Member {job.member} cannot start: this launcher is closed.")
        check_name(job.member)
        if key in self._running:
            raise LaunchError(f"Attempt {job.attempt} of member {job.member} is already running.")
        if len(self._running) >= self.slots:
            raise LaunchError(f"All {self.slots} slots are taken; poll() frees the slot of a member that ended.")
        request = self._request.of(job)
        directory = job.directory.resolve()
        if any(c in str(directory) for c in "\n\\"):
            raise LaunchError(f"The directory {str(directory)!r} has a line break or a backslash, which Slurm's options cannot carry.")
        env = {**dict.fromkeys(THREADS, str(request.cores)), **job.env, DIRECTORY: str(directory)}
        if "ALEARN_RECONNECT_S" in env:  # it waits for a learner as long as its job waits for a controller
            env["ALEARN_RECONNECT_S"] = f"{max(float(env['ALEARN_RECONNECT_S']), self.abandon_s):g}"
        check_program(job, {**os.environ, **job.env})
        make_directory(job)
        limits = {"memory_mb": request.memory_mb, "wall_s": request.wall_s, "disk_mb": request.disk_mb, "grace_s": self.grace_s}
        prepare(job, directory, env, "slurm", {**limits, "abandon_s": self.abandon_s})
        id = self._sbatch(job.member, directory, request)
        _write(directory / JOB_FILE, json.dumps({"job": id, "member": job.member, "attempt": job.attempt}))
        self._running[key] = _Attempt(job.member, job.attempt, directory, id, beat=1, beaten=time.monotonic())

    def _sbatch(self, member: str, directory: Path, request: Request) -> str:
        log_file = str(directory / "slurm.log").replace("%", "%%")
        argv = ["sbatch", "--parsable", f"--job-name={PREFIX}{member}", f"--comment={directory}", f"--output={log_file}"]
        argv += [f"--chdir={directory}", "--export=ALL", *request.options(self.grace_s, self._hosts.avoided)]
        command = [sys.executable, "-S", "-E", "-s", batch.__file__, str(directory)]
        script = f"#!/bin/sh\nexec {shlex.join(command)}\n"
        for attempt in range(TRIES):
            if attempt:  # the job may have been taken although sbatch failed
                time.sleep(1.0)
                with contextlib.suppress(LaunchError):
                    taken = [q.id for q in parse(call(squeue_command())).values() if q.comment == str(directory) and not q.over]
                    if taken:
                        return taken[0]
            try:
                return call(argv, script).strip().partition(";")[0]
            except LaunchError as error:
                if attempt == TRIES - 1 or not any(words in str(error).lower() for words in _PASSING):
                    raise LaunchError(f"Slurm does not take member {member}: {error}") from error
        raise AssertionError("unreachable")

    # --- out -----------------------------------------------------------------------------------------------------

    def poll(self) -> Sequence[Exit]:
        """The attempts that ended since the last call. Returns at once."""
        if not self._closed:
            self._turn()
        ended, self._exits = self._exits, []
        return ended

    def _turn(self) -> None:
        """Keep the leases, look at the directories, ask the queue, and judge."""
        now = time.monotonic()
        self._commands = [c for c in self._commands if c.poll() is None]
        if now - self._looked >= self._poll_s:
            self._looked = now
            for one in self._running.values():
                self._look(one, now)
        if self._running:
            seen = self._queue.look(soon=any(one.record or one.cancelled for one in self._running.values()))
            if seen is not None:
                for one in self._running.values():
                    self._see(one, seen, now)
        for one in list(self._running.values()):
            gone = self._judge(one, now)
            if gone is not None:
                self._blame(one, gone)
                del self._running[one.member, one.attempt]
                self._exits.append(gone)

    def _blame(self, one: _Attempt, gone: Exit) -> None:
        """Hold a misfortune against its node."""
        before = self._hosts.avoided
        self._hosts.note(one.queued.nodes if one.queued is not None else "", gone)
        for node in self._hosts.avoided:
            if node not in before:
                log.warning("Node %s is avoided from now on: %d members in a row could not run there.", node, self._hosts.after)

    def _look(self, one: _Attempt, now: float) -> None:
        """Keep an attempt's lease, and look whether its supervisor wrote down how it ended."""
        if one.record is not None:
            return
        if now - one.beaten >= self._beat_s and not one.cancelled:
            one.beat += 1
            one.beaten = now
            self._say(one, "keep")
        if now >= one.hard_at:
            one.hard_at = now + 10.0
            self._command("scancel", one.id)
        record = past_exit(one.directory)
        if record is not None and (record.member, record.attempt) == (one.member, one.attempt):
            one.record, one.record_at = record, now

    def _see(self, one: _Attempt, seen: Mapping[str, Queued], now: float) -> None:
        """Note what the queue says of an attempt's job."""
        queued = seen.get(one.id)
        if queued is None:
            if one.submitted >= self._queue.asked_at:
                return
            queued = Queued(one.id, "GONE", "", one.queued.nodes if one.queued else "", "", "")
        if queued.state == "PENDING" and queued.reason not in self._told and not one.cancelled:
            self._told.add(queued.reason)
            log.warning("Job %s of member %s waits in Slurm's queue, and Slurm says why: %s.", one.id, one.member, queued.reason)
        if queued.over and one.over_at == math.inf:
            one.over_at = now
        one.queued = queued

    def _judge(self, one: _Attempt, now: float) -> Exit | None:
        """How an attempt ended; None while that is not known for certain."""
        state = one.queued.state if one.queued is not None and one.queued.over else ""
        record = one.record
        if record is not None:
            cut = record.cause is ExitCause.PREEMPTED or (
                record.cause is ExitCause.SIGNAL and record.signal in (signal.SIGTERM, signal.SIGKILL)
            )
            if not cut:
                return record
            if one.cancelled:
                return replace(record, cause=ExitCause.CANCELLED, detail="cancelled by the controller")
            if state in CAUSES:
                return replace(record, cause=CAUSES[state], detail=WORDS[state])
            return record if state or now - one.record_at > SETTLE_S else None
        if not state:
            return None
        started = bool(one.queued and one.queued.nodes)
        settled = now - one.over_at > SETTLE_S or (state in CAUSES and (one.cancelled or not started or state == "NODE_FAIL"))
        if not settled and not (one.cancelled and now - one.over_at > 2.0):
            return None
        if one.cancelled:
            return Exit(one.member, one.attempt, ExitCause.CANCELLED, detail="cancelled by the controller")
        if state in CAUSES:
            return Exit(one.member, one.attempt, CAUSES[state], detail=WORDS[state])
        detail = (
            f"its Slurm job {one.id} is over ({state.lower()}) but left no exit record in {one.directory}: "
            f"is that on a file system that the nodes share, and is {sys.executable} on the nodes? (slurm.log there may say more)"
        )
        return Exit(one.member, one.attempt, ExitCause.NODE_LOST, detail=detail)

    # --- ends ----------------------------------------------------------------------------------------------------

    def cancel(self, member: str, attempt: int, grace_s: float | None = None) -> None:
        """End an attempt: by its lease and SIGTERM to its supervisor, or out of the queue; scancel of the whole job if need be."""
        one = self._running.get((member, attempt))
        if one is None:
            return
        grace = self.grace_s if grace_s is None else grace_s
        one.cancelled = True
        one.hard_at = min(one.hard_at, time.monotonic() + grace + GIVE_UP_S)
        one.beat += 1
        self._say(one, f"cancel {grace:.3f}")
        self._command("scancel", "--state=PENDING", one.id)
        self._command("scancel", "--batch", "--signal=TERM", one.id)  # its supervisor looks at the lease

    def _say(self, one: _Attempt, word: str) -> None:
        try:
            batch.write_lease(str(one.directory / batch.LEASE_FILE), one.beat, word)
        except OSError as error:
            log.warning("The lease of member %s cannot be written: %s.", one.member, error)

    def _command(self, *argv: str) -> None:
        with contextlib.suppress(OSError):  # the next look at the job tells
            self._commands.append(
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
            )

    def close(self, deadline_s: float = 10.0) -> None:
        """Cancel every job and see it gone."""
        if self._closed:
            return
        until = time.monotonic() + deadline_s
        self._poll_s = min(self._poll_s, 0.05)
        for member, attempt in list(self._running):
            self.cancel(member, attempt, min(self.grace_s, deadline_s / 3))
        for one in self._running.values():
            one.hard_at = time.monotonic() + deadline_s / 2
        while self._running and time.monotonic() < until:
            self._turn()
            time.sleep(0.02)
        self._closed = True
        left = sorted(self._running.values(), key=lambda one: one.member)
        if left:
            self._command("scancel", *(one.id for one in left))
        self._release(5.0 if left else 0.2)
        if left:
            names = ", ".join(f"{one.member} (job {one.id})" for one in left)
            raise LaunchError(f"After {deadline_s:g} s these members are still in Slurm's queue although they were cancelled: {names}.")

    def leave(self) -> None:
        """Close, and let the jobs run on for whoever adopts them."""
        for one in self._running.values():
            one.beat += 1
            if not one.cancelled:
                self._say(one, "keep")
        self._closed = True
        self._release(0.2)

    def _release(self, patience_s: float) -> None:
        """Forget everything; a scancel that still repeats itself for a job that is over is not waited for."""
        self._running.clear()
        self._queue.close()
        for command in self._commands:
            try:
                command.wait(patience_s)
            except subprocess.TimeoutExpired:
                command.kill()
                command.wait()
        self._commands.clear()

    # --- takes over ----------------------------------------------------------------------------------------------

    def adopt(self, directory: Path) -> list[tuple[str, int]]:
        """Take over the living jobs whose attempts lie in ``directory``/members."""
        members = directory.resolve() / "members"
        jobs = {q.id: q for q in parse(call(squeue_command())).values() if not q.over}
        where = {q.id: Path(q.comment) for q in jobs.values()}
        for file in members.glob(f"*/*/{JOB_FILE}"):  # a site may have replaced the comment
            with contextlib.suppress(OSError, ValueError, KeyError):
                id = str(json.loads(file.read_text(encoding="utf-8"))["job"])
                if id in jobs and not where[id].is_absolute():
                    where[id] = file.parent
        found: dict[str, _Attempt] = {}
        for id, place in where.items():
            if id not in jobs or place.parent.parent != members:
                continue
            try:
                spec = json.loads((place / batch.SPEC_FILE).read_text(encoding="utf-8"))
                number, words = batch.read_lease(str(place / batch.LEASE_FILE))
                one = _Attempt(str(spec["member"]), int(spec["attempt"]), place, id, beat=int(number or 1))
            except (OSError, ValueError, KeyError):
                continue
            one.cancelled = words[:1] == ["cancel"]
            one.hard_at = time.monotonic() if one.cancelled else math.inf
            other = found.get(one.member)
            if other is not None and other.attempt > one.attempt:
                one, other = other, one
            if other is not None:
                self._command("scancel", other.id)
            found[one.member] = one
        taken = {(one.member, one.attempt): one for one in found.values() if (one.member, one.attempt) not in self._running}
        self._running.update(taken)
        return sorted(taken)

    def jobs(self) -> Mapping[tuple[str, int], str]:
        """Slurm's job ids of the running attempts."""
        return {key: one.id for key, one in self._running.items()}


def prepare(job: Job, directory: Path, env: Mapping[str, str], engine: str, more: Mapping[str, float | None]) -> None:
    """Write what ``batch.py`` reads when it starts in an attempt's directory.

    Args:
        job: the attempt.
        directory: its directory.
        env: variables added to the environment that the engine gives.
        engine: a word for the tag.
        more: limits and waiting times, as ``batch.py`` and the supervisor name them.

    Raises:
        LaunchError: it cannot be written.
    """
    spec = {
        "member": job.member,
        "attempt": job.attempt,
        "argv": list(job.argv),
        "directory": str(directory),
        "tag": f"{engine}.{job.member}.{job.attempt}.{os.urandom(6).hex()}",
        "env": dict(env),
        "output_mb": job.output_mb,
        **more,
    }
    try:
        for stale in (EXIT_FILE, JOB_FILE, batch.LEASE_FILE):
            (directory / stale).unlink(missing_ok=True)
        _write(directory / batch.SPEC_FILE, json.dumps(spec))
        batch.write_lease(str(directory / batch.LEASE_FILE), 1)
    except OSError as error:
        raise LaunchError(f"The specification of member {job.member} cannot be written: {error}.") from error


def only_this_host() -> bool:
    """True if every node that Slurm knows is this host (a Slurm on one machine)."""
    try:
        hosts = set(call(["sinfo", "--noheader", "--format=%n"], deadline_s=20.0).split())
    except LaunchError:
        return False
    return bool(hosts) and hosts <= {socket.gethostname(), socket.gethostname().partition(".")[0]}


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner may read (the study's key may be in it), in one piece."""
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)
