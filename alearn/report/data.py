"""What a report is made from: plain arrays and strings, assembled by whoever has the study open."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alearn.events import Evaluated, Event, GhostSpared, KillRequested, MemberEnded, MemberScored, SamplesStored
from alearn.report.maps import Maps
from alearn.report.preprocessing import Preprocessing
from alearn.report.status import Status
from alearn.report.words import reason_kind
from alearn.types import Array, Floats, Member

METRICS = ("mean", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Curve:
    """An arm's errors along its life, oldest first; every array has shape ``(n,)``, NaN where not measured.

    Args:
        steps: simulated time steps so far.
        members: members that had started to deliver by then.
        errors: the four metrics by name.
        prequential: mean error of arriving members before they were learned from.
        at: Unix time, seconds.
    """

    steps: Floats
    members: Floats
    errors: Mapping[str, Floats]
    prequential: Floats
    at: Floats

    def __len__(self) -> int:
        return len(self.steps)


def curve_of(evaluations: Iterable[Evaluated]) -> Curve:
    """The learning curve of an arm's evaluations."""
    rows = sorted(evaluations, key=lambda e: (e.at, e.simulated_steps))

    def column(values: Iterable[float | None]) -> Floats:
        return np.asarray([math.nan if v is None or not math.isfinite(v) else v for v in values], dtype=np.float64)

    return Curve(
        steps=column(e.simulated_steps for e in rows),
        members=column(e.members for e in rows),
        errors={m: column(e.error.get(m) for e in rows) for m in METRICS},
        prequential=column(e.prequential.get("mean") for e in rows),
        at=column(e.at for e in rows),
    )


@dataclass(frozen=True, slots=True)
class KillAudit:
    """What the kills saved and, as far as ghosts tell, lost.

    Args:
        killed: members killed.
        saved_steps: time steps that they would still have computed.
        simulated_steps: time steps that all members did compute.
        reasons: how many kills for each kind of reason.
        ghosts: condemned members that ran on as the control of the kill policy.
        ghost_steps: time steps that they delivered after they were condemned.
        ghost_surprise: mean |z| of those steps against the prediction made before they were learned; 0.8 is what a
            calibrated surrogate that already knows them would see. NaN if unknown.
        ghost_error: root mean square error of the surrogate on those steps before it learned them, in units of the
            outputs' spread: what the surrogate did not know of the steps that kills cut off. NaN if unknown.
        regret: what those steps taught per core-second over what the best candidate was expected to teach in the slot, mean
            over the ghosts; above 1 it was wrong to kill. NaN if unknown.
        regret_interval: its 95 % interval (bootstrap over the ghosts).
    """

    killed: int
    saved_steps: int
    simulated_steps: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    ghosts: int = 0
    ghost_steps: int = 0
    ghost_surprise: float = math.nan
    ghost_error: float = math.nan
    regret: float = math.nan
    regret_interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def share(self) -> float:
        """Saved steps over all steps that would have been simulated; NaN if there were none."""
        total = self.saved_steps + self.simulated_steps
        return self.saved_steps / total if total else math.nan


def audit_kills(events: Iterable[Event]) -> KillAudit:
    """The audit of a study's kills from its events."""
    kills: dict[tuple[str, int], KillRequested] = {}
    went_on: dict[str, int] = {}
    ended: dict[str, str] = {}
    spared: dict[str, int] = {}
    steps, ghost_steps = 0, 0
    surprises: list[float] = []
    lessons: dict[str, list[tuple[float, float, float]]] = {}
    for event in events:
        if isinstance(event, KillRequested):
            kills[(event.member, event.attempt)] = event
            went_on[event.member] = 0
        elif isinstance(event, MemberEnded):
            ended[event.member] = event.state
        elif isinstance(event, GhostSpared):
            spared.setdefault(event.member, event.step)
        elif isinstance(event, SamplesStored):
            steps += event.steps
            if event.member in went_on:
                went_on[event.member] += event.steps
            if event.member in spared and event.last > spared[event.member]:
                ghost_steps += event.steps
        elif isinstance(event, MemberScored) and event.step > spared.get(event.member, math.inf) and math.isfinite(event.surprise):
            surprises.append(event.surprise)
            if all(math.isfinite(v) for v in (event.error, event.taught, event.best_value)):
                lessons.setdefault(event.member, []).append((event.error, event.taught, event.best_value))
    kills = {key: kill for key, kill in kills.items() if not kill.fault and ended.get(key[0], "killed") == "killed"}
    reasons: dict[str, int] = {}
    for kill in kills.values():
        reasons[reason_kind(kill.reason)] = reasons.get(reason_kind(kill.reason), 0) + 1
    return KillAudit(
        killed=len({member for member, _ in kills}),
        saved_steps=sum(max(0, kill.saved_steps - went_on[member]) for (member, _), kill in kills.items()),
        simulated_steps=steps,
        reasons=dict(sorted(reasons.items(), key=lambda item: -item[1])),
        ghosts=len(spared),
        ghost_steps=ghost_steps,
        ghost_surprise=float(np.mean(surprises)) if surprises else math.nan,
        **_regret(lessons),
    )


def _regret(lessons: Mapping[str, Sequence[tuple[float, float, float]]]) -> dict[str, Any]:
    """What the ghosts' further steps were worth, from (error, taught, best value) of each score."""
    if not lessons:
        return {}
    means = [np.mean(np.asarray(scores), axis=0) for scores in lessons.values()]
    ratios = np.array([taught / best if best > 0 else math.inf for _, taught, best in means])
    rng = np.random.default_rng(0)
    resampled = ratios[rng.integers(len(ratios), size=(2000, len(ratios)))].mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    error = math.sqrt(float(np.mean([e * e for scores in lessons.values() for e, _, _ in scores])))
    return {"ghost_error": error, "regret": float(ratios.mean()), "regret_interval": (float(low), float(high))}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Nominal against empirical coverage of central intervals.

    Args:
        nominal: shape ``(n,)``, e.g. 0.05 … 0.95.
        empirical: share of the test values inside, shape ``(n,)``.
        n: how many test values.
    """

    nominal: Floats
    empirical: Floats
    n: int = 0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One output of one member over simulation time.

    Args:
        label: e.g. "m0012: F = 0.031, k = 0.060".
        output: the output's name (trajectories of one output share a panel).
        t: simulation times, shape ``(n,)``.
        values: what the simulation gave, shape ``(n,)``.
        unit: the output's unit.
        t_unit: the unit of time.
        predicted_t: times of the prediction, shape ``(k,)``; None without one.
        predicted: predicted mean, shape ``(k,)``.
        std: predicted standard deviation, shape ``(k,)``.
    """

    label: str
    output: str
    t: Floats
    values: Floats
    unit: str = ""
    t_unit: str = ""
    predicted_t: Floats | None = None
    predicted: Floats | None = None
    std: Floats | None = None


@dataclass(frozen=True, slots=True)
class Snapshot2D:
    """One field of one member at one time.

    Args:
        label: the member and its parameters.
        field: the field's name.
        array: shape ``(rows, columns)``; a field of one dimension is drawn as a line.
        unit: the field's unit.
    """

    label: str
    field: str
    array: Array
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ArmData:
    """Everything of one arm.

    Args:
        name: "active" or "control".
        acquisition: what chose its points ("std_distance", "Sobol").
        members: the ledger's members.
        evaluations: its ``Evaluated`` events.
        status: as in ``status.json``.
        maps: see ``alearn.report.maps``.
        calibration: see ``Calibration``.
        kills: see ``audit_kills``.
        started_at: Unix time, seconds; NaN takes the first member's.
        ended_at: Unix time, seconds; NaN takes the last member's.
    """

    name: str
    acquisition: str = ""
    members: Sequence[Member] = ()
    evaluations: Sequence[Evaluated] = ()
    status: Status | None = None
    maps: Maps | None = None
    calibration: Calibration | None = None
    kills: KillAudit | None = None
    started_at: float = math.nan
    ended_at: float = math.nan

    @property
    def curve(self) -> Curve:
        return curve_of(self.evaluations)

    @property
    def begin(self) -> float:
        """Unix time at which the arm began; NaN if nothing did."""
        if math.isfinite(self.started_at):
            return self.started_at
        return min((t for m in self.members for t in (m.queued_at, m.started_at) if math.isfinite(t)), default=math.nan)

    @property
    def end(self) -> float:
        """Unix time at which the arm, or what is known of it, ended; NaN if nothing did."""
        if math.isfinite(self.ended_at):
            return self.ended_at
        known = [t for m in self.members for t in (m.started_at, m.ended_at) if math.isfinite(t)]
        return max([*known, *(e.at for e in self.evaluations)], default=math.nan)


@dataclass(frozen=True, slots=True)
class ReportData:
    """A study as ``write_report`` draws it. Everything but the name and the arm may be missing.

    Args:
        study: the study's name.
        active: the arm with the acquisition.
        control: the control arm, if there is one.
        state: running, done, stopped or failed.
        reason: why it ended, in words.
        simulation: what was simulated, in one line.
        surrogate: what was trained, in one line.
        error_name: what the error is ("relative error (L2 over the trajectory)"); labels leave the brackets out.
        error_unit: its unit, if it has one.
        trajectories: outputs of a few members.
        fields: fields of a few members.
        config: the resolved configuration as text.
        versions: package name to version.
        reproduce: the commands that make this study again.
        seed: the study's seed.
        created_at: Unix time of the report, seconds; NaN leaves it out.
        notes: sentences to be shown under the headline.
        preprocessing: what became of the transforms, if there were any.
    """

    study: str
    active: ArmData
    control: ArmData | None = None
    state: str = ""
    reason: str = ""
    simulation: str = ""
    surrogate: str = ""
    error_name: str = "error"
    error_unit: str = ""
    trajectories: Sequence[Trajectory] = ()
    fields: Sequence[Snapshot2D] = ()
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    reproduce: Sequence[str] = ()
    seed: int | None = None
    created_at: float = math.nan
    notes: Sequence[str] = ()
    preprocessing: Preprocessing | None = None

    @property
    def error_short(self) -> str:
        """The error's name without what stands in brackets, for labels."""
        return self.error_name.split(" (")[0].strip() or "error"

    @property
    def arms(self) -> tuple[ArmData, ...]:
        return (self.active,) if self.control is None else (self.active, self.control)
