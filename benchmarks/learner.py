"""The learner: what a buffer's insert and draw cost a row, and how many updates a second the ensemble makes.

    python benchmarks/learner.py [--quick] [--json FILE]

Buffers hold 10^3 to 10^6 rows of 1 KB: blocks of 64 are inserted into the full buffer, mini-batches of 256 drawn. The
cost should be flat in the number stored. Updates are of 8 estimators and of 2, on one core, with batches of 256, from one
tensor in memory, and of 8 from the live Reservoir. Medians over interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from alearn.buffer import Reservoir, Rows
from alearn.surrogate import Batch, DeepEnsemble

BLOCK, BATCH = 64, 256


def rows_of(n: int, width: int, rng: np.random.Generator) -> Rows:
    return Rows(rng.random((n, 3)), rng.random((n, width)), np.ones(n), np.arange(n) // 40, np.arange(n) % 40)


def buffer_costs(sizes: list[int], width: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a row for inserting into and drawing from full buffers, by number of rows stored."""
    rng = np.random.default_rng(0)
    block = rows_of(BLOCK, width, rng)
    buffers = {}
    for size in sizes:
        buffer = Reservoir(capacity=size, max_mb=None, watermark=0)
        while len(buffer) < size:
            buffer.insert(rows_of(min(4096, size - len(buffer)), width, rng))
        while buffer.seen < min(size, 20_000):
            buffer.draw(BATCH)
        buffers[size] = buffer
    times: dict[int, dict[str, list[float]]] = {size: {"insert": [], "draw": []} for size in sizes}
    for _ in range(rounds):
        for size, buffer in buffers.items():
            began = time.perf_counter()
            buffer.insert(block)
            inserted = time.perf_counter()
            buffer.draw(BATCH)
            ended = time.perf_counter()
            times[size]["insert"].append((inserted - began) / BLOCK * 1e6)
            times[size]["draw"].append((ended - inserted) / BATCH * 1e6)
    return {str(size): {k: statistics.median(v) for k, v in found.items()} for size, found in times.items()}


def update_rates(width: int, seconds: float, rounds: int) -> dict[str, float]:
    """Updates a second: 8 estimators and 2, from a tensor in memory; and 8 from the live buffer."""
    rng = np.random.default_rng(0)
    data = rows_of(20_000, 3, rng)
    whole = Batch(*(torch.as_tensor(a) for a in (data.x, data.y, data.weight, data.group)))
    buffer = Reservoir(capacity=20_000, max_mb=None, watermark=0)
    buffer.insert(data)
    models = {k: DeepEnsemble(d=3, m=3, over_t=True, estimators=k, width=width, depth=3) for k in (2, 8)}
    for model in models.values():
        model.observe(whole)
    live = DeepEnsemble(d=3, m=3, over_t=True, estimators=8, width=width, depth=3)
    live.observe(whole)

    def from_memory(model: DeepEnsemble) -> None:
        model.update(whole.take(torch.randint(20_000, (BATCH,))))

    def from_buffer() -> None:
        rows = buffer.draw(BATCH)
        assert rows is not None
        live.update(Batch(*(torch.as_tensor(a) for a in (rows.x, rows.y, rows.weight, rows.group))))

    kinds = {"two": lambda: from_memory(models[2]), "eight": lambda: from_memory(models[8]), "eight, live buffer": from_buffer}
    rates: dict[str, list[float]] = {k: [] for k in kinds}
    for _ in range(rounds):
        for kind, run in kinds.items():
            began, n = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                run()
                n += 1
            rates[kind].append(n / (time.perf_counter() - began))
    return {k: statistics.median(v) for k, v in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [10**3, 10**4, 10**5, 10**6]
    costs = buffer_costs(sizes, 125, 200 if options.quick else 1000)
    rates = {str(w): update_rates(w, 0.5 if options.quick else 2.0, 5 if options.quick else 11) for w in (64, 128)}
    for size, cost in costs.items():
        print(f"{int(size):>9,} rows of 1 KB: insert {cost['insert']:.2f} us a row, draw {cost['draw']:.2f} us a row")
    for width, rate in rates.items():
        print(f"width {width:>4}: " + ", ".join(f"{kind} {value:.0f} updates/s" for kind, value in rate.items()))
    result = {
        "question": "Are a buffer's costs flat in what it holds, and how fast does the ensemble train from it?",
        "load": os.getloadavg()[0],
        "buffer_us_a_row": costs,
        "updates_per_s": rates,
        "live_over_memory": {w: r["eight, live buffer"] / r["eight"] for w, r in rates.items()},
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    insert = costs[str(sizes[-1])]["insert"] / costs[str(sizes[0])]["insert"]
    draw = costs[str(sizes[-1])]["draw"] / costs[str(sizes[0])]["draw"]
    print(
        f"From 10^3 to 10^6 rows an insert costs {insert:.1f} times as much and a draw {draw:.1f} times; 8 estimators of width 64 make "
        f"{rates['64']['eight, live buffer']:.0f} updates/s of {BATCH} rows from the live buffer, "
        f"{result['live_over_memory']['64']:.2f} of the rate from memory."
    )


if __name__ == "__main__":
    main()
