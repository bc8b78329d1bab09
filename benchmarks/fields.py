#!/usr/bin/env python3
"""How wrong is the surrogate of a whole field, and does active learning help there?

Runs a study of a bundled simulator with `outputs=[FIELD]`, its own test members and the control arm, as a user would, over
several seeds and surrogates, and compares the arms' errors on the field: relative L2 error (mean, 95th and 99th percentile
and maximum over the test members) and coverage of the 95 % interval over cells. The peer is the matched Sobol arm of the
same run; beside them stands what the basis alone leaves (the fields projected on it, no surrogate), the floor of both.

    python benchmarks/fields.py [--quick] [--problem heat|burgers] [--surrogate NAME ...] [--seeds N] [--json FILE] [OVERRIDES]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from alearn.events import Evaluated
from alearn.ledger import Ledger
from alearn.predict import open_surrogate
from alearn.simulators.burgers import BOX as BURGERS
from alearn.simulators.heat import BOX as HEAT
from alearn.simulators.reference import Reference

PROBLEMS: dict[str, tuple[str, str, dict[str, tuple[float, float]], int]] = {
    "heat": ("alearn.simulators.heat:heat", "T", HEAT, 48),
    "burgers": ("alearn.simulators.burgers:burgers", "u", BURGERS, 48),
}
"""Simulation, field, box, members."""
METRICS = ("relative_l2", "relative_l2_p95", "relative_l2_p99", "relative_l2_max")


def last(directory: Path) -> dict[str, float]:
    """The final errors of one arm, and the coverage."""
    with Ledger.open(directory, readonly=True) as ledger:
        found = [e for _, e in ledger.events() if isinstance(e, Evaluated) and e.error][-1]
    return {**{m: found.error[m] for m in METRICS}, "coverage95": found.calibration["coverage95"]}


def floor(directory: Path, reference: Path) -> dict[str, float]:
    """Relative L2 error of the test members' fields projected on the arm's basis, and its number of modes."""
    decoder = open_surrogate(directory).fields[0]
    fields = Reference.read(reference).fields[decoder.name]
    flat = fields.reshape(len(fields), -1, len(decoder.centre))
    off = decoder.mean((flat - decoder.centre) @ decoder.modes.T) - flat
    relative = [float(np.linalg.norm(o) / np.linalg.norm(f)) for o, f in zip(off, flat, strict=True)]
    return {"relative_l2": statistics.fmean(relative), "modes": float(decoder.used)}


def one_run(problem: str, surrogate: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Run the study with one seed and measure both arms."""
    target, field, box, members = PROBLEMS[problem]
    space = "{" + ", ".join(f"{n}: [{a}, {b}]" for n, (a, b) in box.items()) + "}"
    with tempfile.TemporaryDirectory(prefix="alearn-bench-") as folder:
        study = Path(folder) / "study"
        argv = [sys.executable, "-m", "alearn.cli", "run", f"study={problem}", "simulation=python", f"simulation.target={target}"]
        argv += [f"space={space}", f"outputs=[{field}]", f"surrogate={surrogate}", f"budget.members={members}", f"seed={seed}"]
        argv += ["control.enabled=true", "reference=32", "kill=never", "view=quiet", f"hydra.run.dir={study}"]
        done = subprocess.run([*argv, *overrides], capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise SystemExit(f"{problem}, {surrogate}, seed {seed} failed: {done.stderr.strip()}")
        test = study / "reference.npz"
        return {
            "surrogate": surrogate,
            "seed": seed,
            "load": os.getloadavg()[0],
            "active": last(study),
            "control": last(study / "control"),
            "floor": {"active": floor(study, test), "control": floor(study / "control", test)},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed of the default surrogate")
    parser.add_argument("--problem", choices=list(PROBLEMS), default="heat")
    parser.add_argument("--surrogate", nargs="+", default=["ensemble"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", type=Path)
    args, overrides = parser.parse_known_args()
    said = []
    runs = []
    for surrogate in args.surrogate[: 1 if args.quick else None]:
        mine = []
        for seed in range(args.first, args.first + (1 if args.quick else args.seeds)):
            run = one_run(args.problem, surrogate, seed, overrides)
            mine.append(run)
            arms = "; ".join(
                f"{arm} " + " ".join(f"{run[arm][m]:.4f}" for m in METRICS) + f" (basis alone {run['floor'][arm]['relative_l2']:.4f}, "
                f"{run['floor'][arm]['modes']:.0f} modes, coverage {run[arm]['coverage95']:.3f})"
                for arm in ("active", "control")
            )
            print(f"{surrogate}, seed {seed}: relative L2 mean p95 p99 max: {arms}; load {run['load']:.1f}", flush=True)
        runs += mine
        middle = {arm: {m: statistics.median(r[arm][m] for r in mine) for m in METRICS} for arm in ("active", "control")}
        mean, worst = ([r["control"][m] / r["active"][m] for r in mine] for m in ("relative_l2", "relative_l2_max"))
        said.append(
            f"{surrogate} {middle['active']['relative_l2']:.4f} against Sobol's {middle['control']['relative_l2']:.4f} "
            f"(Sobol's over ours {statistics.median(mean):.2f}, {min(mean):.2f} to {max(mean):.2f}; of the maximum "
            f"{statistics.median(worst):.2f}, {min(worst):.2f} to {max(worst):.2f})"
        )
    if args.json:
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), "runs": runs}, indent=1))
    members = PROBLEMS[args.problem][3]
    print(f"Relative L2 error of the field '{args.problem}' after {members} members, median of {len(runs)} runs: {'; '.join(said)}.")


if __name__ == "__main__":
    main()
