"""After ``alearn run --multirun``: one line for each study, the best first, on the screen and in ``sweep.csv``."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alearn.config import Config, Job
from alearn.errors import AlearnError
from alearn.report.status import Status, read_status

TABLE = "sweep.csv"
COLUMNS = ("study", "changed", "state", "members", "steps", "core_s", "mean", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one job of a sweep: what was given to it alone, where it is, and its status (None if it has none)."""

    changed: str
    directory: Path
    status: Status | None

    def row(self) -> dict[str, Any]:
        """``COLUMNS``; None where nothing is known."""
        s = self.status
        if s is None:
            return dict.fromkeys(COLUMNS) | {"study": self.directory.name, "changed": self.changed, "state": "not started"}
        ended = s.members.done + s.members.killed + s.members.failed
        return {
            "study": self.directory.name,
            "changed": self.changed,
            "state": s.state,
            "members": ended,
            "steps": s.cost.simulated_steps,
            "core_s": s.cost.simulation_core_s,
            **{k: getattr(s.error, k) for k in ("mean", "p95", "p99", "max")},
        }


def score(config: Config, directory: Path) -> float:
    """What a sweeper that searches (Optuna's) minimises: the error on the test members by ``goal.metric``, or the mean; NaN without a
    test set (``reference``)."""
    status = _status(directory)
    value = None if status is None else getattr(status.error, config.goal.metric or "mean", None)
    return math.nan if value is None else float(value)


def outcomes(jobs: Sequence[Job]) -> list[Outcome]:
    """What came of every job, the smallest mean error first."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
    found = [Outcome(" ".join(o for o in job.overrides if o not in common), job.directory, _status(job.directory)) for job in jobs]
    return sorted(found, key=lambda o: math.inf if (e := o.row()["mean"]) is None or math.isnan(e) else e)


def tell(jobs: Sequence[Job]) -> None:
    """Print the table and write it beside the studies."""
    rows = [o.row() for o in outcomes(jobs)]
    folder = jobs[0].directory.parent
    with (folder / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    cells = [list(COLUMNS), *([_shown(row[c]) for c in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    where = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else folder
    print(f"\n{len(rows)} studies in {where} (errors on the test members in units of the outputs' spread; the table is in {TABLE})")
    for line in cells:
        print("  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip())
    if all(row["mean"] is None for row in rows):
        print("No study had a test set, so that they cannot be compared: reference=N simulates N test members first.")


def _status(directory: Path) -> Status | None:
    try:
        return read_status(directory)
    except AlearnError:
        return None


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
