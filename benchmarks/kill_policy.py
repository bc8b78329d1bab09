"""What kills save: simulated steps to reach an error, with and without the kill policy, on simulations of four kinds.

    python benchmarks/kill_policy.py [--quick] [--seeds N] [--budget STEPS] [--set threshold=0.2] [--json FILE]

Two simulations in which killing should pay a lot (a damped oscillator that comes to rest, an enzyme that uses its substrate up:
long tails that say nothing new), one where it should pay nothing (an undamped pendulum: its late steps are the least known),
and one where naive killing hurts (a thermal explosion after a long quiet induction time); and one more of each of the three kinds
at which nobody looked while the rule was made. The real controller, trainer, surrogate and acquisition run in lock-step with the
simulations, in virtual time, four slots, with the same budget of simulated steps. "naive" kills what is flat: no output moved
by more than 1 % of its spread over the last four steps.

What the streamed steps are worth is measured on test members in two ways. By interpolation (biharmonic spline over parameters and
t), which depends on nothing but which steps were simulated, so the luck of training does not count; but it needs steps
everywhere, and stalls where a front is sharp: an arm's saving is 1 - steps(arm) / steps(never), mean over errors that both reach.
And by what a study is for, the surrogate, trained from scratch to convergence on the same number of steps: its error without
kills over that with them.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator

from alearn import events as ev
from alearn.acquisition.base import Context
from alearn.acquisition.uncertainty import StdDistance
from alearn.controller import (
    BudgetSpent,
    KeepSlotsFull,
    Kill,
    Learn,
    NeverKill,
    Policy,
    Retry,
    Rounds,
    StudyState,
    ValueOfContinuing,
    apply,
)
from alearn.controller import decisions as do
from alearn.controller.kill import is_ghost
from alearn.space import Space
from alearn.trainer import InlineTrainer
from alearn.types import MemberState, Sample, Schema, member_id

STEPS = 40
SLOTS, STARTUP = 4, 2
SURROGATE = {"estimators": 6, "width": 32, "depth": 2}
FRACTIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEARNED = (0.4, 0.7, 1.0)
TEST = 64

Rates = Callable[[Sequence[float]], Sequence[float]]


def integrate(rates: Rates, start: Sequence[float], duration: float, solver_steps: int) -> Iterator[tuple[float, Sequence[float]]]:
    """``STEPS`` evenly spaced states of an ordinary differential equation, by the classical Runge-Kutta method."""
    y, h = list(start), duration / (STEPS * solver_steps)
    for frame in range(STEPS):
        if frame:
            for _ in range(solver_steps):
                k1 = rates(y)
                k2 = rates([a + h / 2 * b for a, b in zip(y, k1, strict=True)])
                k3 = rates([a + h / 2 * b for a, b in zip(y, k2, strict=True)])
                k4 = rates([a + h * b for a, b in zip(y, k3, strict=True)])
                y = [a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(y, k1, k2, k3, k4, strict=True)]
        yield frame * solver_steps * h, y


def damped(damping: float, frequency: float) -> Iterator[dict[str, float]]:
    """A damped oscillator let go at 1: at rest for most of the time."""
    rates = lambda y: (y[1], -2 * damping * frequency * y[1] - frequency**2 * y[0])  # noqa: E731
    for t, (x, v) in integrate(rates, (1.0, 0.0), 60.0, 12):
        yield {"t": t, "x": x, "speed": v}


def enzyme(k: float, km: float) -> Iterator[dict[str, float]]:
    """Substrate and rate of an enzyme reaction (Michaelis and Menten 1913), most of the time after it is used up."""
    for t, (s,) in integrate(lambda y: (-k * max(y[0], 0.0) / (km + max(y[0], 0.0)),), (1.0,), 36.0, 24):
        yield {"t": t, "substrate": s, "rate": k * max(s, 0.0) / (km + max(s, 0.0))}


def pendulum(angle: float, gravity: float) -> Iterator[dict[str, float]]:
    """An undamped pendulum: its period depends on the amplitude, so its phase is the less known the later."""
    for t, (a, w) in integrate(lambda y: (y[1], -gravity * math.sin(y[0])), (angle, 0.0), 12.0, 8):
        yield {"t": t, "angle": a, "speed": w}


def ignition(delta: float, order: float) -> Iterator[dict[str, float]]:
    """A reacting gas in a vessel (Semenov 1928): quiet for long, then, above a critical delta, it explodes and burns out."""

    def rates(y: Sequence[float]) -> Sequence[float]:
        burn = max(y[1], 0.0) ** order * math.exp(min(y[0] / (1.0 + 0.05 * y[0]), 20.0))
        return delta * burn - y[0], -0.01 * burn

    for t, (theta, fuel) in integrate(rates, (0.0, 1.0), 12.0, 40):
        yield {"t": t, "warmth": math.log1p(max(theta, 0.0)), "fuel": fuel}


def drug(uptake: float, decay: float) -> Iterator[dict[str, float]]:
    """A drug swallowed once (one-compartment model of Bateman's form): it rises, and is gone for most of the time."""
    for t, (gut, blood) in integrate(lambda y: (-uptake * y[0], uptake * y[0] - decay * y[1]), (1.0, 0.0), 16.0, 12):
        yield {"t": t, "gut": gut, "blood": blood}


def prey(appetite: float, growth: float) -> Iterator[dict[str, float]]:
    """Hares and lynxes (Lotka 1925, Volterra 1926): cycles without end, the less known the later."""
    rates = lambda y: (growth * y[0] - appetite * y[0] * y[1], 0.5 * appetite * y[0] * y[1] - 0.6 * y[1])  # noqa: E731
    for t, (hares, lynxes) in integrate(rates, (1.0, 0.7), 20.0, 12):
        yield {"t": t, "hares": math.log(hares), "lynxes": math.log(lynxes)}


def passage(rate: float, bias: float) -> Iterator[dict[str, float]]:
    """A slow passage through a pitchfork bifurcation with a small bias: nothing for long, then a jump (Strogatz 1994, ch. 3)."""
    for t, (x, _) in integrate(lambda y: (y[1] * y[0] - y[0] ** 3 + bias, rate), (0.0, -1.0), 30.0, 12):
        yield {"t": t, "x": x}


@dataclass(frozen=True, slots=True)
class Case:
    """A simulation and its box; whether the naive rule runs too, and whether the rule was mended without looking at it."""

    simulate: Callable[..., Iterator[dict[str, float]]]
    box: dict[str, list[float]]
    naive: bool = False
    unseen: bool = False


CASES = {
    "damped": Case(damped, {"damping": [0.2, 1.5], "frequency": [0.5, 2.0]}),
    "enzyme": Case(enzyme, {"k": [0.3, 3.0], "km": [0.1, 2.0]}),
    "pendulum": Case(pendulum, {"angle": [0.2, 2.8], "gravity": [0.5, 2.0]}),
    "ignition": Case(ignition, {"delta": [0.1, 0.7], "order": [0.5, 2.0]}, naive=True),
    "drug": Case(drug, {"uptake": [0.3, 3.0], "decay": [0.2, 1.5]}, unseen=True),
    "prey": Case(prey, {"appetite": [0.5, 1.5], "growth": [0.6, 1.4]}, unseen=True),
    "passage": Case(passage, {"rate": [0.02, 0.12], "bias": [0.0001, 0.02]}, naive=True, unseen=True),
}


class Flat:
    """The naive rule: kill whatever has not moved for four steps. Reads the streams, which a real policy may not."""

    def __init__(self) -> None:
        self.seen: dict[str, list[list[float]]] = {}
        self.spread = np.zeros(1)

    def decide(self, state: StudyState, now: float) -> list[do.Decision]:
        out: list[do.Decision] = []
        for m, r in state.active.items():
            last = np.array(self.seen.get(m, [])[-4:])
            flat = len(last) == 4 and bool((np.ptp(last, axis=0) <= 0.01 * np.maximum(self.spread, 1e-12)).all())
            if flat and not r.kill and r.origin == "acquisition" and not is_ghost(state.seed, m, 0.1):
                out.append(Kill(m, r.attempt, "flat", STEPS - r.steps))
        return out


@dataclass
class Arm:
    """One study in virtual time: a step of every running member a second."""

    case: Case
    kill: Any
    budget: int
    seed: int
    state: StudyState = field(default_factory=StudyState)
    curve: list[tuple[int, float]] = field(default_factory=list)
    learned: list[tuple[int, float, float]] = field(default_factory=list)

    def run(self, test: tuple[np.ndarray, np.ndarray]) -> Arm:
        self.space = Space.from_config(self.case.box)
        self.schema: Schema | None = None
        self.trainer: InlineTrainer | None = None
        self.acquisition, self.generator = StdDistance(pool=1024, refine=256), torch.Generator().manual_seed(self.seed)
        self.policy = Policy(
            launch=KeepSlotsFull(slots=SLOTS),
            kill=self.kill,
            acquire=Rounds(design=8, q=4, holdout=0.1),
            learn=Learn(members=4, snapshot_s=math.inf),
            stop=[BudgetSpent()],
            failure=Retry(),
        )
        self.now, self.streams, self.samples = 0.0, {}, []
        self.x: dict[str, tuple[float, ...]] = {}
        due = [round(f * self.budget) for f in FRACTIONS]
        to_learn = [round(f * self.budget) for f in LEARNED]
        self.tell(ev.StudyStarted(at=0.0, study="s", arm="active", seed=self.seed, budget={"steps": float(self.budget)}))
        while not self.state.ended:
            self.now += 1.0
            self.advance()
            if self.trainer is not None and self.state.updates and self.now % 2 == 0:
                self.judge()
            for _ in range(8):  # until there is nothing more to do at this second
                found = self.policy.decide(self.state, self.now)
                for d in found:
                    self.act(d)
                if not any(isinstance(d, (do.Acquire, do.Refit, do.Evaluate)) for d in found):
                    break
            while due and self.state.steps >= due[0]:
                due.pop(0)
                self.curve.append((self.state.steps, self.measure(test)))
            while to_learn and self.state.steps >= to_learn[0]:
                to_learn.pop(0)
                self.learned.append((self.state.steps, *self.surrogate_error(test)))
        if due:  # what was left of the budget was too little for another member
            self.curve.append((self.state.steps, self.measure(test)))
        if to_learn:
            self.learned.append((self.state.steps, *self.surrogate_error(test)))
        return self

    def tell(self, event: ev.Event) -> None:
        apply(self.state, event)

    def advance(self) -> None:
        """Every running member makes a step."""
        batch = []
        for m, r in list(self.state.active.items()):
            if self.now - r.launched_at < STARTUP:
                continue
            if r.state is MemberState.STARTING:
                self.tell(ev.MemberRunning(at=self.now, member=m, attempt=1, steps_total=STEPS))
            values = next(self.streams[m], None)
            if values is None:
                self.over(m, "done")
                continue
            t = values.pop("t")
            if self.schema is None:
                self.schema = Schema.of(values)
                self.trainer = self.make_trainer()
            batch.append(Sample(m, 1, r.steps, t, dict(r.parameters), self.schema.conform(values)))
            self.tell(ev.SamplesStored(at=self.now, member=m, attempt=1, steps=1, last=r.steps, t=t))
            if isinstance(self.kill, Flat):
                self.kill.seen.setdefault(m, []).append(list(values.values()))
        if batch and self.trainer is not None:
            self.samples += batch
            self.trainer.add(batch)
            self.trainer.work(math.inf, max_updates=(len(batch) + 1) // 2)
            if isinstance(self.kill, Flat):
                self.kill.spread = np.std([row for rows in self.kill.seen.values() for row in rows], axis=0)

    def make_trainer(self, **options: Any) -> InlineTrainer:
        assert self.schema is not None
        return InlineTrainer(self.space, self.schema, surrogate_options=SURROGATE, seed=self.seed, refit_updates=80, **options)

    def over(self, member: str, state: str) -> None:
        spent = self.now - self.state.active[member].launched_at
        self.tell(ev.MemberEnded(at=self.now, member=member, attempt=1, state=state, core_s=spent))
        if self.trainer is not None:
            self.trainer.ended(member, killed=state == "killed")

    def judge(self) -> None:
        assert self.trainer is not None
        running = {
            r.id: (r.x, r.steps - 1, r.t, STEPS)
            for r in self.state.active.values()
            if r.state is MemberState.RUNNING and r.steps and not r.kill
        }
        if not running or not isinstance(self.kill, ValueOfContinuing):
            return
        best = float(self.trainer.trajectory_std(self.space.sobol(128, seed=0)).max()) if not self.best else self.best
        self.best = best
        for scored in self.trainer.member_scores(running, best_std=best, seconds_per_step=1.0, startup_s=float(STARTUP)):
            self.tell(ev.MemberScored(at=self.now, **{k: getattr(scored, k) for k in SCORED}))

    best: float = 0.0

    def act(self, d: do.Decision) -> None:
        match d:
            case do.Launch(member=m):
                self.tell(ev.MemberLaunched(at=self.now, member=m, attempt=1))
                self.streams[m] = self.case.simulate(**self.state.records[m].parameters)
            case do.Kill():
                self.tell(ev.KillRequested(at=self.now, member=d.member, attempt=d.attempt, reason=d.reason, saved_steps=d.saved_steps))
                self.over(d.member, "killed")
            case do.Spare(member=m, reason=why):
                self.tell(ev.GhostSpared(at=self.now, member=m, step=self.state.active[m].steps, reason=why))
            case do.Withdraw(member=m, reason=why):
                self.tell(ev.MemberRescored(at=self.now, member=m, score=0.0, withdrawn=True, why=why))
            case do.Acquire():
                self.choose(d)
            case do.Refit() | do.Evaluate():
                assert self.trainer is not None
                if not (isinstance(d, do.Refit) and d.last):
                    self.trainer.refit()
                self.best = 0.0
                self.tell(ev.Refitted(at=self.now, updates=self.trainer.updates, samples=self.trainer.samples))
                self.tell(ev.Evaluated(at=self.now, simulated_steps=self.state.steps, members=self.state.with_data, error={}))
            case do.Checkpoint():
                self.tell(ev.SnapshotWritten(at=self.now, name="", updates=self.state.updates))
            case do.Stop(state=state, reason=why):
                self.tell(ev.StudyEnded(at=self.now, state=state, reason=why))

    def choose(self, wish: do.Acquire) -> None:
        s, origins = self.state, []
        if wish.origin == "design" or self.trainer is None:
            x = self.space.sobol(wish.q, seed=self.seed, skip=s.queued_total)
            origins = ["design"] * wish.q
        else:
            held = self.space.sobol(wish.holdout, seed=self.seed + 7919, skip=s.origins["holdout"])
            pending = list(s.records.values())
            context = Context(
                X=torch.tensor([x for m, x in self.x.items() if m not in s.records], dtype=torch.float64).reshape(-1, self.space.d),
                pending=torch.tensor([r.x for r in pending], dtype=torch.float64).reshape(-1, self.space.d),
                progress=torch.tensor([r.steps / STEPS for r in pending], dtype=torch.float64),
                generator=self.generator,
                round=s.rounds + 1,
            )
            chosen = self.acquisition.select(self.trainer.parameter_model(), self.space, wish.q - wish.holdout, context)
            x = np.vstack([chosen.x, held])
            origins = ["acquisition"] * len(chosen.x) + ["holdout"] * len(held)
        first = s.queued_total
        self.tell(ev.RoundDecided(at=self.now, round=0 if wish.origin == "design" else s.rounds + 1, q=len(x), acquisition="std_distance"))
        for i, (values, point, origin) in enumerate(zip(self.space.from_unit(x), x.tolist(), origins, strict=True)):
            m = member_id(first + i)
            self.x[m] = tuple(point)
            self.tell(ev.MemberQueued(at=self.now, member=m, parameters=values, x=tuple(point), origin=origin, round=s.rounds))

    def surrogate_error(self, test: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
        """Mean and 95th percentile over the test members of the error of a surrogate trained to convergence on the steps so far."""
        learner = self.make_trainer()
        learner.add(self.samples)
        for m in learner.features.members:
            learner.ended(m, killed=self.state.look(m).state is MemberState.KILLED)
        learner.final_fit()
        parameters, truth = test
        mean, _ = learner.predict(self.space.from_unit(parameters), sorted({s.t for s in self.samples}))
        errors = np.sqrt((((mean - truth) / truth.std(axis=(0, 1))) ** 2).mean(axis=(1, 2)))
        return float(errors.mean()), float(np.quantile(errors, 0.95))

    def measure(self, test: tuple[np.ndarray, np.ndarray]) -> float:
        """Mean error over the test members of what can be interpolated from the steps streamed so far."""
        times = sorted({s.t for s in self.samples})
        kept = [s for s in self.samples if s.step % 2 == 0 or s.step == self.state.look(s.member).steps - 1]
        known = np.array([[*self.x[s.member], s.t / times[-1]] for s in kept])
        values = np.array([[float(v) for v in s.values.values()] for s in kept])
        parameters, truth = test
        asked = np.array([[*x, t / times[-1]] for x in parameters for t in times[1::2]])
        truth = truth[:, 1::2]
        mean = RBFInterpolator(known, values, kernel="linear")(asked).reshape(truth.shape)
        scale = truth.std(axis=(0, 1))
        return float(np.sqrt((((mean - truth) / scale) ** 2).mean(axis=(1, 2))).mean())


SCORED = ("member", "step", "remaining_value", "best_value", "remaining_steps", "surprise")


def test_set(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Points ``TEST x d`` in the unit cube and their trajectories ``TEST x STEPS x m``."""
    space = Space.from_config(case.box)
    x = space.sobol(TEST, seed=99)
    runs = [[[v for k, v in step.items() if k != "t"] for step in case.simulate(**p)] for p in space.from_unit(x)]
    return x, np.array(runs)


def saving(arm: Sequence[tuple[int, float]], never: Sequence[tuple[int, float]]) -> float:
    """1 - steps(arm) / steps(never), mean over errors between the middle of the study and the smallest that both reach."""
    best = max(min(e for _, e in curve) for curve in (arm, never))
    start = max(min(e for s, e in curve if s <= 0.5 * curve[-1][0]) for curve in (arm, never))
    targets = np.geomspace(max(best, start * (1 - 1e-9)), best, 8)
    return float(np.mean([1.0 - steps_to(arm, target) / steps_to(never, target) for target in targets]))


def better(arm: Sequence[tuple[int, float, float]], never: Sequence[tuple[int, float, float]], which: int = 1) -> float:
    """Error of the surrogate without kills over that with them, after the same steps: geometric mean over the moments of ``LEARNED``."""
    return math.exp(statistics.fmean(math.log(n[which] / a[which]) for a, n in zip(arm, never, strict=True)))


def steps_to(curve: Sequence[tuple[int, float]], target: float) -> float:
    """Simulated steps at which the error first was ``target``, interpolated in its logarithm; infinite if it never was."""
    before: tuple[int, float] | None = None
    for steps, error in curve:
        if error <= target:
            if before is None:
                return float(steps)
            share = math.log(before[1] / target) / math.log(before[1] / error)
            return before[0] + share * (steps - before[0])
        before = (steps, error)
    return math.inf


@dataclass(frozen=True, slots=True)
class Task:
    """One simulation with one seed: every arm on it."""

    name: str
    seed: int
    budget: int
    options: tuple[tuple[str, Any], ...]

    def run(self) -> dict[str, Any]:
        """Errors, members, kills and savings of the arms."""
        torch.set_num_threads(1)
        case, began = CASES[self.name], time.perf_counter()
        kills: dict[str, Any] = {"never": NeverKill(), "value": ValueOfContinuing(**dict(self.options))}
        if case.naive:
            kills["naive"] = Flat()
        test = test_set(case)
        arms = {kind: Arm(case, kill, self.budget, self.seed).run(test) for kind, kill in kills.items()}
        row: dict[str, Any] = {"seed": self.seed}
        for kind, arm in arms.items():
            row |= {
                f"{kind}_members": arm.state.launched_total,
                f"{kind}_kills": arm.state.kills_by_value,
                f"{kind}_saved_steps": arm.state.saved_steps,
                f"{kind}_curve": arm.curve,
            }
            row |= {
                f"{kind}_learned": arm.learned,
                f"{kind}_error": arm.curve[-1][1],
                f"{kind}_surrogate": arm.learned[-1][1],
                f"{kind}_surrogate_p95": arm.learned[-1][2],
                f"{kind}_saving": saving(arm.curve, arms["never"].curve),
                f"{kind}_better": better(arm.learned, arms["never"].learned),
                f"{kind}_better_p95": better(arm.learned, arms["never"].learned, 2),
            }
        return row | {"seconds": round(time.perf_counter() - began, 1)}


def told(name: str, row: dict[str, Any]) -> str:
    """One seed in a line."""
    parts = [f"  {name} seed {row['seed']}:"]
    for kind in ("never", "value", "naive"):
        if f"{kind}_error" in row:
            killed = f", {row[f'{kind}_kills']} killed" if kind != "never" else ""
            saved = f", saving {100 * row[f'{kind}_saving']:.0f} %" if kind != "never" else ""
            parts.append(
                f"{kind} {row[f'{kind}_members']} members{killed}, error {row[f'{kind}_error']:.4f}, "
                f"surrogate {row[f'{kind}_surrogate']:.4f}{saved};"
            )
    return " ".join(parts) + f" [{row['seconds']:.0f} s]"


def verdicts(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A clause for each simulation and rule: median and range over the seeds."""
    said = []
    for name, rows in results.items():
        for kind in ("value", "naive"):
            if f"{kind}_saving" not in rows[0]:
                continue
            saved = [100 * r[f"{kind}_saving"] for r in rows]
            ratio, tail = ([r[f"{kind}_better{what}"] for r in rows] for what in ("", "_p95"))
            said.append(
                f"{name} {kind}: median saving {statistics.median(saved):.0f} % ({min(saved):.0f} to {max(saved):.0f}) by interpolation; "
                f"surrogate's error after equal steps, without over with kills, {statistics.median(ratio):.2f} "
                f"({min(ratio):.2f} to {max(ratio):.2f}), p95 {statistics.median(tail):.2f}"
            )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, smaller budget, the first four simulations")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, help="simulated steps an arm (2000)")
    parser.add_argument("--only", nargs="+", choices=list(CASES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="arms at a time, each in a process of its own")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="options of kill=value")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seeds = args.seeds or (1 if args.quick else 5)
    budget = args.budget or (1200 if args.quick else 2000)
    options = tuple((k, json.loads(v)) for k, v in (o.split("=", 1) for o in args.set))
    names = args.only or [n for n, c in CASES.items() if not (args.quick and c.unseen)]
    print(f"{seeds} seeds, {budget} steps an arm, kill options {dict(options) or 'as shipped'}, load {os.getloadavg()[0]:.1f}", flush=True)
    results: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = [Task(n, seed, budget, options) for n in names for seed in range(args.first_seed, args.first_seed + seeds)]
        for task, row in zip(tasks, pool.map(Task.run, tasks), strict=True):
            results.setdefault(task.name, []).append(row)
            print(told(task.name, row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"options": dict(options), "budget": budget, "results": results}))
    print("; ".join(verdicts(results)))


if __name__ == "__main__":
    main()
