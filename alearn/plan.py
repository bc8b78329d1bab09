"""What a study would take on other machines, from a short real run: ``alearn plan``.

The costs of members and learner are fitted from the run's ledger; then the study's own policy drives a virtual cluster
(``alearn.testing.virtual``), in virtual time, once for each number of nodes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from alearn.assembly import make_policy
from alearn.config import Budget, Config, Goal
from alearn.controller import StudyState, apply
from alearn.errors import ConfigError
from alearn.launcher.virtual import CostModel, Faults
from alearn.ledger import Ledger
from alearn.testing.virtual import Outcome, VirtualStudy

IDLE_BELOW = 0.7
"""Under this utilisation a second line shows the study with larger rounds."""
SEEDS = 3
MANY = 5000
"""Above so many members one seed is enough (and long enough)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a plan; medians over the seeds.

    Args:
        nodes, slots: the cluster; members at a time.
        initial, batch: points of the initial design and of a round.
        members, steps: launched; simulated.
        wall_s: seconds from start to end.
        core_h: core-hours of the members.
        utilisation: share of the slots that was in use, over the whole time.
        saved_core_h: core-hours that kills saved.
        spread_s: seconds between the fastest and the slowest of the seeds.
        error: mean error at the end, extrapolated; NaN if the run never measured one.
        ended: why the study ended.
    """

    nodes: int
    slots: int
    initial: int
    batch: int
    members: int
    steps: int
    wall_s: float
    core_h: float
    utilisation: float
    saved_core_h: float
    spread_s: float
    error: float
    ended: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A table and what it rests on.

    Args:
        study: the study's name.
        rows: the lines.
        check: what the same model says of the run itself, beside what the run took.
        assumptions: sentences.
    """

    study: str
    rows: tuple[Row, ...]
    check: str
    assumptions: tuple[str, ...]

    def __str__(self) -> str:
        head = ("nodes", "slots", "initial", "batch", "members", "wall time", "+-", "core-hours", "in use", "kills save", "error")
        lines = [
            (
                f"{r.nodes:,}", f"{r.slots:,}", f"{r.initial:,}", f"{r.batch:,}", f"{r.members:,}", _time(r.wall_s), _time(r.spread_s / 2),
                f"{r.core_h:,.3g}", f"{r.utilisation:.0%}", f"{r.saved_core_h:,.3g}", "-" if math.isnan(r.error) else f"{r.error:.3g}",
            )
            for r in self.rows
        ]  # fmt: skip
        widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
        table = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in [head, *lines]]
        ends = sorted({f"  {r.nodes:,} nodes, batch {r.batch:,}: {r.ended}" for r in self.rows})
        assumed = [f"  - {a}" for a in self.assumptions]
        return "\n".join([f"Plan of '{self.study}'", "", *table, "", "How they end:", *ends, "", "Assumed:", *assumed, "", self.check])


def plan(
    directory: Path | str,
    nodes: Sequence[int] = (10, 100, 1000),
    budget: Mapping[str, float] | None = None,
    *,
    slots_per_node: int = 1,
    batch: int | None = None,
    queue_s: float = 0.0,
    preempt_s: float = 0.0,
    seeds: int = SEEDS,
) -> Plan:
    """Tell what the study in ``directory`` would take on clusters of these sizes.

    Args:
        directory: a study that has run, or has begun to.
        nodes: sizes of the clusters.
        budget: limits out of members, steps, core_s and wall_s; the study's own by default.
        slots_per_node: members at a time on each node.
        batch: points of a round; the study's own by default, and a second line with larger rounds where that
            leaves much of the cluster idle.
        queue_s: mean wait of a member between submission and start, s.
        preempt_s: mean running time until the system takes a node away, s; 0 is never.
        seeds: how often each line is simulated.

    Raises:
        ConfigError: nothing to plan from, or a size that makes no sense.
        LedgerError: there is no study.
    """
    directory = Path(directory)
    if not nodes or min(nodes) < 1 or slots_per_node < 1 or seeds < 1 or (batch is not None and batch < 1):
        given = f"nodes={list(nodes)}, slots={slots_per_node}, seeds={seeds}, batch={batch}"
        raise ConfigError(f"A plan needs at least one node, slot, seed and point of a round, not {given}.")
    ledger = Ledger.open(directory, readonly=True)
    try:
        events = [event for _, event in ledger.events()]
    finally:
        ledger.close()
    config = Config.load(directory / "config.yaml")
    costs, state = CostModel.fit(events), StudyState()
    for event in events:
        apply(state, event)
    limits = dict(config.budget.limits() if budget is None else budget)
    if not limits:
        raise ConfigError("The study has no budget, so it would never end; give one, e.g. --members 1000.")
    faults = Faults(queue_s=queue_s, preempt_s=preempt_s)
    rows: list[Row] = []
    for n in sorted(set(nodes)):
        slots = n * slots_per_node
        sized = _sized(config, limits, config.initial, batch or config.design.batch)
        rows.append(_row(sized, costs, n, slots_per_node, limits, faults, seeds))
        wide = _sized(config, limits, max(config.initial, slots), max(config.design.batch, slots))
        if batch is None and rows[-1].utilisation < IDLE_BELOW and wide.design != sized.design:
            rows.append(_row(wide, costs, n, slots_per_node, limits, faults, seeds))
    return Plan(config.study, tuple(rows), _check(config, costs, state, seeds), tuple(_assumptions(costs, state, limits, faults)))


def plan_command(argv: Sequence[str]) -> int:
    """``alearn plan DIR``: print the table; returns the exit code.

    Raises:
        ConfigError: wrong words.
    """
    parser = _Parser(prog="alearn plan", description="What a study would take on other machines, from a short real run.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--nodes", type=_sizes, default=(10, 100, 1000), metavar="N,N,...", help="sizes of the clusters")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="members at a time on each node")
    parser.add_argument("--members", type=int, metavar="N", help="budget: members")
    parser.add_argument("--steps", type=int, metavar="N", help="budget: time steps")
    parser.add_argument("--core-hours", type=float, metavar="H", help="budget: core-hours")
    parser.add_argument("--wall-minutes", type=float, metavar="M", help="budget: wall time")
    parser.add_argument("--batch", type=int, metavar="N", help="points of a round")
    parser.add_argument("--queue-wait", type=float, default=0.0, metavar="S", help="mean wait of a member in the system's queue, s")
    parser.add_argument("--preempt-hours", type=float, default=0.0, metavar="H", help="mean running time until a node is taken away")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="simulations a line")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    args = parser.parse_args(list(argv))
    limits = Budget(args.members, args.steps, args.core_hours, args.wall_minutes).limits()
    told = plan(
        args.directory, args.nodes, limits or None, slots_per_node=args.slots, batch=args.batch, queue_s=args.queue_wait,
        preempt_s=3600.0 * args.preempt_hours, seeds=args.seeds,
    )  # fmt: skip
    print(json.dumps(_plain(asdict(told)), indent=1) if args.json else told)
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse with one sentence for an error."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See alearn plan --help.")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _sized(config: Config, limits: Mapping[str, float], initial: int, batch: int) -> Config:
    """The configuration with another initial design and other rounds, as far as the budget has members for them."""
    most = max(1, int(min(limits.get("members", math.inf), 2**31)))
    design = replace(config.design, initial=max(1, min(initial, most // 3 or 1)), batch=min(batch, most))
    return replace(config, design=design)


def _row(config: Config, costs: CostModel, nodes: int, slots_per_node: int, limits: Mapping[str, float], faults: Faults, seeds: int) -> Row:
    outcomes = []
    mean_steps = statistics.fmean(life.steps for life in costs.lives)
    for seed in range(seeds if nodes <= 100 and limits.get("members", 0) <= MANY else 1):
        study = VirtualStudy(
            make_policy(config), costs, nodes=nodes, slots_per_node=slots_per_node, budget=limits, faults=faults, seed=seed, turn_s=0.02,
            heartbeat_s=max(0.05, costs.wall_s / 20), burst=max(1, round(mean_steps / 10)), check=False, keep=False, monitors={},
        )  # fmt: skip
        outcomes.append(study.run())
    middle = sorted(outcomes, key=lambda o: o.wall_s)[len(outcomes) // 2]
    step_core_s = statistics.fmean(life.step_s * life.cores for life in costs.lives)

    def median(what: str) -> float:
        return statistics.median(float(getattr(o, what)) for o in outcomes)

    return Row(
        nodes=nodes,
        slots=nodes * slots_per_node,
        initial=config.initial,
        batch=config.design.batch,
        members=round(median("members")),
        steps=round(median("steps")),
        wall_s=median("wall_s"),
        core_h=median("core_s") / 3600,
        utilisation=median("utilisation"),
        saved_core_h=median("saved_steps") * step_core_s / 3600,
        spread_s=max(o.wall_s for o in outcomes) - min(o.wall_s for o in outcomes),
        error=_error(middle),
        ended=middle.reason,
    )


def _check(config: Config, costs: CostModel, state: StudyState, seeds: int) -> str:
    """The model's word on the run that it was fitted to."""
    limits = config.budget.limits() if state.end_state == "done" else {"members": float(state.launched_total)}
    goal = replace(config, goal=Goal()) if state.end_state != "done" else config
    row = _row(goal, costs, state.slots or 1, 1, limits or {"members": float(state.launched_total)}, Faults(), max(seeds, SEEDS))
    took, core_h = state.wall_clock(state.at), state.core_s / 3600
    off = max(row.wall_s / took, took / row.wall_s) if took > 0 and row.wall_s > 0 else math.inf
    verdict = f"within a factor of {off:.2g}" if off < 2 else f"off by a factor of {off:.2g}: do not rely on it"
    return (
        f"Check: of the run itself ({state.launched_total} members on {state.slots or 1} slots) the same model says "
        f"{_time(row.wall_s)} and {row.core_h:.3g} core-hours; it took {_time(took)} and {core_h:.3g}. The plan is {verdict}."
    )


def _error(outcome: Outcome) -> float:
    return float(outcome.error.get("mean", math.nan))


def _assumptions(costs: CostModel, state: StudyState, limits: Mapping[str, float], faults: Faults) -> list[str]:
    lives, learner, value = costs.lives, costs.learner, costs.value
    startup, steps = statistics.median(v.startup_s for v in lives), statistics.median(v.steps for v in lives)
    cores, pace = statistics.fmean(v.cores for v in lives), statistics.median(v.step_s for v in lives)
    lost = f"lose their node after {_time(faults.preempt_s)} on average" if faults.preempt_s else "never lose their node"
    within = ", ".join(f"{name}={limit:g}" for name, limit in limits.items())
    told = [
        f"members cost what the {len(lives)} ended attempts of the run cost: start-up {_time(startup)}, {_time(pace)} a step, "
        f"{steps:g} steps, {cores:.2g} cores (typically; each new member is like one of them), wherever they run and however many "
        "run beside them;",
        f"{costs.fail:.0%} of the members fail by themselves, as in the run;",
        f"training and measuring take {_time(learner.refit_s)}, {_time(learner.final_s)} at the end, however much data there is, "
        f"choosing takes {_time(learner.acquire_s)} a point, and neither slows the members down;",
        f"continuing a member is worth {value.start:.2g} of the best candidate's value at its start and falls by e^-{value.decay:.2g} "
        "over its trajectory; the same in every round, at every scale;",
        f"members wait {_time(faults.queue_s)} in the system's queue and {lost};",
        f"the study's own policy decides, within {within}; one controller, whose turns take 20 ms.",
    ]
    if learner.errors:
        told.insert(
            -1, f"the error goes on falling with the steps simulated as it did over the {state.steps:,} of the run: an extrapolation;"
        )
    if len(lives) < 8:
        told.append(f"Only {len(lives)} attempts are behind all this: let more members finish for a plan to rely on.")
    return told


def _time(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 or seconds == 0 else f"{1000 * seconds:.3g} ms"


def _plain(value: object) -> object:
    """For JSON: NaN becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value
