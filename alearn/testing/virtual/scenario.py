"""A whole virtual study from one number: policy, cluster, budget and faults."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from alearn.controller import (
    BudgetSpent,
    ErrorGoal,
    FailureBudget,
    KeepSlotsFull,
    Learn,
    NeverKill,
    NoProgress,
    Policy,
    Retry,
    Rounds,
    ValueOfContinuing,
)
from alearn.controller.stragglers import Stragglers
from alearn.launcher.virtual import CostModel, Faults, LearnerModel
from alearn.testing.virtual.study import VirtualStudy

HORIZON_S = 200_000.0


def policy_of(rng: Random, stragglers: str = "") -> Policy:
    """A random policy out of the real parts; ``stragglers`` says what it does about those (nothing by default)."""
    stop: list[BudgetSpent | FailureBudget | ErrorGoal | NoProgress] = [BudgetSpent(), FailureBudget(share=rng.choice([0.3, 0.5, 0.9]))]
    if rng.random() < 0.3:
        stop.append(ErrorGoal(metric="mean", threshold=rng.uniform(0.05, 0.3)))
    if rng.random() < 0.2:
        stop.append(NoProgress(metric="mean", evaluations=rng.randint(2, 6)))
    kill = ValueOfContinuing(threshold=rng.uniform(0.1, 1.0), min_steps=1, ghosts=rng.choice([0.0, 0.2]), replace=rng.random() < 0.7)
    launch = KeepSlotsFull(slots=rng.randint(1, 4))
    inner = kill if rng.random() < 0.7 else NeverKill()
    return Policy(
        launch=launch,
        kill=Stragglers(inner, action=stragglers, factor=2.0, least=2, least_s=1.0) if stragglers else inner,
        acquire=Rounds(design=rng.randint(1, 8), q=rng.randint(1, 5), low_water=rng.randint(1, 3), holdout=rng.choice([0.0, 0.1, 0.5])),
        learn=Learn(members=rng.randint(0, 4), steps=rng.choice([0, 20]), snapshot_s=rng.choice([20.0, 1e9])),
        stop=stop,
        failure=Retry(max_attempts=rng.randint(1, 4), pause_after=rng.choice([3, 20]), retry=rng.choice([[], ["exit code"]])),
    )


def scenario(seed: int, faults: Faults | None = None, tell: Callable[[str], None] | None = None, stragglers: str = "") -> VirtualStudy:
    """A small study under a random schedule of faults.

    Args:
        seed: of everything.
        faults: instead of drawn ones.
        tell: called with every line of the trace.
        stragglers: what the policy does about them, out of ``alearn.controller.stragglers.ACTIONS``; empty has no such rule.
    """
    rng = Random(seed)
    nodes, per_node = rng.randint(1, 5), rng.randint(1, 3)
    policy = policy_of(rng, stragglers)
    budget: dict[str, float] = {"members": float(rng.randint(1, 30))}
    if rng.random() < 0.3:
        budget["steps"] = float(rng.randint(5, 400))
    if rng.random() < 0.3:
        budget["core_s"] = rng.uniform(20.0, 800.0)
    if rng.random() < 0.3:
        budget["wall_s"] = rng.uniform(20.0, 300.0)
    given = CostModel.given(
        startup_s=rng.uniform(0, 5), step_s=rng.uniform(0.1, 2), steps=rng.randint(1, 40), fail=rng.choice([0.0, 0.1, 0.5])
    )
    learner = LearnerModel(refit_s=rng.uniform(0, 10), acquire_s=rng.uniform(0, 2), errors={"mean": (0.0, rng.uniform(0.0, 0.6))})
    costs = CostModel(given.lives, given.fail, given.value, learner, announced=rng.random() < 0.7)
    drawn = Faults.draw(rng, nodes=nodes, horizon_s=100.0, commits=200)
    return VirtualStudy(
        policy, costs, nodes=nodes, slots_per_node=per_node, budget=budget, faults=drawn if faults is None else faults, seed=seed,
        turn_s=rng.choice([0.0, 0.02, 1.0]), burst=rng.randint(1, 8), tell=tell,
    )  # fmt: skip
