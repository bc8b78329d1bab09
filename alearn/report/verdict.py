"""Who won: the two arms of a study in plain sentences, whatever the figures are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alearn.report.data import METRICS, ArmData, Curve, KillAudit
from alearn.report.words import count, join, number, percent, plural
from alearn.types import Floats

MARGIN = 1.05
"""Two errors whose ratio is smaller than this count as equal."""
FEW_GHOSTS = 5
"""From fewer ghosts than this no verdict on the kills is drawn."""
SAME_END = 1.03
"""Two arms whose expenses differ by less than this factor ended at the same expense."""

_NAMES = {"mean": "the mean", "p95": "p95", "p99": "p99", "max": "the maximum"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Errors of both arms at one common expense.

    Args:
        along: "members" or "steps".
        at: how many.
        active: error by metric; NaN where not measured.
        control: the same of the control arm.
        settled: both arms end here, so that both have had their final training.
    """

    along: str
    at: int
    active: Mapping[str, float]
    control: Mapping[str, float]
    settled: bool = True

    @property
    def expense(self) -> str:
        """The common expense in words."""
        return plural(self.at, "member" if self.along == "members" else "simulated step")

    @property
    def ratios(self) -> dict[str, float]:
        """Control over active by metric: above 1, active learning is better. NaN where unknown."""
        return {m: _ratio(self.control[m], self.active[m]) for m in METRICS}

    @property
    def outcome(self) -> str:
        """won, lost, mixed, draw or unknown."""
        known = [r for r in self.ratios.values() if not math.isnan(r)]
        wins, losses = sum(r >= MARGIN for r in known), sum(r <= 1 / MARGIN for r in known)
        if not known:
            return "unknown"
        if wins and losses:
            return "mixed"
        return "won" if wins else "lost" if losses else "draw"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison came to.

    Args:
        outcome: won, lost, mixed, draw (from active learning's side) or unknown.
        headline: the result in one or two sentences.
        sentences: what stands behind it.
        members: the arms at the same number of members.
        steps: the arms at the same number of simulated steps.
    """

    outcome: str
    headline: str
    sentences: tuple[str, ...] = ()
    members: Comparison | None = None
    steps: Comparison | None = None

    @property
    def judged(self) -> Comparison | None:
        """The comparison of the headline."""
        return self.steps if _ended_together(self.steps, self.members) else self.members


def _ended_together(steps: Comparison | None, members: Comparison | None) -> bool:
    """The budget was one of steps: both arms end at the same number of them, with different numbers of members."""
    return steps is not None and members is not None and steps.settled and not members.settled and steps.outcome != "unknown"


def _ratio(over: float, under: float) -> float:
    if not (math.isfinite(over) and math.isfinite(under)) or over < 0 or under < 0:
        return math.nan
    if under == 0:
        return 1.0 if over == 0 else math.inf
    return over / under


def error_at(x: Floats, error: Floats, at: float) -> float:
    """The error at an expense, interpolated between evaluations on a logarithmic error scale.

    Args:
        x: expense of each evaluation, not decreasing, shape ``(n,)``.
        error: error of each, shape ``(n,)``, NaN where not measured.
        at: where. Past the last evaluation the last error holds; before the first it is NaN.
    """
    good = np.isfinite(x) & np.isfinite(error)
    x, error = x[good], error[good]
    if not len(x) or at < x[0]:
        return math.nan
    after = int(np.searchsorted(x, at, side="right"))
    if after == len(x) or x[after - 1] == at or error[after - 1] <= 0 or error[after] <= 0:
        return float(error[after - 1])
    share = (at - x[after - 1]) / (x[after] - x[after - 1])
    return float(math.exp((1 - share) * math.log(error[after - 1]) + share * math.log(error[after])))


def expense_to_reach(x: Floats, error: Floats, target: float) -> float:
    """The expense of the first evaluation whose error is at most ``target``; NaN if none is."""
    if not math.isfinite(target):
        return math.nan
    reached = np.isfinite(x) & np.isfinite(error) & (error <= target)
    return float(x[int(np.argmax(reached))]) if reached.any() else math.nan


def compare_at(active: Curve, control: Curve, along: str) -> Comparison | None:
    """Both arms at the largest expense that both have reached; None if one was never measured.

    Args:
        active: learning curve of the arm with the acquisition.
        control: learning curve of the control arm.
        along: "members" or "steps".
    """
    ends = []
    for curve in (active, control):
        x = getattr(curve, along)
        measured = np.isfinite(x) & np.any([np.isfinite(curve.errors[m]) for m in METRICS], axis=0) if len(curve) else np.zeros(0, bool)
        if not measured.any():
            return None
        ends.append(float(x[measured].max()))
    at = min(ends)
    settled = max(ends) <= SAME_END * at
    # arms that ended together are compared by what each ended with: its last measurement follows its final training
    where = ends if settled else [at, at]
    mine, theirs = (
        {m: error_at(getattr(arm, along), arm.errors[m], x) for m in METRICS} for arm, x in zip((active, control), where, strict=True)
    )
    return Comparison(along, int(at), mine, theirs, settled)


def judge(active: ArmData, control: ArmData | None) -> Verdict:
    """Compare the arms.

    Args:
        active: the arm with the acquisition.
        control: the control arm, or None.
    """
    a = active.curve
    if control is None:
        return Verdict(
            "unknown",
            _alone(a),
            ("There was no control arm, so nothing says whether active learning helped; control.enabled=true runs one.",),
        )
    c = control.curve
    name = f"the {control.acquisition or 'Sobol'} control"
    members, steps = compare_at(a, c, "members"), compare_at(a, c, "steps")
    if members is None or members.outcome == "unknown":
        who = [arm.name for arm, curve in ((active, a), (control, c)) if not any(np.isfinite(curve.errors[m]).any() for m in METRICS)]
        missing = f"no error of the {join(who)} arm was measured" if who else "the arms share no measured figure"
        return Verdict("unknown", f"Who won is not known: {missing}.", (), members, steps)
    if steps is not None and _ended_together(steps, members):
        return Verdict(steps.outcome, _headline(steps, name), (_figures(steps, name), *_reach(a, c, name)), members, steps)
    headline = _headline(members, name)
    sentences = [_figures(members, name)]
    if steps is not None and steps.outcome != "unknown":
        caveat = "" if steps.settled else " (between two measurements, so before a final training)"
        sentences.append(f"With the same {steps.expense}{caveat}: {_clause(steps, name)}.")
    sentences += _reach(a, c, name)
    if members.outcome in ("lost", "draw") and steps is not None and steps.outcome == "won":
        sentences.append("Counted in simulated steps, which kills save, active learning is ahead.")
    if members.outcome == "won" and steps is not None and steps.outcome in ("lost", "draw", "mixed"):
        sentences.append("Counted in simulated steps instead of members, the lead is gone.")
    return Verdict(members.outcome, headline, tuple(sentences), members, steps)


def _alone(curve: Curve) -> str:
    last = {m: next((float(v) for v in reversed(curve.errors[m]) if math.isfinite(v)), math.nan) for m in METRICS}
    known = [f"{_NAMES[m].removeprefix('the ')} {number(v)}" for m, v in last.items() if math.isfinite(v)]
    if not known:
        return "The surrogate's error was not measured."
    seen = curve.members[np.isfinite(curve.members)]
    return f"The surrogate's error after {plural(int(seen[-1]) if len(seen) else 0, 'member')}: {', '.join(known)}."


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:,.0f}" if math.isfinite(ratio) else "infinity"


def _listed(ratios: Mapping[str, float], better: bool) -> str:
    return join([f"{_times(r if better else _ratio(1.0, r))} on {_NAMES[m]}" for m, r in ratios.items()])


def _headline(c: Comparison, name: str) -> str:
    ratios = {m: r for m, r in c.ratios.items() if not math.isnan(r)}
    wins = {m: r for m, r in ratios.items() if r >= MARGIN}
    losses = {m: r for m, r in ratios.items() if r <= 1 / MARGIN}
    even = [_NAMES[m] for m in ratios if m not in wins and m not in losses]
    same = f"With the same {c.expense}"
    tie = f", and is even on {join(even)}" if even else ""
    if c.outcome == "draw":
        near = f"within {percent(MARGIN - 1)} of each other on {join(even)}"
        return f"A draw: active learning is not helping here. {same}, its error and that of {name} are {near}."
    if c.outcome == "won":
        return f"Active learning won. {same}, its error is smaller than that of {name} by a factor of {_listed(wins, True)}{tie}."
    if c.outcome == "lost":
        worse = f"its error is larger than that of {name} by a factor of {_listed(losses, False)}"
        return f"Active learning is not helping here. {same}, {worse}{tie}."
    return (
        f"Mixed. {same}, the error of active learning is smaller than that of {name} by a factor of {_listed(wins, True)}, "
        f"but larger by a factor of {_listed(losses, False)}{tie}."
    )


def _clause(c: Comparison, name: str) -> str:
    ratios = {m: r for m, r in c.ratios.items() if not math.isnan(r)}
    wins = {m: r for m, r in ratios.items() if r >= MARGIN}
    losses = {m: r for m, r in ratios.items() if r <= 1 / MARGIN}
    even = [_NAMES[m] for m in ratios if m not in wins and m not in losses]
    parts = [f"smaller by a factor of {_listed(wins, True)}"] if wins else []
    parts += [f"larger by a factor of {_listed(losses, False)}"] if losses else []
    parts += [f"even on {join(even)}"] if even else []
    return f"against {name}, the error of active learning is {', '.join(parts)}"


def _figures(c: Comparison, name: str) -> str:
    pairs = [
        f"{_NAMES[m].removeprefix('the ')} {number(c.active[m])} against {number(c.control[m])}"
        for m in METRICS
        if not math.isnan(c.ratios[m])
    ]
    return f"Errors with {c.expense}, active learning against {name}: {', '.join(pairs)}."


def _reach(a: Curve, c: Curve, name: str) -> list[str]:
    """Sentences on how soon each metric of the control's end was reached."""
    sentences = []
    for metric in ("mean", "p99"):
        final = c.errors[metric][np.isfinite(c.errors[metric])]
        if not len(final) or not np.isfinite(a.errors[metric]).any():
            continue
        target = float(final[-1])
        spent_members, spent_steps = float(np.nanmax(c.members)), float(np.nanmax(c.steps))
        members, steps = (expense_to_reach(x, a.errors[metric], target) for x in (a.members, a.steps))
        what = f"final {metric} error of {name} ({number(target)})"
        if math.isnan(members):
            sentences.append(f"Active learning never reached the {what}.")
            continue
        of_members = f" ({percent(members / spent_members)} of the control's {count(spent_members)})" if spent_members else ""
        of_steps = f" ({percent(steps / spent_steps)} of its {count(spent_steps)})" if spent_steps else ""
        sentences.append(
            f"Active learning reached the {what} with {plural(int(members), 'member')}{of_members} "
            f"and {plural(int(steps), 'simulated step')}{of_steps}."
        )
    return sentences


def kill_sentences(audit: KillAudit | None) -> tuple[str, ...]:
    """What the kills saved and lost, in sentences; none for a study without an audit."""
    if audit is None:
        return ()
    if not audit.killed:
        ghosts = f" ({plural(audit.ghosts, 'condemned member')} ran on as ghosts)" if audit.ghosts else ""
        return (f"No member was killed{ghosts}.",)
    saved = f"Kills saved {plural(audit.saved_steps, 'time step')}"
    share = f", {percent(audit.share)} of what would have been simulated" if math.isfinite(audit.share) else ""
    sentences = [f"{saved}{share}: {plural(audit.killed, 'member')} ended early."]
    if audit.reasons:
        sentences.append("Reasons: " + ", ".join(f"{reason} ({count(n)})" for reason, n in audit.reasons.items()) + ".")
    if audit.ghosts:
        told = f"{plural(audit.ghosts, 'condemned member')} ran on as {'a ghost' if audit.ghosts == 1 else 'ghosts'} to check this"
        if math.isnan(audit.ghost_surprise):
            sentences.append(f"{told}; what came after was not scored.")
        elif audit.ghosts < FEW_GHOSTS:
            sentences.append(f"{told}; that is too few to judge.")
        else:
            known = audit.ghost_surprise < 1.2
            verdict = "so the kills lost little" if known else "so the kills threw away something that was not known"
            sentences.append(
                f"{told}: their {plural(audit.ghost_steps, 'further step')} lay {number(audit.ghost_surprise)} predicted standard "
                f"deviations off on average (chance gives 0.8), {verdict}."
            )
        if math.isfinite(audit.regret) and audit.ghosts >= FEW_GHOSTS:
            low, high = audit.regret_interval
            judged = "killing was right" if high < 1 else "killing was wrong" if low > 1 else "whether killing was right is open"
            sentences.append(
                f"Before it learned those steps, the surrogate was off by {number(audit.ghost_error)} of the outputs' spread on them. "
                f"For each core-second they taught {number(audit.regret)} of what the best candidate was expected to teach in the slot "
                f"(95 % interval {number(low)} to {number(high)}, from {plural(audit.ghosts, 'ghost')}): {judged}."
            )
    else:
        sentences.append("No condemned member ran on as a ghost, so what the kills lost is not known.")
    return tuple(sentences)
