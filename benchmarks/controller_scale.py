"""Does the controller's cost per event stay flat as a study grows?

Whole studies of 10^2 to 10^6 members are driven through ``apply`` and ``decide`` in virtual time, with a tenth of
the members running at once (at most 1,000) and a tenth waiting; every event is followed by a decision, as in the
real loop. Printed are events per second, the time of an event and the slope of log(time) over log(members).

Then the same controller runs on a virtual cluster (``alearn.launcher.virtual``): nodes, queues, streams and preemption
included, from 10 nodes to 10,000 and up to 10^6 members; the time is that of everything on one core.

    python benchmarks/controller_scale.py [--quick] [--json FILE] [--members N ...] [--cluster N ...]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import time
from pathlib import Path
from typing import Any

from alearn import events as ev
from alearn.controller import (
    Acquire,
    BudgetSpent,
    Checkpoint,
    Evaluate,
    FailureBudget,
    KeepSlotsFull,
    Kill,
    Launch,
    Learn,
    Policy,
    Refit,
    Requeue,
    Retry,
    Rounds,
    Spare,
    Stop,
    StudyState,
    ValueOfContinuing,
    apply,
)
from alearn.launcher.virtual import CostModel, Faults, LearnerModel
from alearn.testing.virtual import VirtualStudy
from alearn.types import MemberState, member_id

COMMITS = 4
STEPS_A_COMMIT = 5


def study(members: int, seed: int = 0) -> dict[str, Any]:
    """Drive one study to its end; the seconds spent in ``apply`` and ``decide`` only."""
    slots = max(2, min(members // 10, 1000))
    q = max(2, members // 20)
    policy = Policy(
        launch=KeepSlotsFull(slots=slots),
        kill=ValueOfContinuing(min_steps=1),
        acquire=Rounds(design=max(4, members // 10), q=q, low_water=q // 2),
        learn=Learn(members=q),
        stop=[BudgetSpent(), FailureBudget()],
        failure=Retry(),
    )
    rng, state = random.Random(seed), StudyState()
    clock = {"apply": 0.0, "decide": 0.0, "decisions": 0, "longest": 0.0}
    now = 1.7e9

    def tell(event: ev.Event) -> None:
        begin = time.perf_counter()
        apply(state, event)
        clock["apply"] += time.perf_counter() - begin

    def act() -> None:
        begin = time.perf_counter()
        decisions = policy.decide(state, now)
        took = time.perf_counter() - begin
        clock["decide"] += took
        clock["longest"] = max(clock["longest"], took)
        clock["decisions"] += len(decisions)
        for d in decisions:
            carry_out(d)

    def carry_out(d: object) -> None:
        match d:
            case Launch(member=m):
                tell(ev.MemberLaunched(at=now, member=m, attempt=state.records[m].attempt + 1))
                running.append(m)
            case Kill():
                tell(ev.KillRequested(at=now, member=d.member, attempt=d.attempt, reason=d.reason, saved_steps=d.saved_steps))
            case Spare(member=m, reason=why):
                tell(ev.GhostSpared(at=now, member=m, step=state.active[m].steps, reason=why))
            case Requeue(member=m):
                tell(ev.MemberRequeued(at=now, member=m, attempt=state.records[m].attempt))
            case Acquire():
                design = d.origin == "design"
                tell(ev.RoundDecided(at=now, round=0 if design else state.rounds + 1, q=d.q, acquisition="x"))
                for i in range(d.q):
                    origin = "design" if design else "holdout" if i < d.holdout else "acquisition"
                    m = member_id(state.queued_total)
                    point = (rng.random(), rng.random())
                    tell(ev.MemberQueued(at=now, member=m, parameters={}, x=point, origin=origin, score=point[0], round=state.rounds))
            case Refit():
                tell(ev.Refitted(at=now, updates=state.updates + 10, samples=state.steps))
            case Evaluate():
                tell(ev.Evaluated(at=now, simulated_steps=state.steps, members=state.with_data, error={"mean": 1.0}))
            case Checkpoint():
                tell(ev.SnapshotWritten(at=now, name="s", updates=state.updates))
            case Stop(state=how, reason=why):
                tell(ev.StudyEnded(at=now, state=how, reason=why))

    running: list[str] = []
    tell(ev.StudyStarted(at=now, study="scale", arm="active", seed=seed, budget={"members": float(members)}))
    act()
    while not state.ended:
        now += 1.0
        if running:
            at = rng.randrange(len(running))
            r = state.active[running[at]]
            if r.state is MemberState.STARTING:
                tell(ev.MemberRunning(at=now, member=r.id, attempt=r.attempt, steps_total=COMMITS * STEPS_A_COMMIT))
            elif r.kill or r.steps >= COMMITS * STEPS_A_COMMIT or rng.random() < 0.02:
                how = "killed" if r.kill else "done" if r.steps >= COMMITS * STEPS_A_COMMIT else rng.choice(["failed", "lost"])
                tell(ev.MemberEnded(at=now, member=r.id, attempt=r.attempt, state=how, reason="as it goes", core_s=1.0, wall_s=1.0))
                running[at] = running[-1]
                running.pop()
            else:
                last = r.steps + STEPS_A_COMMIT - 1
                tell(ev.SamplesStored(at=now, member=r.id, attempt=r.attempt, steps=STEPS_A_COMMIT, last=last, t=float(last)))
                worth = rng.random() ** 2
                tell(ev.MemberScored(at=now, member=r.id, step=last, remaining_value=worth, best_value=1.0, remaining_steps=5))
        act()
    spent = clock["apply"] + clock["decide"]
    return {
        "members": members,
        "slots": slots,
        "events": state.events,
        "decisions": clock["decisions"],
        "killed": state.counts[MemberState.KILLED],
        "events_per_s": state.events / spent,
        "apply_us": 1e6 * clock["apply"] / state.events,
        "decide_us": 1e6 * clock["decide"] / state.events,
        "longest_decide_ms": 1e3 * clock["longest"],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def on_a_cluster(members: int) -> dict[str, Any]:
    """A study of so many members on a hundredth as many virtual nodes; seconds of the whole simulation."""
    nodes = max(10, members // 100)
    q = max(4, nodes // 2)
    policy = Policy(
        launch=KeepSlotsFull(),
        kill=ValueOfContinuing(min_steps=1),
        acquire=Rounds(design=2 * nodes, q=q, low_water=max(2, q // 2)),
        learn=Learn(members=q),
        stop=[BudgetSpent(), FailureBudget()],
        failure=Retry(),
    )
    given = CostModel.given(startup_s=30.0, step_s=60.0, steps=20, fail=0.02)
    costs = CostModel(given.lives, given.fail, given.value, LearnerModel(refit_s=5.0, acquire_s=1e-3, judge_s=1e-5))
    study = VirtualStudy(
        policy, costs, nodes=nodes, budget={"members": float(members)}, faults=Faults(preempt_s=50_000.0), check=False, keep=False,
        monitors={}, turn_s=0.05, heartbeat_s=60.0,
    )  # fmt: skip
    begin = time.perf_counter()
    end = study.run()
    took = time.perf_counter() - begin
    return {
        "members": members,
        "nodes": nodes,
        "events": end.events,
        "seconds": took,
        "events_per_s": end.events / took,
        "virtual_hours": end.wall_s / 3600,
        "utilisation": end.utilisation,
        "counts": dict(end.counts),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def slope_of(rows: list[dict[str, Any]]) -> float:
    """Of log(seconds an event) over log(members)."""
    xs, ys = [math.log(r["members"]) for r in rows], [-math.log(r["events_per_s"]) for r in rows]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    across = sum((x - mx) ** 2 for x in xs)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / across if across else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 10^5 members")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--members", type=int, nargs="*")
    parser.add_argument("--cluster", type=int, nargs="*", metavar="MEMBERS", help="sizes of the studies on a virtual cluster")
    args = parser.parse_args()
    sizes = args.members or [10**n for n in range(2, 6 if args.quick else 7)]
    study(100)  # warm up
    rows = []
    for n in sizes:
        runs = [study(n, seed) for seed in range(9 if n < 1000 else 3 if n < 100_000 else 1)]
        row = sorted(runs, key=lambda r: float(r["events_per_s"]))[len(runs) // 2]
        rows.append(row)
        print(
            f"{n:>9,} members, {row['slots']:>5,} slots: {row['events']:>10,} events, {row['events_per_s']:>9,.0f} events/s "
            f"(apply {row['apply_us']:.1f} us, decide {row['decide_us']:.1f} us, longest decide {row['longest_decide_ms']:.1f} ms), "
            f"{row['peak_rss_mb']:.0f} MB",
            flush=True,
        )
    slope = slope_of(rows)
    clusters = []
    for n in args.cluster if args.cluster is not None else [10**n for n in range(2, 5 if args.quick else 7)]:
        row = on_a_cluster(n)
        clusters.append(row)
        print(
            f"{n:>9,} members, {row['nodes']:>6,} virtual nodes: {row['events']:>10,} events in {row['seconds']:.1f} s, "
            f"{row['events_per_s']:>9,.0f} events/s, {row['virtual_hours']:.1f} virtual hours, {row['utilisation']:.0%} of the slots used, "
            f"{row['peak_rss_mb']:.0f} MB",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "slope": slope, "clusters": clusters}, indent=1))
    if clusters:
        print(f"On the virtual cluster the time of an event grows as members^{slope_of(clusters):.2f}.")
    print(
        f"apply + decide handle {min(r['events_per_s'] for r in rows):,.0f} events/s or more from {sizes[0]:,} to {sizes[-1]:,} members; "
        f"the time of an event grows as members^{slope:.2f}."
    )


if __name__ == "__main__":
    main()
