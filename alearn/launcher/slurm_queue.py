"""What Slurm says about jobs: squeue in the background, its states as exit causes, and the other commands."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from alearn.errors import ConfigError, LaunchError
from alearn.types import ExitCause

log = logging.getLogger(__name__)

PREFIX = "alearn-"
"""Every member's job has a name that begins so; its comment is the attempt's directory."""
FORMAT = "%i|%T|%r|%N|%j|%k"
COMMAND_S = 60.0
"""How long a Slurm command may take."""

CAUSES: Mapping[str, ExitCause] = {
    "TIMEOUT": ExitCause.WALL_TIME,
    "DEADLINE": ExitCause.WALL_TIME,
    "PREEMPTED": ExitCause.PREEMPTED,
    "OUT_OF_MEMORY": ExitCause.OUT_OF_MEMORY,
    "NODE_FAIL": ExitCause.NODE_LOST,
    "BOOT_FAIL": ExitCause.NODE_LOST,
    "CANCELLED": ExitCause.CANCELLED,
}
WORDS: Mapping[str, str] = {
    "TIMEOUT": "the time limit of its Slurm job is reached (launcher.time)",
    "DEADLINE": "the deadline of its Slurm job is reached",
    "PREEMPTED": "its Slurm job was preempted",
    "OUT_OF_MEMORY": "its Slurm job exceeded its memory (launcher.memory_mb)",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "CANCELLED": "its Slurm job was cancelled from outside",
}
OVER = frozenset({*CAUSES, "COMPLETED", "FAILED", "REVOKED", "GONE"})
"""States after which nothing of the job runs; GONE is ours, for a job that squeue does not know any more."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A job as squeue shows it."""

    id: str
    state: str
    reason: str
    nodes: str
    name: str
    comment: str

    @property
    def over(self) -> bool:
        return self.state in OVER


def parse(text: str) -> dict[str, Queued]:
    """The members' jobs in squeue's output, by job id."""
    jobs: dict[str, Queued] = {}
    for line in text.splitlines():
        parts = line.split("|", 5)
        if len(parts) == 6 and parts[4].startswith(PREFIX):
            jobs[parts[0]] = Queued(*parts)
    return jobs


def require(*programs: str) -> None:
    """Check that Slurm's commands are here.

    Raises:
        ConfigError: one is not.
    """
    for program in programs:
        if shutil.which(program) is None:
            raise ConfigError(
                f"The launcher 'slurm' needs Slurm's '{program}', which is not in PATH; load your site's Slurm module, choose "
                "launcher=local, or try scripts/slurm start DIR for a Slurm on this machine."
            )


def environment() -> dict[str, str]:
    """The environment for sbatch: without what describes the job that this process itself may run in."""
    return {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith("SLURM")}


def call(argv: Sequence[str], stdin: str = "", deadline_s: float = COMMAND_S) -> str:
    """Run a Slurm command and return what it prints.

    Raises:
        LaunchError: it failed or took too long; with the first thing it said.
    """
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=deadline_s, env=environment(), check=False)
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{argv[0]} did not answer within {deadline_s:g} s; is slurmctld up? (scontrol ping)") from error
    except OSError as error:
        raise LaunchError(f"{argv[0]} cannot be started: {error}.") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise LaunchError(f"{argv[0]} failed: {said[0].strip()}")
    return done.stdout


def squeue_command() -> list[str]:
    """squeue for all jobs of this user, those that have ended lately included."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return ["squeue", "--noheader", "--all", f"--user={user}", "--states=all", f"--format={FORMAT}"]


class Queue:
    """Looks at the queue in the background, so that a slow slurmctld does not hold up the study.

    Args:
        every_s: seconds between two looks.
        soon_s: seconds between two looks when somebody waits for the answer.
    """

    def __init__(self, every_s: float, soon_s: float = 0.5) -> None:
        self.every_s, self.soon_s = every_s, min(soon_s, every_s)
        self.asked_at = 0.0
        self._running: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._begun = -every_s
        self._complained = False

    def look(self, soon: bool) -> dict[str, Queued] | None:
        """The jobs by id if a look has just ended, else None; begins the next look when it is due. Returns at once.

        ``asked_at`` is then when that look was begun (``time.monotonic``): a job submitted later may not be in it.
        """
        now = time.monotonic()
        if self._running is None:
            if now - self._begun >= (self.soon_s if soon else self.every_s):
                self._begun = now
                self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the look has ended
                try:
                    self._running = subprocess.Popen(
                        squeue_command(), stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.DEVNULL, env=environment()
                    )
                except OSError as error:
                    self._output.close()
                    self._complain(str(error))
            return None
        code = self._running.poll()
        if code is None:
            if now - self._begun > COMMAND_S:
                self._running.kill()
            return None
        assert self._output is not None
        self._running = None
        with self._output as output:
            if code != 0:
                self._complain(f"exit code {code}")
                return None
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
        self._complained = False
        self.asked_at = self._begun
        return parse(text)

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("squeue does not answer (%s); members go on, and it is asked again.", why)

    def close(self) -> None:
        """End a look that is under way."""
        if self._running is not None and self._output is not None:
            self._running.kill()
            self._running.wait()
            self._output.close()
            self._running = None
