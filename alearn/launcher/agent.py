"""One of these on each node of an allocation: takes jobs on stdin and starts them as supervised processes of its node.

``python -m alearn.launcher.agent OPTIONS``, with options of ``LocalLauncher`` as JSON, started by ``srun``. JSON lines come in
(``{"submit": {...}}``, ``{"cancel": [MEMBER, ATTEMPT, GRACE_S]}``) and go out (``{"hello": {...}}``, ``{"exit": {...}}``,
``{"refused": {...}}``). The end of stdin means that the controller is gone or done: then every member of this node ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from alearn.errors import LaunchError
from alearn.launcher.base import Job
from alearn.launcher.local import LocalLauncher


def say(**facts: Any) -> None:
    """Write one line to the controller."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def read_job(raw: dict[str, Any]) -> Job:
    """A job as it came over the wire."""
    return Job(**{**raw, "argv": tuple(raw["argv"]), "warm": tuple(raw["warm"]), "directory": Path(raw["directory"])})


def main(arguments: list[str]) -> int:
    """Serve until stdin ends; returns the exit code."""
    options = json.loads(arguments[0])
    grace_s = float(options["grace_s"])
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    asked_to_end, asked = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the step or the allocation ends
        signal.signal(number, lambda *_: os.write(asked, b"x"))
    with (
        LocalLauncher(**options, oversubscribe=True, gpus=gpus) as launcher,
        selectors.DefaultSelector() as selector,
    ):
        for source in (0, asked_to_end, launcher.fileno()):
            selector.register(source, selectors.EVENT_READ)
        say(hello={"host": socket.gethostname(), "gpus": len(gpus)})
        heard, ends = b"", ""
        while not ends:
            ready = {key.fd for key, _ in selector.select(5.0)}
            if asked_to_end in ready:
                ends = "preempted"
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    ends = "cancelled"
                *lines, heard = (heard + data).split(b"\n")
                for line in lines:
                    obey(launcher, json.loads(line))
            for gone in launcher.poll():
                say(exit=dataclasses.asdict(gone))
        launcher.close(deadline_s=grace_s + 20.0)
        for gone in launcher.poll():
            say(exit={**dataclasses.asdict(gone), "cause": ends if gone.cause == "cancelled" else gone.cause})
    return 0


def obey(launcher: LocalLauncher, order: dict[str, Any]) -> None:
    """Do what one line says."""
    if "cancel" in order:
        member, attempt, grace_s = order["cancel"]
        launcher.cancel(member, attempt, grace_s)
        return
    job = read_job(order["submit"])
    try:
        launcher.submit(job)
    except LaunchError as error:
        say(refused={"member": job.member, "attempt": job.attempt, "why": str(error)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
