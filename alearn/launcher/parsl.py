"""Members through Parsl, for sites that live in it: its blocks run the member supervisor."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import math
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, LaunchError, MissingDependency, UnknownName
from alearn.launcher import batch
from alearn.launcher.base import Job
from alearn.launcher.checks import DIRECTORY, THREADS, check_name, check_program, make_directory
from alearn.launcher.hosts import Hosts
from alearn.launcher.local import LocalLauncher, past_exit
from alearn.launcher.parsl_head import PLACE_FILE, PROVIDERS
from alearn.launcher.slurm import check_carrier
from alearn.launcher.slurm_batch import only_this_host, prepare
from alearn.types import Exit, ExitCause

log = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often a member's supervisor looks whether it shall end."""
BEAT_S = 5.0
SETTLE_S = 20.0
"""How long after a task's end its exit record may take to be seen here (shared file systems cache)."""
START_S = 120.0


@dataclass(slots=True)
class _Attempt:
    """A task that was handed to Parsl and is not reported yet."""

    job: Job
    directory: Path
    beat: int = 1
    beaten: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    over_at: float = math.inf
    trouble: str = ""


class ParslLauncher:
    """Starts the member supervisor inside the blocks of a HighThroughputExecutor.

    Parsl itself cannot cancel a running task. The supervisor can: it looks at a lease file in the attempt's directory, so the
    directories must be on a file system that the nodes share with the controller. Members end with their controller.

    Args:
        provider: "local", "slurm", "pbspro", "torque", "lsf", "gridengine", "condor" or "kubernetes".
        provider_options: what Parsl's class for this provider takes: ``{partition: debug, walltime: "01:00:00"}``; its
            ``launcher`` by the name of Parsl's class.
        blocks: how many blocks (jobs of the provider) there may be.
        nodes: nodes of each block.
        workers: members at a time on each node.
        cores: cores of each member: their thread pools are told so.
        gpus: GPUs of each node, dealt out one to each worker.
        memory_mb: memory limit of a member's process tree, where its job sets none.
        wall_s: wall-time limit of a member in seconds, where its job sets none.
        disk_mb: limit of what a member's directory holds, where its job sets none.
        grace_s: seconds between SIGTERM and SIGKILL.
        abandon_s: seconds without a controller after which a member on another host ends by itself.
        heartbeat_s: seconds of silence after which Parsl takes a node for lost, and a node its controller.
        avoid_after: so many members in a row that could not run on a node make Parsl start nothing more there, once another has
            proved good; 0 avoids none.
        address: how the nodes reach this host; empty is its name, or 127.0.0.1 under the local provider.
        carrier: the study's transport as configured, to check that members on other hosts can reach it.

    Raises:
        MissingDependency: Parsl is not installed.
        ConfigError: a value makes no sense, or members could not reach the learner.
    """

    def __init__(
        self,
        provider: str = "local",
        provider_options: Mapping[str, Any] | None = None,
        blocks: int = 1,
        nodes: int = 1,
        workers: int = 2,
        cores: int = 1,
        gpus: Sequence[str | int] = (),
        memory_mb: int | None = None,
        wall_s: float | None = None,
        disk_mb: float | None = None,
        grace_s: float = 2.0,
        abandon_s: float = 60.0,
        heartbeat_s: float = 30.0,
        avoid_after: int = 3,
        address: str = "",
        carrier: Mapping[str, Any] | None = None,
    ) -> None:
        self._head: LocalLauncher | None = None
        self._closed = True
        if provider not in PROVIDERS:
            raise UnknownName("provider of launcher 'parsl'", provider, PROVIDERS)
        least = {"blocks": (blocks, 1), "nodes": (nodes, 1), "workers": (workers, 1), "cores": (cores, 1), "grace_s": (grace_s, 0)}
        for name, (value, bound) in {
            **least,
            "abandon_s": (abandon_s, 15),
            "heartbeat_s": (heartbeat_s, 4),
            "avoid_after": (avoid_after, 0),
        }.items():
            if not bound <= value < math.inf:
                raise ConfigError(f"launcher.{name} is {value}; at least {bound} is needed.")
        for name, limit in (("memory_mb", memory_mb), ("wall_s", wall_s), ("disk_mb", disk_mb)):
            if limit is not None and not 0 < limit < math.inf:
                raise ConfigError(f"launcher.{name} is {limit}; give a number > 0, or null for no limit.")
        options = dict(provider_options or {})
        _check_provider(provider, options)
        self._local = provider == "local"
        if carrier is not None:
            check_carrier(carrier, "parsl", one_host=self._local or (provider == "slurm" and only_this_host()))
        self.cores = cores
        self.grace_s = grace_s
        self._slots = blocks * nodes * workers
        self._gpus = len(gpus)
        self._limits: dict[str, float | None] = {"memory_mb": memory_mb, "wall_s": wall_s, "disk_mb": disk_mb}
        self._abandon_s = abandon_s
        self._options = {
            "provider": provider,
            "provider_options": {"nodes_per_block": nodes, **options},
            "blocks": blocks,
            "workers": workers,
            "gpus": list(gpus),
            "address": address,
            "heartbeat_s": heartbeat_s,
        }
        self._hosts = Hosts(avoid_after)
        self._managers: dict[str, set[str]] = {}
        self._held: set[str] = set()
        self._line: socket.socket | None = None
        self._heard = b""
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._exits: list[Exit] = []
        self._broken = ""
        self._closed = False

    # --- the protocol --------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, job: Job) -> None:
        """Hand an attempt to Parsl, which is started with the first one.

        Raises:
            LaunchError: no free slot, no such program, more cores or GPUs than a member has here, or Parsl does not start.
        """
        key = (job.member, job.attempt)
        if self._closed:
            raise LaunchError(f"Member {job.member} cannot start: this launcher is closed.")
        check_name(job.member)
        if key in self._attempts:
            raise LaunchError(f"Attempt {job.attempt} of member {job.member} is already running.")
        if len(self._attempts) >= self._slots:
            raise LaunchError(f"All {self._slots} slots are taken; poll() frees the slot of a member that ended.")
        if job.cores > self.cores:
            raise LaunchError(f"Member {job.member} asks for {job.cores} cores; under Parsl all members have launcher.cores={self.cores}.")
        if job.gpus > min(1, self._gpus):
            raise LaunchError(f"Member {job.member} asks for {job.gpus} GPU(s); under Parsl each worker has one of launcher.gpus or none.")
        check_program(job, {**os.environ, **job.env})
        make_directory(job)
        directory = job.directory.resolve()
        limits = {name: getattr(job, name) if getattr(job, name) is not None else limit for name, limit in self._limits.items()}
        env = {**dict.fromkeys(THREADS, str(self.cores)), **job.env, DIRECTORY: str(directory)}
        more = {**limits, "grace_s": self.grace_s, "abandon_s": self._abandon_s, "look_s": LOOK_S}
        prepare(job, directory, env, "parsl", more)
        (directory / PLACE_FILE).unlink(missing_ok=True)
        self._run(job, directory)
        self._attempts[key] = _Attempt(job, directory)

    def poll(self) -> Sequence[Exit]:
        """The attempts that ended since the last call, each exactly once. Returns at once."""
        if not self._closed:
            self._turn(0.0)
        ended, self._exits = self._exits, []
        return ended

    def cancel(self, member: str, attempt: int, grace_s: float | None = None) -> None:
        """End an attempt by a word in its lease; the Exit follows by poll. One that does not run is no error."""
        one = self._attempts.get((member, attempt))
        if one is not None:
            one.cancelled = True
            one.beat += 1
            self._lease(one, f"cancel {self.grace_s if grace_s is None else grace_s:g}")

    def close(self, deadline_s: float = 10.0) -> None:
        """End everything that still runs or waits, give the blocks back, and end Parsl.

        Raises:
            LaunchError: members on other hosts were still alive at the deadline; they end by themselves.
        """
        if self._closed:
            return
        until = time.monotonic() + deadline_s
        for member, attempt in list(self._attempts):
            self.cancel(member, attempt, min(self.grace_s, deadline_s / 3))
        while any((one.directory / "stdout.log").exists() for one in self._attempts.values()) and time.monotonic() < until:
            self._turn(min(0.1, max(0.0, until - time.monotonic())))
        self._closed = True
        left = sorted(one.job.member for one in self._attempts.values() if (one.directory / "stdout.log").exists())
        for (member, attempt), _ in list(self._attempts.items()):
            self._exits.append(Exit(member, attempt, ExitCause.CANCELLED, detail="the launcher was closed", wall_s=0.0))
        self._attempts.clear()
        self._end_head(max(5.0, until - time.monotonic()))
        if left and not self._local:
            raise LaunchError(f"After {deadline_s:g} s these members are still not gone: {', '.join(left)}; their blocks were cancelled.")

    # --- beyond the protocol -------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Sleep until an attempt has ended, at most ``timeout_s``; True if ``poll`` has something."""
        until = time.monotonic() + timeout_s
        while not self._exits and self._attempts and (left := until - time.monotonic()) > 0:
            self._turn(min(left, 0.2))
        return bool(self._exits)

    def __enter__(self) -> ParslLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _tell(self, order: Mapping[str, Any], directory: Path) -> None:
        if self._line is None:
            self._start_head(directory)
        assert self._line is not None
        try:
            self._line.settimeout(10.0)
            self._line.sendall(json.dumps(order).encode() + b"\n")
        except OSError as error:
            what = f"member {order['run'][0]}" if "run" in order else "a host to be avoided"
            raise LaunchError(f"Parsl does not take {what}: {self._why() or error}.") from error
        finally:
            self._line.setblocking(False)

    def _start_head(self, directory: Path) -> None:
        """Start Parsl beside the members' directories, where the nodes see its certificates.

        Raises:
            LaunchError: it does not start.
        """
        home = next((parent.parent for parent in directory.parents if parent.name == "members"), directory.parent) / "parsl"
        self._broken, self._heard = "", b""
        self._scratch = Path(tempfile.mkdtemp(prefix="alearn-parsl-"))
        self._head = LocalLauncher(slots=1, oversubscribe=True)
        try:
            self._meet(home, time.monotonic() + START_S)
        except (LaunchError, OSError) as error:
            self._end_head(5.0)
            self._head = self._line = None
            raise LaunchError(f"Parsl does not start: {error} Its log is {home}/stderr.log.") from error

    def _meet(self, home: Path, until: float) -> None:
        """Start Parsl's process, give it its options, and hear that it is ready."""
        assert self._head is not None
        late = LaunchError(f"no word from it for {START_S:g} s.")
        door_file = str(self._scratch / "s")
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(door_file)
            door.listen(1)
            # Parsl finds its own programs by PATH, where those of a virtual environment need not be.
            path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
            self._head.submit(Job("parsl", 1, (sys.executable, "-P", "-m", "alearn.launcher.parsl_head", door_file), home, {"PATH": path}))
            door.settimeout(0.2)
            while self._line is None:
                with contextlib.suppress(TimeoutError):
                    self._line = door.accept()[0]
                if self._why():
                    raise LaunchError(f"{self._why()}.")
                if time.monotonic() > until:
                    raise late
        self._line.sendall(json.dumps({**self._options, "directory": str(home)}).encode() + b"\n")
        while b"\n" not in self._heard:
            if not select.select([self._line], [], [], max(0.0, until - time.monotonic()))[0]:
                raise late
            if not self._read():
                raise LaunchError(f"{self._why() or 'it ended'}.")
        first, _, self._heard = self._heard.partition(b"\n")
        fact = json.loads(first)
        if "broken" in fact:
            raise LaunchError(f"{fact['broken']}.")

    def _why(self) -> str:
        """Why Parsl's process ended, or nothing while it lives."""
        if self._head is not None and not self._broken:
            for gone in self._head.poll():
                self._broken = f"its process ended ({gone.cause}{': ' + gone.detail if gone.detail else ''})"
        return self._broken

    def _read(self) -> bool:
        """Take in what Parsl's process says; False at its end."""
        assert self._line is not None
        try:
            data = self._line.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._heard += data
        return bool(data)

    def _turn(self, timeout_s: float) -> None:
        """Keep the leases, hear which tasks are over, and read how their members ended."""
        now = time.monotonic()
        if self._line is not None and not self._broken and select.select([self._line], [], [], timeout_s)[0] and not self._read():
            self._broken = self._why() or "its process ended"
            log.warning("Parsl is gone: %s.", self._broken)
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            member, attempt, trouble, declined = json.loads(line)["over"]
            one = self._attempts.get((member, attempt))
            if one is not None and declined and not one.cancelled:
                self._again(one)
            elif one is not None:
                one.over_at, one.trouble = now, trouble
        for key, one in list(self._attempts.items()):
            if self._broken and one.over_at == math.inf:
                one.over_at, one.trouble = now, f"Parsl is gone: {self._broken}"
            if now - one.beaten > BEAT_S and not one.cancelled:
                one.beat += 1
                one.beaten = now
                self._lease(one, "keep")
            if one.over_at < math.inf:
                gone = self._judge(one, now)
                if gone is not None:
                    del self._attempts[key]
                    self._exits.append(gone)
                    self._note(one, gone)

    def _where(self, one: _Attempt) -> tuple[str, str]:
        """The host and the manager of Parsl's that an attempt came to; empty if it came to none."""
        try:
            host, manager = json.loads((one.directory / PLACE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "", ""
        self._managers.setdefault(host, set()).add(manager)
        return host, manager

    def _note(self, one: _Attempt, gone: Exit) -> None:
        """Take in how an attempt went where it ran, and have Parsl start nothing more on hosts that turned out bad."""
        host, _ = self._where(one)
        known = set(self._hosts.avoided)
        self._hosts.note(host, gone)
        for new in set(self._hosts.avoided) - known:
            log.warning("Nothing more is started on %s: the last %d member(s) there could not run.", new, self._hosts.after)
        self._hold(one.directory)

    def _hold(self, directory: Path) -> None:
        """Hold the managers on avoided hosts that are not held yet."""
        bad = {manager for host in self._hosts.avoided for manager in self._managers.get(host, ())} - self._held
        if bad and self._line is not None and not self._broken:
            self._held |= bad
            with contextlib.suppress(LaunchError):  # Parsl is gone, as the next look at it finds too
                self._tell({"hold": sorted(bad)}, directory)

    def _again(self, one: _Attempt) -> None:
        """A worker on an avoided host, one that Parsl has started since, declined this attempt: another shall take it."""
        self._where(one)
        self._hold(one.directory)
        try:
            self._run(one.job, one.directory)
        except LaunchError as error:
            one.over_at, one.trouble = time.monotonic(), str(error)

    def _run(self, job: Job, directory: Path) -> None:
        self._tell({"run": [job.member, job.attempt, str(directory), self._hosts.avoided]}, directory)

    def _judge(self, one: _Attempt, now: float) -> Exit | None:
        """How an attempt ended whose task is over; None while its record may still come."""
        key = (one.job.member, one.job.attempt)
        record = past_exit(one.directory)
        if record is not None and (record.member, record.attempt) == key:
            if record.cause is ExitCause.CANCELLED and not one.cancelled:
                detail = "the Parsl worker that ran it is gone" + (f": {one.trouble}" if one.trouble else "")
                return Exit(*key, ExitCause.NODE_LOST, detail=detail, wall_s=record.wall_s, core_s=record.core_s)
            return record
        if one.cancelled and not (one.directory / "stdout.log").exists():
            return Exit(*key, ExitCause.CANCELLED, detail="cancelled before it began", wall_s=0.0)
        if now - one.over_at < (1.0 if self._local else SETTLE_S):
            return None
        return Exit(*key, ExitCause.NODE_LOST, detail=one.trouble or "its Parsl task left no exit record")

    def _lease(self, one: _Attempt, word: str) -> None:
        try:
            batch.write_lease(str(one.directory / batch.LEASE_FILE), one.beat, word)
        except OSError as error:
            log.warning("The lease of member %s cannot be written, so it will end by itself: %s", one.job.member, error)

    def _end_head(self, deadline_s: float) -> None:
        """Close the line, which makes Parsl give its blocks back and end; then end what is left of it."""
        if self._head is None:
            return
        if self._line is not None:
            self._line.close()
            self._head.wait(deadline_s)
        self._head.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _check_provider(provider: str, options: Mapping[str, Any]) -> None:
    """See that Parsl's class takes these options.

    Raises:
        MissingDependency: Parsl is not installed.
        UnknownName: it does not take one.
    """
    try:
        from parsl import launchers, providers
    except ImportError as error:
        raise MissingDependency("parsl", "launcher=parsl", "parsl") from error
    taken = set(inspect.signature(getattr(providers, PROVIDERS[provider]).__init__).parameters) - {"self"}
    ours = {"init_blocks", "min_blocks", "max_blocks", "nodes_per_block"}
    for name in options:
        if name in ours:
            raise ConfigError(f"launcher.provider_options holds {name}; set launcher.blocks and launcher.nodes instead.")
        if name not in taken:
            raise UnknownName(f"option of Parsl's provider '{provider}'", name, taken - ours)
    launcher = options.get("launcher", "SingleNodeLauncher")
    if launcher not in launchers.__all__:
        raise UnknownName("launcher of Parsl", str(launcher), launchers.__all__)
