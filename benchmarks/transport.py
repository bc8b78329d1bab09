"""How do steps travel? The framed socket with acknowledgements against carriers that promise less.

    python benchmarks/transport.py [--quick] [--json FILE] [--only PART]

Parts: *rate* (MB/s by step size and writers), *pace* (microseconds from ``put`` to the reader's hands when a step comes
every few milliseconds, and the CPU that a step costs the simulation), *solver* (a simulation that writes every step against
the same one that writes nothing), *churn* (64 writers that come and go). Writers are processes, connected before anything is
measured; in each round every carrier has its burst of some tens of milliseconds in turn, so that a busy spell of the machine
meets all of them. Time runs from the signal until the last step is in the reader's hands. The archive is not part of this:
durable, a stream is bound by the disk (benchmarks/ledger_scale.py). Peers are measured where they are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from carriers import ALONE, CARRIERS

OURS, ACKED, RAW = "alearn", "pyzmq acked", "raw Unix socket"
SIZES = {4096: 2000, 65536: 1000, 1 << 20: 150, 16 << 20: 10}
"""bytes a step -> steps of a burst, of all writers together."""
LOADS = [(size, writers) for size in SIZES for writers in (1, 2, 8, 32)]
QUICK_LOADS = [(1 << 20, 1), (65536, 1), (4096, 1), (16 << 20, 1), (65536, 32)]
QUICK_CARRIERS = (OURS, RAW, "pipe", ACKED, "alearn TLS")
MANY_CARRIERS = (*QUICK_CARRIERS, "pyzmq PUSH/PULL")
"""Those that are measured with more than eight writers: all carriers' writers live at the same time."""
SLOW = (".npy files", "Redis list", *ALONE)
"""Carriers that get a tenth of the steps."""
PACE_S = 0.005
WAIT_S = 120.0


class Steps:
    """The steps that a writer sends: one array again and again, in bursts; paced ones carry the time at which they were put."""

    def __init__(self, size: int, count: int, bursts: int, pace_s: float) -> None:
        self.u, self.count, self.bursts, self.pace_s = np.zeros(size, np.uint8), count, bursts, pace_s
        self.cpu_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        self.cpu_s = time.process_time()
        for burst in range(self.bursts):
            if burst:
                sys.stdin.readline()
            for _ in range(self.count):
                if self.pace_s:
                    time.sleep(self.pace_s)
                    self.u[:8].view(np.int64)[0] = time.perf_counter_ns()
                yield self.u


def write(carrier: str, address: str, size: int, count: int, bursts: int, number: int, pace_s: float) -> None:
    """A writer's process; the last line that it says is its CPU time while it sent, in seconds a step."""
    steps = Steps(size, count, bursts, pace_s)
    CARRIERS[carrier][1](address, steps, count * bursts, number)
    print((time.process_time() - steps.cpu_s) / count / bursts, flush=True)


class Race:
    """One carrier with its writers connected: bursts of steps, whenever they are asked for."""

    def __init__(self, carrier: str, size: int, writers: int, count: int, bursts: int, pace_s: float = 0.0) -> None:
        self.carrier, self.size, self.writers, self.count, self.pace_s = carrier, size, writers, count, pace_s
        self.late: list[int] = []
        self.rates: list[float] = []
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.reader = CARRIERS[carrier][0](self.folder.name, size)
        argv = [sys.executable, __file__, "--writer", carrier, self.reader.address(writers), str(size), str(count), str(bursts)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen([*argv, str(n), str(pace_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
            for n in range(writers)
        ]
        self.reader.connected(writers)
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", f"a writer of {carrier} did not connect"

    def see(self, step: Any) -> None:
        array = np.frombuffer(step, np.uint8)
        assert array.nbytes == self.size
        if self.pace_s:
            self.late.append(time.perf_counter_ns() - int(array[:8].view(np.int64)[0]))

    def burst(self) -> None:
        signal.signal(signal.SIGALRM, self.late_burst)
        signal.alarm(int(WAIT_S))
        began = time.perf_counter()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        self.reader.take(self.writers, self.count, self.see)
        signal.alarm(0)
        self.rates.append(self.size * self.count * self.writers / (time.perf_counter() - began) / 1e6)

    def late_burst(self, number: int, frame: Any) -> None:
        raise TimeoutError(f"{self.carrier} did not deliver {self.count} steps of {self.writers} writers in {WAIT_S:.0f} s")

    def end(self) -> dict[str, Any]:
        """MB/s of each burst, CPU microseconds a step at the writer, and latencies in microseconds."""
        said = [process.communicate("done\n", timeout=WAIT_S)[0] for process in self.processes]
        if any(process.returncode for process in self.processes):
            raise RuntimeError(f"a writer of {self.carrier} ended with {[process.returncode for process in self.processes]}")
        found = {"runs_mb_s": self.rates, "cpu_us": 1e6 * statistics.median(float(s.split()[-1]) for s in said)}
        if self.late:
            found |= {"median_us": float(np.median(self.late)) / 1e3, "p99_us": float(np.percentile(self.late, 99)) / 1e3}
        return found

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.reader.close()
        self.folder.cleanup()


def memcpy_mb_s(size: int) -> float:
    """The limit: one copy within a process."""
    a, b = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    count = max(3, (256 << 20) // size)
    began = time.perf_counter()
    for _ in range(count):
        np.copyto(b, a)
    return size * count / (time.perf_counter() - began) / 1e6


def compare(size: int, writers: int, carriers: list[str], rounds: int, pace_s: float = 0.0) -> list[dict[str, Any]]:
    """A row for each carrier. All are connected at the same time, and in each round each has its burst in turn."""
    found: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as last:
        races = []
        for carrier in carriers:
            count = 100 if pace_s else max(2, SIZES[size] // writers // (10 if carrier in SLOW else 1))
            races.append(Race(carrier, size, writers, count, rounds, pace_s))
            last.callback(races[-1].close)
        copies = []
        for _ in range(rounds):
            for race in races:
                race.burst()
            copies.append(memcpy_mb_s(size))
        found = {race.carrier: race.end() for race in races}
    found["memcpy"] = {"runs_mb_s": copies, "cpu_us": 0.0}
    rows = []
    for carrier, row in found.items():
        ratio = statistics.median(a / b for a, b in zip(found[OURS]["runs_mb_s"], row["runs_mb_s"], strict=True))
        about = {"carrier": carrier, "bytes": size, "writers": writers, "rounds": rounds}
        rows.append({**about, **row, "mb_s": statistics.median(row["runs_mb_s"]), "alearn_over_it": ratio})
    return rows


def rate(quick: bool, size: int | None = None) -> list[dict[str, Any]]:
    rows = []
    for size, writers in [load for load in (QUICK_LOADS if quick else LOADS) if size in (None, load[0])]:
        carriers = [c for c in CARRIERS if (not quick or c in QUICK_CARRIERS) and (writers == 1 or c not in ALONE)]
        if writers > 8:
            wanted = (OURS, ACKED if ACKED in CARRIERS else RAW) if quick else MANY_CARRIERS
            carriers = [c for c in carriers if c in wanted]
        for row in compare(size, writers, carriers, 15):
            rows.append(row)
            low, _, high = statistics.quantiles(row["runs_mb_s"], n=4)
            print(
                f"{size >> 10:6d} KB x {writers:2d}  {row['carrier']:16s} {row['mb_s']:7.0f} MB/s (quartiles {low:6.0f} - {high:6.0f})  "
                f"ours / it {row['alearn_over_it']:6.2f}  {row['cpu_us']:8.1f} us CPU a step at the writer",
                flush=True,
            )
    return rows


def pace(quick: bool) -> list[dict[str, Any]]:
    rows = []
    for size in (4096,) if quick else (4096, 1 << 20):
        carriers = [c for c in CARRIERS if not quick or c in QUICK_CARRIERS]
        for row in compare(size, 1, carriers, 4 if quick else 10, PACE_S):
            if row["carrier"] == "memcpy":
                continue
            rows.append(row)
            print(
                f"{size >> 10:6d} KB every {1e3 * PACE_S:g} ms  {row['carrier']:16s} {row['median_us']:8.0f} us median "
                f"{row['p99_us']:8.0f} us 99 %  {row['cpu_us']:8.1f} us CPU a step at the writer (its pacing is part of it)",
                flush=True,
            )
    return rows


SOLVER = """
import json, sys, time
import numpy as np
from alearn.client import connect
environ, steps = json.loads(sys.argv[1]), int(sys.argv[2])
u = np.random.default_rng(1).random((362, 362))
with connect(environ=environ) as run:
    run.announce(u=u)
    began, cpu = time.perf_counter(), time.process_time()
    for n in range(steps):
        for _ in range(50):
            u[1:-1, 1:-1] += 0.2 * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] - 4 * u[1:-1, 1:-1])
        if environ:
            run.put(t=n, u=u)
    print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]))
"""


def solver(quick: bool) -> dict[str, Any]:
    """A stencil of 362 x 362 doubles (1 MB) that writes every 50 sweeps, against the same one that writes nothing."""
    from alearn.transport import SocketReader
    from alearn.types import Sample

    steps, walls, cpus = 60, [], []
    for _ in range(5 if quick else 15):
        took = {}
        for writes in (True, False):
            reader = SocketReader()
            environ = dict(reader.address("m0001", 1)) if writes else {}
            argv = [sys.executable, "-c", SOLVER, json.dumps(environ), str(steps)]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
                while process.poll() is None:
                    last = {(m.member, m.attempt): m.step + 1 if isinstance(m, Sample) else 0 for m in reader.poll(0.01)}
                    for key, count in last.items():
                        reader.acknowledge(*key, count)
                assert process.stdout is not None
                took[writes] = json.loads(process.stdout.read())
            reader.close()
        walls.append(took[True][0] / took[False][0] - 1)
        cpus.append(took[True][1] / took[False][1] - 1)
    row: dict[str, Any] = {"wall": statistics.median(walls), "cpu": statistics.median(cpus), "walls": walls, "cpus": cpus}
    print(
        f"a solver that writes 1 MB every 50 sweeps: {100 * row['wall']:+.1f} % wall time, {100 * row['cpu']:+.1f} % CPU time", flush=True
    )
    return row


def churn(quick: bool) -> dict[str, Any]:
    """64 writers that come, write two steps and go, a thousand times in all: what the reader is left with."""
    from alearn.client import connect
    from alearn.transport import SocketReader
    from alearn.types import Sample

    reader = SocketReader()
    done = threading.Event()

    def visits(first: int, count: int) -> None:
        for number in range(first, first + count):
            with connect(environ=reader.address(f"m{number:05d}", 1)) as run:
                run.put(t=0.0, u=np.ones(8192))
                run.put(t=1.0, u=np.ones(8192))

    def serve() -> None:
        while not done.is_set():
            last = {(m.member, m.attempt): m.step + 1 if isinstance(m, Sample) else 0 for m in reader.poll(0.01) if m.member}
            for key, count in last.items():
                reader.acknowledge(*key, count)

    def crowd(first: int, each: int) -> dict[str, int]:
        threads = [threading.Thread(target=visits, args=(first + n * each, each)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.2)
        gc.collect()
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(), "memory": memory}

    server = threading.Thread(target=serve)
    server.start()
    before = crowd(0, 4)
    began = time.perf_counter()
    after = crowd(256, 16)
    took = time.perf_counter() - began
    done.set()
    server.join()
    reader.close()
    row = {"before": before, "after": after, "visits": 1024, "seconds": took}
    grown = (after["memory"] - before["memory"]) / 1e6
    print(
        f"1,024 visits by 64 writers at a time in {took:.1f} s: descriptors {before['descriptors']} -> {after['descriptors']}, "
        f"threads {before['threads']} -> {after['threads']}, memory {grown:+.1f} MB",
        flush=True,
    )
    return row


PARTS = {"rate": rate, "pace": pace, "solver": solver, "churn": churn}


def sentence(found: dict[str, Any]) -> str:
    said = []
    for row in found.get("rate", []):
        if row["carrier"] == ACKED or (row["carrier"] == RAW and row["bytes"] == 1 << 20):
            many = "s" * (row["writers"] > 1)
            said.append(f"{row['alearn_over_it']:.2f} x {row['carrier']} at {row['bytes'] >> 10} KB with {row['writers']} writer{many}")
    for row in found.get("pace", []):
        if row["carrier"] == OURS:
            said.append(
                f"{row['median_us']:.0f} us from put to buffer (99 %: {row['p99_us']:.0f}) for paced steps of {row['bytes'] >> 10} KB"
            )
    if "solver" in found:
        said.append(f"{100 * found['solver']['wall']:+.1f} % wall time of a solver that writes every step")
    if "churn" in found:
        row = found["churn"]
        more = [row["after"][key] - row["before"][key] for key in ("descriptors", "threads")]
        said.append(f"{more[0]:+d} descriptors and {more[1]:+d} threads after {row['visits']:,} visits by 64 writers at a time")
    return f"The framed socket with acknowledgements: {', '.join(said)} (medians of interleaved rounds)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds, within five minutes")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--bytes", type=int, choices=SIZES, help="the rate of steps of this size only")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--writer", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        carrier, address, size, count, bursts, number, pace_s = options.writer
        write(carrier, address, int(size), int(count), int(bursts), int(number), float(pace_s))
        return
    if options.bytes is not None:
        found: dict[str, Any] = {"rate": rate(options.quick, options.bytes)}
    else:
        found = {name: part(options.quick) for name, part in PARTS.items() if options.only in (None, name)}
    about = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg(), "carriers": sorted(CARRIERS)}
    if options.json:
        Path(options.json).write_text(json.dumps({"about": about, **found}, indent=1))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(sentence(found))


if __name__ == "__main__":
    main()
