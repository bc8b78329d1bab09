"""What kills save: simulated steps to reach an error, with and without the kill policy, on simulations of four kinds.

    python benchmarks/kill_policy.py [--quick] [--seeds N] [--set threshold=0.2] [--json FILE]

Two simulations in which killing should pay a lot (a damped oscillator that comes to rest, an enzyme that uses its substrate up:
long tails that say nothing new), one where it should pay nothing (an undamped pendulum: its late steps are the least known),
and one where naive killing hurts (a thermal explosion after a long quiet induction time). The real controller, trainer,
surrogate and acquisition run in lock-step with the simulations, in virtual time, four slots, with the same budget of
simulated steps. What the streamed steps are worth is measured at fractions of the budget by interpolation (biharmonic spline over
parameters and t) on test members: it depends on nothing but which steps were simulated, so the luck of training does not
count. "naive" kills what is flat: no output moved by more than 1 % of its spread over the last four steps.

An arm's saving is 1 - steps(arm) / steps(never), both to the smallest error that both reach.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
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


@dataclass(frozen=True, slots=True)
class Case:
    """A simulation, its box, and what killing should do there."""

    simulate: Callable[..., Iterator[dict[str, float]]]
    box: dict[str, list[float]]
    pays: bool


CASES = {
    "damped": Case(damped, {"damping": [0.2, 1.5], "frequency": [0.5, 2.0]}, True),
    "enzyme": Case(enzyme, {"k": [0.3, 3.0], "km": [0.1, 2.0]}, True),
    "pendulum": Case(pendulum, {"angle": [0.2, 2.8], "gravity": [0.5, 2.0]}, False),
    "ignition": Case(ignition, {"delta": [0.1, 0.7], "order": [0.5, 2.0]}, False),
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
    killed_steps: int = 0

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
        self.steps_budget = [round(f * self.budget) for f in FRACTIONS]
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
            while self.steps_budget and self.state.steps >= self.steps_budget[0]:
                self.steps_budget.pop(0)
                self.curve.append((self.state.steps, self.measure(test)))
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
            if r.state is MemberState.RUNNING and r.steps and not r.kill and r.origin == "acquisition"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, smaller budget")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="options of kill=value")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = args.seeds or (2 if args.quick else 5)
    budget = 1200 if args.quick else 2000
    options = {k: json.loads(v) for k, v in (o.split("=", 1) for o in args.set)}
    print(f"{seeds} seeds, {budget} steps an arm, kill options {options or 'as shipped'}, load {os.getloadavg()[0]:.1f}", flush=True)
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        if args.only and name != args.only:
            continue
        kills: dict[str, Callable[[], Any]] = {"never": NeverKill, "value": lambda: ValueOfContinuing(**options), "naive": Flat}
        if name != "ignition":
            kills.pop("naive")
        test, rows = test_set(case), []
        for seed in range(seeds):
            began = time.perf_counter()
            arms = {kind: Arm(case, make(), budget, seed).run(test) for kind, make in kills.items()}
            row: dict[str, float] = {}
            for kind, arm in arms.items():
                members = arm.state.launched_total
                row |= {f"{kind}_error": arm.curve[-1][1], f"{kind}_members": members, f"{kind}_kills": arm.state.kills_by_value}
                target = max(min(e for _, e in a.curve) for a in (arm, arms["never"]))
                row[f"{kind}_saving"] = 1.0 - steps_to(arm.curve, target) / steps_to(arms["never"].curve, target)
            rows.append(row)
            print(
                f"  {name} seed {seed}: "
                + ", ".join(f"{k} error {row[f'{k}_error']:.4f} ({row[f'{k}_members']} members, {row[f'{k}_kills']} killed)" for k in arms)
                + "; saving "
                + ", ".join(f"{k} {100 * row[f'{k}_saving']:.0f} %" for k in arms if k != "never")
                + f"  [{time.perf_counter() - began:.0f} s]",
                flush=True,
            )
        results[name] = rows
    said = []
    for name, rows in results.items():
        for kind in ("value", "naive"):
            if f"{kind}_saving" in rows[0]:
                found = [r[f"{kind}_saving"] for r in rows]
                ratio = statistics.median(r["never_error"] / r[f"{kind}_error"] for r in rows)
                said.append(f"{name} {kind}: median saving {100 * statistics.median(found):.0f} % (error ratio at the end {ratio:.2f})")
    if args.json:
        args.json.write_text(json.dumps(results))
    print("; ".join(said))


if __name__ == "__main__":
    main()
