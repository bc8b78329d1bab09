"""From a study's directory to its report: reads ledger, archive and snapshot, and draws nothing itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alearn import events as ev
from alearn.assembly import find_reference
from alearn.config import Config, config_directory
from alearn.controller import fold
from alearn.errors import AlearnError
from alearn.ledger import Ledger, open_archive
from alearn.outcome import status_of, versions
from alearn.predict import Loaded, open_surrogate
from alearn.report.data import ArmData, Calibration, ReportData, Snapshot2D, Trajectory, audit_kills
from alearn.report.maps import MOST_PARAMETERS, Axis, Maps, build_maps, latin, save_maps
from alearn.report.preprocessing import read_preprocessing
from alearn.report.significance import evidence
from alearn.report.verdict import judge, kill_sentences
from alearn.space import Continuous, Integer, Space
from alearn.trainer.evaluate import Examined, examine
from alearn.transform import Pipeline
from alearn.types import Floats, Member, MemberState, Schema

if TYPE_CHECKING:
    from alearn.simulators.reference import Reference

LEVELS = np.arange(0.05, 1.0, 0.05)
SHOWN_MEMBERS = 8
LOOKED_AT = 64
SHOWN_LABELS = 12
KNOTS = 65
ERROR_NAME = "error (RMS over the trajectory, in units of each output's standard deviation over the test set)"


def write_report_of(directory: Path, config: Config) -> Path:
    """Write maps.npz and report.html of a study; returns the page's path."""
    from alearn.report.html import write_report

    data = report_data(directory, config)
    for arm, folder in zip(data.arms, (directory, directory / "control"), strict=False):
        if arm.maps is not None:
            save_maps(folder / "maps.npz", arm.maps)
    return write_report(directory, data)


def closing_lines(directory: Path, config: Config) -> list[str]:
    """The last words of a run: who won by how much, and what the kills saved."""
    active = arm_data(directory, config, "active", light=True)
    folder = directory / "control"
    control = arm_data(folder, config.control_arm(), "control", light=True) if (folder / "ledger.sqlite").exists() else None
    verdict = judge(active, control)
    told = [
        verdict.headline,
        *evidence_sentences(directory, config),
        *verdict.sentences,
        *kill_sentences(active.kills),
        *failure_sentences(active.members),
    ]
    return [*told, *_transformed(directory), *absent_sentences(directory)]


def evidence_sentences(directory: Path, config: Config) -> list[str]:
    """Whether the arms' errors on the test members differ by more than chance; none without a control arm or a test set."""
    if not (directory / "control" / "ledger.sqlite").exists():
        return []
    reference = find_reference(config, Space.from_config(config.space))
    arms = [_surrogate(folder) for folder in (directory, directory / "control")]
    if reference is None or arms[0] is None or arms[1] is None:
        return []
    said = evidence(*(_tested(arm, reference).error for arm in arms if arm is not None))
    return [said] if said else []


def absent_sentences(directory: Path) -> list[str]:
    """What a study that keeps no archive no longer has; nothing if nothing is gone."""
    with Ledger.open(directory, readonly=True) as ledger:
        counts = ledger.counts()
    gone, of = counts["discarded"]["samples"], counts["samples"]["stored"]
    if not gone:
        return []
    return [f"archive=none: {gone} of {of} samples were discarded; the surrogate learned from them, and they cannot be looked at again."]


def failure_sentences(members: Sequence[Member]) -> list[str]:
    """How many members failed and why most of them did; none if none did."""
    failed = [m for m in members if m.state is MemberState.FAILED]
    if not failed:
        return []
    reason, often = Counter(m.reason for m in failed).most_common(1)[0]
    launched = sum(m.attempt > 0 for m in members)
    return [f"{len(failed)} of {launched} members failed; most often ({often}): {reason}"]


def _transformed(directory: Path) -> list[str]:
    told = read_preprocessing(directory)
    return [] if told is None else told.lines()


def report_data(directory: Path, config: Config) -> ReportData:
    """Everything that the page shows."""
    folder = directory / "control"
    active = arm_data(directory, config, "active")
    control = arm_data(folder, config.control_arm(), "control") if (folder / "ledger.sqlite").exists() else None
    ledger = Ledger.open(directory, readonly=True)
    try:
        members = [m for m in active.members if m.steps > 0 and m.state in (MemberState.DONE, MemberState.KILLED)]
        trajectories = _trajectories(ledger, members, _surrogate(directory))
        pipeline = Pipeline.described_in(directory)
        fields = _fields(directory, ledger.schema() if pipeline is None else pipeline.decoded(), members)
    finally:
        ledger.close()
    last = active.status
    return ReportData(
        study=config.study,
        active=active,
        control=control,
        state=last.state if last is not None else "",
        reason=active_reason(directory),
        simulation=_simulation(config),
        surrogate=f"{config.surrogate.name}: {last.lead}" if last is not None and last.lead else config.surrogate.name,
        error_name=ERROR_NAME,
        trajectories=trajectories,
        fields=fields,
        config=(directory / "config.yaml").read_text() if (directory / "config.yaml").exists() else "",
        versions=versions(),
        reproduce=_reproduce(directory, config),
        seed=config.seed,
        created_at=time.time(),
        notes=evidence_sentences(directory, config),
        preprocessing=read_preprocessing(directory),
    )


def arm_data(directory: Path, config: Config, name: str, light: bool = False) -> ArmData:
    """One arm as the report needs it; ``light`` leaves out what the closing lines do not say."""
    ledger = Ledger.open(directory, readonly=True)
    try:
        events = [event for _, event in ledger.events()]
        members = ledger.members()
    finally:
        ledger.close()
    state = fold(events)
    evaluations = [e for e in events if isinstance(e, ev.Evaluated)]
    loaded = None if light else _surrogate(directory)
    reference = None if light else find_reference(config, Space.from_config(config.space))
    tested = None if loaded is None or reference is None else _tested(loaded, reference)
    maps = None if light else _maps(config, members, loaded, tested)
    return ArmData(
        name=name,
        acquisition="Sobol" if config.acquisition.name == "sobol" else config.acquisition.name,
        members=members,
        evaluations=evaluations,
        status=status_of(state),
        maps=maps,
        calibration=None if tested is None else _calibration(tested),
        kills=audit_kills(events),
        started_at=state.started_at,
        ended_at=state.at,
    )


def active_reason(directory: Path) -> str:
    """Why the study ended, in words; "" while it runs."""
    ledger = Ledger.open(directory, readonly=True)
    try:
        ends = [e for _, e in ledger.events() if isinstance(e, ev.StudyEnded)]
    finally:
        ledger.close()
    return ends[-1].reason if ends else ""


def _surrogate(directory: Path) -> Loaded | None:
    try:
        return open_surrogate(directory)
    except AlearnError:
        return None


def _maps(config: Config, members: Sequence[Member], loaded: Loaded | None, tested: Examined | None) -> Maps:
    space = Space.from_config(config.space)
    shown = [m for m in members if m.steps]
    points = np.array([m.x for m in shown], dtype=np.float64).reshape(len(shown), space.d)
    return build_maps(
        _axes(space),
        space.to_axes(points),
        [str(m.state.value) for m in shown],
        uncertainty=None if loaded is None else lambda y: uncertainty(loaded, space.from_axes(y)),
        test=None if tested is None else space.to_axes(tested.x),
        test_error=None if tested is None else tested.error,
        shown=_shown(space, loaded),
    )


def _shown(space: Space, loaded: Loaded | None) -> list[int] | None:
    """The parameters that matter most where there are too many for maps: by how far the prediction changes when one of them is exchanged
    between points (permutation importance: Breiman 2001). None where all fit, or nothing is known."""
    p = len(space.names)
    if loaded is None or p <= MOST_PARAMETERS:
        return None
    y = latin(LOOKED_AT, p)
    t = _some(loaded.t, 6)
    first = loaded.predict(space.from_axes(y), t)[0]
    changes = []
    for k in range(p):
        exchanged = y.copy()
        exchanged[:, k] = np.roll(y[:, k], 1)
        changes.append(float((((loaded.predict(space.from_axes(exchanged), t)[0] - first) / loaded.scale) ** 2).mean()))
    return [int(k) for k in np.argsort(changes)[::-1][:MOST_PARAMETERS]]


def _some(t: Floats, most: int) -> Floats:
    """At most so many of the times, evenly."""
    return np.asarray(t[np.unique(np.linspace(0, len(t) - 1, min(most, len(t))).round().astype(int))])


def uncertainty(loaded: Loaded, x: Floats, times: int = 6) -> Floats:
    """Root mean predicted variance over the trajectory and the outputs, each in units of its standard deviation, ``N``."""
    _, std = loaded.predict(np.asarray(x, dtype=np.float64), _some(loaded.t, times))
    out: Floats = np.sqrt(((std / loaded.scale) ** 2).mean(axis=(1, 2)))
    return out


def _axes(space: Space) -> list[Axis]:
    """One axis for each parameter, along which ``Space.to_axes`` says where a point lies."""
    axes = []
    for p in space.parameters:
        if isinstance(p, (Continuous, Integer)):
            half = 0.5 if isinstance(p, Integer) else 0.0
            knots = tuple(map(float, p.from_unit(np.linspace(0.0, 1.0, KNOTS)[:, None]))) if p.scale == "normal" else ()
            axes.append(Axis(p.name, p.low - half, p.high + half, p.unit, p.scale == "log", knots=knots))
        elif len(p.labels) <= SHOWN_LABELS:
            axes.append(Axis(p.name, unit=p.unit, labels=tuple(map(str, p.labels))))
        else:
            axes.append(Axis(f"{p.name} (entry of the pool)", 0.0, float(len(p.labels))))
    return axes


def _tested(loaded: Loaded, reference: Reference) -> Examined:
    return examine(loaded.surrogate, loaded, reference)


def _calibration(tested: Examined) -> Calibration:
    from scipy.special import erfinv

    z = np.abs(tested.z)
    inside = np.array([(z <= np.sqrt(2.0) * erfinv(level)).mean() for level in LEVELS])
    return Calibration(LEVELS, inside, z.size)


def _trajectories(ledger: Ledger, members: list[Member], loaded: Loaded | None) -> list[Trajectory]:
    """What a few members streamed, beside the prediction."""
    schema = ledger.schema()
    chosen = _spread(members, 5)
    if schema is None or not chosen:
        return []
    units = {f.name: f.unit for f in schema.fields}
    outputs = [n for n in (loaded.outputs if loaded is not None else schema.scalars) if n in schema.scalars]
    samples: dict[str, list[tuple[float, dict[str, float]]]] = {m.id: [] for m in chosen}
    for sample in ledger.samples(members=[m.id for m in chosen], fields=outputs):
        samples[sample.member].append((sample.t, {n: float(sample.values[n]) for n in outputs}))
    found = []
    for member in [m for m in chosen if samples[m.id]]:
        t = np.array([at for at, _ in samples[member.id]])
        mean, std = loaded.predict(np.array([member.x]), t) if loaded is not None else (None, None)
        for output in outputs:
            k = loaded.outputs.index(output) if loaded is not None else 0
            found.append(
                Trajectory(
                    label=member.id,
                    output=output,
                    t=t,
                    values=np.array([v[output] for _, v in samples[member.id]]),
                    unit=units[output],
                    predicted_t=None if mean is None else t[: mean.shape[1]],
                    predicted=None if mean is None else mean[0, :, k],
                    std=None if std is None else std[0, :, k],
                )
            )
    return found


def _fields(directory: Path, schema: Schema | None, members: list[Member]) -> list[Snapshot2D]:
    """The last field of the members in which it varies most."""
    pictured = [f for f in schema.fields if len(f.shape) in (1, 2) and f.nbytes <= 2**20][:1] if schema is not None else []
    if not pictured or not members:
        return []
    field = pictured[0]
    found = []
    with open_archive(directory, decode=True) as dataset:
        for member in _spread(members, LOOKED_AT):
            if not dataset["stored"].sel(member=member.id).isel(step=member.steps - 1):
                continue  # discarded: the study keeps no archive
            frame = np.asarray(dataset[field.name].sel(member=member.id).isel(step=member.steps - 1).values)
            where = ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in member.parameters.items())
            found.append((float(np.nanstd(frame)), Snapshot2D(f"{member.id}: {where}", field.name, frame, field.unit)))
    found.sort(key=lambda pair: -pair[0])
    return [picture for _, picture in found[:SHOWN_MEMBERS]]


def _spread(members: list[Member], n: int) -> list[Member]:
    """Up to ``n`` members far from one another: each next one is the farthest from those chosen."""
    if len(members) <= n:
        return members
    x = np.array([m.x for m in members])
    chosen = [0]
    distance = np.linalg.norm(x - x[0], axis=1)
    while len(chosen) < n:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(x - x[chosen[-1]], axis=1))
    return [members[i] for i in sorted(chosen)]


def _simulation(config: Config) -> str:
    if config.simulation is None:
        return "run by the user (ask and tell)"
    options = config.simulation.options
    argv = options.get("argv")
    return " ".join(map(str, argv)) if isinstance(argv, list) else str(options.get("target") or config.simulation.name)


def _reproduce(directory: Path, config: Config) -> list[str]:
    shipped = config_directory() / "experiment" / f"{config.study}.yaml"
    if shipped.is_file():
        return [f"alearn run experiment={config.study} seed={config.seed}", "# with any further overrides of config.yaml, below"]
    return [f"# from Python: Study.from_config(Config.load(Path('{directory}/config.yaml')), Path('new')).run()"]
