#!/usr/bin/env python3
"""Does the default study learn more from the same simulated steps than a Sobol design does?

Runs `alearn run experiment=gray_scott` with the control arm over several seeds, each in processes of its own as a
user would, and compares the arms: errors on the shipped test set, simulated steps to reach the control's final
error, steps saved by kills, wall time and peak memory. The peer is the matched Sobol arm of the same run.

    python benchmarks/gray_scott.py [--quick] [--seeds N] [--json FILE] [OVERRIDES]
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
from pathlib import Path
from typing import Any

from alearn.events import Evaluated
from alearn.ledger import Ledger

METRICS = ("mean", "p95", "p99", "max")


def curve(directory: Path) -> list[dict[str, float]]:
    """Errors against simulated steps of one arm."""
    ledger = Ledger.open(directory, readonly=True)
    try:
        return [
            {
                "steps": e.simulated_steps,
                "members": e.members,
                **{m: e.error[m] for m in METRICS},
                "coverage95": e.calibration["coverage95"],
            }
            for _, e in ledger.events()
            if isinstance(e, Evaluated) and e.error
        ]
    finally:
        ledger.close()


def steps_to(points: list[dict[str, float]], metric: str, target: float) -> float | None:
    """Simulated steps after which the error stays at or under the target; None if it never does."""
    reached = None
    for point in points:
        if point[metric] > target:
            reached = None
        elif reached is None:
            reached = point["steps"]
    return reached


def one_seed(seed: int, overrides: list[str]) -> dict[str, Any]:
    """Run the study with one seed and measure both arms."""
    with tempfile.TemporaryDirectory(prefix="alearn-bench-") as folder:
        directory = Path(folder) / "study"
        argv = [
            sys.executable,
            "-m",
            "alearn.cli",
            "run",
            "experiment=gray_scott",
            f"seed={seed}",
            f"hydra.run.dir={directory}",
            "view=quiet",
        ]
        began = time.monotonic()
        done = subprocess.run([*argv, *overrides], capture_output=True, text=True, cwd=folder)
        wall = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"seed {seed} failed: {done.stderr.strip()}")
        status = json.loads((directory / "status.json").read_text())
        active, control = curve(directory), curve(directory / "control")
    final = control[-1]
    return {
        "seed": seed,
        "wall_s": round(wall, 1),
        "load": os.getloadavg()[0],
        "active": active,
        "control": control,
        "ratio": {m: final[m] / active[-1][m] for m in METRICS},
        "share_of_steps_to_control": {
            m: (None if (s := steps_to(active, m, final[m])) is None else s / final["steps"]) for m in ("mean", "p95")
        },
        "members": status["members"],
        "saved_steps": status["cost"]["saved_steps"],
        "simulated_steps": status["cost"]["simulated_steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="further overrides of the study, e.g. kill=never")
    args = parser.parse_args()
    runs = []
    for seed in range(args.first, args.first + (2 if args.quick else args.seeds)):
        run = one_seed(seed, args.overrides)
        runs.append(run)
        ratios = "  ".join(f"{m} {r:.2f}" for m, r in run["ratio"].items())
        saved = run["saved_steps"] / (run["saved_steps"] + run["simulated_steps"])
        print(
            f"seed {seed}: control/active {ratios}; {run['members']['killed']} killed, {saved:.0%} of steps saved; "
            f"{run['wall_s']} s at load {run['load']:.1f}",
            flush=True,
        )
    ratios = {m: [r["ratio"][m] for r in runs] for m in METRICS}
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    summary = {
        "ratio_median": {m: statistics.median(v) for m, v in ratios.items()},
        "ratio_range": {m: [min(v), max(v)] for m, v in ratios.items()},
        "wall_s_median": statistics.median(r["wall_s"] for r in runs),
        "peak_memory_mb_of_largest_process": round(memory),
    }
    if args.json:
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), "summary": summary, "runs": runs}, indent=1))
    words = ", ".join(f"{m} {summary['ratio_median'][m]:.2f} ({min(ratios[m]):.2f} to {max(ratios[m]):.2f})" for m in METRICS)
    print(
        f"Over {len(runs)} seeds at the same simulated steps, Sobol's error over active learning's is, median (range): {words}; "
        f"above 1 active learning is better. Both arms took {summary['wall_s_median']} s, the largest process {memory:.0f} MB."
    )


if __name__ == "__main__":
    main()
