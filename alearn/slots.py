"""How many members run at a time: what the slots and the learner did with their time, and changing the number."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from alearn import events as ev
from alearn.errors import ConfigError
from alearn.launcher.base import Elastic, Launcher
from alearn.ledger import Ledger
from alearn.ledger.folders import arm_folders
from alearn.ledger.lock import has_writer
from alearn.steering import request
from alearn.types import copy_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of the time in which slots and learner had something to do.

    Args:
        slots: the present number; 0 if none was told yet.
        running: members that run.
        wall_s: seconds in which the study ran.
        simulating: share of the slots' time in which a member was in them.
        learning: share of the time in which the learner trained, measured or chose points.
    """

    slots: int
    running: int
    wall_s: float
    simulating: float
    learning: float


def usage(events: Iterable[ev.Event], now: float = math.nan) -> Usage:
    """What slots and learner did with their time.

    Args:
        events: of a study, in order.
        now: Unix s, for a study that runs; NaN is the last event's time.
    """
    slots = running = 0
    wall = offered = used = asked = busy = 0.0
    since = math.nan
    attempts: set[tuple[str, int]] = set()

    def pass_time(until: float) -> None:
        nonlocal wall, offered, used, since
        if not math.isnan(since):
            passed = max(0.0, until - since)
            wall, offered, used = wall + passed, offered + passed * max(slots, running), used + passed * running
        since = until

    for event in events:
        if isinstance(event, ev.StudyResumed):  # nobody knows what was between the controller's death and now
            attempts.clear()
            since = event.at
        pass_time(event.at)
        match event:
            case ev.CapacityChanged():
                slots = event.slots
            case ev.MemberLaunched():
                attempts.add((event.member, event.attempt))
            case ev.CopyLaunched():
                attempts.add((copy_name(event.member), event.attempt))
            case ev.MemberEnded():
                attempts.discard((event.member, event.attempt))
            case ev.CopyEnded():
                attempts.discard((copy_name(event.member), event.attempt))
            case ev.RoundDecided():
                asked += event.seconds if math.isfinite(event.seconds) else 0.0
            case ev.Refitted():
                asked += event.seconds if math.isfinite(event.seconds) else 0.0
                busy += event.busy_s if math.isfinite(event.busy_s) else 0.0
            case ev.StudyEnded():
                attempts.clear()
        running = len(attempts)
    if not math.isnan(now):
        pass_time(now)
    learned = busy or asked  # an older study knows only how long its answers took
    return Usage(slots, running, wall, used / offered if offered else 0.0, min(1.0, learned / wall) if wall else 0.0)


@final
class Meter:
    """What slots and learner do with their time while a study runs, from looks at it now and then."""

    def __init__(self) -> None:
        self._at = math.nan
        self._busy_s = self._wall = self._offered = self._used = self._learned = 0.0

    def see(self, now: float, slots: int, running: int, busy_s: float) -> Usage:
        """Take a look.

        Args:
            now: seconds, of any clock that goes on.
            slots: how many there are.
            running: how many members run.
            busy_s: how long the learner has been at work in all.
        """
        if not math.isnan(self._at):
            passed = now - self._at
            self._wall, self._offered = self._wall + passed, self._offered + passed * max(slots, running)
            self._used += passed * running
            self._learned += max(0.0, busy_s - self._busy_s)
        self._at, self._busy_s = now, busy_s
        share = self._used / self._offered if self._offered else 0.0
        return Usage(slots, running, self._wall, share, min(1.0, self._learned / self._wall) if self._wall else 0.0)


def slots_command(directory: Path, slots: int | None) -> int:
    """``alearn slots DIR [N]``: print the usage, or ask a running study for another number of slots.

    Raises:
        ConfigError: there is no study, or nobody runs it, or the number makes no sense.
    """
    if slots is not None:
        if slots < 1:
            raise ConfigError(f"{slots} slots run no member; give at least 1, or: alearn pause {directory}")
        print(request(directory, "slots", values={"slots": slots}).replace("to slots;", f"for {slots} slots;"))
        return 0
    if not (directory / "ledger.sqlite").is_file():
        raise ConfigError(f"There is no study in {directory} (no ledger.sqlite); give a study directory.")
    for arm in arm_folders(directory):
        with Ledger.open(arm, readonly=True) as ledger:
            found = usage((event for _, event in ledger.events()), ledger.now() if has_writer(arm) else math.nan)
        name = "" if arm == directory else f"{arm.name}: "
        idle = f"in {found.wall_s:.0f} s the slots were {1 - found.simulating:.0%} idle and the learner {1 - found.learning:.0%}"
        print(f"{name}{found.slots} slots, {found.running} members run; {idle}.")
    return 0


def resize(launcher: Launcher, values: Mapping[str, Any]) -> None:
    """Run more or fewer members at a time from now on, as the user asked; those that run are left alone."""
    try:
        if not isinstance(launcher, Elastic):
            raise ConfigError("this launcher's slots cannot be changed while a study runs")
        launcher.resize(int(values["slots"]))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        log.warning("The number of slots stays %d: %s", launcher.slots, error)
