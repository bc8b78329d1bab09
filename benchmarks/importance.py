"""Importance weights: does it help to weigh members against the density that acquisition skews and kills truncate?

    python benchmarks/importance.py [--quick] [--json FILE] [--problems A,B] [--seeds 0,1,2] [--minutes M] [--report]

For each problem and seed the default acquisition chooses the members, and members of "sweep" that a surrogate knows are cut
short as kills would cut them. Then ensembles that differ in nothing but the weights of these data are trained on them, from the same
initial weights and on the same mini-batches, briefly (300 updates, a study's burst) and long (1,500), beside one trained on as many
Sobol members. Errors are of a member, normalised, over a fixed test set; the figures are Sobol's error over the rule's at the
same seed (above 1 is better). The rule was chosen on "ridge", "fusion" and "sweep" with seeds 0 to 4; "ring", "noisy_ring" and the
smooth "borehole" of eight parameters were held back.

Results go to the JSON file after every seed, and a later call goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.stats import qmc

sys.path.insert(0, str(Path(__file__).parent))
from data_efficiency import median_interval
from efficiency_methods import METHODS, Asked, next_points
from efficiency_problems import PROBLEMS, TEST_SEED

from alearn.metrics import error_summary, trajectory_errors
from alearn.space import Space
from alearn.surrogate import Batch, DeepEnsemble, OverTime
from alearn.surrogate.bootstrap import bootstrap_weights
from alearn.trainer.weights import density_weights, survival
from alearn.types import Array, Floats

METRICS = ("mean", "rmse", "p95", "p99", "max")
UPDATES = {"brief": 300, "converged": 1500}
"""Updates of the last ensembles, by what the table calls them."""
NETWORKS = 4
STEPS = 16


@dataclass(frozen=True)
class Case:
    """A problem: its space, how many members, and ``n x T`` values at ``n x d`` points of the unit cube (noisy with a generator)."""

    name: str
    space: Space
    values: Callable[[Floats, np.random.Generator | None], Floats]
    budget: int = 120
    over_t: bool = False

    def rows(self, data: Members, weights: Floats) -> Batch:
        """The training rows of members up to their last steps; ``weights`` is ``n x T``."""
        keep = np.arange(data.Y.shape[1])[None, :] <= data.last[:, None]
        member, step = np.nonzero(keep)
        x = data.X[member]
        if self.over_t:
            x = np.column_stack([x, step / (STEPS - 1)])
        w = weights[member, step]
        return Batch(*(torch.as_tensor(a) for a in (x, data.Y[member, step][:, None], w / w.mean(), member)))

    def inputs(self, X: Floats) -> Floats:
        """Rows at all times of ``n x d`` points."""
        if not self.over_t:
            return X
        return np.column_stack([np.repeat(X, STEPS, axis=0), np.tile(np.arange(STEPS) / (STEPS - 1), len(X))])


@dataclass
class Members:
    """Points ``n x d``, values ``n x T``, the last step of each member and whether it was killed there."""

    X: Floats
    Y: Floats
    last: Array
    killed: Array


def sweep(X: Floats, rng: np.random.Generator | None) -> Floats:
    """A front that runs through the box at a speed that depends on the first parameter."""
    a, b = X[:, :1], X[:, 1:]
    t = np.arange(STEPS) / (STEPS - 1)
    return np.asarray(np.tanh(20 * (b - 0.2 - 0.6 * a * t)) * (0.5 + 0.5 * a) + 0.3 * np.sin(3 * t) * b)


def _static(name: str) -> Case:
    problem = PROBLEMS[name]
    return Case(name, problem.space, problem.simulate, problem.budget)


CASES = {c.name: c for c in (
    _static("ridge"), _static("fusion"), Case("sweep", Space.from_config({"a": [0, 1], "b": [0, 1]}), sweep, 60, True),
    _static("ring"), _static("noisy_ring"), _static("borehole"),
)}  # fmt: skip


# --- the members ----------------------------------------------------------------------------------------------------


def acquired(case: Case, seed: int) -> Members:
    """The members that the default acquisition chooses, of which kills cut short those of "sweep" that are known best."""
    rng = np.random.default_rng((seed, 17))
    start = case.space.sobol(case.budget // 4, seed=seed)
    Y = case.values(start, rng)
    data = Members(start, Y, np.full(len(start), Y.shape[1] - 1), np.zeros(len(start), bool))
    model = DeepEnsemble(case.space.d + case.over_t, 1, case.over_t, seed, estimators=NETWORKS)
    asker, generator = METHODS["default"].make(seed), torch.Generator().manual_seed(seed)
    residuals = np.full(len(start), np.nan)
    batch, turn = case.budget // 12, 0
    while len(data.X) < case.budget:
        model.fit(case.rows(data, np.ones_like(data.Y)), updates=1000 if turn == 0 else 300)
        over = OverTime(model, np.linspace(0, 1, 8)) if case.over_t else model
        asked = Asked(case.space, data.X, data.Y, over, min(batch, case.budget - len(data.X)), generator, turn, seed, residuals)
        x = next_points(asker, asked)
        y = case.values(x, rng)
        predicted = model.predict(torch.as_tensor(case.inputs(x))).mean.numpy().reshape(y.shape)
        residuals = np.concatenate([residuals, np.sqrt(((predicted - y) ** 2).mean(axis=1)) / float(model.output_scale[0])])
        last, killed = _kills(case, model, x, rng)
        data = Members(*(np.concatenate(pair) for pair in ((data.X, x), (data.Y, y), (data.last, last), (data.killed, killed))))
        turn += 1
    return data


def _kills(case: Case, model: DeepEnsemble, x: Floats, rng: np.random.Generator) -> tuple[Array, Array]:
    """Where members end: those less uncertain than the median of the box are killed after a random step."""
    whole = np.full(len(x), STEPS - 1 if case.over_t else 0)
    if not case.over_t:
        return whole, np.zeros(len(x), bool)
    std = OverTime(model, np.linspace(0, 1, 8)).trajectory_std(torch.as_tensor(np.vstack([x, case.space.sobol(256, seed=5)]))).numpy()
    killed = std[: len(x)] < np.median(std[len(x) :])
    return np.where(killed, rng.integers(3, STEPS - 3, len(x)), whole), killed


# --- the rules ------------------------------------------------------------------------------------------------------


def cells(X: Floats) -> Floats:
    """Each member's share of the cube over its fair share, by nearest neighbours (Loog 2012)."""
    return density_weights(X, qmc.Sobol(X.shape[1], rng=np.random.default_rng(0)).random(4096))


def distances(X: Floats, k: int = 3) -> Floats:
    """The same by the distance to the k-th nearest member (Loftsgaarden and Quesenberry 1965)."""
    far = cKDTree(X).query(X, k=k + 1)[0][:, k] ** X.shape[1]
    return np.asarray(far / far.mean())


RULES: Mapping[str, Callable[[Floats], Floats]] = {
    "no weights": lambda X: np.ones(len(X)),
    "density 0.5": lambda X: np.clip(cells(X), 0.1, 10) ** 0.5,
    "density 1": lambda X: np.clip(cells(X), 0.1, 10),
    "clipped at 3": lambda X: np.clip(cells(X), 1 / 3, 3),
    "raised only": lambda X: np.clip(cells(X), 1, 10),
    "distance 1": lambda X: np.clip(distances(X), 0.1, 10),
}
"""The weights of ``n x d`` members; their mean is made one afterwards (self-normalised)."""
WEIGHTED = "Sobol, density 0.5"
"""What weights do to members that nothing has skewed: what the rule costs where it is not needed."""
TRUNCATED = "truncation only"
"""What kills cut off is weighed for, the density is left alone; the density rules weigh for kills as well."""


def trained(case: Case, data: Members, rules: Sequence[str], seed: int, updates: int) -> DeepEnsemble:
    """An ensemble of ``NETWORKS`` networks for each rule, all on the same mini-batches and from the same initial weights."""
    model = DeepEnsemble(case.space.d + case.over_t, 1, case.over_t, 1000 + seed, estimators=NETWORKS * len(rules))
    with torch.no_grad():
        for p in [*model.net.parameters(), *model.average.parameters()]:
            p.copy_(p[:NETWORKS].repeat(len(rules), 1, 1))
    batches = [case.rows(data, weights_of(data, rule)) for rule in rules]
    model.observe(batches[0])
    x, y, _ = model._prepare(batches[0])
    boot = bootstrap_weights("soft", seed, NETWORKS, batches[0].groups)
    model._train(x, y, torch.cat([boot * b.weights.float() for b in batches]), updates)
    return model


def weights_of(data: Members, rule: str) -> Floats:
    """What a rule makes of every member and time step, ``n x T``."""
    steps = np.ones(data.Y.shape[1])
    if rule != "no weights" and data.killed.any():
        found = np.minimum(1.0 / np.maximum(survival(data.last, data.killed), 1e-12), 10.0)
        steps[: len(found)] = found
    return RULES["no weights" if rule == TRUNCATED else rule](data.X)[:, None] * steps


def judged(case: Case, model: DeepEnsemble) -> list[dict[str, float]]:
    """Errors of each rule's networks over the test set, ``METRICS``."""
    X = case.space.sobol(256 if case.over_t else 4096, seed=TEST_SEED)
    truth = case.values(X, None)[:, :, None]
    values = model.posterior(torch.as_tensor(case.inputs(X)).unsqueeze(1)).values.detach().squeeze(-2)[..., 0].T.numpy()
    means = values.reshape(-1, NETWORKS, values.shape[1]).mean(axis=1)
    found = [error_summary(trajectory_errors(mean.reshape(truth.shape), truth)) for mean in means]
    return [{k: f[k] for k in METRICS} for f in found]


def arm(case: Case, seed: int) -> dict[str, Any]:
    """All rules, and Sobol, on one problem and seed."""
    data = acquired(case, seed)
    X = case.space.sobol(case.budget, seed=seed)
    Y = case.values(X, np.random.default_rng((seed, 18)))
    whole = Members(X, Y, np.full(len(X), Y.shape[1] - 1), np.zeros(len(X), bool))
    rules = [*RULES, *([TRUNCATED] if data.killed.any() else [])]
    found: dict[str, Any] = {}
    for budget, updates in UPDATES.items():
        designed = judged(case, trained(case, whole, ["no weights", "density 0.5"], seed, updates))
        found[budget] = {"sobol": designed[0], WEIGHTED: designed[1]}
        found[budget] |= dict(zip(rules, judged(case, trained(case, data, rules, seed, updates)), strict=True))
    return {"problem": case.name, "seed": seed, "errors": found, "killed": int(data.killed.sum()), "load": os.getloadavg()[0]}


# --- the table ------------------------------------------------------------------------------------------------------


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each problem, number of updates and rule: Sobol's error over the rule's, median and 90 % interval over seeds."""
    rows = []
    for problem in CASES:
        mine = [r for r in runs.values() if r["problem"] == problem]
        for budget in UPDATES:
            for rule in mine[0]["errors"][budget] if mine else ():
                errors = [r["errors"][budget] for r in mine]
                if rule == "sobol":
                    continue
                row: dict[str, Any] = {"problem": problem, "updates": budget, "rule": rule, "seeds": len(mine)}
                row |= {m: median_interval([e["sobol"][m] / e[rule][m] for e in errors]) for m in METRICS}
                plain = "sobol" if rule == WEIGHTED else "no weights"
                row |= {f"{m} to none": median_interval([e[plain][m] / e[rule][m] for e in errors]) for m in METRICS}
                rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    print("Sobol's error over the rule's (above 1 is better), median over seeds; the last two columns are the error without weights")
    print("over the rule's, with the 90 % interval of the median.\n")
    columns = "".join(f"{m:>7}" for m in METRICS)
    print(f"{'problem':<12}{'updates':<11}{'rule':<22}{columns}   {'mean: none/rule':<20}{'p99: none/rule':<20}seeds")
    for r in rows:
        ratios = "".join(f"{r[m][0]:>7.2f}" for m in METRICS)
        spans = "".join("{:<20}".format("{:.2f} ({:.2f}-{:.2f})".format(*r[f"{m} to none"])) for m in ("mean", "p99"))
        print(f"{r['problem']:<12}{r['updates']:<11}{r['rule']:<22}{ratios}   {spans}{r['seeds']:>5}")


def overall(rows: Sequence[Mapping[str, Any]], updates: str) -> dict[str, dict[str, float]]:
    """For each rule, the geometric mean over problems of its ratios to Sobol and to no weights."""
    found: dict[str, dict[str, float]] = {}
    for rule in RULES:
        mine = [r for r in rows if r["rule"] == rule and r["updates"] == updates]
        if mine:
            keys = [*METRICS, *(f"{m} to none" for m in METRICS)]
            found[rule] = {k: float(np.exp(np.mean([np.log(r[k][0]) for r in mine]))) for k in keys}
    return found


def sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """What came out."""
    whole = overall(rows, "converged")
    if not whole:
        return "No run is there yet."
    none = whole["no weights"]
    best = max((r for r in whole if r != "no weights"), key=lambda r: whole[r]["mean"] * whole[r]["p99"])
    w = whole[best]
    problems = len({r["problem"] for r in rows})
    return (
        f"Against Sobol, acquired members without weights have a mean error {none['mean']:.2f} and a p99 {none['p99']:.2f} times smaller "
        f"(trained long, geometric mean over {problems} problems); the best weighting, '{best}', changes that by the factors "
        f"{w['mean to none']:.2f} (mean), {w['p99 to none']:.2f} (p99) and {w['max to none']:.2f} (max)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two problems, one seed")
    parser.add_argument("--json", type=Path, help="results; runs that are there already are not run again")
    parser.add_argument("--problems", default=",".join(CASES))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after so long")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ["ridge", "sweep"] if options.quick else options.problems.split(",")
    for name in names:
        if name not in CASES:
            parser.error(f"there is no {name!r}; valid: {', '.join(CASES)}")
    seeds = [0] if options.quick else [int(s) for s in options.seeds.split(",")]
    runs: dict[str, Any] = json.loads(options.json.read_text())["runs"] if options.json and options.json.exists() else {}
    end = time.monotonic() + 60 * options.minutes
    for seed in seeds if not options.report else []:
        for name in names:
            key = f"{name}/{seed}"
            if key in runs or time.monotonic() > end:
                continue
            began = time.perf_counter()
            runs[key] = arm(CASES[name], seed)
            print(f"{key} ({time.perf_counter() - began:.0f} s)", flush=True)
            if options.json:
                _write(options.json, runs)
    rows = table(runs)
    show(rows)
    if options.json:
        _write(options.json, runs)
    print("\n" + sentence(rows))


def _write(path: Path, runs: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    question = "Do importance weights keep the mean honest where acquisition skews the density and kills truncate?"
    rows = table(runs)
    part.write_text(json.dumps({"question": question, "overall": {u: overall(rows, u) for u in UPDATES}, "table": rows, "runs": runs}))
    os.replace(part, path)


if __name__ == "__main__":
    main()
