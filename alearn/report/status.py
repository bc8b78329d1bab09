"""``status.json``: the study's state in one small file, a stable contract for scripts (see docs/status.md).

The ledger is the truth; this file is a summary of it that is replaced atomically beside it, so that it can be
read at any moment by anything that reads JSON. Unknown numbers are ``null``, never NaN.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, LedgerCorrupt
from alearn.report.words import count, duration, number, percent, plural
from alearn.types import MemberState

STATUS_FILE = "status.json"
STATES = ("running", "done", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class MemberCounts:
    """How many members are in each state; STARTING counts as running. Those withdrawn were never launched, and count nowhere else."""

    queued: int = 0
    running: int = 0
    done: int = 0
    killed: int = 0
    failed: int = 0
    lost: int = 0
    withdrawn: int = 0

    @classmethod
    def of(cls, states: Iterable[MemberState | str]) -> MemberCounts:
        """Count states."""
        tally = dict.fromkeys(cls.__slots__, 0)
        for state in states:
            tally["running" if state == MemberState.STARTING else str(MemberState(state).value)] += 1
        return cls(**tally)

    @property
    def total(self) -> int:
        return self.queued + self.running + self.done + self.killed + self.failed + self.lost

    @property
    def ended(self) -> int:
        return self.done + self.killed + self.failed + self.lost


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Samples that arrived, that were stored durably, and repeats that were recognised and dropped."""

    streamed: int = 0
    stored: int = 0
    duplicates_dropped: int = 0


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """The surrogate's error on the fixed test members, in the error's unit; None where it was not measured."""

    mean: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    n_test: int = 0

    @classmethod
    def of(cls, numbers: Mapping[str, float] | None) -> ErrorSummary:
        """From the ``error`` of an ``Evaluated`` event (None: never evaluated)."""
        numbers = numbers or {}
        n = numbers.get("n_test", 0)
        mean, p95, p99, largest = (numbers.get(k) for k in ("mean", "p95", "p99", "max"))
        return cls(mean, p95, p99, largest, int(n) if math.isfinite(n) else 0)


@dataclass(frozen=True, slots=True)
class CalibrationSummary:
    """Share of test values inside the surrogate's central 95 % interval."""

    coverage95: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What was simulated, what kills spared, and the core-seconds of all simulations."""

    simulated_steps: int = 0
    saved_steps: int = 0
    simulation_core_s: float | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """Shares of the time since this controller began in which slots were free, and in which the learner had nothing to do."""

    slots: float | None = None
    learner: float | None = None

    @classmethod
    def of(cls, raw: object) -> Idle:
        """From a status file, in which it may be missing."""
        found = raw if isinstance(raw, Mapping) else {}
        return cls(*(float(v) if isinstance(v := found.get(k), (int, float)) else None for k in ("slots", "learner")))


@dataclass(frozen=True, slots=True)
class Status:
    """One arm of a study at one moment.

    Args:
        study: the study's name.
        state: running, done, stopped or failed.
        arm: "active" or "control" (or the user's word).
        members: members by state.
        samples: the sample counts.
        rounds: acquisition rounds so far.
        updates: optimiser updates so far.
        error: error on the test members.
        calibration: coverage of the 95 % interval.
        cost: simulated and saved steps, core-seconds.
        control: the same of the control arm, or None.
        lead: which of several candidate surrogates answers, and by how much it leads; "" for a surrogate without candidates.
        idle: what slots and learner did not do.
    """

    study: str
    state: str = "running"
    arm: str = "active"
    members: MemberCounts = field(default_factory=MemberCounts)
    samples: SampleCounts = field(default_factory=SampleCounts)
    rounds: int = 0
    updates: int = 0
    error: ErrorSummary = field(default_factory=ErrorSummary)
    calibration: CalibrationSummary = field(default_factory=CalibrationSummary)
    cost: Cost = field(default_factory=Cost)
    control: Status | None = None
    lead: str = ""
    idle: Idle = field(default_factory=Idle)

    def to_dict(self) -> dict[str, Any]:
        """Exactly the documented object; numbers that are not finite become None."""
        out: dict[str, Any] = {"study": self.study, "state": self.state, "arm": self.arm}
        for name, cls in _PARTS.items():
            part = getattr(self, name)
            out[name] = {k: _number(getattr(part, k), kind) for k, kind in _kinds(cls).items()}
            if name == "samples":
                out |= {"rounds": int(self.rounds), "updates": int(self.updates)} | ({"lead": self.lead} if self.lead else {})
        if self.idle != Idle():
            out["idle"] = {"slots": _number(self.idle.slots, "float"), "learner": _number(self.idle.learner, "float")}
        out["control"] = self.control.to_dict() if self.control is not None else None
        return out

    def to_json(self, indent: int | None = 2) -> str:
        """The document as text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Status:
        """Inverse of ``to_dict``; keys that a later version may add are ignored.

        Raises:
            ValueError: something is missing or of the wrong kind (a clause that says what).
        """
        if not isinstance(raw, Mapping):
            raise ValueError(f"an object is expected, and {type(raw).__name__} was found")
        for name in ("study", "state", "arm"):
            if not isinstance(raw.get(name), str):
                raise ValueError(f"'{name}' must be a string, and is {_shown(raw, name)}")
        if raw["state"] not in STATES:
            raise ValueError(f"'state' is {raw['state']!r}, not one of {', '.join(STATES)}")
        parts: dict[str, Any] = {}
        for name, part in _PARTS.items():
            inside = raw.get(name)
            if not isinstance(inside, Mapping):
                raise ValueError(f"'{name}' must be an object, and is {_shown(raw, name)}")
            inside = {**_LATER.get(name, {}), **inside}
            parts[name] = part(**{k: _checked(inside, k, kind, f"{name}.{k}") for k, kind in _kinds(part).items()})
        if "control" not in raw:
            raise ValueError("'control' is missing")
        return cls(
            raw["study"],
            raw["state"],
            raw["arm"],
            rounds=_checked(raw, "rounds", "int", "rounds"),
            updates=_checked(raw, "updates", "int", "updates"),
            lead=str(raw.get("lead", "")),
            idle=Idle.of(raw.get("idle")),
            control=None if raw["control"] is None else cls.from_dict(raw["control"]),
            **parts,
        )


_PARTS: dict[str, Any] = {
    "members": MemberCounts,
    "samples": SampleCounts,
    "error": ErrorSummary,
    "calibration": CalibrationSummary,
    "cost": Cost,
}

_LATER: dict[str, dict[str, int]] = {"members": {"withdrawn": 0}}
"""What a file of an earlier version does not have."""


def _kinds(cls: Any) -> dict[str, str]:
    """Names and annotations ("int", "float | None") of a part's numbers."""
    return {f.name: str(f.type) for f in cls.__dataclass_fields__.values()}


def _number(value: Any, kind: str) -> int | float | None:
    if kind == "int":
        return int(value)
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def _shown(raw: Mapping[str, Any], name: str) -> str:
    return repr(raw[name])[:40] if name in raw else "missing"


def _checked(raw: Mapping[str, Any], name: str, kind: str, path: str) -> Any:
    value = raw.get(name)
    if kind == "int":
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"'{path}' must be a count, and is {_shown(raw, name)}")
        return value
    if name not in raw:
        raise ValueError(f"'{path}' is missing")
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"'{path}' must be a number or null, and is {_shown(raw, name)}")
    return value


def write_status(directory: Path | str, status: Status) -> Path:
    """Replace ``status.json`` in the study's directory; a reader sees the old or the new file, never half of one.

    Args:
        directory: the study's directory; it must exist.
        status: what to write.

    Returns:
        The file's path.

    Raises:
        OSError: the directory cannot be written.
    """
    path = Path(directory) / STATUS_FILE
    temporary = path.with_name(f".{STATUS_FILE}.{os.getpid()}")
    try:
        temporary.write_text(status.to_json() + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return path


def read_status(directory: Path | str) -> Status:
    """The status of the study in ``directory``.

    Raises:
        ConfigError: there is no such directory, or it holds no study.
        LedgerCorrupt: ``status.json`` is there and is not what the contract says.
    """
    folder = Path(directory)
    path = folder / STATUS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not folder.exists():
            raise ConfigError(f"There is no directory '{folder}'; give the directory of a study, the one that holds status.json.") from None
        raise ConfigError(f"'{folder}' is not a study's directory: it holds no status.json. A study's directory is what "
                          "hydra.run.dir= named, or what `alearn run` printed in its last line.") from None  # fmt: skip
    except NotADirectoryError:
        raise ConfigError(f"'{folder}' is a file; give the directory of a study, the one that holds status.json.") from None
    except UnicodeDecodeError as error:
        raise LedgerCorrupt(f"'{path}' is not text ({error.reason}); `alearn resume` or `alearn report` writes it anew.") from error
    try:
        return Status.from_dict(json.loads(text))
    except ValueError as error:
        raise LedgerCorrupt(f"'{path}' is not a status file: {error}. The ledger is the truth; `alearn report` reads that.") from error


def status_age(directory: Path | str) -> float | None:
    """Seconds since ``status.json`` was last replaced; None if there is none."""
    try:
        return max(0.0, time.time() - (Path(directory) / STATUS_FILE).stat().st_mtime)
    except OSError:
        return None


def idle_words(idle: Idle) -> str | None:
    """Who had nothing to do for how much of the time; None if that is not known."""
    if idle.slots is None or idle.learner is None:
        return None
    return f"slots {percent(idle.slots)}, learner {percent(idle.learner)} of the time"


def render_status(status: Status, age_s: float | None = None) -> str:
    """The status in a few lines for people.

    Args:
        status: what ``read_status`` returned.
        age_s: seconds since it was written (``status_age``); a running study that has not written for a minute is
            called out, because its controller may be gone.
    """
    lines = [f"{status.study}: {status.state}"]
    if status.state == "running" and age_s is not None and age_s > 60:
        lines.append(f"  last sign of life {duration(age_s)} ago; if its controller is gone, `alearn resume` goes on from there")
    for arm in (status, status.control):
        if arm is None:
            continue
        m, e = arm.members, arm.error
        states = ", ".join(f"{count(n)} {name}" for name in MemberCounts.__slots__ if (n := getattr(m, name)) or name == "done")
        lines += [
            f"  {arm.arm} arm" + (f" ({arm.state})" if arm is not status else ""),
            f"    members      {count(m.total)}: {states}",
            f"    samples      {count(arm.samples.stored)} stored of {count(arm.samples.streamed)} streamed"
            + (f", {plural(arm.samples.duplicates_dropped, 'duplicate')} dropped" if arm.samples.duplicates_dropped else ""),
            f"    training     {plural(arm.rounds, 'round')}, {plural(arm.updates, 'update')}",
            *([f"    surrogate    {arm.lead}"] if arm.lead else []),
        ]
        if e.n_test and e.mean is not None:
            lines.append(
                f"    error        mean {number(e.mean)}, p95 {number(e.p95)}, p99 {number(e.p99)}, max {number(e.max)} "
                f"on {plural(e.n_test, 'test member')}"
            )
        else:
            lines.append("    error        not measured yet" if arm.state == "running" else "    error        not measured")
        if arm.calibration.coverage95 is not None:
            of = "test values" if e.n_test else "the values of arriving members"
            lines.append(f"    calibration  {percent(arm.calibration.coverage95)} of {of} inside the 95 % interval")
        if (words := idle_words(arm.idle)) is not None:
            lines.append(f"    idle         {words}")
        spent = arm.cost.simulated_steps + arm.cost.saved_steps
        saved = f", {count(arm.cost.saved_steps)} saved by kills ({percent(arm.cost.saved_steps / spent)})" if arm.cost.saved_steps else ""
        seconds = f", {number(arm.cost.simulation_core_s)} core-seconds" if arm.cost.simulation_core_s is not None else ""
        lines.append(f"    cost         {plural(arm.cost.simulated_steps, 'step')} simulated{saved}{seconds}")
    return "\n".join(lines)
