"""The study's own batch job: it stops cleanly before its wall time, and goes on in the next job until the study is done."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alearn.errors import ConfigError, LaunchError
from alearn.launcher.slurm_queue import call, require

SCRIPT = "submit.sh"
LOG = "controller.log"
COUNT = "ALEARN_SUBMISSION"


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What the controller's job asks Slurm for.

    Args:
        time: time limit as sbatch takes it ("12:00:00", or minutes); empty is the partition's.
        partition: the partition; empty is the site's default.
        account: the account to charge.
        qos: the quality of service.
        nodes: nodes; more than one is for ``launcher.mode=step``.
        cores: cores on each node.
        memory_mb: memory on each node, MiB; None is the site's default.
        gpus: GPUs on each node.
        drain_s: seconds before the time limit at which the study is asked to stop.
        resubmits: how many jobs may follow the first.
        extra: further options of sbatch, one a string.

    Raises:
        ConfigError: a value makes no sense.
    """

    time: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    cores: int = 1
    memory_mb: int | None = None
    gpus: int = 0
    drain_s: int = 120
    resubmits: int = 100
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("cores", 1), ("gpus", 0), ("drain_s", 10), ("resubmits", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least {least} is needed.")
        for option in (*self.extra, self.time, self.partition, self.account, self.qos):
            if any(c in option for c in "\n\0"):
                raise ConfigError(f"The option {option!r} has a line break, which the job's script cannot carry.")
        for option in self.extra:
            if not option.startswith("-"):
                raise ConfigError(f"{option!r} is no option of sbatch; write it as in '--constraint=skylake'.")

    def lines(self) -> list[str]:
        """The script's #SBATCH lines for these options."""
        given = {"time": self.time, "partition": self.partition, "account": self.account, "qos": self.qos}
        given |= {"nodes": str(self.nodes), "ntasks-per-node": "1", "cpus-per-task": str(self.cores)}
        given |= {"mem": f"{self.memory_mb}M" if self.memory_mb else "", "gpus-per-node": str(self.gpus) if self.gpus else ""}
        given["signal"] = f"B:TERM@{self.drain_s}"
        return [f"--{name}={shlex.quote(value)}" for name, value in given.items() if value] + list(self.extra)


def submission(directory: Path, argv: Sequence[str], options: SubmitOptions | None = None) -> str:
    """The batch script of a study's controller; pure, nothing is written.

    The same script serves the first job and every later one: it begins the study where there is none in the directory, and
    resumes it where there is. Slurm sends SIGTERM to the script ahead of the time limit; the study then stops cleanly, and
    the script submits itself again unless the study is done.

    Args:
        directory: the study's directory.
        argv: what stands behind ``alearn run``: overrides.
        options: what to ask Slurm for.

    Returns:
        The script's text.

    Raises:
        ConfigError: the directory's name cannot stand in a script.
    """
    options = options or SubmitOptions()
    where = str(directory.resolve())
    if any(c in where for c in "\n\\"):
        raise ConfigError(f"The directory {where!r} has a line break or a backslash, which a job's script cannot carry; choose another.")
    name = f"study-{directory.resolve().name}-{hashlib.sha256(where.encode()).hexdigest()[:6]}"
    alearn = shlex.join([sys.executable, "-m", "alearn.cli"])
    begin = shlex.join(["run", f"hydra.run.dir={_hydra_quoted(where)}", *argv])
    header = [
        f"--job-name={shlex.quote(name)}",
        f"--output={shlex.quote(where.replace('%', '%%') + '/' + LOG)}",
        "--open-mode=append",
        "--dependency=singleton",  # never two controllers of one study
        "--requeue",
        *options.lines(),
    ]
    return f"""#!/bin/bash
{chr(10).join("#SBATCH " + line for line in header)}
# The controller of a study. Slurm sends SIGTERM {options.drain_s} s before the time limit; the study then stops cleanly and goes on in
# the next job. Singleton: no two jobs of this name run at a time.

directory={shlex.quote(where)}
drained=
child=
trap 'drained=yes; [ -n "$child" ] && kill -TERM "$child" 2>/dev/null' TERM

cd {shlex.quote(os.getcwd())} || exit 2
if [ -e "$directory/ledger.sqlite" ]; then
    {alearn} resume "$directory" &
else
    {alearn} {begin} &
fi
child=$!
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the study
    wait "$child"
    code=$?
done

if [ -n "$drained" ] && [ "$code" -gt 128 ]; then
    count=${{{COUNT}:-0}}
    if [ "$count" -ge {options.resubmits} ]; then
        echo "alearn: the wall time is near and this was job $((count + 1)), the last allowed one; go on by: alearn resume $directory"
    elif next=$(sbatch --parsable --export=ALL,{COUNT}=$((count + 1)) "$directory/{SCRIPT}"); then
        echo "alearn: the wall time is near; the study was stopped and goes on in job ${{next%%;*}}."
        code=0
    else
        echo "alearn: the wall time is near, and the next job could not be submitted; go on by: sbatch $directory/{SCRIPT}"
    fi
fi
exit "$code"
"""


def submit(directory: Path, script: str) -> str:
    """Write the script into the study's directory and submit it.

    Args:
        directory: the study's directory; made if absent.
        script: what ``submission`` returned.

    Returns:
        Slurm's job id.

    Raises:
        ConfigError: there is no sbatch here.
        LaunchError: Slurm refuses it, in its own words, or the directory cannot be written.
    """
    require("sbatch")
    path = directory.resolve() / SCRIPT
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
    except OSError as error:
        raise LaunchError(f"The job's script cannot be written to {path}: {error}.") from error
    return call(["sbatch", "--parsable", str(path)]).strip().partition(";")[0]


def _hydra_quoted(text: str) -> str:
    """A value that Hydra's override grammar takes as this text, spaces and equals signs included."""
    return "'" + text.replace("'", "\\'") + "'"
