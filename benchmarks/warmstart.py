"""Training on a stream that never ends: warm starts, learning rates, replay, normalisation. What hurts, and what does not?

    python benchmarks/warmstart.py [--quick] [--json FILE] [--problems A,B] [--seeds 0,1,2] [--minutes M] [--report]

Members arrive in eight rounds, after each of which the ensemble is trained for 200 updates, and in the end until it no longer gains:
what a study does. Orders: "sobol" (every round covers the box) and "drift" (one corner of the box after the other, so that every
round is unlike the last). Policies differ in one thing each from what alearn does ("warm": weights and optimiser go on, all rows
so far are replayed at the full rate with an annealed end, the normalisation follows with the function kept). Errors are RMSE over a
fixed test set, in units of the output's spread; the figures are the error of "warm" over the policy's at the same seed (above 1: the
policy is better), after the last burst and after the final fit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from data_efficiency import median_interval
from efficiency_problems import PROBLEMS, truth_of

from alearn.surrogate import Batch, DeepEnsemble
from alearn.types import Floats

ROUNDS, BURST = 8, 200
SMALL = {"estimators": 2, "max_updates": 1500}
NAMES = ("ridge", "fusion", "borehole")
ORDERS = ("sobol", "drift")


class Stream:
    """A model and what a policy does with it when a round of rows ``[first, last)`` of ``data`` has come."""

    def __init__(self, data: Batch, seed: int) -> None:
        self.data, self.seed, self.round = data, seed, 0
        self.model = self.fresh()

    def fresh(self) -> DeepEnsemble:
        """A new model; another one in every round."""
        return DeepEnsemble(self.data.X.shape[1], 1, seed=self.seed + 100 * self.round, **SMALL)

    def rows(self, first: int, last: int) -> Batch:
        """These rows."""
        return self.data.take(torch.arange(first, last))


Policy = Callable[[Stream, int, int], None]


def warm(s: Stream, first: int, last: int) -> None:
    s.model.fit(s.rows(0, last), updates=BURST)


def cold(s: Stream, first: int, last: int) -> None:
    s.model = s.fresh()
    warm(s, first, last)


def shrink(keep: float, noise: float = 0.1) -> Policy:
    """Shrink and perturb (Ash and Adams 2020): before each burst the weights become ``keep`` times theirs plus ``noise`` times new ones."""

    def policy(s: Stream, first: int, last: int) -> None:
        if s.round:
            with torch.no_grad():
                for mine, new in zip(s.model.net.parameters(), s.fresh().net.parameters(), strict=True):
                    mine.mul_(keep).add_(new, alpha=noise)
        warm(s, first, last)

    return policy


def new_optimizer(s: Stream, first: int, last: int) -> None:
    state = s.model.training_state()
    s.model.load_training_state(state | {"optimizer": {**state["optimizer"], "state": {}}})
    warm(s, first, last)


def decaying(s: Stream, first: int, last: int) -> None:
    s.model.lr = 3e-3 / np.sqrt(s.round + 1)
    warm(s, first, last)


def no_anneal(s: Stream, first: int, last: int) -> None:
    rows = s.rows(0, last)
    s.model.observe(s.rows(first, last))
    for _ in range(BURST):
        s.model.update(rows.take(torch.randint(last, (64,))))


def no_replay(s: Stream, first: int, last: int) -> None:
    s.model.fit(s.rows(first, last), updates=BURST)


def frozen_normalisation(s: Stream, first: int, last: int) -> None:
    if s.round:
        s.model.scaling.reset_moments = lambda: None  # type: ignore[method-assign]
        s.model.scaling.observe = lambda Y: None  # type: ignore[method-assign]
    warm(s, first, last)


POLICIES: Mapping[str, Policy] = {
    "warm": warm,
    "cold": cold,
    "shrink 0.8": shrink(0.8),
    "shrink 0.5": shrink(0.5),
    "optimiser anew": new_optimizer,
    "rate / sqrt(round)": decaying,
    "no annealed end": no_anneal,
    "no replay": no_replay,
    "normalisation frozen": frozen_normalisation,
}


def run(problem: str, order: str, seed: int) -> dict[str, Any]:
    """Every policy on one stream."""
    p = PROBLEMS[problem]
    n = p.budget
    X = p.space.sobol(n, seed=seed)
    if order == "drift":
        X = X[np.argsort(X[:, 0] + 0.05 * np.random.default_rng(seed).random(n))]
    Y = p.simulate(X, None)
    data = Batch(torch.as_tensor(X), torch.as_tensor(Y), torch.ones(n), torch.arange(n))
    truth = truth_of(p)

    def error(model: DeepEnsemble) -> float:
        wrong: Floats = model.predict(torch.as_tensor(truth.X)).mean.numpy() - truth.Y
        return float(np.sqrt((wrong**2).mean()) / truth.Y.std())

    found: dict[str, Any] = {}
    ends = np.linspace(0, n, ROUNDS + 1).astype(int)
    for name, policy in POLICIES.items():
        began = time.process_time()
        stream = Stream(data, seed)
        curve = []
        for r in range(ROUNDS):
            stream.round = r
            policy(stream, int(ends[r]), int(ends[r + 1]))
            curve.append(error(stream.model))
        spent = time.process_time() - began
        stream.model.fit(stream.rows(int(ends[-2]), n) if policy is no_replay else data)
        found[name] = {"curve": curve, "burst": curve[-1], "final": error(stream.model), "cpu_s": spent}
    return {"problem": problem, "order": order, "seed": seed, "found": found, "load": os.getloadavg()[0]}


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The error of "warm" over each policy's, by problem and order: median and 90 % interval over seeds."""
    rows = []
    for problem in NAMES:
        for order in ORDERS:
            mine = [r["found"] for r in runs.values() if (r["problem"], r["order"]) == (problem, order)]
            for policy in POLICIES if mine else ():
                row: dict[str, Any] = {"problem": problem, "order": order, "policy": policy, "seeds": len(mine)}
                row |= {k: median_interval([f["warm"][k] / f[policy][k] for f in mine]) for k in ("burst", "final")}
                row["cpu"] = float(np.median([f[policy]["cpu_s"] / f["warm"]["cpu_s"] for f in mine]))
                row["error"] = float(np.median([f[policy]["final"] for f in mine]))
                rows.append(row)
    return rows


def overall(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Geometric means over problems, by policy: ratios in either order."""
    found = {}
    for policy in POLICIES:
        mine = {o: [r for r in rows if r["policy"] == policy and r["order"] == o] for o in ORDERS}
        found[policy] = {
            f"{order} {k}": float(np.exp(np.mean([np.log(r[k][0]) for r in of])))
            for order, of in mine.items()
            if of
            for k in ("burst", "final")
        } | {"cpu": float(np.mean([r["cpu"] for of in mine.values() for r in of])) if any(mine.values()) else 1.0}
    return found


def sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """What came out."""
    whole = overall(rows)
    if "sobol final" not in whole["warm"]:
        return "No run is there yet."
    best = max((p for p in whole if p != "warm"), key=lambda p: whole[p]["sobol final"])
    c = whole["cold"]
    b = whole[best]
    return (
        f"Starting anew in every round is {1 / c['sobol burst']:.2f} times as wrong after a burst as going on from the weights, and "
        f"{c['sobol final']:.2f} times as good after the final fit; the policy that ends best, '{best}', is {b['sobol final']:.2f} times "
        f"as good as going on ({b['sobol burst']:.2f} after a burst)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one problem, one seed")
    parser.add_argument("--json", type=Path, help="results; runs that are there already are not run again")
    parser.add_argument("--problems", default=",".join(NAMES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after so long")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    problems = ["ridge"] if options.quick else options.problems.split(",")
    for name in problems:
        if name not in NAMES:
            parser.error(f"there is no {name!r}; valid: {', '.join(NAMES)}")
    seeds = [0] if options.quick else [int(s) for s in options.seeds.split(",")]
    runs: dict[str, Any] = json.loads(options.json.read_text())["runs"] if options.json and options.json.exists() else {}
    end = time.monotonic() + 60 * options.minutes
    for seed in seeds if not options.report else []:
        for problem in problems:
            for order in ORDERS:
                key = f"{problem}/{order}/{seed}"
                if key in runs or time.monotonic() > end:
                    continue
                began = time.perf_counter()
                runs[key] = run(problem, order, seed)
                print(f"{key} ({time.perf_counter() - began:.0f} s)", flush=True)
                if options.json:
                    _write(options.json, runs)
    rows = table(runs)
    print("The error of going on from the weights over the policy's (above 1 is better): median over seeds and its 90 % interval\n")
    print(f"{'problem':<10}{'order':<8}{'policy':<26}{'after a burst':<22}{'after the final fit':<22}{'CPU':>6}{'error':>9}")
    for r in rows:
        spans = "".join("{:<22}".format("{:.2f} ({:.2f}-{:.2f})".format(*r[k])) for k in ("burst", "final"))
        print(f"{r['problem']:<10}{r['order']:<8}{r['policy']:<26}{spans}{r['cpu']:>6.2f}{r['error']:>9.4f}")
    for policy, found in overall(rows).items():
        print(f"{'all':<18}{policy:<26}" + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))
    if options.json:
        _write(options.json, runs)
    print("\n" + sentence(rows))


def _write(path: Path, runs: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    rows = table(runs)
    question = "How should a network go on when the data have grown?"
    part.write_text(json.dumps({"question": question, "overall": overall(rows), "table": rows, "runs": runs}))
    os.replace(part, path)


if __name__ == "__main__":
    main()
