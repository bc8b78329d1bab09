"""How fast the local launcher starts members, and whether anything survives when they are ended.

    python benchmarks/launcher.py [--quick] [--json FILE] [--peers PYTHON]

PYTHON is an interpreter of its own environment with libensemble, distributed, mpi4py and mpich, submitit, parsl and ray, as far as they
shall be asked (launcher_peers.py).

Figures: no-op programs per second, submit to running, cancel to the exit report of a simulation with a child that ignores
SIGTERM, survivors of a `kill -9` of the controller and the time until they are gone, and what a supervisor costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alearn.launcher import Job, LocalLauncher, proctree, supervisor
from alearn.simulation import PythonSimulation
from alearn.testing.launcher import with_variable

CHILD = "import signal, time; signal.signal(15, 1); time.sleep(60)"
FAMILY = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {CHILD!r}]); print('up', flush=True); time.sleep(60)"
POLITE = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); time.sleep(60)"
PEERS = {
    "libensemble": "libensemble", "dask": "distributed", "mpi4py.futures": "mpi4py", "submitit": "submitit", "parsl": "parsl", "ray": "ray",
}  # fmt: skip
CONTROLLER = """
import sys, time
from pathlib import Path
from alearn.launcher import Job, LocalLauncher
root = Path(sys.argv[1])
launcher = LocalLauncher(slots=4, oversubscribe=True)
for n in range(4):
    launcher.submit(Job(f"m{n}", 1, (sys.executable, "-S", "-c", sys.argv[2]), root / f"m{n}", {"BENCH": str(root)}))
logs = [root / f"m{n}" / "stdout.log" for n in range(4)]
while not all(log.exists() and log.read_text() for log in logs): time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""


OURS = """
import json, os, sys, time
begun = time.perf_counter()
from pathlib import Path
from alearn.launcher import Job, LocalLauncher, proctree
root = Path(sys.argv[1])
with LocalLauncher(slots=2, oversubscribe=True) as launcher:
    launcher.submit(Job("first", 1, ("true",), root / "first"))
    while not launcher.poll(): launcher.wait(10)
    ready = time.perf_counter() - begun
    for n in range(2): launcher.submit(Job(f"m{n}", 1, ("sleep", "60"), root / f"m{n}"))
    while len(launcher.pids()) < 2: time.sleep(0.01)
    pids = [os.getpid(), *proctree.descendants(os.getpid())]
    size = lambda pid: int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("Pss:")[2].split()[0])
    simulations = set(launcher.pids().values())
    print(json.dumps({"ready_s": round(ready, 2), "memory_mb": round(sum(size(p) for p in pids if p not in simulations) / 1024, 1)}))
"""


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 5th and 95th percentile in milliseconds."""
    ordered = sorted(1000 * s for s in seconds)
    pick = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)  # noqa: E731
    return {"median_ms": round(statistics.median(ordered), 2), "p5_ms": pick(0.05), "p95_ms": pick(0.95), "n": len(ordered)}


def rate(root: Path, n: int, slots: int) -> float:
    """No-op external programs per second."""
    with LocalLauncher(slots=slots, oversubscribe=True) as launcher:
        started = ended = 0
        begun = time.perf_counter()
        while ended < n:
            while started < n and started - ended < slots:
                launcher.submit(Job(f"r{started}", 1, ("true",), root / f"r{started}"))
                started += 1
            launcher.wait(10)
            ended += len(launcher.poll())
        return n / (time.perf_counter() - begun)


def disk_us(root: Path, n: int = 500) -> dict[str, float]:
    """What the file system takes for a directory and for a file: on some, most of what a quick member costs."""
    root.mkdir()
    begun = time.perf_counter()
    for i in range(n):
        os.mkdir(root / str(i))
    made = time.perf_counter()
    for i in range(n):
        (root / str(i) / "file").write_bytes(b"x" * 200)
    return {"directory_us": round(1e6 * (made - begun) / n, 1), "file_us": round(1e6 * (time.perf_counter() - made) / n, 1)}


def warm_rate(root: Path, n: int, slots: int, reuse: int) -> float:
    """No-op Python members per second in warm processes that run ``reuse`` members each; 0 is without them."""
    (root / "noop.py").write_text("def run():\n    return {'y': 1.0}\n")
    command = PythonSimulation(f"{root}/noop.py:run").command({})
    with LocalLauncher(slots=slots, oversubscribe=True, warm=reuse > 0, reuse=max(1, reuse)) as launcher:

        def run(prefix: str, n: int) -> float:
            started = ended = 0
            begun = time.perf_counter()
            while ended < n:
                while started < n and started - ended < slots:
                    name = f"{prefix}{started}"
                    launcher.submit(Job(name, 1, command.argv, root / name, command.env, warm=command.warm))
                    started += 1
                launcher.wait(10)
                for gone in launcher.poll():
                    assert gone.cause == "done", gone
                    ended += 1
            return n / (time.perf_counter() - begun)

        run("warmup", 4 * slots)
        return run("w", n)


def warm_latency(root: Path, n: int) -> list[float]:
    """Seconds from submit until a Python function runs in a warm process."""
    root.mkdir()
    (root / "stamp.py").write_text(
        f"import time\ndef run():\n    open('{root}/at', 'w').write(str(time.time()))\n    return {{'y': 1.0}}\n"
    )
    command = PythonSimulation(f"{root}/stamp.py:run").command({})
    out = []
    with LocalLauncher(slots=1, warm=True, reuse=n + 1) as launcher:
        for i in range(n + 1):
            begun = time.time()
            launcher.submit(Job(f"s{i}", 1, command.argv, root / f"s{i}", command.env, warm=command.warm))
            launcher.wait(10)
            launcher.poll()
            out.append(float((root / "at").read_text()) - begun)
    return out[1:]  # the first one imports the function


def peers(python: Path, patience_s: float) -> dict[str, Any]:
    """The same questions to other engines, each in the interpreter that has them."""
    script = str(Path(__file__).with_name("launcher_peers.py"))
    found: dict[str, Any] = {}
    for name, package in PEERS.items():
        probe = [str(python), "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
        version = subprocess.run(probe, capture_output=True, text=True, check=False).stdout.strip()
        if not version:
            found[name] = {"skipped": f"{package} is not installed for {python}"}
            continue
        simulation = [str(python), "-S", "-c", POLITE]
        figures = ask_peer(python, [script, name, "figures", f"{patience_s:g}", *simulation], patience_s)
        found[name] = {"version": version, **figures}
        for victim in ("worker", "controller"):
            words = [script, name, "hold", f"{patience_s + 30:g}", *simulation]
            found[name][f"after_kill_9_of_the_{victim}"] = kill_peer(python, words, victim, patience_s)
    return found


def peer_command(python: Path, words: list[str]) -> list[str]:
    if words[1] == "mpi4py.futures":
        return [str(python.with_name("mpiexec")), "-bind-to", "none", "-n", "3", str(python), "-m", "mpi4py.futures", *words]
    return [str(python), *words]


def ask_peer(python: Path, words: list[str], patience_s: float) -> dict[str, Any]:
    """The figures that a peer prints until its end or its deadline, and what is missing."""
    run = f"peer.{os.getpid()}.{words[1]}"
    figures: dict[str, Any] = {}
    with tempfile.TemporaryFile() as heard:
        process = subprocess.Popen(
            peer_command(python, words),
            stdout=heard,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "BENCH_RUN": run},
        )
        try:
            code: int | None = process.wait(patience_s + 2)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_all(run)
            process.kill()
            process.wait()
        heard.seek(0)
        for line in heard.read().decode("utf-8", "replace").splitlines():
            if line.startswith("{"):
                figures |= json.loads(line)
    if "left_after_cancel" not in figures:
        why = f"its deadline of {patience_s:g} s" if code is None or code == 1 else f"code {code}"
        figures["incomplete"] = f"it ended by {why} after {list(figures)[-1] if figures else 'nothing'}"
    return figures


def kill_peer(python: Path, words: list[str], victim: str, patience_s: float) -> dict[str, Any]:
    """Kill the worker or the controller of a running simulation with a child, and count what lives five seconds later."""
    run = f"peer.{os.getpid()}.{words[1]}.{victim}"
    process = subprocess.Popen(
        peer_command(python, words),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "BENCH_RUN": run},
    )
    assert process.stdout is not None
    try:
        until, said = time.monotonic() + patience_s, b""
        while b"up\n" not in said:
            left = until - time.monotonic()
            piece = os.read(process.stdout.fileno(), 4096) if left > 0 and select.select([process.stdout], [], [], left)[0] else b""
            if not piece:
                return {"skipped": f"its simulation did not run within {patience_s:g} s"}
            said += piece
        simulation = with_variable("BENCH_SIMULATION", run)
        mains = [pid for pid in simulation if proctree.parent(pid) not in simulation]
        os.kill(proctree.parent(mains[0]) if victim == "worker" else process.pid, signal.SIGKILL)
        time.sleep(5.0)
        left = set(with_variable("BENCH_SIMULATION", run))
        return {"of_the_simulation": len(left), "of_the_engine": len(set(with_variable("BENCH_RUN", run)) - left)}
    finally:
        end_all(run)
        process.kill()
        process.wait()
        process.stdout.close()


def end_all(run: str) -> None:
    """Kill everything that carries this run's name."""
    until = time.monotonic() + 10.0
    while (pids := with_variable("BENCH_RUN", run)) and time.monotonic() < until:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def ours(root: Path) -> dict[str, Any]:
    """Seconds until the local launcher has run its first program, import included, and the memory of its processes with two members."""
    out = subprocess.run([sys.executable, "-c", OURS, str(root)], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(out))


def worker_killed(root: Path) -> dict[str, int]:
    """Kill the supervisor of a member with a stubborn child and count what lives five seconds later, as for the peers."""
    with LocalLauncher(slots=1) as launcher:
        argv = (sys.executable, "-S", "-c", FAMILY)
        launcher.submit(Job("m", 1, argv, root / "m", {"BENCH_WORKER": str(root)}))
        while len(with_variable("BENCH_WORKER", str(root))) < 2:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(proctree.parent(next(iter(launcher.pids().values()))), signal.SIGKILL)
        launcher.wait(10)
        launcher.poll()
        time.sleep(5.0)
        return {"of_the_simulation": len(with_variable("BENCH_WORKER", str(root)))}


def table(result: dict[str, Any]) -> str:
    """The peers beside us, as Markdown."""
    head = (
        "engine",
        "ready s",
        "MB",
        "no-op/s",
        "to running ms",
        "cancelled, gone ms",
        "left: cancel",
        "worker killed",
        "controller killed",
    )
    supervised, warm = result["engine"], result["no_op_python_members_per_s_warm"]["reuse=1000000"]
    plain = result["cancel_to_gone_with_child"]["median_ms"]
    rows = [
        ("alearn, local", supervised["ready_s"], supervised["memory_mb"],
         f"{max(warm)} warm, {max(result['no_op_programs_per_s'])} programs", result["submit_to_running"]["median_ms"], plain, 0,
         result["kill_9_of_a_supervisor"]["of_the_simulation"], result["kill_9_of_the_controller"]["survivors"])
    ]  # fmt: skip
    for name, peer in result["peers"].items():
        if "skipped" in peer:
            rows.append((name, peer["skipped"], *[""] * 7))
            continue
        left = [peer[f"after_kill_9_of_the_{victim}"] for victim in ("worker", "controller")]
        lived = [f"{one['of_the_simulation']} + {one['of_the_engine']}" if "of_the_engine" in one else one["skipped"] for one in left]
        gone = "never" if peer.get("cancel_to_gone_ms") is None else peer["cancel_to_gone_ms"]
        figures = [peer.get(key, "–") for key in ("ready_s", "memory_mb", "noop_per_s", "submit_to_running_ms")]
        rows.append((f"{name} {peer['version']}", *figures, peer.get("incomplete", gone), peer.get("left_after_cancel", "–"), *lived))
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines)


def latency(root: Path, n: int) -> list[float]:
    """Seconds from submit until the program's exec has succeeded, as the controller learns it."""
    out = []
    with LocalLauncher(slots=1) as launcher:
        for i in range(n + 1):
            begun = time.perf_counter()
            launcher.submit(Job(f"l{i}", 1, ("sleep", "60"), root / f"l{i}"))
            while not launcher.pids():
                pass
            out.append(time.perf_counter() - begun)
            launcher.cancel(f"l{i}", 1)
            launcher.wait(10)
            launcher.poll()
    return out[1:]  # the first one starts the nurse


def cancel(root: Path, n: int, argv: tuple[str, ...], grace_s: float) -> list[float]:
    """Seconds from cancel until the tree is gone and the slot is free."""
    out = []
    with LocalLauncher(slots=1) as launcher:
        for i in range(n):
            log = root / f"c{i}" / "stdout.log"
            launcher.submit(Job(f"c{i}", 1, argv, root / f"c{i}"))
            while not (log.exists() and log.read_text()):
                time.sleep(0.01)
            begun = time.perf_counter()
            launcher.cancel(f"c{i}", 1, grace_s)
            launcher.wait(20)
            out.append(time.perf_counter() - begun)
            launcher.poll()
    return out


def orphaned(root: Path) -> dict[str, Any]:
    """Kill the controller of four members with stubborn children and count what is left."""
    controller = subprocess.Popen([sys.executable, "-c", CONTROLLER, str(root), FAMILY], stdout=subprocess.PIPE)
    assert controller.stdout is not None
    controller.stdout.readline()
    before = len(with_variable("BENCH", str(root)))
    controller.kill()
    begun = time.perf_counter()
    while (left := len(with_variable("BENCH", str(root)))) and time.perf_counter() - begun < 10:
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    controller.wait()
    controller.stdout.close()
    return {"processes": before, "survivors": left, "gone_after_s": round(seconds, 3)}


def one_supervisor(n: int) -> dict[str, Any]:
    """What a supervisor costs by itself (interpreter included), and what the nurse and its forks take."""
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        spec = {"member": "m", "attempt": 1, "argv": ["true"], "directory": name, "tag": f"bench.{os.getpid()}"}
        for _ in range(n):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-S", "-E", "-s", supervisor.__file__, "-"], input=json.dumps(spec).encode(), check=True)
            seconds.append(time.perf_counter() - begun)
        with LocalLauncher(slots=1) as launcher:
            launcher.submit(Job("m", 1, ("sleep", "60"), Path(name) / "m"))
            while not launcher.pids():
                time.sleep(0.01)
            forked = proctree.parent(next(iter(launcher.pids().values())))
            sizes = {"nurse": proctree.parent(forked), "forked_supervisor": forked}
            memory = {f"{who}_{kind}_mb": memory_mb(pid, kind) for who, pid in sizes.items() for kind in ("rss", "pss")}
    return {"start_run_true_end": spread(seconds), **memory}


def make(name: str, root: Path) -> str:
    """Make a folder and return its name."""
    (root / name).mkdir()
    return name


def memory_mb(pid: int, kind: str) -> float:
    """Resident (rss) or proportional (pss) memory of a process, MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.lower().startswith(kind + ":"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"The kernel gives no {kind} for process {pid}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--peers", type=Path, help="an interpreter with the other engines")
    options = parser.parse_args()
    n = 20 if options.quick else 100
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rates = [rate(root / f"rate{i}", 15 * n, 4) for i in range(3)]
        (root / "warm").mkdir()
        warm = {
            f"reuse={reuse}": [round(warm_rate(root / "warm" / make(f"{reuse}.{i}", root / "warm"), count, 4, reuse)) for i in range(3)]
            for reuse, count in ((0, n), (1, 5 * n), (10**6, 50 * n))
        }
        stubborn, plain = (sys.executable, "-S", "-c", FAMILY), ("sh", "-c", "echo up; sleep 60")
        result = {
            "load": os.getloadavg()[0],
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "no_op_programs_per_s": [round(r) for r in rates],
            "no_op_python_members_per_s_warm": warm,
            "file_system": disk_us(root / "disk"),
            "submit_to_running_warm": spread(warm_latency(root / "stamps", n)),
            "submit_to_running": spread(latency(root / "latency", n)),
            "cancel_to_gone_with_child": spread(cancel(root / "plain", n, plain, 2.0)),
            "cancel_to_gone_child_ignores_sigterm_grace_0": spread(cancel(root / "stubborn", n, stubborn, 0.0)),
            "kill_9_of_the_controller": orphaned(root / "orphaned"),
            "kill_9_of_a_supervisor": worker_killed(root / "worker"),
            "supervisor": one_supervisor(n),
            "engine": ours(root / "ours"),
            "peers": peers(options.peers, 60.0) if options.peers else {},
            "load_at_the_end": os.getloadavg()[0],
        }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    print(
        f"The local launcher starts {max(result['no_op_programs_per_s'])} programs/s at best and "
        f"{max(result['no_op_python_members_per_s_warm']['reuse=1000000'])} Python members/s in warm processes, a member runs "
        f"{result['submit_to_running']['median_ms']} ms after submit, a cancelled one with a child is gone after "
        f"{result['cancel_to_gone_with_child']['median_ms']} ms, and kill -9 of the controller leaves "
        f"{result['kill_9_of_the_controller']['survivors']} of {result['kill_9_of_the_controller']['processes']} processes."
    )


if __name__ == "__main__":
    main()
