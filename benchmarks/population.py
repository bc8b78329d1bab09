"""A population on one stream: what do 32 models cost beside 32 separate trainings, and three beside one?

    python benchmarks/population.py [--quick] [--json FILE]

First question: 32 small models (two widths, four learning rates, two decays, two scales of the first layer) make N updates from one
buffer, all together; or each is trained by itself from a buffer of its own, which takes the same rows in: as `surrogate=ensemble` of
as many networks each, and as a plain torch network with fused AdamW and nothing else (then the population has one network a model too).
Nothing is dropped, so that all do the same work; a further line lets the population halve as a study would.

Second question: members of Gray-Scott run one after the other and stream their frames to a learner that makes at most one update a
frame; no model, one, or three of one shape are trained. Learner and simulation share a core, or have one each where there are
two. What counts is the simulations' wall time. All kinds take turns in every round; medians of rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alearn.buffer import Reservoir, Rows
from alearn.surrogate import Batch, DeepEnsemble, Population
from alearn.surrogate.base import OnlineSurrogate
from alearn.types import Floats

GRID = {
    "width": [16, 32],
    "depth": [2],
    "lr": [5e-4, 1e-3, 3e-3, 1e-2],
    "weight_decay": [0.0, 1e-3],
    "first_scale": [1.0, 2.0],
}
ROWS, BATCH, BLOCK = 6400, 64, 64
FRAMES, MEMBERS = 40, 4
DEADLINE_S = 120.0


def stream(seed: int = 0) -> Rows:
    """Rows of a trajectory surrogate: two parameters and t, two outputs, members of 40 steps."""
    x = np.random.default_rng(seed).random((ROWS, 3))
    y = np.column_stack([np.tanh(8 * (x[:, 1] - 0.5 * x[:, 0])) + x[:, 2], np.sin(5 * x[:, 0] * x[:, 2])])
    return Rows(x, y, np.ones(ROWS), np.arange(ROWS) // FRAMES, np.arange(ROWS) % FRAMES)


def batch_of(rows: Rows) -> Batch:
    return Batch(*(torch.as_tensor(a) for a in (rows.x, rows.y, rows.weight, rows.group)))


def taken_in(rows: Rows, observe: Callable[[Rows], None], update: Callable[[Rows], Any], updates: int) -> float:
    """Seconds for a whole training: rows arrive in blocks, and are drawn from a reservoir for so many updates."""
    buffer = Reservoir(capacity=ROWS, max_mb=None, watermark=0)
    began = time.perf_counter()
    done, blocks = 0, ROWS // BLOCK
    for i in range(blocks):
        block = rows.take(np.arange(i * BLOCK, (i + 1) * BLOCK))
        observe(block)
        buffer.insert(block)
        while done < updates * (i + 1) // blocks:
            drawn = buffer.draw(BATCH)
            assert drawn is not None
            update(drawn)
            done += 1
    return time.perf_counter() - began


def by_surrogate(model: OnlineSurrogate, rows: Rows, updates: int) -> float:
    return taken_in(rows, lambda r: model.observe(batch_of(r)), lambda r: model.update(batch_of(r)), updates)


def by_torch(recipe: Any, rows: Rows, updates: int) -> float:
    """One network in plain torch."""
    sizes = [3] + [recipe.width] * recipe.depth
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    net = nn.Sequential(*layers, nn.Linear(recipe.width, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)

    def update(drawn: Rows) -> None:
        optimizer.zero_grad()
        ((net(torch.as_tensor(drawn.x).float()) - torch.as_tensor(drawn.y).float()) ** 2).mean().backward()
        optimizer.step()

    return taken_in(rows, lambda r: None, update, updates)


def together(updates: int, rounds: int) -> dict[str, Any]:
    """Seconds of each way to train 32 models."""
    rows = stream()
    given: dict[str, Any] = {"grid": GRID, "bootstrap": "soft"}
    recipes = Population(3, 2, True, **given).recipes
    once = max(1, updates // 8)

    def apart(network: Callable[[Any], float]) -> float:
        return sum(network(r) for r in recipes)

    def halving() -> float:
        model = Population(3, 2, True, **given)
        seconds = 0.0
        for left in (32, 16, 8, 4):
            model._drop(model._alive()[left:], 1)
            seconds += by_surrogate(model, rows, updates // 4)
        return seconds

    ways: dict[str, Callable[[], float]] = {
        "population, 2 networks a model": lambda: by_surrogate(Population(3, 2, True, estimators=2, **given), rows, updates),
        "population, 1 network a model": lambda: by_surrogate(Population(3, 2, True, estimators=1, **given), rows, updates),
        "population, 2 networks, halving": halving,
        "32 ensembles of 2": lambda: apart(
            lambda r: by_surrogate(DeepEnsemble(3, 2, True, estimators=2, width=r.width, depth=r.depth, lr=r.lr), rows, updates)
        ),
        "32 plain torch networks": lambda: apart(lambda r: by_torch(r, rows, updates)),
    }
    by_surrogate(Population(3, 2, True, **given), rows, once)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    ratios = {
        "to ensembles": [a / b for a, b in zip(seconds["population, 2 networks a model"], seconds["32 ensembles of 2"], strict=True)],
        "to plain torch": [
            a / b for a, b in zip(seconds["population, 1 network a model"], seconds["32 plain torch networks"], strict=True)
        ],
        "halving to ensembles": [
            a / b for a, b in zip(seconds["population, 2 networks, halving"], seconds["32 ensembles of 2"], strict=True)
        ],
    }
    return {
        "updates": updates,
        "seconds": {k: statistics.median(v) for k, v in seconds.items()},
        "ratio": {k: statistics.median(v) for k, v in ratios.items()},
        "range": {k: [min(v), max(v)] for k, v in ratios.items()},
    }


# --- three models beside one ------------------------------------------------------------------------------------------


def simulate(core: int, grid: int, steps: int) -> None:
    """The simulation's process: Gray-Scott members, one frame after the other as numbers on standard output, then the seconds taken."""
    from alearn.simulators.gray_scott import gray_scott

    os.sched_setaffinity(0, {core})
    out = sys.stdout.buffer
    points = np.random.default_rng(1).random((MEMBERS, 2))
    out.write(np.full(6, -1.0).tobytes())  # ready
    out.flush()
    sys.stdin.buffer.read(1)
    began = time.perf_counter()
    for number, (a, b) in enumerate(points):
        frames = gray_scott(F=0.02 + 0.04 * a, k=0.05 + 0.015 * b, grid=grid, frames=FRAMES, steps_per_frame=steps)
        for step, frame in enumerate(frames):
            out.write(np.array([number, step, a, b, frame["v_mean"], frame["v_std"]]).tobytes())
            out.flush()
    out.write(np.array([-2.0, time.perf_counter() - began, time.process_time(), 0, 0, 0]).tobytes())
    out.flush()


def coupled(model: OnlineSurrogate | None, simulation_core: int, learner_core: int, grid: int, steps: int) -> float:
    """Wall seconds of the simulations while a learner with this model takes their frames in."""
    os.sched_setaffinity(0, {learner_core})
    argv = [sys.executable, __file__, "--simulate", str(simulation_core), str(grid), str(steps)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        try:
            return _learned(child.stdout, child.stdin, model)
        finally:
            child.kill()


def _learned(frames: Any, go: Any, model: OnlineSurrogate | None) -> float:
    buffer = Reservoir(capacity=10_000, max_mb=None, watermark=0)
    selector = selectors.DefaultSelector()
    selector.register(frames, selectors.EVENT_READ)
    pending, due = b"", 0
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if selector.select(0 if due else 1.0):
            pending += frames.read(1 << 16) or b""
        whole = len(pending) // 48
        rows: Floats = np.frombuffer(pending[: 48 * whole]).reshape(-1, 6)
        pending = pending[48 * whole :]
        if (rows[:, 0] == -1).any():
            go.write(b"g")
            go.flush()
        if (rows[:, 0] == -2).any():
            return float(rows[-1, 1])
        rows = rows[rows[:, 0] >= 0]
        if model is None:
            continue
        if len(rows):
            x = np.column_stack([rows[:, 2:4], rows[:, 1]])
            block = Rows(x, rows[:, 4:].copy(), np.ones(len(x)), rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64))
            model.observe(batch_of(block))
            buffer.insert(block)
            due += len(block)
        drawn = buffer.draw(BATCH) if due else None
        if drawn is not None:
            model.update(batch_of(drawn))
            due -= 1
    raise TimeoutError(f"The simulations did not end within {DEADLINE_S:.0f} s.")


def beside(rounds: int, grid: int, steps: int) -> dict[str, Any]:
    """The simulations' wall time with none, one and three models, on a shared core and on cores of their own."""
    cores = sorted(os.sched_getaffinity(0))
    places = {"one core for both": (cores[0], cores[0])} | ({"a core each": (cores[0], cores[1])} if len(cores) > 1 else {})
    rates = [1e-3, 3e-3, 1e-2]
    kinds: dict[str, Callable[[], OnlineSurrogate | None]] = {
        "none": lambda: None,
        "one": lambda: Population(3, 2, True, grid={"lr": rates[:1]}),
        "three": lambda: Population(3, 2, True, grid={"lr": rates}),
    }
    found: dict[str, Any] = {}
    try:
        for where, (simulation, learner) in places.items():
            seconds: dict[str, list[float]] = {k: [] for k in kinds}
            for _ in range(rounds):
                for kind, make in kinds.items():
                    seconds[kind].append(coupled(make(), simulation, learner, grid, steps))
            three = [b / a for a, b in zip(seconds["one"], seconds["three"], strict=True)]
            one = [b / a for a, b in zip(seconds["none"], seconds["one"], strict=True)]
            found[where] = {
                "seconds": {k: statistics.median(v) for k, v in seconds.items()},
                "three over one": statistics.median(three),
                "range": [min(three), max(three)],
                "one over none": statistics.median(one),
            }
    finally:
        os.sched_setaffinity(0, set(cores))
    return found


def main() -> None:
    if sys.argv[1:2] == ["--simulate"]:
        simulate(*(int(word) for word in sys.argv[2:5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    trained = together(40 if options.quick else 200, 3 if options.quick else 5)
    for name, s in trained["seconds"].items():
        print(f"{name:<34}{s:>8.2f} s for {trained['updates']} updates of every model")
    for name, ratio in trained["ratio"].items():
        low, high = trained["range"][name]
        print(f"population {name:<23}{ratio:>8.3f} ({low:.3f}-{high:.3f})")
    coupling = beside(5 if options.quick else 15, 96, 150)
    for where, c in coupling.items():
        low, high = c["range"]
        seconds = ", ".join(f"{k} {v:.2f} s" for k, v in c["seconds"].items())
        print(f"simulations, {where}: {seconds}; three over one {c['three over one']:.3f} ({low:.3f}-{high:.3f})")
    if options.json:
        question = "What do 32 models of one stream cost beside 32 trainings, and three beside one?"
        document = {"question": question, "load": load, "together": trained, "beside": coupling}
        options.json.write_text(json.dumps(document, indent=1))
    shared = coupling["one core for both"]
    own = coupling.get("a core each")
    apart = f" (with a core each: {100 * (own['three over one'] - 1):+.1f} %)" if own else ""
    print(
        f"32 small models from one stream take {trained['ratio']['to ensembles']:.2f} of the time of 32 separate trainings with alearn and "
        f"{trained['ratio']['to plain torch']:.2f} of that of 32 plain torch networks; three models cost "
        f"{100 * (shared['three over one'] - 1):+.1f} % of the simulations' time over one on the same core{apart}; load {load:.1f}."
    )


if __name__ == "__main__":
    main()
