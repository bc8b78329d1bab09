"""What a study shows and leaves behind: the view while it runs, status.json, and in the end maps, report and verdict."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from alearn.config import Config
from alearn.controller import StudyState
from alearn.errors import AlearnError
from alearn.report.live import Gauge, KillNote, Snapshot, View, open_view
from alearn.report.status import CalibrationSummary, Cost, ErrorSummary, Idle, MemberCounts, SampleCounts, Status, read_status, write_status
from alearn.slots import Meter
from alearn.types import MemberState

if TYPE_CHECKING:
    from alearn.arm import Arm
    from alearn.learner import Vitals

log = logging.getLogger(__name__)

NO_ARCHIVE = (
    "archive=none: a sample is discarded once the last two snapshots hold what training needs of it. After a crash nothing "
    "acknowledged is lost to training while one of the two is whole; trajectories and fields cannot be looked at again."
)
SHOW_EVERY_S = 0.25
RATE_WINDOW_S = 5.0


class Outcome:
    """The face of a running study.

    Args:
        directory: the study's directory.
        config: its configuration.
    """

    def __init__(self, directory: Path, config: Config) -> None:
        self.directory = directory
        self.config = config
        self.view: View = open_view("none" if config.view == "quiet" else config.view)
        self._shown_at = 0.0
        self._active: Status | None = None
        self._clock: dict[str, float] = {}
        self._meters: dict[str, Meter] = {}
        self._history: deque[tuple[float, int, int]] = deque()
        self._state: StudyState | None = None

    def __enter__(self) -> Outcome:
        self._handler = _LogToView(self.view)
        logging.getLogger("alearn").addHandler(self._handler)
        if self.config.archive == "none":
            self.view.say(NO_ARCHIVE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        logging.getLogger("alearn").removeHandler(self._handler)
        self.view.close()

    def show(self, arm: Arm) -> None:
        """Called at every turn of the loop; does something four times a second."""
        now = time.monotonic()
        ended = bool(arm.state.ended)
        if now - self._shown_at < SHOW_EVERY_S and not ended:
            return
        self._shown_at = now
        self._state = arm.state
        while arm.rooms.transformed is not None and arm.rooms.transformed.said:
            self.view.say(arm.rooms.transformed.said.popleft())
        status = _replace(status_of(arm.state), idle=self._idle(arm, now))
        write_status(arm.directory, self._combined(status))
        if arm.directory != self.directory:
            write_status(self.directory, self._whole(status))
        self.view.show(self._snapshot(arm, status, now))

    def _idle(self, arm: Arm, now: float) -> Idle:
        """What slots and learner do not do; nothing is learned from test members."""
        busy_s = arm.learner.vitals().busy_s if arm.learner is not None else 0.0
        used = self._meters.setdefault(arm.rooms.arm, Meter()).see(now, arm.state.slots or 0, len(arm.state.active), busy_s)
        return Idle(1 - used.simulating, 1 - used.learning) if used.wall_s > 0 and arm.rooms.learning else Idle()

    def _combined(self, status: Status) -> Status:
        """The active arm's status; it still runs while its control arm is to come."""
        if status.arm != "active":
            return status
        self._active = status
        more = self.config.control.enabled and status.state == "done"
        return _replace(status, state="running") if more else status

    def _whole(self, control: Status) -> Status:
        if control.arm == "test":  # the other arms are to come
            return _replace(control, state="running") if control.state == "done" else control
        active = self._active or read_status(self.directory)
        return _replace(active, state=control.state, control=control)

    def _snapshot(self, arm: Arm, status: Status, now: float) -> Snapshot:
        state = arm.state
        vitals = arm.learner.vitals() if arm.learner is not None else None
        updates = vitals.updates if vitals is not None else state.updates
        if self._history and (self._history[-1][1] > state.steps or self._history[-1][2] > updates):
            self._history.clear()  # another arm, or a learner that began again from its snapshot
        self._history.append((now, state.steps, updates))
        while now - self._history[0][0] > RATE_WINDOW_S:
            self._history.popleft()
        span = now - self._history[0][0]
        samples_rate = (state.steps - self._history[0][1]) / span if span > 0.5 else None
        updates_rate = (updates - self._history[0][2]) / span if span > 0.5 else None
        began = self._clock.setdefault(arm.rooms.arm, now)
        used = state.wall_clock(arm.ledger.now())
        gauges = _gauges(state, used)
        share = max((g.share for g in gauges), default=0.0)
        return Snapshot(
            status=status,
            elapsed_s=max(used, now - began),
            samples_per_s=samples_rate,
            updates_per_s=updates_rate,
            buffer_fill=vitals.buffer if vitals is not None else 0,
            eta_s=seconds_to_come(self.config, arm.rooms.arm, used, share) if share > 0.1 and not state.ended else None,
            budget=gauges,
            kills=tuple(KillNote(member, reason, step, how) for member, how, reason, step in list(arm.news)[-8:]),
            activity=_activity(arm, vitals),
        )

    def broken(self) -> None:
        """The ledger takes no more: say so in status.json, if the disk still takes that much."""
        with contextlib.suppress(OSError, AlearnError):
            status = read_status(self.directory)
            control = None if status.control is None else _replace(status.control, state="failed")
            write_status(self.directory, _replace(status, state="failed", control=control))

    def conclude(self) -> None:
        """Say how it ended, write maps and report, and what to do next."""
        from alearn.reporting import closing_lines, write_report_of

        status = read_status(self.directory)
        if status.state == "stopped":
            self.view.close()
            _print(f"stopped: {self._state.ended if self._state is not None else ''}. Nothing that was acknowledged is lost.")
            _print(f"go on with: alearn resume {shown(self.directory)}")
            return
        self.view.say("writing the report")
        page = write_report_of(self.directory, self.config)
        self.view.close()
        for line in closing_lines(self.directory, self.config):
            _print(line)
        if status.state == "failed" and self._state is not None:
            print(f"alearn: the study failed: {self._state.ended}", file=sys.stderr)
        _print(f"study   {shown(self.directory)}")
        _print(f"report  {shown(page)}")


def seconds_to_come(config: Config, arm: str, used_s: float, share: float) -> float | None:
    """Seconds until all that is still to run is expected to end: the rest of this arm, and the arms after it.

    Args:
        config: the study's.
        arm: the one that runs: test, active or control.
        used_s: seconds that it has run.
        share: of its budget that is spent, in (0, 1].

    Returns:
        Seconds; None where nothing tells how long the arms after it take.
    """
    whole, arms = used_s / share, 1 + config.control.enabled
    if arm != "test":
        return whole * (arms if arm == "active" else 1) - used_s
    if not config.budget.members or not config.test_members:
        return None
    return whole - used_s + arms * whole * config.budget.members / config.test_members


def _activity(arm: Arm, vitals: Vitals | None) -> str:
    if not arm.rooms.learning:
        return "simulating the test members"
    return vitals.doing if vitals is not None else "waiting for the first time step"


def shown(path: Path) -> Path:
    """The path as a person in the present folder would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def status_of(state: StudyState) -> Status:
    """The status of one arm from its state."""
    last = state.evaluations[-1] if state.evaluations else None
    counts = state.counts
    return Status(
        study=state.study,
        state=state.end_state or "running",
        arm=state.arm,
        members=MemberCounts(
            queued=counts[MemberState.QUEUED],
            running=counts[MemberState.STARTING] + counts[MemberState.RUNNING],
            done=counts[MemberState.DONE],
            killed=counts[MemberState.KILLED] - state.withdrawn,
            failed=counts[MemberState.FAILED],
            lost=counts[MemberState.LOST],
            withdrawn=state.withdrawn,
        ),
        samples=SampleCounts(streamed=state.steps + state.duplicates, stored=state.steps, duplicates_dropped=state.duplicates),
        rounds=state.rounds,
        updates=state.updates,
        lead=state.lead,
        error=ErrorSummary.of(last.error if last is not None else None),
        calibration=CalibrationSummary(last.calibration.get("coverage95") if last is not None else None),
        cost=Cost(simulated_steps=state.steps, saved_steps=state.saved_steps, simulation_core_s=state.core_s),
    )


def _replace(status: Status, **changes: object) -> Status:
    import dataclasses

    return dataclasses.replace(status, **changes)  # type: ignore[arg-type]


def _gauges(state: StudyState, wall_s: float) -> tuple[Gauge, ...]:
    used = {
        "members": (float(state.settled), ""),
        "steps": (float(state.steps), ""),
        "core_s": (state.core_s, "s"),
        "wall_s": (wall_s, "s"),
    }
    return tuple(Gauge(name, used[name][0], limit, used[name][1]) for name, limit in state.budget.items())


def versions() -> dict[str, str]:
    """The packages that a result depends on."""
    names = ("alearn", "torch", "botorch", "gpytorch", "numpy", "scipy", "adios2", "hydra-core")
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _print(line: str) -> None:
    print(line, flush=True)


class _LogToView(logging.Handler):
    """Warnings of alearn appear above the live view instead of through it."""

    def __init__(self, view: View) -> None:
        super().__init__(logging.WARNING)
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        self._view.say(record.getMessage())
