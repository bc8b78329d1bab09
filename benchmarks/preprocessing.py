"""Where should transforms run, and does ``where: auto`` find out? And what do coarsening and the codec save and cost?

    python benchmarks/preprocessing.py [--quick] [--json FILE]

Members are processes that stream through the socket into a ledger on this disk, as in a study; nothing is trained. In the
first part a "solver" sleeps (it stands for one on cores of its own) and sends a field of 4.7 MB; a transform smooths it some
times and coarsens it. Cheap and dear transforms, one member and several, lie on different sides of the break-even. Each
is run with the transform forced to the writer and to the reader, by turns; then a fresh study with ``auto`` chooses from its
first four members. It is right if what it chose is the faster of the two, or within 5 % of it.

In the second part Gray-Scott members stream 96 x 96 fields raw, coarsened to 24 x 24, and through the two codecs, autoencoder and
POD, at one stated error: bytes on the way and in the study's directory, steps a second, and the error of the decoded fields
against the solver's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alearn import events as ev
from alearn.ledger import Ledger, open_archive
from alearn.simulators.gray_scott import gray_scott
from alearn.transform import DIAGNOSTICS, Pipeline, Planner
from alearn.transport import SocketReader
from alearn.transport.base import End, Hello, Reader
from alearn.transport.transformed import TransformedReader
from alearn.types import Sample, member_id

SIDE = 768
DEADLINE_S = 120.0
POINTS = [(0.025, 0.05), (0.03, 0.056), (0.035, 0.06), (0.04, 0.06), (0.022, 0.051), (0.05, 0.062), (0.039, 0.065), (0.03, 0.062)]
"""Feed and kill rates inside and beside the crescent of patterns."""


def smooth(values: Mapping[str, Any], passes: int) -> dict[str, Any]:
    """The user's transform: five-point smoothing, then means over 16 x 16 cells."""
    v = values["v"]
    for _ in range(passes):
        inner = 0.25 * (v[:-2, 1:-1] + v[2:, 1:-1] + v[1:-1, :-2] + v[1:-1, 2:])
        v = v.copy()
        v[1:-1, 1:-1] = inner
    n = v.shape[0] // 16 * 16
    return {"v": v[:n, :n].reshape(n // 16, 16, n // 16, 16).mean(axis=(1, 3))}


def write(kind: str, options: Mapping[str, Any]) -> None:
    """One member's process."""
    from alearn.client import connect

    with connect() as run:
        if kind == "sleep":
            v = np.random.default_rng(0).random((SIDE, SIDE))
            for step in range(int(options["steps"])):
                time.sleep(float(options["solve_s"]))
                v[step % SIDE] += 1
                run.put(t=step, v=v)
        else:
            for values in gray_scott(**run.parameters, frames=int(options["steps"])):
                run.put(values.pop("t"), values)


@dataclass
class Outcome:
    """What one run of members took; seconds over the part behind the first ``skip`` steps."""

    seconds_per_step: float
    steps: int
    place: str
    plan: dict[str, Any]
    directory: Path


def run(
    directory: Path, kind: str, options: Mapping[str, Any], points: Sequence[Mapping[str, float]], slots: int, steps: list[Any], where: str
) -> Outcome:
    """Run members through reader and ledger as a study does, ``slots`` at a time.

    Args:
        directory: of the study.
        kind: "sleep" or "gray_scott".
        options: of the writer.
        points: parameters of each member.
        slots: members side by side.
        steps: transforms; none is the bare reader.
        where: writer, reader or auto.
    """
    ledger = Ledger.create(directory, study="benchmark")
    carrier: Reader = SocketReader()
    reader: Reader = carrier
    planner = Planner(where, members=lambda: slots)
    if steps:
        reader = TransformedReader(carrier, Pipeline(steps), planner, directory)
    running: dict[str, subprocess.Popen[bytes]] = {}
    waiting = list(enumerate(points))
    now = time.time()
    ledger.append([ev.StudyStarted(at=now, study="benchmark", arm="active", seed=0)])
    first, last, counted, place = 0.0, 0.0, 0, ""
    until = time.monotonic() + DEADLINE_S
    try:
        while waiting or running:
            assert time.monotonic() < until, f"the members did not end in {DEADLINE_S:g} s"
            while waiting and len(running) < slots:
                number, parameters = waiting.pop(0)
                member = member_id(number)
                folder = directory / "members" / member / "1"
                folder.mkdir(parents=True)
                ledger.append(
                    [
                        ev.MemberQueued(at=now, member=member, parameters=dict(parameters), x=(0.5,), origin="user"),
                        ev.MemberLaunched(at=now, member=member, attempt=1),
                        ev.MemberRunning(at=now, member=member, attempt=1),
                    ]
                )
                env = {**os.environ, **reader.address(member, 1), "ALEARN_PARAMETERS": json.dumps(dict(parameters)), "OMP_NUM_THREADS": "1"}
                argv = [sys.executable, __file__, "--writer", kind, json.dumps(dict(options))]
                running[member] = subprocess.Popen(argv, env=env, cwd=folder)
            batch: list[Sample] = []
            for message in reader.poll(0.02):
                match message:
                    case Hello(member=member):
                        ledger.set_schema(message.schema)
                        reader.acknowledge(member, 1, 0)
                    case Sample():
                        batch.append(message)
                    case End(member=member):
                        assert running.pop(member).wait(DEADLINE_S) == 0
            if batch:
                schema = ledger.schema()
                assert schema is not None
                ledger.store(batch, schema)
                for member in {s.member for s in batch}:
                    reader.acknowledge(member, 1, ledger.stored_steps(member))
                last = time.perf_counter()
                if (planner.place is not None and place != planner.place) or not first:  # what follows is of the chosen place
                    first, counted, place = last, 0, planner.place or ""
                else:
                    counted += len(batch)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        reader.close()
        ledger.seal()
        ledger.close()
    plan = json.loads((directory / "transform" / "plan.json").read_text()) if steps else {}
    return Outcome((last - first) / max(1, counted), counted, planner.place or "", plan, directory)


def sides(rounds: int, attempts: int, length: int, root: Path) -> list[dict[str, Any]]:
    """The first part: writer, reader and auto on both sides of the break-even."""
    cases = {
        "cheap, 1 member": {"passes": 0, "slots": 1, "solve_s": 0.005},
        "dear, 1 member": {"passes": 2, "slots": 1, "solve_s": 0.03},
        "dear, 4 members": {"passes": 2, "slots": 4, "solve_s": 0.05},
    }
    out = []
    for name, case in cases.items():
        steps = [{"name": "function", "target": f"{Path(__file__).resolve()}:smooth", "arguments": {"passes": case["passes"]}}]
        options = {"steps": length, "solve_s": case["solve_s"]}
        slots = int(case["slots"])
        seen: dict[str, list[float]] = {"writer": [], "reader": []}
        for number in range(rounds):
            for where in seen:
                done = run(root / f"{name} {where} {number}", "sleep", options, [{"a": 1.0}] * slots, slots, steps, where)
                seen[where].append(1e3 * done.seconds_per_step)
        points = [{"a": 1.0}] * max(attempts, 3 * slots)
        auto = run(root / f"{name} auto", "sleep", options, points, slots, steps, "auto")
        medians = {where: statistics.median(values) for where, values in seen.items()}
        best = min(medians, key=lambda where: medians[where])
        right = auto.place != "" and medians[auto.place] <= 1.05 * medians[best]
        predicted = {where: 1e3 * s for where, s in auto.plan["predicted_s"].items()}
        out.append(
            {
                "case": name, "measured_ms": medians, "runs_ms": seen, "predicted_ms": predicted, "faster": best, "chosen": auto.place,
                "right": right, "auto_ms": {where: 1e3 * s for where, s in auto.plan["measured_s"].items()}, "costs": auto.plan["costs"],
            }
        )  # fmt: skip
        for where in ("writer", "reader"):
            spread = f"{min(seen[where]):5.1f} - {max(seen[where]):5.1f}"
            mark = "faster" if where == best else ""
            chosen = "auto's choice" if where == auto.place else ""
            print(
                f"{name:16s} at the {where}: predicted {predicted.get(where, float('nan')):6.1f} ms a step, measured {medians[where]:6.1f} "
                f"({spread})  {mark:7s}{chosen}",
                flush=True,
            )
    return out


def fields(frames: int, root: Path) -> list[dict[str, Any]]:
    """The second part: what coarsening and the codec do to Gray-Scott fields."""
    pod = {"name": "pod", "field": "v", "rank": 64, "error": 0.1, "learn": 64, "keep": {"mean": 1e-3}}
    autoencoder = {"name": "autoencoder", "field": "v", "latents": 20, "error": 0.1, "learn": 64, "keep": {"mean": 1e-3}}
    kinds: dict[str, tuple[list[Any], str]] = {
        "raw": ([], "reader"),
        "coarsened at the writer": ([{"name": "coarsen", "factor": 4, "fields": ["v"]}], "writer"),
        "coarsened at the reader": ([{"name": "coarsen", "factor": 4, "fields": ["v"]}], "reader"),
        "autoencoder, where: auto": ([autoencoder], "auto"),
        "POD, where: auto": ([pod], "auto"),
    }
    points = [{"F": F, "k": k} for F, k in POINTS]
    truth = [[f["v"] for f in gray_scott(**p, frames=frames)] for p in points]
    spread = float(np.std(np.array(truth)))
    out = []
    for name, (steps, where) in kinds.items():
        began = time.perf_counter()
        done = run(root / name, "gray_scott", {"steps": frames}, points, 2, steps, where)
        wall = time.perf_counter() - began
        dataset = open_archive(done.directory, decode=True)
        stored = done.directory / "archive.bp"
        total = len(points) * frames
        size = sum(p.stat().st_size for p in stored.iterdir())
        beside = {kind: sum(p.stat().st_size for p in (done.directory / "transform").rglob(f"*.{kind}")) for kind in ("npz", "npy")}
        row = {"case": name, "steps_per_s": total / wall, "bytes_a_step": size / total, "place": done.place}
        row |= {"basis_mb": beside["npz"] / 1e6, "kept_raw_mb": beside["npy"] / 1e6}
        if name.startswith(("raw", "POD", "autoencoder")):
            errors: dict[str, list[float]] = {"rms": [], "mean": [], "std": [], "max": [], "scale": []}
            for number, (member, run_of) in enumerate(zip(dataset.member.values, truth, strict=True)):
                decoded = dataset.v.isel(member=number).values
                assert str(member) == member_id(number)
                for was, now in zip(run_of, decoded, strict=True):
                    errors["rms"].append(float(np.sqrt(np.mean((was - now) ** 2))) / spread)
                    for what in ("mean", "std", "max", "scale"):
                        errors[what].append(abs(DIAGNOSTICS[what](was) - DIAGNOSTICS[what](now)))
            row |= {"worst_rms": max(errors["rms"]), **{f"worst_{k}": max(v) for k, v in errors.items() if k != "rms"}}
            row["codec"] = done.plan.get("codecs", [])
        out.append(row)
        told = ""
        if "worst_rms" in row:
            told = (
                f", worst errors: rms {row['worst_rms']:.2g} of the spread, mean {row['worst_mean']:.2g}, max {row['worst_max']:.2g}, "
                f"scale {row['worst_scale']:.2g} cycles"
            )
        codec = "".join(
            f" + {row['basis_mb']:.1f} MB of {c['what']} and {row['kept_raw_mb']:.1f} MB of {c['exact']} raw fields, once"
            for c in row.get("codec", [])
        )
        print(
            f"Gray-Scott, {name:24s} {row['bytes_a_step']:8.0f} B a step stored{codec}, {row['steps_per_s']:5.0f} steps/s{told}", flush=True
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter members, under five minutes")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--writer", nargs=2, metavar=("KIND", "OPTIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        write(options.writer[0], json.loads(options.writer[1]))
        return
    rounds, attempts, length, frames = (2, 5, 40, 24) if options.quick else (7, 8, 150, 60)
    with tempfile.TemporaryDirectory(prefix="preprocessing_") as folder:
        load = os.getloadavg()[0]
        placed = sides(rounds, attempts, length, Path(folder))
        compressed = fields(frames, Path(folder))
    if options.json:
        about = {"python": platform.python_version(), "cores": os.cpu_count(), "load": load, "rounds": rounds}
        Path(options.json).write_text(json.dumps({"about": about, "sides": placed, "fields": compressed}, indent=1))
    right = sum(c["right"] for c in placed)
    raw, pod = compressed[0], compressed[-1]
    said = ", ".join(f"{c['case']}: {c['chosen'] or 'none'} (faster: {c['faster']})" for c in placed)
    steps = len(POINTS) * frames
    three = (raw, compressed[-2], pod)
    total = {c["case"].split(",")[0]: c["bytes_a_step"] * steps / 1e6 + c["basis_mb"] + c["kept_raw_mb"] for c in three}
    worst = max(c["worst_rms"] for c in compressed[-2:])
    print(
        f"where: auto was right in {right} of {len(placed)} cases ({said}); {steps} fields take "
        f"{', '.join(f'{mb:.1f} MB ({name})' for name, mb in total.items())} in all, at a worst error of {100 * worst:.1f} % of their "
        f"spread "
        f"(load {load:.1f} on {os.cpu_count()} cores)."
    )


if __name__ == "__main__":
    main()
