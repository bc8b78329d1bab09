"""Members inside the controller's own allocation: one agent on each node, started by one srun each."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from alearn.errors import ConfigError, LaunchError
from alearn.launcher.base import Job
from alearn.launcher.checks import check_name, check_program, make_directory
from alearn.launcher.local import past_exit
from alearn.launcher.slurm_batch import only_this_host
from alearn.launcher.slurm_queue import COMMAND_S, call, require
from alearn.types import Exit, ExitCause

RESTARTS = 2
"""How often a node's agent is started again before the node is given up."""


@dataclass(slots=True)
class _Node:
    """A node of the allocation and its agent."""

    name: str
    cpus: int
    gpus: int = 0
    agent: subprocess.Popen[bytes] | None = None
    errors: IO[bytes] | None = None
    starts: int = 0
    heard: bytes = b""
    to_say: bytes = b""
    attempts: dict[tuple[str, int], _Running] = field(default_factory=dict)

    @property
    def cpus_left(self) -> int:
        return self.cpus - sum(one.cores for one in self.attempts.values())

    @property
    def usable(self) -> bool:
        return self.agent is not None or self.starts <= RESTARTS


@dataclass(slots=True)
class _Running:
    job: Job
    cores: int
    begun: float = field(default_factory=time.monotonic)


class NodeAgents:
    """The step mode of ``SlurmLauncher``.

    Args:
        slots: members at a time; None is as many as the allocation's cores hold.
        cores: cores of each member.
        gpus: GPUs of each member.
        memory_mb: memory limit of a member's tree, where its job sets none.
        wall_s: wall-time limit of a member, where its job sets none.
        disk_mb: limit of what a member's directory holds, where its job sets none.
        grace_s: seconds between SIGTERM and SIGKILL.
        reserve: cores kept free on the controller's own node.
        warm: as ``LocalLauncher`` takes it.
        reuse: as ``LocalLauncher`` takes it.
        ranks: MPI ranks of a member, of ``cores`` cores each, on one node.

    Raises:
        ConfigError: this process is in no allocation, or the allocation is too small.
    """

    def __init__(
        self,
        slots: int | None,
        cores: int,
        gpus: int,
        memory_mb: int | None,
        wall_s: float | None,
        disk_mb: float | None,
        grace_s: float,
        reserve: int,
        warm: bool | str,
        reuse: int,
        ranks: int,
    ) -> None:
        require("srun", "scontrol")
        self._id = os.environ.get("SLURM_JOB_ID", "")
        if not self._id or not os.environ.get("SLURM_JOB_NODELIST"):
            raise ConfigError(
                "launcher.mode=step starts members inside the allocation that alearn itself runs in, but there is none (no SLURM_JOB_ID): "
                "start the study by sbatch or salloc, or set launcher.mode=batch."
            )
        self._nodes = [_Node(name, cpus) for name, cpus in _allocation()]
        here = os.environ.get("SLURMD_NODENAME", self._nodes[0].name)
        for node in self._nodes:
            if node.name == here:
                node.cpus -= reserve
        each = cores * ranks
        most = sum(max(0, node.cpus) // each for node in self._nodes)
        if most < 1 or (slots is not None and slots > most):
            raise ConfigError(
                f"{slots or 1} slots of {each} core(s) do not fit: allocation {self._id} has room for {most} beside the {reserve} core(s) "
                "kept for the controller; ask Slurm for more, or set launcher.slots, launcher.cores or launcher.reserve lower."
            )
        self._slots = slots or most
        self._limit = slots
        limits = {"memory_mb": memory_mb, "wall_s": wall_s, "disk_mb": disk_mb}
        self._defaults: dict[str, float | None] = {"cores": cores, "gpus": gpus, **limits}
        self.grace_s = grace_s
        self._warm, self._reuse, self._ranks = warm, reuse, ranks
        self._exits: list[Exit] = []
        self._closed = False
        self._selector = selectors.DefaultSelector()
        for node in self._nodes:
            self._start(node)

    @property
    def slots(self) -> int:
        each = int(self._defaults["cores"] or 1) * self._ranks
        most = sum(max(0, node.cpus) // each for node in self._nodes if node.usable)
        return most if self._limit is None else min(self._limit, most)

    def resize(self, slots: int) -> None:
        """Change how many members may run at a time.

        Raises:
            ConfigError: more than the allocation's cores hold.
        """
        each = int(self._defaults["cores"] or 1) * self._ranks
        most = sum(max(0, node.cpus) // each for node in self._nodes if node.usable)
        if slots > most:
            raise ConfigError(f"{slots} slots do not fit: allocation {self._id} has room for {most}.")
        self._limit = slots

    @property
    def one_host(self) -> bool:
        """True if the allocation has no node but this host."""
        return only_this_host()

    def submit(self, job: Job) -> None:
        """Hand an attempt to the agent of the node with the most free cores."""
        if self._closed:
            raise LaunchError(f"Member {job.member} cannot start: this launcher is closed.")
        check_name(job.member)
        key = (job.member, job.attempt)
        running = {k for node in self._nodes for k in node.attempts}
        if key in running:
            raise LaunchError(f"Attempt {job.attempt} of member {job.member} is already running.")
        if len(running) >= self.slots:
            raise LaunchError(f"All {self.slots} slots are taken; poll() frees the slot of a member that ended.")
        wants = self._complete(job)
        check_program(wants, {**os.environ, **wants.env})
        make_directory(wants)
        cores = wants.cores * self._ranks
        for node in sorted(self._nodes, key=lambda node: -node.cpus_left):
            if node.usable and node.cpus_left >= cores:
                break
        else:
            free = max((node.cpus_left for node in self._nodes if node.usable), default=0)
            raise LaunchError(f"Member {job.member} asks for {cores} cores on one node; the freest has {free}.")
        if node.agent is None:
            self._start(node)
        raw = {**dataclasses.asdict(wants), "env": dict(wants.env), "directory": str(wants.directory.resolve())}
        (wants.directory / "exit.json").unlink(missing_ok=True)
        node.attempts[key] = _Running(wants, cores)
        self._tell(node, {"submit": raw})

    def _complete(self, job: Job) -> Job:
        d = self._defaults
        return dataclasses.replace(
            job,
            cores=max(job.cores, int(d["cores"] or 1)),
            gpus=max(job.gpus, int(d["gpus"] or 0)),
            memory_mb=job.memory_mb if job.memory_mb is not None else None if d["memory_mb"] is None else int(d["memory_mb"]),
            wall_s=job.wall_s if job.wall_s is not None else d["wall_s"],
            disk_mb=job.disk_mb if job.disk_mb is not None else d["disk_mb"],
        )

    def poll(self) -> Sequence[Exit]:
        """The attempts that ended since the last call. Returns at once."""
        self._turn(0.0)
        ended, self._exits = self._exits, []
        return ended

    def cancel(self, member: str, attempt: int, grace_s: float | None = None) -> None:
        """End an attempt; the Exit follows by poll."""
        for node in self._nodes:
            if (member, attempt) in node.attempts:
                self._tell(node, {"cancel": [member, attempt, self.grace_s if grace_s is None else grace_s]})

    def close(self, deadline_s: float = 10.0) -> None:
        """End every member, then the agents."""
        if self._closed:
            return
        self._closed = True
        until = time.monotonic() + deadline_s
        for node in self._nodes:
            for member, attempt in list(node.attempts):
                self.cancel(member, attempt, min(self.grace_s, deadline_s / 3))
        while any(node.attempts for node in self._nodes) and time.monotonic() < until:
            self._turn(min(0.2, max(0.0, until - time.monotonic())))
        left = sorted(member for node in self._nodes for member, _ in node.attempts)
        for node in self._nodes:
            if node.agent is not None and node.agent.stdin is not None:
                node.agent.stdin.close()  # the agents' last word
        for node in self._nodes:
            if node.agent is not None:
                self._end(node, max(2.0, until - time.monotonic()))
        self._selector.close()
        if left:
            raise LaunchError(f"After {deadline_s:g} s these members are still not gone: {', '.join(left)}; their steps were cancelled.")

    def adopt(self, directory: Path) -> list[tuple[str, int]]:
        """Nothing: members of this mode end with their controller."""
        return []

    def leave(self) -> None:
        """The same as ``close``: members of this mode end with their controller."""
        self.close()

    def jobs(self) -> Mapping[tuple[str, int], str]:
        """The node of each running attempt."""
        return {key: node.name for node in self._nodes for key in node.attempts}

    # --- inside --------------------------------------------------------------------------------------------------

    def _start(self, node: _Node) -> None:
        node.starts += 1
        node.heard, node.to_say = b"", b""
        node.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the agent has ended
        cpus = max(1, node.cpus)
        where = [f"--jobid={self._id}", f"--nodelist={node.name}", "--nodes=1", "--ntasks=1", "--job-name=alearn-agent"]
        how = ["--overlap", f"--cpus-per-task={cpus}", "--mem=0", "--cpu-bind=none", "--unbuffered", "--kill-on-bad-exit=0", "--export=ALL"]
        options = {"slots": cpus, "cores": self._defaults["cores"], "grace_s": self.grace_s, "warm": self._warm}
        options |= {"reuse": self._reuse, "ranks": self._ranks}
        main = [sys.executable, "-m", "alearn.launcher.agent", json.dumps(options)]
        environ = {k: v for k, v in os.environ.items() if not re.match("SLURM_(CPU_BIND|MEM_PER|MEM_BIND|NTASKS|CPUS_PER_TASK|TRES)", k)}
        try:
            node.agent = subprocess.Popen(
                ["srun", *where, *how, *main],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=node.errors,
                bufsize=0,
                env=environ,
                start_new_session=True,  # a Ctrl-C in the terminal is the controller's to answer
            )
        except OSError as error:
            node.errors.close()
            raise LaunchError(f"srun cannot be started: {error}.") from error
        assert node.agent.stdin is not None
        assert node.agent.stdout is not None
        os.set_blocking(node.agent.stdin.fileno(), False)
        os.set_blocking(node.agent.stdout.fileno(), False)
        self._selector.register(node.agent.stdout, selectors.EVENT_READ, node)

    def _tell(self, node: _Node, order: Mapping[str, object]) -> None:
        node.to_say += json.dumps(order).encode() + b"\n"
        self._flush(node)

    def _flush(self, node: _Node) -> None:
        """Write what the agent's pipe takes now; the rest waits for the next turn."""
        if node.to_say and node.agent is not None and node.agent.stdin is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                node.to_say = node.to_say[os.write(node.agent.stdin.fileno(), node.to_say) :]

    def _turn(self, timeout_s: float) -> None:
        """Take in what the agents say, and say what is left to say."""
        for node in self._nodes:
            self._flush(node)
        if not self._selector.get_map():
            return
        for key, _ in self._selector.select(timeout_s):
            speaker: _Node = key.data
            try:
                data = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                continue
            *lines, speaker.heard = (speaker.heard + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # a site's prolog may print into the stream
                    self._hear(speaker, json.loads(line))
            if not data:
                self._lost(speaker)

    def _hear(self, node: _Node, fact: Mapping[str, dict[str, object]]) -> None:
        if "hello" in fact:
            node.starts = 1
        elif "exit" in fact or "refused" in fact:
            said = fact.get("exit") or fact["refused"]
            key = (str(said["member"]), int(str(said["attempt"])))
            if node.attempts.pop(key, None) is not None:
                gone = Exit(*key, ExitCause.EXIT_CODE, detail=str(said["why"])) if "refused" in fact else past_exit_of(said)
                self._exits.append(gone)

    def _lost(self, node: _Node) -> None:
        """A node's agent ended without being asked to."""
        said = self._end(node, 5.0)
        for (member, attempt), running in node.attempts.items():
            known = past_exit(running.job.directory)
            if known is not None and (known.member, known.attempt) == (member, attempt):
                self._exits.append(known)
                continue
            detail = f"the agent on node {node.name} ended" + (f": {said}" if said else "")
            self._exits.append(Exit(member, attempt, ExitCause.NODE_LOST, detail=detail, wall_s=time.monotonic() - running.begun))
        node.attempts.clear()

    def _end(self, node: _Node, deadline_s: float) -> str:
        """Wait for a node's srun; returns the last thing it said on stderr."""
        agent, errors = node.agent, node.errors
        assert agent is not None
        assert errors is not None
        node.agent = None
        if agent.stdin is not None:
            with contextlib.suppress(OSError):
                agent.stdin.close()
        try:
            agent.wait(deadline_s)
        except subprocess.TimeoutExpired:
            agent.terminate()  # srun ends its step
            try:
                agent.wait(5.0)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
        assert agent.stdout is not None
        self._selector.unregister(agent.stdout)
        agent.stdout.close()
        with errors:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def past_exit_of(said: Mapping[str, object]) -> Exit:
    """An Exit as an agent sends it."""
    return Exit(**{**said, "cause": ExitCause(said["cause"])})  # type: ignore[arg-type]


def _allocation() -> list[tuple[str, int]]:
    """The nodes of this allocation and the CPUs it holds on each."""
    names = call(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], deadline_s=COMMAND_S).split()
    counts: list[int] = []
    for part in os.environ.get("SLURM_JOB_CPUS_PER_NODE", "").split(","):
        matched = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if matched:
            counts += [int(matched[1])] * int(matched[2] or 1)
    if len(counts) != len(names) or not names:
        raise ConfigError(
            f"SLURM_JOB_CPUS_PER_NODE={os.environ.get('SLURM_JOB_CPUS_PER_NODE')!r} does not fit the allocation's nodes {names}; "
            "start alearn by sbatch or salloc, which set both."
        )
    return list(zip(names, counts, strict=True))
