"""What does ADIOS2's SST cost when alearn reads it? Against the plain Python API and against SST alone.

    python benchmarks/adios.py [--quick] [--json FILE]

Writers are processes that use ADIOS2 alone and know nothing of alearn. Latency: a step every 30 ms, from before the
writer's put until its array is in the reader's hands. Throughput: steps as fast as they go, from the first to the last
that arrives; the peer is a loop over ADIOS2's bindings into one array. Both run in turn within each round. Then:
launches of 32 simulations at a time (hangs, crashes, lost steps), growth of memory over what two streams at a time
bring, and streams that come and go (file descriptors, threads, memory).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alearn.transport.adios.library import load_bindings
from alearn.transport.adios_sst import adios_sst
from alearn.transport.base import Broken, End, Hello
from alearn.types import Sample

WRITING = {"RendezvousReaderCount": "1", "QueueLimit": "3", "QueueFullPolicy": "Block"}
PACE_S = 0.03
WAIT_S = 180.0
SMALL = 4096


# -- writers and the peers' readers, in processes of their own ---------------------------------------------


def write(name: str, size: int, steps: int, pause_s: float) -> None:
    """Stream ``steps`` arrays of ``size`` bytes whose first number is the time at which they were put."""
    b = load_bindings()
    adios = b.ADIOS()
    io = adios.DeclareIO("writer")
    io.SetEngine("SST")
    io.SetParameters(WRITING)
    u = np.zeros(size // 8)
    variable = io.DefineVariable("u", u, list(u.shape), [0], list(u.shape), True)
    engine = io.Open(name, b.Mode.Write)
    for _ in range(steps):
        engine.BeginStep()
        u[0] = time.monotonic()
        engine.Put(variable, u, b.Mode.Deferred)
        engine.EndStep()
        time.sleep(pause_s)
    engine.Close()


def fork_writers(folder: str, writers: int, size: int, steps: int, pause_s: float) -> int:
    """Many writers, each in a directory of its own; returns how many ended badly."""
    load_bindings()
    children = []
    for number in range(writers):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.chdir(Path(folder) / str(number))
                write("out", size, steps, pause_s)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in children)


def read_plainly(name: str) -> list[float]:
    """ADIOS2's own Python API, as its tutorial shows it; returns seconds from put to array."""
    load_bindings()
    import adios2

    found = []
    io = adios2.Adios().declare_io("reader")
    io.set_engine("SST")
    with adios2.Stream(io, name, "r") as stream:
        for _ in stream.steps():
            u = stream.read("u")
            found.append(time.monotonic() - float(u[0]))
    return found


def read_alone(name: str) -> list[float]:
    """A loop over the bindings into one array; returns when each step was there."""
    b = load_bindings()
    adios = b.ADIOS()
    io = adios.DeclareIO("reader")
    io.SetEngine("SST")
    while not Path(name + ".sst").exists():
        time.sleep(0.001)
    engine = io.Open(name, b.Mode.Read)
    found, u = [], np.zeros(0)
    while engine.BeginStep(b.StepMode.Read, -1.0) == b.StepStatus.OK:
        variable = io.InquireVariable("u")
        if not u.size:
            u = np.zeros(variable.Shape())
        engine.Get(variable, u, b.Mode.Deferred)
        engine.PerformGets()
        engine.EndStep()
        found.append(time.monotonic())
    engine.Close()
    return found


def aside(*words: object, folder: str = ".") -> subprocess.Popen[str]:
    argv = [sys.executable, "-P", str(Path(__file__).absolute()), *map(str, words)]
    return subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


# -- ours --------------------------------------------------------------------------------------------------


class Learner:
    """Our reader with ``writers`` members announced, each in a directory of its own below ``folder``."""

    def __init__(self, folder: str, writers: int = 1) -> None:
        self.reader = adios_sst(drain_s=20.0)
        self.folder = folder
        self.samples = self.ends = 0
        self.broken: list[str] = []
        self.announce(range(writers))

    def announce(self, numbers: range) -> None:
        for number in numbers:
            self.reader.follow(f"m{number:04d}", 1, {}, Path(self.folder) / str(number))
            self.reader.address(f"m{number:04d}", 1)

    def poll(self) -> list[Sample]:
        """The samples that arrived; everything is acknowledged."""
        found = []
        for message in self.reader.poll(0.05):
            match message:
                case Sample():
                    found.append(message)
                    self.reader.acknowledge(message.member, 1, message.step + 1)
                case Hello():
                    self.reader.acknowledge(message.member, 1, 0)
                case End():
                    self.ends += 1
                case Broken():
                    self.broken.append(f"{message.member}: {message.reason}")
        self.samples += len(found)
        return found

    def until_over(self, writers: int) -> None:
        until = time.monotonic() + WAIT_S
        while self.ends + len(self.broken) < writers and time.monotonic() < until:
            self.poll()


def latency_ours(steps: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        learner = Learner(folder)
        writer = aside("write", "out", SMALL, steps, PACE_S, folder=folder + "/0")
        found: list[float] = []
        while not learner.ends:
            for sample in learner.poll():
                found.append(time.monotonic() - float(sample.values["u"][0]))
        finish(writer)
        learner.reader.close()
    return found


def latency_plain(steps: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        writer = aside("write", "out", SMALL, steps, PACE_S, folder=folder)
        found: list[float] = json.loads(finish(aside("plain", "out", folder=folder)))
        finish(writer)
    return found


def throughput_ours(size: int, steps: int) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        learner = Learner(folder)
        writer = aside("write", "out", size, steps, 0, folder=folder + "/0")
        times: list[float] = []
        while not learner.ends:
            times += [time.monotonic()] * len(learner.poll())
        finish(writer)
        learner.reader.close()
    return rate(times, size)


def throughput_alone(size: int, steps: int) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        writer = aside("write", "out", size, steps, 0, folder=folder)
        times: list[float] = json.loads(finish(aside("alone", "out", folder=folder)))
        finish(writer)
    return rate(times, size)


def rate(times: list[float], size: int) -> float:
    """MB/s between the first and the last step that arrived."""
    return (len(times) - 1) * size / (times[-1] - times[0]) / 1e6


def finish(process: subprocess.Popen[str]) -> str:
    try:
        out, _ = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError(f"a process of the benchmark ended with {process.returncode}")
    return out


def launch(writers: int, steps: int) -> dict[str, Any]:
    """All members of a launch at a time: how long, and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        learner = Learner(folder, writers)
        began = time.monotonic()
        program = aside("fork", folder, writers, SMALL, steps, 0.01)
        learner.until_over(writers)
        took = time.monotonic() - began
        hung = writers - learner.ends - len(learner.broken)
        if hung:
            program.kill()
        bad = hung or int(finish(program))
        learner.reader.close()
    return {
        "seconds": took,
        "hangs": hung,
        "broken": learner.broken,
        "writers_failed": bad,
        "steps_missing": writers * steps - learner.samples,
    }


# -- memory, descriptors, threads --------------------------------------------------------------------------


def tree(root: int) -> list[int]:
    """A process and all below it, but not those that simulate."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split() if b"benchmarks" not in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


def used(pids: list[int]) -> dict[str, float]:
    """What these processes hold together: private MB, file descriptors, threads."""
    private = descriptors = threads = 0.0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Dirty", "Private_Clean")):
                private += int(line.split()[1]) / 1024
        descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        threads += len(os.listdir(f"/proc/{pid}/task"))
    return {"private_mb": private, "descriptors": descriptors, "threads": threads}


def growth(total_mb: int, size: int = 1 << 20) -> dict[str, float]:
    """Growth of learner, nurse and reader processes while two streams at a time bring so much, from a tenth of it on."""
    steps = total_mb * 1_000_000 // size // 2
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        learner = Learner(folder, 2)
        program = aside("fork", folder, 2, size, steps, 0)
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        looked = 0
        while learner.ends < 2:
            learner.poll()
            if learner.samples > 2 * steps // 10 and not first:
                first = used(tree(os.getpid()))
            elif first and learner.samples - looked > steps // 10 and learner.samples < 2 * steps - 20:
                looked, last = learner.samples, used(tree(os.getpid()))
        finish(program)
        learner.reader.close()
    return {"read_mb": 2 * steps * size / 1e6, "growth_mb": last["private_mb"] - first["private_mb"]}


def churn(times: int, writers: int) -> dict[str, Mapping[str, float]]:
    """Streams that come and go: what learner and nurse hold after the first and after the last batch."""
    seen = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        learner = Learner(folder, 0)
        for batch in range(times):
            numbers = range(batch * writers, (batch + 1) * writers)
            learner.announce(numbers)
            place = Path(folder) / f"batch{batch}"
            place.mkdir()
            for k, number in enumerate(numbers):
                (place / str(k)).symlink_to(Path(folder) / str(number))
            program = aside("fork", place, writers, SMALL, 3, 0)
            learner.until_over((batch + 1) * writers)
            finish(program)
            for number in numbers:
                learner.reader.ended(f"m{number:04d}", 1)
            for _ in range(5):
                learner.poll()
            for number in numbers:
                shutil.rmtree(Path(folder) / str(number))
            seen.append(used(tree(os.getpid())))
        learner.reader.close()
    return {"first": seen[0], "last": seen[-1]}


# -- the whole ---------------------------------------------------------------------------------------------


def percent(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def latency(quick: bool, launches: int) -> tuple[dict[str, Any], str]:
    """A 4 KB step every 30 ms, by us and by the plain Python API in turn."""
    ours: list[list[float]] = []
    plain: list[list[float]] = []
    for _ in range(3 if quick else 7):
        ours.append(latency_ours(60 if quick else 200))
        plain.append(latency_plain(60 if quick else 200))
    out: dict[str, Any] = {}
    for name, runs in (("alearn", ours), ("plain API", plain)):
        every = [1e3 * x for run in runs for x in run]
        out[name] = {"median": statistics.median(every), "p95": percent(every, 0.95), "p99": percent(every, 0.99)}
        figures = ", ".join(f"{k} {v:.2f} ms" for k, v in out[name].items())
        print(f"latency of a 4 KB step every 30 ms  {name:10s} {figures}", flush=True)
    faster = statistics.median(statistics.median(p) / statistics.median(o) for o, p in zip(ours, plain, strict=True))
    return out, f"has {faster:.0f} times lower latency at 4 KB than the plain Python API"


def throughput(quick: bool, launches: int) -> tuple[dict[str, Any], str]:
    """Steps as fast as they go, by us and by a bare loop over the bindings in turn."""
    sizes = {65536: 1500, 1 << 20: 300} if quick else {SMALL: 3000, 65536: 3000, 1 << 20: 600, 16 << 20: 40}
    out: dict[str, Any] = {}
    for size, steps in sizes.items():
        pairs = [(throughput_ours(size, steps), throughput_alone(size, steps)) for _ in range(3 if quick else 7)]
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
        out[str(size)] = {"alearn_mb_s": a, "alone_mb_s": b, "ratio": ratio, "runs": pairs}
        print(f"throughput of {size >> 10:5d} KB steps  alearn {a:6.0f} MB/s  SST alone {b:6.0f} MB/s  ratio {ratio:.2f}", flush=True)
    return out, f"{out[str(1 << 20)]['ratio']:.2f} of SST alone in throughput at 1 MB"


def launching(quick: bool, launches: int) -> tuple[dict[str, Any], str]:
    """Launches of 32 simulations at a time: what hangs, crashes or is missing."""
    count = launches or (3 if quick else 20)
    runs = [launch(32, 10) for _ in range(count)]
    wrong = {key: sum(len(r[key]) if key == "broken" else r[key] for r in runs) for key in runs[0] if key != "seconds"}
    seconds = statistics.median(r["seconds"] for r in runs)
    print(f"{count} launches of 32 simulations: {wrong}, median {seconds:.1f} s", flush=True)
    return {"runs": runs}, f"{wrong['hangs']} hangs and {wrong['broken']} broken streams in {count} launches of 32"


def growing(quick: bool, launches: int) -> tuple[dict[str, Any], str]:
    """Memory over two gigabytes, two streams at a time."""
    out = growth(2000)
    print(f"memory: {out['growth_mb']:+.1f} MB while {out['read_mb']:.0f} MB were read", flush=True)
    return dict(out), f"grows by {out['growth_mb']:.0f} MB over {out['read_mb'] / 1000:.1f} GB"


def coming_and_going(quick: bool, launches: int) -> tuple[dict[str, Any], str]:
    """Streams that come and go, 64 at a time."""
    out = churn(4 if quick else 16, 64)
    print(f"64 streams come and go: {out['first']} -> {out['last']}", flush=True)
    return dict(out), f"holds {out['last']} after all of them where it held {out['first']} after the first 64"


PARTS = {"latency": latency, "throughput": throughput, "launches": launching, "growth": growing, "churn": coming_and_going}


def main() -> None:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        as_helper(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, within four minutes")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--launches", type=int, default=0, help="launches of 32 simulations (20; quick: 3)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    out: dict[str, Any] = {"about": {"python": platform.python_version(), "cores": os.cpu_count(), "load": load}}
    said = []
    for name, part in PARTS.items():
        if options.only in (None, name):
            out[name], sentence = part(options.quick, options.launches)
            said.append(sentence)
    if options.json:
        Path(options.json).write_text(json.dumps(out, indent=1))
    print(f"load average {load:.1f} at the beginning, {os.getloadavg()[0]:.1f} at the end, on {os.cpu_count()} cores")
    print(f"SST read by alearn {', '.join(said)}.")


def as_helper(words: list[str]) -> None:
    match words:
        case ["write", name, size, steps, pause]:
            write(name, int(size), int(steps), float(pause))
        case ["fork", folder, writers, size, steps, pause]:
            print(fork_writers(folder, int(writers), int(size), int(steps), float(pause)))
        case ["plain", name]:
            print(json.dumps(read_plainly(name)))
        case ["alone", name]:
            print(json.dumps(read_alone(name)))


if __name__ == "__main__":
    main()
