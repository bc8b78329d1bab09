"""The learner: what a buffer costs a row, how fast training draws from the stream, and whether memory stays in its bounds.

    python benchmarks/learner.py [--quick] [--json FILE]

*Costs*: blocks of 64 rows are inserted into full buffers, mini-batches of 256 drawn (at most 256 MB of rows of 1 KB to 1 MB); a cost
is flat if it does not grow with the number of rows stored. *Throughput*: a process streams through the socket at a fixed pace, and a
trainer takes its time steps in and trains from its buffer; the peers make the same updates from one tensor in memory, and
from one file a member. *Estimators*: the training step of 8 networks against one of the same shape, as it is and
through ``torch.compile``. *Memory*: samples are offered as fast as they can be made, at least ten to an update, to buffers of 8 MB;
resident memory of a process of its own. Medians over interleaved rounds, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.buffer import BoundedBuffer, Paired, Reservoir, Rows, Spill, Weighted
from alearn.space import Space
from alearn.surrogate import Batch, DeepEnsemble
from alearn.surrogate.stacked import make_networks
from alearn.trainer import InlineTrainer
from alearn.transport import SocketReader
from alearn.transport.base import Hello
from alearn.types import Sample, Schema

BLOCK, BATCH, STEPS = 64, 256, 40
KINDS = {"reservoir": Reservoir, "weighted": Weighted, "paired": Paired, "spill": Spill}
MOST_MB = 256.0
SPACE = Space.from_config({"a": [0, 1], "b": [0, 1]})
NAMES = tuple(f"y{i}" for i in range(8))


def rows_of(first: int, n: int, width: int, rng: np.random.Generator) -> Rows:
    ids = np.arange(first, first + n)
    return Rows(rng.random((n, 3)), np.repeat(rng.random((n, 1)), width, axis=1), np.ones(n), ids // STEPS, ids % STEPS)


def buffer_costs(kind: str, sizes: list[int], width: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a row for inserting into and drawing from full buffers, by number of rows stored."""
    rng = np.random.default_rng(0)
    buffers: dict[int, BoundedBuffer] = {}
    sent = {}
    for size in sizes:
        buffer = KINDS[kind](capacity=size, max_mb=None, watermark=0)  # type: ignore[abstract, operator]
        part = min(4096, max(BLOCK, 10_000_000 // (8 * width)))
        while len(buffer) < size:
            buffer.insert(rows_of(len(buffer), min(part, size - len(buffer)), width, rng))
        while buffer.seen < min(size, 20_000):
            buffer.draw(BATCH)
        buffers[size], sent[size] = buffer, size
    times: dict[int, dict[str, list[float]]] = {size: {"insert": [], "draw": []} for size in sizes}
    for _ in range(rounds):
        for size, buffer in buffers.items():
            block = rows_of(sent[size], BLOCK, width, rng)
            sent[size] += BLOCK
            began = time.perf_counter()
            buffer.insert(block)
            inserted = time.perf_counter()
            drawn = buffer.draw(BATCH)
            if isinstance(buffer, Weighted) and drawn is not None:
                buffer.prioritise(np.abs(drawn.y[:, 0]))
            ended = time.perf_counter()
            times[size]["insert"].append((inserted - began) / BLOCK * 1e6)
            times[size]["draw"].append((ended - inserted) / BATCH * 1e6)
    return {str(size): {k: statistics.median(v) for k, v in found.items()} for size, found in times.items()}


# --- throughput ---------------------------------------------------------------------------------------------------


def values_at(a: float, b: float, t: float) -> dict[str, float]:
    return {name: float(np.sin((i + 1) * a + b * t)) for i, name in enumerate(NAMES)}


def write(pace_s: float) -> None:
    """The simulation's process: steps at a fixed pace until the reader is gone."""
    from alearn.client import connect

    with connect() as run:
        due = time.monotonic()
        for step in range(10**9):
            due += pace_s
            time.sleep(max(0.0, due - time.monotonic()))
            run.put(t=0.01 * (step % STEPS), **values_at(**run.parameters, t=0.01 * (step % STEPS)))


def new_trainer(kind: str = "reservoir", width: int = 64, **options: Any) -> InlineTrainer:
    given = {"surrogate_options": {"width": width}, "device": "cpu", "holdout_share": 0.0, "batch_size": BATCH, **options}
    return InlineTrainer(SPACE, Schema.of(dict.fromkeys(NAMES, 0.0)), buffer=kind, **given)


def members(n: int) -> list[Sample]:
    points = SPACE.from_unit(SPACE.sobol(n, seed=1))
    return [
        Sample(f"m{i:04d}", 1, s, 0.01 * s, p, {k: np.float64(v) for k, v in values_at(p["a"], p["b"], 0.01 * s).items()})
        for i, p in enumerate(points)
        for s in range(STEPS)
    ]


def throughput(width: int, seconds: float, rounds: int, pace_s: float) -> dict[str, float]:
    """Rows trained on a second: from the live buffer that the socket feeds, from memory, and from files."""
    known = members(500)
    live, memory = (new_trainer(width=width, updates_per_row=1e9) for _ in range(2))
    for trainer in (live, memory):
        trainer.add(known)
    rows = memory.features.rows(known)[0]
    whole = Batch(*(torch.as_tensor(a) for a in (rows.x, rows.y, rows.weight, rows.group)))
    reader = SocketReader()
    got = 0
    with tempfile.TemporaryDirectory(prefix="learner_") as folder:
        for group in range(500):
            mine = rows.take(np.flatnonzero(rows.group == group))
            np.savez(Path(folder) / f"{group}.npz", x=mine.x, y=mine.y)
        env = {**os.environ, **reader.address("m9000", 1), "ALEARN_PARAMETERS": json.dumps({"a": 0.5, "b": 0.5}), "OMP_NUM_THREADS": "1"}
        writer = subprocess.Popen([sys.executable, __file__, "--writer", str(pace_s)], env=env, cwd=folder, stderr=subprocess.DEVNULL)

        def from_live() -> None:
            nonlocal got
            messages = reader.poll(0.0)
            for message in messages:
                if isinstance(message, Hello):
                    reader.acknowledge("m9000", 1, 0)
            steps = [m for m in messages if isinstance(m, Sample)]
            if steps:
                # each run of STEPS steps is a member of its own
                made = [Sample(f"w{s.step // STEPS}", 1, s.step % STEPS, s.t, s.parameters, s.values) for s in steps]
                for name in dict.fromkeys(s.member for s in made):
                    live.add([s for s in made if s.member == name])
                reader.acknowledge("m9000", 1, steps[-1].step + 1)
                got += len(steps)
            live.work(0.0, max_updates=1)

        def from_memory() -> None:
            memory.surrogate.update(whole.take(torch.randint(len(whole), (BATCH,))))

        def from_files() -> None:
            chosen = np.random.default_rng().integers(len(rows), size=BATCH)
            x, y = np.empty((BATCH, 3)), np.empty((BATCH, len(NAMES)))
            for i, at in enumerate(chosen.tolist()):
                with np.load(Path(folder) / f"{at // STEPS}.npz") as file:
                    x[i], y[i] = file["x"][at % STEPS], file["y"][at % STEPS]
            memory.surrogate.update(Batch(torch.as_tensor(x), torch.as_tensor(y), whole.weights[:BATCH], torch.as_tensor(chosen // STEPS)))

        try:
            until = time.monotonic() + 60
            while not got:
                assert time.monotonic() < until, "the writer sent nothing within 60 s"
                from_live()
            kinds = {"live": from_live, "memory": from_memory, "files": from_files}
            rates = rates_of(kinds, seconds, rounds)
        finally:
            writer.kill()
            writer.wait()
            reader.close()
    return {k: BATCH * v for k, v in rates.items()} | {"received": float(got)}


def rates_of(kinds: dict[str, Callable[[], None]], seconds: float, rounds: int) -> dict[str, float]:
    """Calls a second of each, medians over interleaved rounds."""
    rates: dict[str, list[float]] = {k: [] for k in kinds}
    for _ in range(rounds):
        for kind, run in kinds.items():
            began, n = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                run()
                n += 1
            rates[kind].append(n / (time.perf_counter() - began))
    return {k: statistics.median(v) for k, v in rates.items()}


# --- estimators ---------------------------------------------------------------------------------------------------


def training_steps(width: int, seconds: float, rounds: int, compiling: bool) -> dict[str, float]:
    """Updates a second of 1 and of 8 networks of one shape, and of 8 whose loss ``torch.compile`` has compiled."""
    x, y = torch.rand(BATCH, 3), torch.rand(BATCH, 3)

    def stepper(estimators: int, compiled: bool) -> Callable[[], None]:
        net = make_networks(estimators, 3, 3, width, 3, "silu", "mlp", 1.5, torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)

        def loss() -> torch.Tensor:
            each: torch.Tensor = ((net(x) - y) ** 2).mean(dim=(1, 2))
            return each.sum()

        run = torch.compile(loss) if compiled else loss

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            run().backward()
            optimizer.step()

        return step

    kinds = {"one": stepper(1, False), "eight": stepper(8, False)}
    if not compiling:
        return rates_of(kinds, seconds, rounds)
    try:
        compiled = stepper(8, True)
        compiled()
        kinds["eight, compiled"] = compiled
    except Exception as error:  # a machine without a compiler: said, and left out
        print(f"torch.compile is left out: {str(error).splitlines()[0]}")
    return rates_of(kinds, seconds, rounds)


def variants(width: int, seconds: float, rounds: int) -> dict[str, float]:
    """Whole updates a second through the trainer by buffer: what choosing and telling priorities cost."""
    known = members(200)
    trainers = {kind: new_trainer(kind, width, updates_per_row=1e9) for kind in KINDS}
    for trainer in trainers.values():
        trainer.add(known)
    return rates_of({k: (lambda t=t: t.work(0.0, max_updates=1) and None) for k, t in trainers.items()}, seconds, rounds)  # type: ignore[misc]


# --- memory -------------------------------------------------------------------------------------------------------


def flood(kind: str, seconds: float) -> None:
    """In a process of its own: rows of 10 KB, ten times as many as are drawn, into a buffer of 8 MB; prints what became of the memory."""
    width, rng = 1250, np.random.default_rng(0)
    buffer = KINDS[kind](capacity=None, max_mb=8.0, watermark=0)  # type: ignore[abstract, operator]
    if isinstance(buffer, Spill):
        # stands for the archive: the rows' content follows from their identity
        buffer.recall_from(
            lambda g, s: Rows(np.zeros((len(g), 3)), np.repeat((g * STEPS + s)[:, None] * 1.0, width, axis=1), np.ones(len(g)), g, s)
        )
    model = DeepEnsemble(d=3, m=3, over_t=True)
    sent = offered = 0
    start = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            sent += buffer.insert(rows_of(sent, BLOCK, width, rng))
            offered += BLOCK
        drawn = buffer.draw(BLOCK)
        assert drawn is not None
        model.update(Batch(torch.as_tensor(drawn.x), torch.as_tensor(drawn.y[:, :3]), torch.ones(len(drawn)), torch.as_tensor(drawn.group)))
        if not start and buffer.unseen + buffer.seen == buffer.capacity and time.perf_counter() - began > 0.2 * seconds:
            start = resident()
    told = {"offered_mb": offered * 8 * width / 1e6, "accepted": sent, "offered": offered, "growth_mb": (resident() - start) / 1e6}
    print(json.dumps(told | {"reserved_mb": buffer.nbytes / 1e6, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(seconds: float) -> dict[str, dict[str, float]]:
    out = {}
    for kind in KINDS:
        argv = [sys.executable, __file__, "--flood", kind, str(seconds)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
        out[kind] = json.loads(done.stdout.splitlines()[-1])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and nothing compiled, under five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--writer", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--flood", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.writer is not None:
        write(options.writer)
        return
    if options.flood:
        flood(options.flood[0], float(options.flood[1]))
        return
    load = os.getloadavg()[0]
    rounds, seconds = (60, 0.4) if options.quick else (600, 2.0)
    costs: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for width, label in ((125, "1 KB"), (1250, "10 KB"), (12_500, "100 KB"), (125_000, "1 MB")):
        most = MOST_MB * 1e6 / (8 * width)
        sizes = [n for n in (256, 10**3, 10**4, 10**5, 10**6) if n <= most and (n != 256 or most < 10**4)]
        costs[label] = {}
        for kind in KINDS if width == 125 else ("reservoir",):
            costs[label][kind] = buffer_costs(kind, sizes, width, rounds if width < 12_500 else max(10, rounds // 10))
            for size, cost in costs[label][kind].items():
                print(
                    f"{kind:>9}, {int(size):>7,} rows of {label:>6}: insert {cost['insert']:7.2f} us a row, draw {cost['draw']:7.2f}",
                    flush=True,
                )
    rates = throughput(64, seconds, 5 if options.quick else 11, 0.01)
    print(
        f"rows trained on a second: live {rates['live']:.0f}, from memory {rates['memory']:.0f}, from files {rates['files']:.0f}",
        flush=True,
    )
    steps = training_steps(64, seconds, 5, compiling=not options.quick)
    print("updates/s: " + ", ".join(f"{k} {v:.0f}" for k, v in steps.items()), flush=True)
    kinds = variants(64, seconds, 5)
    print("updates/s through the trainer: " + ", ".join(f"{k} {v:.0f}" for k, v in kinds.items()), flush=True)
    bounded = memory(4.0 if options.quick else 20.0)
    for kind, found in bounded.items():
        print(
            f"{kind:>9}: of {found['offered_mb']:.0f} MB offered {found['accepted'] / found['offered']:.0%} accepted, memory grew by "
            f"{found['growth_mb']:.1f} MB once the buffer of {found['reserved_mb']:.1f} MB was full"
        )
    growth = {
        kind: {what: list(found.values())[-1][what] / next(iter(found.values()))[what] for what in ("insert", "draw")}
        for kind, found in costs["1 KB"].items()
    }
    result = {
        "question": "What does a buffer cost, does training keep up with memory, and is memory bounded?",
        "load": load,
        "buffer_us_a_row": costs,
        "growth": growth,
        "rows_per_s": rates,
        "live_over_memory": rates["live"] / rates["memory"],
        "live_over_files": rates["live"] / rates["files"],
        "steps_per_s": steps,
        "eight_over_one": steps["one"] / steps["eight"],
        "trainer_updates_per_s": kinds,
        "memory": bounded,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    compiled = f" (compiled: {steps['eight, compiled'] / steps['eight']:.2f} of the uncompiled rate)" if "eight, compiled" in steps else ""
    print(
        f"Training from the live buffer runs at {result['live_over_memory']:.2f} of its rate from memory and "
        f"{result['live_over_files']:.1f} times that from files; from the smallest to the largest buffer of 1 KB rows a reservoir's insert "
        f"costs {growth['reservoir']['insert']:.1f} and a draw {growth['reservoir']['draw']:.1f} times as much; 8 estimators cost "
        f"{result['eight_over_one']:.2f} times one{compiled}; flooded, memory grew by at most "
        f"{max(f['growth_mb'] for f in bounded.values()):.0f} MB (load {load:.1f} on {os.cpu_count()} cores)."
    )


if __name__ == "__main__":
    main()
