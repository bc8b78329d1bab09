"""Does a cheap, coarse simulation save dear ones? Acquisition over all fidelities against acquisition and Sobol at the one wanted.

    python benchmarks/fidelity.py [--quick] [--json FILE] [--seeds 0,1,2,3,4]

Two problems: the flow through a borehole with its cheap approximation (Xiong, Qian and Wu 2013), which costs a tenth, and
Burgers' equation on 16 to 128 cells, which costs what its cell updates are. In every arm the surrogate is the same exact GP over
parameters and fidelity, trained to convergence, and judged at the fidelity wanted on points that no arm simulates. The
budget counts cost, in simulations at the fidelity wanted. Medians over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.acquisition import WeightedIVR
from alearn.acquisition.base import Context
from alearn.acquisition.costs import expected_cost
from alearn.simulators.burgers import burgers
from alearn.simulators.functions import FUNCTIONS
from alearn.space import Space
from alearn.surrogate import Batch, ExactGP
from alearn.types import Floats

INITIAL, BATCH, MOST, TESTS = 10, 4, 240, 256
"""Cost of the initial design, points of a round, the most simulations of an arm, test points."""
ARMS = ("all fidelities", "ivr at the target", "sobol at the target")


@dataclass(frozen=True)
class Problem:
    """A simulation with a fidelity: ``run`` gives the outputs and the cost, in units of one at the target."""

    name: str
    space: Space
    run: Callable[[dict[str, Any]], tuple[list[float], float]]


def _borehole() -> Problem:
    exact = FUNCTIONS["borehole"]
    box: dict[str, Any] = {n: list(e) for n, e in exact.box.items()}

    def run(point: dict[str, Any]) -> tuple[list[float], float]:
        rw, r, tu, hu, tl, hl, length, kw = (float(point[n]) for n in exact.box)
        log = math.log(r / rw)
        cheap = point["model"] == 1
        top, one = (5.0, 1.5) if cheap else (2 * math.pi, 1.0)
        return [top * tu * (hu - hl) / (log * (one + 2 * length * tu / (log * rw**2 * kw) + tu / tl))], 0.1 if cheap else 1.0

    return Problem("borehole", Space.from_config({**box, "model": {"ordinal": [1, 2], "fidelity": 2}}), run)


def _burgers() -> Problem:
    from alearn.simulators.burgers import BOX

    def cells(point: dict[str, Any], grid: int) -> float:
        h, fastest = 1 / grid, 0.5 + abs(point["a1"]) + abs(point["a2"])
        return grid / min(0.4 * h / fastest, 0.4 * h**2 / (2 * point["nu"]))

    def run(point: dict[str, Any]) -> tuple[list[float], float]:
        physics = {n: float(point[n]) for n in ("a1", "a2", "p1", "p2", "nu")}
        *_, last = burgers(**physics, grid=int(point["grid"]), frames=1)
        return [last["u_max"], last["energy"]], cells(physics, int(point["grid"])) / cells(physics, 128)

    space: dict[str, Any] = {n: ({"low": e[0], "high": e[1], "scale": "log"} if n == "nu" else list(e)) for n, e in BOX.items()}
    return Problem("burgers", Space.from_config({**space, "grid": {"ordinal": [16, 32, 64, 128], "fidelity": True}}), run)


def arm(problem: Problem, name: str, seed: int, budget: float) -> dict[str, Any]:
    """One arm to the end of its budget: the error at the target, what was simulated at which fidelity."""
    space = problem.space
    wanted = (lambda x: space.at_target(x)) if name != ARMS[0] else (lambda x: x)
    X, Y, costs = np.empty((0, space.d)), np.empty((0, 0)), np.empty(0)

    def simulate(x: Floats) -> None:
        nonlocal X, Y, costs
        found = [problem.run(p) for p in space.from_unit(x)]
        Y = np.vstack([*([Y] if len(Y) else []), np.array([y for y, _ in found])])
        X, costs = np.vstack([X, x]), np.concatenate([costs, [c for _, c in found]])

    drawn = 0
    while costs.sum() < INITIAL:
        simulate(wanted(space.sobol(1, seed=seed, skip=drawn)))
        drawn += 1
    generator = torch.Generator().manual_seed(seed)
    acquisition = WeightedIVR(pool=2048)
    model = ExactGP(space.d, Y.shape[1], False, seed)
    while costs.sum() < budget and len(X) < MOST:
        if name == ARMS[2]:
            simulate(wanted(space.sobol(1, seed=seed, skip=drawn)))
            drawn += 1
            continue
        model.fit(_batch(X, Y), updates=30)
        none = torch.empty(0, space.d, dtype=torch.float64)
        cost = expected_cost([tuple(x) for x in X], costs.tolist()) if name == ARMS[0] else None
        context = Context(X=torch.tensor(X), pending=none, progress=none[:, 0], generator=generator, cost=cost, created=len(X))
        chosen = acquisition.select(model, space if name == ARMS[0] else _AtTarget(space), BATCH, context)  # type: ignore[arg-type]
        simulate(wanted(chosen.x))
    model = ExactGP(space.d, Y.shape[1], False, seed)
    model.fit(_batch(X, Y))
    test = space.at_target(space.sobol(TESTS, seed=10_007))
    truth = np.array([problem.run(p)[0] for p in space.from_unit(test)])
    error = np.sqrt((((model.predict(torch.tensor(test)).mean.numpy() - truth) / truth.std(axis=0)) ** 2).mean(axis=1))
    values = [p[next(iter(space.fidelities))] for p in space.from_unit(X)]
    return {
        "problem": problem.name, "arm": name, "seed": seed, "cost": float(costs.sum()), "simulations": len(X),
        "at": {str(v): values.count(v) for v in sorted(set(values))},
        "rmse": float(np.sqrt((error**2).mean())), "p99": float(np.quantile(error, 0.99)),
    }  # fmt: skip


class _AtTarget:
    """A space whose designs are all at the target."""

    def __init__(self, space: Space) -> None:
        self.inner, self.d = space, space.d

    def sobol(self, n: int, seed: int, skip: int = 0) -> Floats:
        return self.inner.at_target(self.inner.sobol(n, seed, skip))

    def snap(self, X: Any) -> Floats:
        return self.inner.snap(X)

    def feasible(self, X: Any) -> Any:
        return self.inner.feasible(X)

    def at_target(self, X: Any) -> Floats:
        return self.inner.at_target(X)


def _batch(X: Floats, Y: Floats) -> Batch:
    return Batch(torch.tensor(X), torch.tensor(Y), torch.ones(len(X)), torch.arange(len(X)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one problem, two seeds, a smaller budget")
    parser.add_argument("--seeds", default=None, help="0,1,2,3,4")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problems = [_borehole()] if options.quick else [_borehole(), _burgers()]
    seeds = [int(s) for s in options.seeds.split(",")] if options.seeds else [0, 1] if options.quick else [0, 1, 2, 3, 4]
    budget = 20.0 if options.quick else 40.0
    runs, said = [], []
    for problem in problems:
        for seed in seeds:
            for name in ARMS:
                runs.append(arm(problem, name, seed, budget))
                r = runs[-1]
                print(f"{r['problem']} seed {seed}, {name:20s}: RMSE {r['rmse']:.4g}, p99 {r['p99']:.4g}; {r['at']}", flush=True)
        of = {name: [r["rmse"] for r in runs if r["problem"] == problem.name and r["arm"] == name] for name in ARMS}
        for other in ARMS[1:]:
            ratios = [b / a for a, b in zip(of[ARMS[0]], of[other], strict=True)]
            said.append(
                f"{problem.name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times the accuracy of {other}"
            )
    if options.json:
        options.json.write_text(json.dumps({"budget": budget, "runs": runs, "load": os.getloadavg()}, indent=1))
    print(f"At the cost of {budget:.0f} simulations at the fidelity wanted, all fidelities together reach " + "; ".join(said) + ".")


if __name__ == "__main__":
    main()
