"""Data efficiency: which way of choosing points gives the most accurate surrogate for the same number of simulations?

    python benchmarks/data_efficiency.py [--quick] [--json FILE] [--problems A,B] [--methods A,B] [--seeds 0,1,2] [--minutes M]

Problems x methods x seeds. Within a problem and seed all methods get the same initial Sobol points, the same budget, the
same test set and the same final learners: an exact GP, and a deep ensemble trained for 3,000 updates from new weights, of
which the one with the smaller RMSE counts, in every arm alike. Methods without a surrogate choose all points ahead; the others train
theirs a little in every round. Errors are in units of the outputs' spread over the test set.

Results go to the JSON file after every run, and a later call goes on where it was: --minutes limits one slice, and
--report prints the table of what is there. The methods were developed on the problems marked "develop" with seeds 0 to 2;
the problems marked "held back" were never looked at while anything could still be changed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from efficiency_methods import METHODS, Asked, next_points
from efficiency_problems import PROBLEMS, Problem, truth_of

from alearn.metrics import coverage, crps_gaussian, error_summary, miscalibration_area
from alearn.surrogate import AutoSurrogate, Batch, DeepEnsemble, ExactGP, Surrogate
from alearn.types import Floats

UPDATES = 3000
"""Updates of the final ensemble: where its error on Sobol points stops falling. Twice as many change it by less than 10 %
where it is the better learner."""
METRICS = ("rmse", "mean", "p95", "p99", "max", "top", "coverage95", "miscalibration", "crps")
QUICK = {"problems": ("ridge", "borehole"), "methods": ("sobol", "prototype", "default"), "seeds": (0,)}


@dataclass
class Data:
    """What an arm has simulated: points in the unit cube ``n x d`` and values ``n x m`` (NaN where the simulation failed)."""

    X: Floats
    Y: Floats
    residuals: Floats
    chosen_s: list[float] = field(default_factory=list)
    trained_s: list[float] = field(default_factory=list)


class Reduced:
    """Outputs as the surrogate learns them: as they are, or the leading POD coefficients of a field (Sirovich 1987).

    Args:
        Y: values so far, ``n x m``.
        modes: how many modes are kept; 0 keeps the outputs.
    """

    def __init__(self, Y: Floats, modes: int) -> None:
        self.mean = Y.mean(axis=0)
        self.basis = np.eye(Y.shape[1]) if not modes else np.linalg.svd(Y - self.mean, full_matrices=False)[2][:modes]

    def down(self, Y: Floats) -> Floats:
        return np.asarray((Y - self.mean) @ self.basis.T)

    def up(self, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the outputs from those of the coefficients."""
        return self.mean + mean @ self.basis, np.sqrt(std**2 @ self.basis**2)


SURROGATES: dict[str, type[Surrogate]] = {"gp": ExactGP, "ensemble": DeepEnsemble, "auto": AutoSurrogate}


def fitted(kind: str, X: Floats, Y: Floats, seed: int, updates: int | None = None, old: Surrogate | None = None) -> Surrogate:
    """A surrogate trained on what succeeded; ``old`` is trained on."""
    model: Surrogate = old or SURROGATES[kind](X.shape[1], Y.shape[1], seed=seed)
    n = len(X)
    batch = Batch(torch.tensor(X), torch.tensor(Y), torch.ones(n), torch.arange(n))
    if old is not None and isinstance(model, AutoSurrogate) and updates is not None:
        # in a study its online candidates train on the stream between the rounds, whoever leads
        model.observe(batch)
        for _ in range(updates // 2):
            model.update(batch)
    model.fit(batch, updates=None if kind == "gp" else updates)
    return model


def judged(kind: str, data: Data, problem: Problem, seed: int) -> dict[str, float]:
    """The final learner's errors on the test set, ``METRICS``."""
    ok = np.isfinite(data.Y).all(axis=1)
    X, Y = data.X[ok], data.Y[ok]
    truth = truth_of(problem)
    reduced = Reduced(Y, problem.modes)
    model = fitted(kind, X, reduced.down(Y), 1000 + seed, UPDATES)
    found = model.predict(torch.tensor(truth.X))
    mean, std = reduced.up(found.mean.numpy(), np.hypot(found.epistemic.numpy(), found.aleatoric.numpy()))
    # one number a test member: the root mean square over its outputs, in units of their spread
    spread = np.sqrt(truth.Y.var(axis=0).mean()) if problem.modes else truth.Y.std(axis=0)
    z = (truth.Y - mean) / np.maximum(std, 1e-12 * spread)
    errors = np.sqrt((((truth.Y - mean) / spread) ** 2).mean(axis=1))
    size = np.abs(truth.Y - np.median(truth.Y, axis=0)).mean(axis=1)
    summary = error_summary(errors)
    crps = float((crps_gaussian(mean, std, truth.Y) / spread).mean())
    return {k: summary[k] for k in ("rmse", "mean", "p95", "p99", "max")} | {
        "top": float(np.sqrt((errors[size >= np.quantile(size, 0.9)] ** 2).mean())),
        "coverage95": coverage(z.ravel(), (0.95,))[0.95],
        "miscalibration": miscalibration_area(z.ravel()),
        "crps": crps,
    }


def surprise(model: Surrogate | None, x: Floats, y: Floats, data: Data, problem: Problem) -> Floats:
    """Error of the prediction of each new member made before it was learned, in units of the outputs' spread; NaN without one."""
    if model is None:
        return np.full(len(x), np.nan)
    reduced = Reduced(data.Y[np.isfinite(data.Y).all(axis=1)], problem.modes)
    error = (model.predict(torch.tensor(x)).mean.numpy() - reduced.down(y)) / model.output_scale.numpy()
    return np.asarray(np.sqrt((error**2).mean(axis=1)))


def arm(problem: Problem, method: str, seed: int) -> dict[str, Any]:
    """One run: simulate the initial design, choose and simulate to the end of the budget, judge at every checkpoint."""
    chosen = METHODS[method]
    rng = np.random.default_rng((seed, 17))
    start = problem.space.sobol(problem.initial, seed=seed)
    data = Data(start, problem.simulate(start, rng), np.full(len(start), np.nan))
    model: Surrogate | None = None
    asker = chosen.make(seed)
    generator = torch.Generator().manual_seed(seed)
    points: list[dict[str, Any]] = []
    while True:
        n = len(data.X)
        if n in problem.checkpoints:
            found = {kind: judged(kind, data, problem, seed) for kind in ("gp", "ensemble")}
            points.append({"n": n, **found, "best": min(found.values(), key=lambda f: f["rmse"])})
        if n >= problem.budget:
            break
        q = min(problem.batch, problem.budget - n)
        if chosen.surrogate:
            began = time.perf_counter()
            ok = np.isfinite(data.Y).all(axis=1)
            Y = Reduced(data.Y[ok], problem.modes).down(data.Y[ok])
            updates = 1500 if model is None or problem.modes else 500
            # the coefficients of a field turn with every new basis: its ensemble starts anew
            model = fitted(chosen.surrogate, data.X[ok], Y, seed, updates, None if problem.modes else model)
            data.trained_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        turn = len(data.chosen_s)
        x = next_points(asker, Asked(problem.space, data.X, data.Y, model, q, generator, turn, seed, data.residuals))
        data.chosen_s.append(time.perf_counter() - began)
        y = problem.simulate(x, rng)
        data.residuals = np.concatenate([data.residuals, surprise(model, x, y, data, problem)])
        data.X, data.Y = np.vstack([data.X, x]), np.vstack([data.Y, y])
    return {
        "problem": problem.name,
        "method": method,
        "seed": seed,
        "curve": points,
        "choose_s": float(np.median(data.chosen_s)),
        "train_s": float(np.median(data.trained_s)) if data.trained_s else 0.0,
        "failed": int((~np.isfinite(data.Y).all(axis=1)).sum()),
        "load": os.getloadavg()[0],
    }


# --- the table ------------------------------------------------------------------------------------------------------


def median_interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """The median and the 90 % bootstrap interval of it."""
    a = np.asarray(values, dtype=np.float64)
    medians = np.median(a[np.random.default_rng(0).integers(len(a), size=(draws, len(a)))], axis=1)
    return float(np.median(a)), float(np.quantile(medians, 0.05)), float(np.quantile(medians, 0.95))


def needed(curve: Sequence[Mapping[str, Any]], target: float, metric: str = "rmse") -> float:
    """Simulations until the error is at most the target, log-linear between checkpoints; infinite if it never is."""
    n = [float(p["n"]) for p in curve]
    e = [float(p["best"][metric]) for p in curve]
    for i, error in enumerate(e):
        if error <= target:
            if i == 0:
                return n[0]
            share = math.log(e[i - 1] / target) / max(math.log(e[i - 1] / error), 1e-12)
            return n[i - 1] + share * (n[i] - n[i - 1])
    return math.inf


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each problem and method: ratios to Sobol at the same seed (above 1 is better), medians over seeds."""
    rows = []
    for problem in PROBLEMS:
        for method in METHODS:
            mine = {r["seed"]: r for r in runs.values() if r["problem"] == problem and r["method"] == method}
            sobol = {r["seed"]: r for r in runs.values() if r["problem"] == problem and r["method"] == "sobol"}
            seeds = sorted(set(mine) & set(sobol))
            if not seeds:
                continue
            row: dict[str, Any] = {"problem": problem, "method": method, "seeds": len(seeds), "role": PROBLEMS[problem].role}
            for metric in ("rmse", "mean", "p99", "max", "top"):
                ratios = [sobol[s]["curve"][-1]["best"][metric] / mine[s]["curve"][-1]["best"][metric] for s in seeds]
                row[metric] = median_interval(ratios)
            finals = [mine[s]["curve"][-1]["best"] for s in seeds]
            row["error"] = float(np.median([f["rmse"] for f in finals]))
            row["coverage95"] = float(np.median([f["coverage95"] for f in finals]))
            row["share"] = float(
                np.median([needed(mine[s]["curve"], sobol[s]["curve"][-1]["best"]["rmse"]) / PROBLEMS[problem].budget for s in seeds])
            )
            row["seconds"] = float(np.median([mine[s]["choose_s"] + mine[s]["train_s"] for s in seeds]))
            rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    print("Sobol's error over the method's at the same budget (median over seeds, 90 % interval for RMSE); 'sims' is the share of the")
    print("budget after which Sobol's final RMSE is reached; 's' are seconds a batch, training included; cover is the 95 % interval's.\n")
    columns = "".join(f"{name:>6}" for name in ("mean", "p99", "max", "top"))
    head = f"{'problem':<15}{'method':<16}{'RMSE':>6} {'':<13}{columns}{'sims':>7}{'cover':>7}{'s':>7}{'seeds':>6}"
    print(head + "\n" + "-" * len(head))
    for r in rows:
        if r["method"] == "sobol":
            print(f"{r['problem']:<15}{'sobol':<16}RMSE {r['error']:.3g} of the spread ({r['role']})")
            continue
        middle, low, high = r["rmse"]
        share = "never" if math.isinf(r["share"]) else f"{100 * r['share']:.0f} %"
        others = "".join(f"{r[m][0]:>6.2f}" for m in ("mean", "p99", "max", "top"))
        interval = f"{low:.2f}-{high:.2f}"
        print(
            f"{'':<15}{r['method']:<16}{middle:>6.2f} {interval:<13}{others}{share:>7}"
            f"{r['coverage95']:>7.2f}{r['seconds']:>7.1f}{r['seeds']:>6}"
        )


def sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """What came out, for the default."""
    ours = [r for r in rows if r["method"] == "default"]
    if not ours:
        return "No run of the default is there yet."
    worst = min(ours, key=lambda r: r["rmse"][0])
    best = max(ours, key=lambda r: r["rmse"][0])
    level = sum(
        all(r["rmse"][0] >= 0.98 * p["rmse"][0] for p in rows if p["problem"] == r["problem"] and p["method"] not in ("default", "sobol"))
        for r in ours
    )
    return (
        f"The default's RMSE is {worst['rmse'][0]:.2f} ({worst['problem']}) to {best['rmse'][0]:.2f} ({best['problem']}) times better than "
        f"Sobol's at the same budget, and level with the best peer or ahead on {level} of {len(ours)} problems."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two problems, three methods, one seed: under five minutes")
    parser.add_argument("--json", type=Path, help="results; runs that are there already are not run again")
    parser.add_argument("--problems", default=None, help=", ".join(PROBLEMS))
    parser.add_argument("--methods", default=None, help=", ".join(METHODS))
    parser.add_argument("--seeds", default=None, help="0,1,2")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no further run after so many minutes")
    parser.add_argument("--report", action="store_true", help="only print the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problems = _names(options.problems, PROBLEMS, QUICK["problems"] if options.quick else tuple(PROBLEMS), parser)
    methods = _names(options.methods, METHODS, QUICK["methods"] if options.quick else tuple(METHODS), parser)
    default_seeds = QUICK["seeds"] if options.quick else (0, 1, 2)
    seeds = tuple(int(s) for s in options.seeds.split(",")) if options.seeds else default_seeds
    runs: dict[str, Any] = json.loads(options.json.read_text())["runs"] if options.json and options.json.exists() else {}
    end = time.monotonic() + 60 * options.minutes
    wanted = [] if options.report else [(p, m, s) for s in seeds for p in problems for m in methods]
    for p, m, s in wanted:
        key = f"{p}/{m}/{s}"
        if key in runs or not METHODS[m].fits(PROBLEMS[p]):
            continue
        if time.monotonic() > end:
            break
        began = time.perf_counter()
        runs[key] = arm(PROBLEMS[p], m, s)
        last = runs[key]["curve"][-1]["best"]
        print(f"{key}: RMSE {last['rmse']:.4g}, p99 {last['p99']:.4g} ({time.perf_counter() - began:.0f} s)", flush=True)
        if options.json:
            _write(options.json, runs)
    rows = table(runs)
    show(rows)
    if options.json:
        _write(options.json, runs)
    print("\n" + sentence(rows))


def _names(text: str | None, known: Mapping[str, Any], default: Sequence[str], parser: argparse.ArgumentParser) -> Sequence[str]:
    names = default if text is None else text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"there is no {name!r}; valid: {', '.join(known)}")
    return names


def _write(path: Path, runs: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    question = "Which way of choosing points gives the most accurate surrogate for the same number of simulations?"
    part.write_text(json.dumps({"question": question, "table": table(runs), "runs": runs}, indent=None, separators=(",", ":")))
    os.replace(part, path)


if __name__ == "__main__":
    main()
