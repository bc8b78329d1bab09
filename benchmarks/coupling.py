"""What simulations and training lose by running together: against each alone on the same core.

    python benchmarks/coupling.py [--quick] [--turns N] [--members N] [--json FILE] [--placement inline]

Needs two cores. Simulations run on one of them and the learner on the other (`launcher.placement=space`,
`trainer.placement=process`). Five measurements take turns, and medians of their ratios within a turn are told:

- simulations alone: the same function in a plain process, its steps thrown away;
- training alone, of one model and of three: the same samples from memory, nothing else to do;
- both side by side that know nothing of each other: what the machine itself (memory, cache, clock) takes;
- a study, with one model and with three, that trains without a pause while members stream.

A simulation's time is from its first to its last line of code, so all that its stream costs is in it. Training is told by
its updates a second while members stream, the taking in of samples included. Also the pauses of the controller's loop: turns
of more than 50 ms while members stream.
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
from pathlib import Path
from typing import Any

import numpy as np

GRID, SUBSTEPS, STEPS = 192, 160, 40
KEPT = 96
BOX = {"k": (0.05, 0.2), "b": (0.0, 1.0)}
MODELS = {1: [0.003], 3: [0.001, 0.003, 0.01]}
PAUSE_S = 0.05


def heat(k: float, b: float):  # type: ignore[no-untyped-def]
    """Diffusion on a plate with a source at its edge; writes how long it took into the member's directory."""
    began = time.perf_counter()
    u = np.zeros((GRID, GRID))
    for step in range(STEPS):
        for _ in range(SUBSTEPS):
            u[0] = b + np.sin(0.1 * step)
            u[1:-1, 1:-1] += k * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1])
        yield {"t": float(step), "mean": float(u.mean()), "edge": float(u[8].mean()), "u": u[:KEPT, :KEPT].astype(np.float32)}
    if "ALEARN_MEMBER" in os.environ:
        Path("seconds").write_text(repr(time.perf_counter() - began))


def points(n: int) -> list[dict[str, float]]:
    """The members' parameters: the same whoever runs them."""
    rng = np.random.default_rng(0)
    return [{name: float(rng.uniform(*box)) for name, box in BOX.items()} for _ in range(n)]


def configuration(models: int, members: int, placement: str) -> dict[str, Any]:
    """A study that simulates its members and trains without a pause meanwhile, and does nothing else."""
    return {
        "space": {name: list(box) for name, box in BOX.items()},
        "simulation": {"name": "python", "target": f"{Path(__file__).resolve()}:heat"},
        "outputs": ["mean", "edge"],
        "acquisition": "sobol",
        "kill": "never",
        "monitors": {"nonfinite": {}},
        "launcher": {"name": "local", "slots": 1, "placement": "space", "learner_cores": 1},
        "surrogate": {
            "name": "population",
            "grid": {"lr": MODELS[models], "width": [32], "depth": [2]},
            "survivors": models,
            "estimators": 2,
            "max_updates": 500,
        },
        "trainer": {"name": "inline", "placement": placement, "updates_per_row": 1e6, "refit_updates": 50},
        "budget": {"members": members},
        "design": {"initial": members, "batch": 1000, "holdout": 0.0},
        "archive": "bp5",
        "view": "quiet",
    }


# --- workers, each a process of its own ---------------------------------------------------------------------------------


def simulate(core: int, members: int) -> dict[str, Any]:
    """Simulations alone."""
    os.sched_setaffinity(0, {core})
    seconds = []
    for point in points(members):
        began = time.perf_counter()
        for _ in heat(**point):
            continue
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def train(core: int, models: int, data: str, seconds: float) -> dict[str, Any]:
    """Training alone, from memory."""
    os.sched_setaffinity(0, {core})
    import torch

    from alearn.assembly import make_trainer
    from alearn.config import Config
    from alearn.space import Space
    from alearn.types import Sample, Schema

    torch.set_num_threads(1)
    config = Config.from_mapping(configuration(models, 2, "inline"))
    stored = np.load(data)
    trainer = make_trainer(config, Space.from_config(config.space), Schema.of({"mean": 0.0, "edge": 0.0}))
    for i, point in enumerate(points(len(stored))):
        trainer.add([Sample(f"m{i:04d}", 1, j, float(j), point, {"mean": y[0], "edge": y[1]}) for j, y in enumerate(stored[i])])
    trainer.work(1.0)
    before, began = trainer.updates, time.perf_counter()
    while time.perf_counter() - began < seconds:
        trainer.work(0.05)
    return {"updates_per_s": (trainer.updates - before) / (time.perf_counter() - began)}


def couple(models: int, members: int, placement: str, folder: str) -> dict[str, Any]:
    """A study; how long its members took, how fast it trained while they streamed, and how long the loop's turns were."""
    from alearn.arm import Arm
    from alearn.assembly import assemble
    from alearn.config import Config
    from alearn.ledger import Ledger

    config = Config.from_mapping(configuration(models, members, placement))
    directory = Path(folder) / "study"
    turns: list[float] = []
    pulses: list[tuple[float, int]] = []
    last = time.perf_counter()

    def look(arm: Arm) -> None:
        nonlocal last
        now = time.perf_counter()
        if arm.learner is not None and arm.state.steps < members * STEPS:
            v = arm.learner.vitals()
            if v.updates:
                turns.append(now - last)
                if not pulses or v.updates != pulses[-1][1]:
                    pulses.append((v.alive_at, v.updates))
        last = now

    with Ledger.create(directory, study="coupling") as ledger:
        Arm(assemble(config, "active", directory), ledger, directory, directory, look).run()
        names = [m.id for m in ledger.members()]
    warm = next(i for i, (at, _) in enumerate(pulses) if at > pulses[0][0] + 1.0)
    (t0, n0), (t1, n1) = pulses[warm], pulses[-1]
    # the first member streams while the learner's process still imports torch, on the other core
    seconds = [float((directory / "members" / m / "1" / "seconds").read_text()) for m in names]
    return {"seconds": seconds[1:], "updates_per_s": (n1 - n0) / (t1 - t0), "turns": turns, "streamed_s": t1 - t0}


# --- the turns ----------------------------------------------------------------------------------------------------------


def start(*words: object) -> subprocess.Popen[str]:
    """A worker."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, __file__, "--worker", json.dumps(words)], stdout=subprocess.PIPE, text=True, env=env)


def result(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """What it found."""
    out, _ = worker.communicate(timeout=600)
    if worker.returncode:
        raise SystemExit(f"A worker ended with code {worker.returncode}.")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def turn(members: int, data: str, placement: str, learner: int, simulations: int) -> dict[str, Any]:
    """Every measurement once."""
    alone = result(start("simulate", simulations, members))["seconds"][1:]
    trained = {n: result(start("train", learner, n, data, 4.0))["updates_per_s"] for n in MODELS}
    pair = (start("train", learner, 1, data, 12.0), start("simulate", simulations, members))
    beside = [result(worker) for worker in pair]
    found: dict[str, Any] = {
        "simulation_s": statistics.median(alone),
        "updates_per_s": trained,
        "side_by_side": {
            "simulation": statistics.median(beside[1]["seconds"][2:]) / statistics.median(alone) - 1,
            "training": trained[1] / beside[0]["updates_per_s"] - 1,
        },
    }
    for models in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            study = result(start("couple", models, members, placement, folder))
        turns = study.pop("turns")
        found[f"coupled_{models}"] = {
            "simulation": statistics.median(study["seconds"]) / statistics.median(alone) - 1,
            "training": trained[models] / study["updates_per_s"] - 1,
            "pauses": sum(t > PAUSE_S for t in turns),
            "longest_turn_ms": 1000 * max(turns),
            "turns": len(turns),
            "streamed_s": study["streamed_s"],
        }
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three turns of fewer members")
    parser.add_argument("--turns", type=int, help="how many turns; 3 with --quick, else 7")
    parser.add_argument("--members", type=int, help="simulations of a study; 10 with --quick, else 16")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--placement", default="process", choices=("process", "inline"), help="where the studies' learner runs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        name, *words = json.loads(given.worker)
        print(json.dumps({"simulate": simulate, "train": train, "couple": couple}[name](*words)))
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("This benchmark needs two cores: one for the simulations, one for the learner.")
    members, rounds = given.members or (10 if given.quick else 16), given.turns or (3 if given.quick else 7)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "data.npy")
        np.save(data, np.array([[(s["mean"], s["edge"]) for s in heat(**p)] for p in points(members)]))
        found = [turn(members, data, given.placement, cores[0], cores[1]) for _ in range(rounds)]

    def middle(*keys: str) -> float:
        values = []
        for one in found:
            for key in keys:
                one = one[key]
            values.append(one)
        return statistics.median(values)

    summary: dict[str, Any] = {"side_by_side": {what: middle("side_by_side", what) for what in ("simulation", "training")}}
    size = KEPT * KEPT * 4 // 1024
    print(f"load {load:.1f}, {rounds} turns of {members} members, {STEPS} steps of {size} KB each; learner: {given.placement}")
    print(f"{'slower than alone':<28}{'simulation':>12}{'training':>12}")
    print(f"{'side by side, uncoupled':<28}{summary['side_by_side']['simulation']:>12.1%}{summary['side_by_side']['training']:>12.1%}")
    for models in MODELS:
        key = f"coupled_{models}"
        summary[key] = {what: middle(key, what) for what in ("simulation", "training", "longest_turn_ms")}
        summary[key]["pauses"] = sum(one[key]["pauses"] for one in found)
        summary[key]["turns"] = sum(one[key]["turns"] for one in found)
        print(f"{f'a study, {models} model(s)':<28}{summary[key]['simulation']:>12.1%}{summary[key]['training']:>12.1%}")
    for models in MODELS:
        s = summary[f"coupled_{models}"]
        print(
            f"loop, {models} model(s): {s['pauses']} of {s['turns']} turns over 50 ms; the longest {s['longest_turn_ms']:.0f} ms (median)"
        )
    if given.json:
        about = {"load": load, "cpu": platform.processor(), "python": platform.python_version(), "placement": given.placement}
        given.json.write_text(json.dumps({"about": about, "summary": summary, "turns": found}, indent=1))
    one, three = summary["coupled_1"], summary["coupled_3"]
    pauses = one["pauses"] + three["pauses"]
    print(
        f"Together, simulations take {one['simulation']:+.1%} and training {one['training']:+.1%} of their time alone with one model, "
        f"{three['simulation']:+.1%} and {three['training']:+.1%} with three; {pauses} turns of the loop took over 50 ms."
    )


if __name__ == "__main__":
    main()
