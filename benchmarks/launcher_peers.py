"""Other engines under the questions of ``launcher.py``, each in the interpreter that has it; no import of alearn here.

    python benchmarks/launcher_peers.py ENGINE figures|hold DEADLINE_S COMMAND...

``figures`` prints lines of JSON, each figure as soon as it is known: seconds until the engine is ready, no-op tasks per second,
milliseconds from submit to running, and from cancel to the end of an external simulation's last process (null: it did not end within
the patience). ``hold`` starts the simulation, prints "up" and waits to be killed. At the deadline the process ends, wherever it hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PATIENCE_S = 4.0
TAG = "BENCH_SIMULATION"


def noop() -> float:
    import time  # some engines ship the function's text alone

    return time.time()


def external(argv: Sequence[str]) -> int:
    import os
    import subprocess

    return subprocess.run(list(argv), env={**os.environ, "BENCH_SIMULATION": os.environ["BENCH_RUN"]}).returncode


def tagged(name: str) -> list[int]:
    """Living processes with this variable of ours in their environment."""
    mark, found = f"{name}={os.environ['BENCH_RUN']}\0".encode(), []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            process = Path("/proc", entry)
            if entry.isdigit() and mark in b"\0" + (process / "environ").read_bytes():
                found += [int(entry)] if (process / "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z" else []
    return found


class Engine:
    """An engine, ready to run functions: ``submit`` returns a handle, ``result`` waits for it, ``cancel`` asks it to end."""

    def __init__(
        self,
        submit: Callable[..., Any],
        result: Callable[[Any], Any],
        cancel: Callable[[Any], Any],
        close: Callable[[], Any],
        rate: int = 300,
        python: bool = True,
    ) -> None:
        self.submit, self.result, self.cancel, self.close, self.rate, self.python = submit, result, cancel, close, rate, python


def dask() -> Engine:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    client = Client(cluster)
    client.submit(noop, pure=False).result()
    return Engine(
        lambda f, *a: client.submit(f, *a, pure=False),
        lambda h: h.result(),
        lambda h: h.cancel(),
        lambda: (client.close(), cluster.close()),
    )


def ray() -> Engine:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tasks = {f: ray.remote(max_retries=0)(f) for f in (noop, external)}
    ray.get(tasks[noop].remote())
    return Engine(lambda f, *a: tasks[f].remote(*a), ray.get, lambda h: ray.cancel(h, force=True), ray.shutdown)


def parsl() -> Engine:
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    executor = HighThroughputExecutor(
        label="b", address="127.0.0.1", max_workers_per_node=2, cores_per_worker=1e-6, provider=LocalProvider(init_blocks=1, max_blocks=1)
    )
    kernel = parsl.load(Config([executor], run_dir=tempfile.mkdtemp(), usage_tracking=0, initialize_logging=False))
    apps = {f: parsl.python_app(f) for f in (noop, external)}
    executor.submit(noop, {}).result()
    return Engine(
        lambda f, *a: executor.submit(f, {}, *a), lambda h: h.result(), lambda h: h.cancel(), lambda: (apps.clear(), kernel.cleanup())
    )


def mpi4py() -> Engine:
    from mpi4py.futures import MPIPoolExecutor

    pool = MPIPoolExecutor()
    pool.submit(noop).result()
    return Engine(pool.submit, lambda h: h.result(), lambda h: h.cancel(), lambda: pool.shutdown(cancel_futures=True), rate=2000)


def submitit() -> Engine:
    from submitit import LocalExecutor

    executor = LocalExecutor(folder=tempfile.mkdtemp())
    executor.update_parameters(timeout_min=5)
    executor.submit(noop).result()
    return Engine(executor.submit, lambda h: h.result(), lambda h: h.cancel(), lambda: None, rate=4)


def libensemble() -> Engine:
    from libensemble.executors import Executor

    os.chdir(tempfile.mkdtemp())
    executor = Executor()

    def register(name: str, words: Sequence[str]) -> None:
        script = Path(name).resolve()  # its arguments are split at every space, so they are written down instead
        script.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n")
        script.chmod(0o755)
        executor.register_app(full_path=str(script), app_name=name)

    register("noop", ["true"])

    def submit(function: Callable[..., Any], *args: Any) -> Any:
        if args:
            os.environ[TAG] = os.environ["BENCH_RUN"]
            register("simulation", args[0])
        return executor.submit(app_name="simulation" if args else "noop")

    return Engine(submit, lambda h: h.wait(), lambda h: h.kill(), lambda: None, rate=100, python=False)


ENGINES: dict[str, Callable[[], Engine]] = {
    "dask": dask, "ray": ray, "parsl": parsl, "mpi4py.futures": mpi4py, "submitit": submitit, "libensemble": libensemble,
}  # fmt: skip


def wait_for(true: Callable[[], Any], seconds: float) -> float | None:
    """Milliseconds until something is true; None if it does not become so."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        if true():
            return round(1000 * (time.perf_counter() - begun), 1)
        time.sleep(0.002)
    return None


def memory_mb() -> float:
    """Proportional memory of the engine's processes, this one included."""
    total = 0
    for pid in tagged("BENCH_RUN"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return round(total / 1024, 1)


def tell(**figures: Any) -> None:
    """Say what is known by now."""
    print(json.dumps(figures), flush=True)


def main() -> None:
    name, mode, deadline_s, *simulation = sys.argv[1:]
    faulthandler.dump_traceback_later(float(deadline_s), exit=True)  # even inside an extension that never returns
    begun = time.perf_counter()
    engine = ENGINES[name]()
    ready = time.perf_counter() - begun
    if mode == "hold":
        engine.submit(external, simulation)
        wait_for(lambda: len(tagged(TAG)) >= 2, 20)
        print("up", flush=True)
        time.sleep(60)
        return
    tell(ready_s=round(ready, 2), memory_mb=memory_mb())
    begun = time.perf_counter()
    for handle in [engine.submit(noop) for _ in range(engine.rate)]:
        engine.result(handle)
    tell(noop_per_s=round(engine.rate / (time.perf_counter() - begun)))
    if engine.python:
        waits = []
        for _ in range(20 if engine.rate > 20 else 3):
            at = time.time()
            waits.append(engine.result(engine.submit(noop)) - at)
        tell(submit_to_running_ms=round(1000 * statistics.median(waits), 1))
    handle = engine.submit(external, simulation)
    wait_for(lambda: len(tagged(TAG)) >= 2, 20)
    time.sleep(0.3)
    running = len(tagged(TAG))
    with contextlib.suppress(Exception):  # an engine that refuses does not end it either
        engine.cancel(handle)
    gone = wait_for(lambda: not tagged(TAG), PATIENCE_S)
    tell(cancel_to_gone_ms=gone, running_before_cancel=running, left_after_cancel=len(tagged(TAG)))
    for pid in tagged(TAG):
        with contextlib.suppress(OSError):
            os.kill(pid, 9)
    with contextlib.suppress(Exception):
        engine.close()


if __name__ == "__main__":
    main()
