"""Online against offline: the same simulations, learned as they stream by, or written to files first and learned from there.

    python benchmarks/online_offline.py [--quick] [--json FILE] [--prices FILE]

Both learn the same members (a Sobol sequence, two streaming at a time) with the same ensemble and as many updates of as many
rows. *Online* takes each time step into a reservoir of a twentieth of all rows, trains as they come, and writes a snapshot.
*Offline* first writes every member to a file, fields included, then reads the files and trains on random mini-batches of all of
them. Neither fits to convergence afterwards. The error is the mean normalised one on 48 members of another Sobol sequence; times
are CPU seconds of one core, storing and reading included. The cost table takes its prices from ``benchmarks/prices.json``: offline
pays storage, online simulates again for every further training, so that offline is cheaper from so many trainings on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.simulators import burgers, heat
from alearn.simulators.reference import Reference
from alearn.space import Space
from alearn.surrogate import Batch
from alearn.trainer import InlineTrainer
from alearn.types import Sample, Schema

BATCH, AT_A_TIME = 128, 2
SIMULATORS: dict[str, Any] = {"heat": heat, "burgers": burgers}
TEST_MEMBERS = 48


def simulate(name: str, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
    found: Iterator[dict[str, Any]] = getattr(SIMULATORS[name], name)(**point)
    return found


def test_set(name: str) -> Reference:
    """Members that nobody learns from, at points of a Sobol sequence of their own."""
    module = SIMULATORS[name]
    space = Space.from_config({n: list(box) for n, box in module.BOX.items()})
    points = space.from_unit(space.sobol(TEST_MEMBERS, seed=987))
    runs = [list(simulate(name, dict(p))) for p in points]
    values = np.array([[[step[o] for o in module.OUTPUTS] for step in run] for run in runs], dtype=np.float32)
    t = np.array([step["t"] for step in runs[0]])
    table = np.array([[float(p[n]) for n in space.names] for p in points])
    return Reference(tuple(space.names), table, t, tuple(module.OUTPUTS), values, box=dict(module.BOX))


def new_trainer(reference: Reference, first: dict[str, Any], rows: int, seed: int) -> InlineTrainer:
    space = Space.from_config({name: list(box) for name, box in reference.box.items()})
    capacity = max(4 * BATCH, rows // 20)
    return InlineTrainer(
        space,
        Schema.of({k: v for k, v in first.items() if k != "t"}),
        outputs=list(reference.outputs),
        device="cpu",
        seed=seed,
        batch_size=BATCH,
        holdout_share=0.0,
        updates_per_row=1e9,
        buffer_options={"capacity": capacity, "watermark": BATCH},
    )


def stream(name: str, points: list[dict[str, Any]]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(member, step, values) as members stream that run two at a time."""
    for start in range(0, len(points), AT_A_TIME):
        for step, values in enumerate(zip(*(simulate(name, p) for p in points[start : start + AT_A_TIME]), strict=True)):
            for i, found in enumerate(values):
                yield start + i, step, found


def sample(points: list[dict[str, Any]], member: int, step: int, values: dict[str, Any]) -> Sample:
    return Sample(f"m{member:05d}", 1, step, float(values["t"]), points[member], {k: np.asarray(v) for k, v in values.items() if k != "t"})


def online(name: str, reference: Reference, points: list[dict[str, Any]], updates: int, seed: int, folder: Path) -> dict[str, float]:
    began = time.process_time()
    first = next(simulate(name, points[0]))
    rows = len(points) * len(reference.t)
    trainer = new_trainer(reference, first, rows, seed)
    share = updates / rows
    owed, trained_s, done = 0.0, 0.0, 0
    for member, step, values in stream(name, points):
        at = time.process_time()
        trainer.add([sample(points, member, step, values)])
        owed += share
        if owed >= 1:
            made = trainer.work(1e9, max_updates=int(owed))
            owed -= made
            done += made
        trained_s += time.process_time() - at
    at = time.process_time()
    while done < updates:
        made = trainer.work(1e9, max_updates=updates - done)
        assert made, "the buffer gives nothing although it is full"
        done += made
    trained_s += time.process_time() - at
    written = trainer.surrogate.state_dict()
    torch.save(written, folder / "online.pt")
    total = time.process_time() - began
    error, _ = trainer.evaluate(reference)
    return {"error": error["mean"], "total_s": total, "training_s": trained_s, "bytes": (folder / "online.pt").stat().st_size}


def offline(name: str, reference: Reference, points: list[dict[str, Any]], updates: int, seed: int, folder: Path) -> dict[str, float]:
    began = time.process_time()
    kept: dict[int, list[dict[str, Any]]] = {}
    for member, step, values in stream(name, points):
        kept.setdefault(member, []).append(values)
        if step + 1 == len(reference.t):
            steps = kept.pop(member)
            np.savez(folder / f"{member}.npz", **{k: np.stack([s[k] for s in steps]) for k in steps[0]})
    stored = sum(p.stat().st_size for p in folder.glob("*.npz"))
    at = time.process_time()
    samples = []
    for member in range(len(points)):
        with np.load(folder / f"{member}.npz") as file:
            columns = {k: file[k] for k in file.files}
        samples += [sample(points, member, i, {k: v[i] for k, v in columns.items()}) for i in range(len(reference.t))]
    trainer = new_trainer(reference, dict(samples[0].values), len(samples), seed)
    rows = trainer.features.rows(samples)[0]
    whole = Batch(*(torch.as_tensor(a) for a in (rows.x, trainer.features.targets(rows.y), rows.weight, rows.group)))
    surrogate: Any = trainer.surrogate
    surrogate.observe(whole)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        surrogate.update(whole.take(torch.randint(len(whole), (BATCH,), generator=generator)))
    torch.save(surrogate.state_dict(), folder / "offline.pt")
    training = time.process_time() - at
    total = time.process_time() - began
    error, _ = trainer.evaluate(reference)
    written = stored + (folder / "offline.pt").stat().st_size
    return {"error": error["mean"], "total_s": total, "training_s": training, "bytes": written}


def costs(found: dict[str, dict[str, float]], prices: dict[str, float]) -> dict[str, Any]:
    """What one training costs each way, and from how many trainings on the stored data are the cheaper way."""

    def hours(seconds: float) -> float:
        return seconds / 3600

    out: dict[str, Any] = {}
    for way, f in found.items():
        storage_gb_months = f["bytes"] / 1e9 * prices["months"]
        out[way] = {
            "core_hours": hours(f["total_s"]),
            "gpu_hours": 0.0,
            "gb_months": storage_gb_months,
            "price": hours(f["total_s"]) * prices["core_hour"] + storage_gb_months * prices["gb_month"],
        }
    again = {
        "online": hours(found["online"]["total_s"]) * prices["core_hour"],
        "offline": hours(found["offline"]["training_s"]) * prices["core_hour"],
    }
    saved = again["online"] - again["offline"]
    extra = out["offline"]["price"] - out["online"]["price"]
    out["trainings_until_offline_is_cheaper"] = 1 if extra <= 0 else (math.ceil(1 + extra / saved) if saved > 0 else math.inf)
    simulated = found["offline"]["total_s"] - found["offline"]["training_s"]
    stored_gb = (found["offline"]["bytes"] - found["online"]["bytes"]) / 1e9
    # where storing what one core-hour of simulation makes costs as much as that hour: then one more training is a tie
    out["gb_per_core_hour"] = stored_gb / hours(simulated)
    out["gb_per_core_hour_where_storing_costs_as_much"] = prices["core_hour"] / (prices["gb_month"] * prices["months"])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer members and seeds, under five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--prices", type=Path, default=Path(__file__).with_name("prices.json"), help="prices of core, GPU and storage")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prices = json.loads(options.prices.read_text())
    members, updates, seeds = (40, 1000, 1) if options.quick else (400, 10_000, 5)
    load = os.getloadavg()[0]
    result: dict[str, Any] = {"prices": prices, "members": members, "updates": updates, "load": load}
    said = []
    for name in SIMULATORS:
        reference = test_set(name)
        space = Space.from_config({n: list(box) for n, box in reference.box.items()})
        points = [dict(p) for p in space.from_unit(space.sobol(members, seed=1))]
        runs: dict[str, list[dict[str, float]]] = {"online": [], "offline": []}
        for seed in range(seeds):
            for way, run in (("online", online), ("offline", offline)):
                with tempfile.TemporaryDirectory(prefix="online_") as folder:
                    runs[way].append(run(name, reference, points, updates, seed, Path(folder)))
        found = {way: {k: statistics.median(r[k] for r in each) for k in each[0]} for way, each in runs.items()}
        table = costs(found, prices)
        result[name] = {"runs": runs, "median": found, "costs": table}
        for way, f in found.items():
            c = table[way]
            print(
                f"{name:>8} {way:>7}: error {f['error']:.4f}, {f['total_s']:6.1f} core-s ({f['training_s']:.1f} of them training), "
                f"{f['bytes'] / 1e6:8.2f} MB written; {c['core_hours']:.4f} core-h, "
                f"{c['gpu_hours']:.0f} GPU-h, {c['gb_months']:.4f} GB-months: "
                f"{c['price']:.5f}",
                flush=True,
            )
        print(
            f"{name:>8}: offline is the cheaper way from {table['trainings_until_offline_is_cheaper']} trainings on the same members on; "
            f"it stores {table['gb_per_core_hour']:.2f} GB a core-hour, and storing costs as much as simulating at "
            f"{table['gb_per_core_hour_where_storing_costs_as_much']:.2f}",
            flush=True,
        )
        said.append(
            f"{name} errs by {found['online']['error']:.3f} online and {found['offline']['error']:.3f} offline, writes "
            f"{found['online']['bytes'] / 1e6:.1f} and {found['offline']['bytes'] / 1e6:.1f} MB, takes {found['online']['total_s']:.0f} "
            f"and {found['offline']['total_s']:.0f} core-s"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(f"After {updates} updates on {members} members, " + "; ".join(said) + f" (load {load:.1f} on {os.cpu_count()} cores).")


if __name__ == "__main__":
    main()
