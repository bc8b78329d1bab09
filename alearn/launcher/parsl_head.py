"""Parsl in a process of its own, so that its threads, its helpers and its end are not the controller's.

``python -m alearn.launcher.parsl_head SOCKET``, started by ``ParslLauncher`` as a supervised process: whatever becomes of the
controller, the tree of this process (Parsl's interchange and, under the local provider, its workers) is ended for certain.
JSON lines come in (first the options, then ``{"run": [MEMBER, ATTEMPT, DIRECTORY, AVOIDED]}`` and ``{"hold": MANAGERS}``) and go
out (``{"hello": {}}``, ``{"over": [MEMBER, ATTEMPT, TROUBLE, DECLINED]}``, ``{"broken": WHY}``).

Parsl serialises the function and its strings with pickle on its own authenticated and encrypted connections; no data
and no code of the study goes that way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

PROVIDERS = {
    "local": "LocalProvider",
    "slurm": "SlurmProvider",
    "pbspro": "PBSProProvider",
    "torque": "TorqueProvider",
    "lsf": "LSFProvider",
    "gridengine": "GridEngineProvider",
    "condor": "CondorProvider",
    "kubernetes": "KubernetesProvider",
}


PLACE_FILE = "place.json"
DECLINED = -2
"""What ``run_member`` returns on a host that shall be avoided."""


def run_member(directory: str, avoided: list[str]) -> int:
    """What a Parsl worker does: run the member supervisor on an attempt's directory, and end it if the worker ends.

    Args:
        directory: the attempt's.
        avoided: hosts on which it shall not run: Parsl may have started a new manager there.
    """
    import json
    import os
    import platform
    import subprocess
    import sys

    from alearn.launcher import batch, parsl_head

    here = [os.environ.get("SLURMD_NODENAME") or platform.node(), os.environ.get("PARSL_WORKER_POOL_ID", "")]
    with open(os.path.join(directory, parsl_head.PLACE_FILE), "w", encoding="utf-8") as file:
        json.dump(here, file)
    if here[0] in avoided:
        return parsl_head.DECLINED
    lease = os.path.join(directory, batch.LEASE_FILE)
    if batch.read_lease(lease)[1][:1] == ["cancel"]:
        return -1
    command = [sys.executable, "-S", "-E", "-s", batch.__file__, directory, str(os.getpid())]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def make_config(options: Mapping[str, Any]) -> Any:
    """Parsl's configuration: one HighThroughputExecutor.

    Args:
        options: provider, provider_options, blocks, workers, cores, gpus, address, directory and heartbeat_s.
    """
    from parsl import launchers, providers
    from parsl.addresses import address_by_hostname
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    given = dict(options["provider_options"])
    if isinstance(given.get("launcher"), str):
        given["launcher"] = getattr(launchers, given["launcher"])()
    blocks = {"init_blocks": options["blocks"], "min_blocks": 0, "max_blocks": options["blocks"]}
    provider = getattr(providers, PROVIDERS[options["provider"]])(**{**blocks, **given})
    local = options["provider"] == "local"
    executor = HighThroughputExecutor(
        label="alearn",
        provider=provider,
        address=options["address"] or ("127.0.0.1" if local else address_by_hostname()),
        max_workers_per_node=options["workers"],
        cores_per_worker=1e-6,  # their number is set by max_workers_per_node alone
        available_accelerators=[str(gpu) for gpu in options["gpus"]],
        encrypted=True,
        heartbeat_period=max(1, int(options["heartbeat_s"] / 4)),
        heartbeat_threshold=int(options["heartbeat_s"]),
        poll_period=10,
    )
    return Config([executor], run_dir=options["directory"], strategy="simple", usage_tracking=0, exit_mode="cleanup")


def main(arguments: list[str]) -> int:
    """Serve until the launcher closes the socket; returns the exit code."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(arguments[0])
    heard = line.makefile("rb")

    def say(**fact: Any) -> None:
        with contextlib.suppress(OSError):  # the launcher has gone; the end of the line is read next
            line.sendall(json.dumps(fact).encode() + b"\n")

    options = json.loads(heard.readline())
    try:
        import parsl

        kernel = parsl.load(make_config(options))
        run = parsl.python_app(run_member, data_flow_kernel=kernel)
    except Exception as error:
        say(broken=f"{type(error).__name__}: {error}")
        return 1
    executor: Any = kernel.executors["alearn"]

    def leave(*_: object) -> None:
        """Give the blocks back at once: a second later this process is dead."""
        with contextlib.suppress(Exception):
            executor.provider.cancel(list(executor.blocks_to_job_id.values()))
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    say(hello={})
    for said in heard:
        order = json.loads(said)
        for manager in order.get("hold", ()):  # it gets nothing more to do; what runs there goes on
            executor._hold_manager(manager)
        if "run" in order:
            member, attempt, directory, avoided = order["run"]
            run(directory, avoided).add_done_callback(_teller(say, member, attempt))
    kernel.cleanup()
    return 0


def _teller(say: Callable[..., None], member: str, attempt: int) -> Callable[[Any], None]:
    """What tells the launcher that a member's task is over; called in a thread of Parsl's."""

    def tell(future: Any) -> None:
        error = future.exception()
        trouble = "" if error is None else f"{type(error).__name__}: {error}"
        say(over=[member, attempt, trouble, error is None and future.result() == DECLINED])

    return tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
