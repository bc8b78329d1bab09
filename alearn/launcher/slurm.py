"""Members under Slurm: as batch jobs of their own, or inside the allocation that the controller itself runs in."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError
from alearn.launcher.base import Job
from alearn.launcher.slurm_batch import BatchJobs, Request, only_this_host
from alearn.launcher.slurm_steps import NodeAgents
from alearn.types import Exit

log = logging.getLogger(__name__)

MODES = ("batch", "step")
_SET_BY_US = ("--job-name", "-J", "--comment", "--output", "-o", "--error", "-e", "--chdir", "-D", "--parsable", "--array", "-a", "--wrap")
_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


class SlurmLauncher:
    """Starts the member supervisor where Slurm gives it room.

    ``mode="batch"``: each attempt is a batch job. It outlives the controller; after a restart ``adopt`` finds it again, and if
    no controller comes back for ``abandon_s`` seconds it ends by itself. The attempts' directories must be on a file system
    that the nodes share with the controller.

    ``mode="step"``: the controller runs inside an allocation, and one agent on each of its nodes (one ``srun`` each) starts
    members in milliseconds. They end with the controller.

    Args:
        mode: "batch" or "step".
        slots: members at a time (batch: jobs in the queue, pending ones included); None is 8 in batch mode, and as many as
            the allocation's cores hold in step mode.
        cores: cores of each member (a job may ask for more).
        gpus: GPUs of each member (a job may ask for more).
        memory_mb: memory limit of a member's process tree in MiB, where its job sets none; batch: requested from Slurm too.
        wall_s: wall-time limit of a member in seconds, where its job sets none; batch: requested from Slurm too.
        disk_mb: limit of what a member's directory holds in MiB, where its job sets none.
        tasks: batch: MPI ranks for which Slurm reserves ``cores`` each; the simulation's own command starts them
            (``srun`` or ``mpiexec``).
        grace_s: seconds between SIGTERM and SIGKILL when a member is cancelled or reaches its wall time.
        abandon_s: batch: seconds without a controller after which a member ends by itself.
        partition: batch: the partition; empty is the site's default.
        account: batch: the account to charge.
        qos: batch: the quality of service.
        time: batch: the jobs' time limit as sbatch takes it ("02:00:00", or minutes); empty follows from ``wall_s``, or is the
            partition's.
        extra: batch: further options of sbatch, one a string: "--constraint=skylake".
        reserve: step: cores that are kept free for the controller on its own node.
        poll_s: batch: seconds between two looks at the attempts' directories.
        queue_s: batch: seconds between two calls of squeue.
        avoid_after: batch: so many members in a row that could not run on a node make it avoided, once another has proved good;
            0 avoids none.
        warm: step: run Python functions in processes that have imported them already, as under ``local``.
        reuse: step: members that a warm process runs.
        ranks: MPI ranks of each member, of ``cores`` cores each; batch: Slurm reserves a task for each.
        carrier: the study's transport as configured, name and options, to check that members on other hosts can reach it.

    Raises:
        ConfigError: a value makes no sense, Slurm is not here, or members could not reach the learner.
    """

    def __init__(
        self,
        mode: str = "batch",
        slots: int | None = None,
        cores: int = 1,
        gpus: int = 0,
        memory_mb: int | None = None,
        wall_s: float | None = None,
        disk_mb: float | None = None,
        tasks: int = 1,
        grace_s: float = 2.0,
        abandon_s: float = 1800.0,
        partition: str = "",
        account: str = "",
        qos: str = "",
        time: str | int = "",
        extra: Sequence[str] = (),
        reserve: int = 1,
        poll_s: float = 0.5,
        queue_s: float = 5.0,
        avoid_after: int = 3,
        warm: bool | str = False,
        reuse: int = 1,
        ranks: int = 1,
        carrier: Mapping[str, Any] | None = None,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"launcher.mode is {mode!r}; 'batch' (a job for each member) or 'step' (inside this allocation) is needed.")
        least: list[tuple[str, float | None, float]] = [
            ("slots", slots, 1),
            ("cores", cores, 1),
            ("gpus", gpus, 0),
            ("memory_mb", memory_mb, 1),
            ("disk_mb", disk_mb, 0.001),
            ("reuse", reuse, 1),
            ("tasks", tasks, 1),
            ("grace_s", grace_s, 0),
            ("abandon_s", abandon_s, 5),
            ("reserve", reserve, 0),
            ("poll_s", poll_s, 0.01),
            ("queue_s", queue_s, 0.1),
            ("avoid_after", avoid_after, 0),
        ]
        for name, value, bound in least:
            if value is not None and not bound <= value < math.inf:
                raise ConfigError(f"launcher.{name} is {value}; at least {bound:g} is needed.")
        if wall_s is not None and not 0 < wall_s < math.inf:
            raise ConfigError(f"launcher.wall_s is {wall_s}; seconds > 0 are needed, or null for no limit.")
        for option in extra:
            if not option.startswith("-") or any(c in option for c in "\n\0"):
                raise ConfigError(f"launcher.extra holds {option!r}; each entry is one option of sbatch, as in '--constraint=skylake'.")
            if option.split("=")[0] in _SET_BY_US:
                raise ConfigError(f"launcher.extra holds {option!r}, which the launcher sets itself; leave it out.")
        self._engine: BatchJobs | NodeAgents
        if mode == "batch":
            request = Request(
                cores=cores,
                gpus=gpus,
                memory_mb=memory_mb,
                wall_s=wall_s,
                disk_mb=disk_mb,
                tasks=max(tasks, ranks),
                partition=partition,
                account=account,
                qos=qos,
                time=str(time),
                extra=tuple(extra),
            )
            self._engine = BatchJobs(
                request, slots=slots or 8, grace_s=grace_s, abandon_s=abandon_s, poll_s=poll_s, queue_s=queue_s, avoid_after=avoid_after
            )
        else:
            if tasks > 1:
                raise ConfigError(f"launcher.tasks={tasks} is for mode=batch; in mode=step let the simulation's command start its ranks.")
            self._engine = NodeAgents(slots, cores, gpus, memory_mb, wall_s, disk_mb, grace_s, reserve, warm, reuse, ranks)
        if carrier is not None:
            try:
                check_carrier(carrier, "slurm", one_host=self._engine.one_host)
            except ConfigError:
                self._engine.close()
                raise
        self.mode = mode

    @property
    def slots(self) -> int:
        return self._engine.slots

    def submit(self, job: Job) -> None:
        """Start an attempt: hand it to Slurm, or to the agent of the node with the most free cores.

        Raises:
            LaunchError: no free slot, no such program, or Slurm refuses the job (with its own words).
        """
        self._engine.submit(job)

    def poll(self) -> Sequence[Exit]:
        """The attempts that ended since the last call, each exactly once. Returns at once."""
        return self._engine.poll()

    def cancel(self, member: str, attempt: int, grace_s: float | None = None) -> None:
        """End an attempt politely, and then for certain; the Exit follows by poll. One that does not run is no error."""
        self._engine.cancel(member, attempt, grace_s)

    def close(self, deadline_s: float = 10.0) -> None:
        """End everything that still runs or waits and see it gone; the last exits can still be polled.

        Raises:
            LaunchError: something was still there at the deadline.
        """
        self._engine.close(deadline_s)

    def adopt(self, directory: Path) -> list[tuple[str, int]]:
        """Take over the jobs of the study in ``directory`` that outlived their controller; they count as submitted here.

        Of several attempts of one member only the newest is kept. In step mode members end with their controller, so there
        are none.

        Args:
            directory: the study's (or the arm's) directory, with ``members/MEMBER/ATTEMPT`` in it.

        Returns:
            (member, attempt) of each.

        Raises:
            LaunchError: Slurm cannot be asked.
        """
        return self._engine.adopt(directory)

    def leave(self) -> None:
        """Close without ending the batch jobs, for a controller that comes back soon and adopts them."""
        self._engine.leave()

    def resize(self, slots: int) -> None:
        """Have up to ``slots`` members in the queue or running from now on; those that are there are left alone.

        Raises:
            ConfigError: less than one, or more than the allocation holds.
        """
        if slots < 1:
            raise ConfigError(f"{slots} slots run no member; give at least 1.")
        self._engine.resize(slots)

    def jobs(self) -> Mapping[tuple[str, int], str]:
        """Where each running attempt is: Slurm's job id, or in step mode the node."""
        return self._engine.jobs()

    def __enter__(self) -> SlurmLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_carrier(carrier: Mapping[str, Any], launcher: str = "slurm", one_host: bool | None = None) -> None:
    """Check that members on other hosts can reach the learner through the study's transport.

    Args:
        carrier: the transport's configuration: ``name`` and its options.
        launcher: the name of the launcher that asks.
        one_host: whether all of Slurm's nodes are this host, where any transport will do; None asks Slurm.

    Raises:
        ConfigError: they cannot; what to set instead.
    """
    name, kind = str(carrier.get("name", "socket")), str(carrier.get("kind", "unix"))
    host, advertise = str(carrier.get("host", "127.0.0.1")), str(carrier.get("advertise", ""))
    advice = (
        f"; under launcher={launcher} set transport=socket transport.kind=tcp transport.host=0.0.0.0 "
        "transport.advertise=NAME_OF_THIS_HOST_FOR_THE_NODES (and, to adopt jobs after a restart, transport.port)"
    )
    if name == "adios_sst" and carrier.get("interface", "lo") == "lo" and not (only_this_host() if one_host is None else one_host):
        raise ConfigError(
            "The transport adios_sst tells members the address of the interface lo, which on another host is that host itself; set "
            "transport.interface to the network that the nodes share, e.g. ib0."
        )
    if name == "redis":
        scheme, _, rest = str(carrier.get("url", "")).partition("://")
        if (scheme == "unix" or rest.startswith(_LOOPBACK)) and not (only_this_host() if one_host is None else one_host):
            raise ConfigError(
                f"The Redis server at {scheme}://{rest} cannot be reached by members on other hosts; give transport.url with the name by "
                "which the nodes reach it."
            )
        if not carrier.get("channel"):
            log.warning("Without transport.channel a restarted controller cannot be found by jobs that still run.")
    if name not in ("socket", "inprocess"):
        return  # one that we do not know, say of a plug-in or over the shared file system
    problem = ""
    if name == "inprocess":
        problem = "transport=inprocess stays inside this process, so members on other hosts cannot reach it"
    elif kind == "unix":
        problem = "The transport is a Unix socket, which members on other hosts cannot reach"
    elif (advertise or host).startswith(_LOOPBACK):
        problem = f"The transport tells members the address {advertise or host}, which on another host is that host itself"
    elif (advertise or host) in ("0.0.0.0", "::"):
        problem = f"The transport listens on {host} but has no transport.advertise, so members are told no address they can reach"
    if problem and not (name == "socket" and (only_this_host() if one_host is None else one_host)):
        raise ConfigError(problem + advice + ".")
    if kind == "tcp" and not carrier.get("port"):
        log.warning("Without transport.port a restarted controller cannot be found by jobs that still run.")
