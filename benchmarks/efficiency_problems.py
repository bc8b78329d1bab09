"""The problems of ``data_efficiency.py``: analytic functions and small real solvers with known answers everywhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alearn.simulators.burgers import BOX as BURGERS
from alearn.simulators.burgers import burgers
from alearn.simulators.functions import FUNCTIONS
from alearn.simulators.gray_scott import BOX as GRAY_SCOTT
from alearn.simulators.gray_scott import gray_scott
from alearn.simulators.heat import BOX as HEAT
from alearn.simulators.heat import heat
from alearn.space import Space
from alearn.types import Floats

TEST_SEED = 20_240_229
"""No arm draws this sequence."""

Simulate = Callable[[Floats, np.random.Generator | None], Floats]
"""From ``N x d`` points of the unit cube to ``N x m`` values, NaN where the simulation fails; without a generator the noiseless truth."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A simulation, how much of it may be run, and what it is tested on.

    Args:
        name: its name.
        space: its parameters.
        simulate: see ``Simulate``.
        role: "develop" (methods were chosen with it) or "held back".
        budget: simulations in all, the initial ones among them.
        modes: POD modes that surrogates learn of a field; 0 for outputs learned as they are.
        outputs: numbers that a simulation gives, where they are learned as they are.
        tests: size of the test set.
        initial: size of the initial design.
        batch: points of a round.
        localised: whether most of what is hard lies in a small part of the box.
    """

    name: str
    space: Space
    simulate: Simulate
    role: str
    budget: int = 150
    modes: int = 0
    outputs: int = 1
    tests: int = 4096
    initial: int = 30
    batch: int = 10
    localised: bool = False

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Numbers of simulations at which the final learners are trained."""
        return (60, 90, self.budget)


@dataclass(frozen=True)
class Truth:
    """Test points in the unit cube ``N x d`` and their true values ``N x m``."""

    X: Floats
    Y: Floats


@functools.cache
def truth_of(problem: Problem) -> Truth:
    """The test set; that of a solver is kept in the user's cache, since it takes minutes."""
    X = problem.space.sobol(problem.tests, seed=TEST_SEED)
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alearn-benchmarks"
    path = base / f"{problem.name}-{problem.tests}.npz"
    slow = problem.tests < 4096
    if slow and path.exists():
        with np.load(path, allow_pickle=False) as file:
            return Truth(file["X"], file["Y"])
    Y = problem.simulate(X, None)
    ok = np.isfinite(Y).all(axis=1)
    if slow:
        base.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, X=X[ok], Y=Y[ok])
    return Truth(X[ok], Y[ok])


def _function(name: str, role: str, budget: int = 150, localised: bool = False) -> Problem:
    f = FUNCTIONS[name]
    space = Space.from_config({n: list(ends) for n, ends in f.box.items()})
    return Problem(name, space, lambda X, rng: f(f.from_unit(X))[:, None], role, budget, localised=localised)


def _noisy() -> Problem:
    ring = FUNCTIONS["ring"]

    def simulate(X: Floats, rng: np.random.Generator | None) -> Floats:
        y = ring(ring.from_unit(X))
        noise = 0.0 if rng is None else rng.normal(size=len(X)) * (0.05 + 0.15 * X[:, 0])
        return np.asarray((y + noise)[:, None])

    return Problem("noisy_ring", Space.from_config({n: list(e) for n, e in ring.box.items()}), simulate, "held back", 120, localised=True)


def _failing() -> Problem:
    piston = FUNCTIONS["piston"]

    def simulate(X: Floats, rng: np.random.Generator | None) -> Floats:
        y = piston(piston.from_unit(X))
        # a stiff spring in a small volume: about a quarter of the box, beside the steepest part of what remains
        return np.where(X[:, 3] - X[:, 2] > 0.3, np.nan, y)[:, None]

    return Problem("failing_piston", Space.from_config({n: list(e) for n, e in piston.box.items()}), simulate, "held back")


def _burgers() -> Problem:
    space = Space.from_config(
        {n: {"low": low, "high": high, "scale": "log" if n == "nu" else "linear"} for n, (low, high) in BURGERS.items()}
    )

    def simulate(X: Floats, rng: np.random.Generator | None) -> Floats:
        last = [list(burgers(**p, grid=64, frames=1))[-1]["u"] for p in _points(space, X)]
        return np.array(last, dtype=np.float64)

    return Problem("burgers", space, simulate, "held back", modes=8, tests=512)


def _heat() -> Problem:
    space = Space.from_config(
        {n: {"low": low, "high": high, "scale": "log" if n == "alpha" else "linear"} for n, (low, high) in HEAT.items()}
    )

    def simulate(X: Floats, rng: np.random.Generator | None) -> Floats:
        last = [list(heat(**p, grid=12, frames=1, duration=0.4))[-1]["T"] for p in _points(space, X)]
        return np.array(last, dtype=np.float64).reshape(len(X), -1)

    return Problem("heat", space, simulate, "develop", budget=120, modes=6, tests=512)


def _gray_scott() -> Problem:
    space = Space.from_config({n: list(ends) for n, ends in GRAY_SCOTT.items()})

    def simulate(X: Floats, rng: np.random.Generator | None) -> Floats:
        last = [list(gray_scott(**p, grid=48, frames=1, steps_per_frame=4000))[-1] for p in _points(space, X)]
        return np.array([[f["v_mean"], f["v_std"]] for f in last], dtype=np.float64)

    return Problem("gray_scott", space, simulate, "held back", 120, outputs=2, tests=256, localised=True)


def _points(space: Space, X: Floats) -> list[dict[str, float]]:
    return [{n: float(v) for n, v in p.items()} for p in space.from_unit(X)]


PROBLEMS: dict[str, Problem] = {
    p.name: p
    for p in (
        _function("ridge", "develop", 120, localised=True),
        _function("ring", "held back", 120, localised=True),
        _function("fusion", "develop", 150, localised=True),
        _function("borehole", "develop"),
        _function("piston", "held back"),
        _function("otl", "held back"),
        _function("wing_weight", "held back"),
        _function("hartmann", "develop"),
        _burgers(),
        _heat(),
        _gray_scott(),
        _noisy(),
        _failing(),
    )
}
"""The problems by name."""
