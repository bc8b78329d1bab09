"""A study's own test members: a Sobol design that is simulated first and never learned from.

Without them the error of a user's own study would be known only on the members that arrive (prequential), which lie
where the acquisition put them: no figure by which two arms could be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alearn.config import Config
from alearn.errors import StudyFailed
from alearn.ledger import Ledger
from alearn.simulators.reference import Reference
from alearn.space import Space
from alearn.types import Array, Floats, MemberState

TEST_FILE = "reference.npz"
FEWEST = 2
FIELD_TIMES = 16


def with_test_set(config: Config, directory: Path) -> Config:
    """The configuration with the study's own test set, once its test members have run."""
    path = directory / TEST_FILE
    return dataclasses.replace(config, reference=str(path.resolve())) if config.test_members and path.is_file() else config


def write_test_set(ledger: Ledger, space: Space, directory: Path, learned: str | Sequence[str] = "auto") -> Reference:
    """Make the test set from the members that ran to their end.

    Members with times of their own (adaptive solvers) are compared at as many times as their median has, between
    the latest first and the earliest last one, interpolated linearly. Where whole fields are learned, they are kept at no
    more than ``FIELD_TIMES`` times.

    Args:
        ledger: of the test arm.
        space: the parameter space.
        directory: the study's.
        learned: the study's ``outputs``; arrays among them are kept besides the scalars.

    Raises:
        StudyFailed: fewer than two members ran to their end.
    """
    schema = ledger.schema()
    members = {m.id: m for m in ledger.members() if m.state is MemberState.DONE and m.steps > 0}
    outputs = schema.scalars if schema is not None else ()
    arrays = [f.name for f in schema.fields if f.shape and f.name in learned] if schema is not None and learned != "auto" else []
    times: dict[str, list[float]] = {m: [] for m in members}
    values: dict[str, list[list[float]]] = {m: [] for m in members}
    for sample in ledger.samples(members=list(members), fields=outputs) if members else ():
        times[sample.member].append(sample.t)
        values[sample.member].append([float(sample.values[name]) for name in outputs])
    if len(members) < FEWEST:
        raise StudyFailed(
            f"Only {len(members)} of {len(ledger.members())} test members ran to their end, too few to measure an error on; "
            "mend the simulation and start a new study, or give another reference (null is none)."
        )
    grid = _grid([np.asarray(t) for t in times.values()])
    if arrays:
        grid = grid[np.unique(np.linspace(len(grid) - 1, 0, min(FIELD_TIMES, len(grid))).round().astype(int))]
    truth = np.stack([_on(grid, np.asarray(times[m]), np.asarray(values[m])) for m in members]).astype(np.float32)
    labels = {n: space[n].labels for n in space.names if space[n].labels}
    rows = [[labels[n].index(m.parameters[n]) if n in labels else m.parameters[n] for n in space.names] for m in members.values()]
    points = np.array(rows, dtype=np.float64).reshape(len(members), len(space.names))
    fields = {name: _fields(ledger, name, list(members), grid) for name in arrays}
    about = {"members": list(members)}
    reference = Reference(space.names, points, grid, tuple(outputs), truth, labels=labels, provenance=about, fields=fields)
    reference.write(directory / TEST_FILE)
    return reference


def _fields(ledger: Ledger, name: str, members: list[str], grid: Floats) -> Array:
    """One field of all members at the times of the grid, ``N x T x …``, float32."""
    found = []
    for member in members:
        steps = [(s.t, np.asarray(s.values[name], dtype=np.float32)) for s in ledger.samples(members=[member], fields=[name])]
        at, frames = np.array([t for t, _ in steps]), np.stack([v for _, v in steps])
        found.append(
            _on(grid, at, frames.reshape(len(frames), -1).astype(np.float64)).reshape(len(grid), *frames.shape[1:]).astype(np.float32)
        )
    return np.stack(found)


def _grid(times: list[Floats]) -> Floats:
    """The times at which all members are compared."""
    first = times[0]
    if all(len(t) == len(first) and np.array_equal(t, first) for t in times):
        return first
    low, high = max(t[0] for t in times), min(t[-1] for t in times)
    return np.linspace(low, high, int(np.median([len(t) for t in times]))) if high > low else np.array([high])


def _on(grid: Floats, t: Floats, values: Floats) -> Floats:
    """Values ``T' x m`` at the times of the grid, ``T x m``."""
    if not values.shape[1]:
        return np.empty((len(grid), 0))
    after = np.clip(np.searchsorted(t, grid), 1, max(1, len(t) - 1)) if len(t) > 1 else np.zeros(len(grid), int)
    before = np.maximum(after - 1, 0)
    share = np.clip((grid - t[before]) / np.where(after > before, t[after] - t[before], 1.0), 0.0, 1.0)[:, None]
    return np.asarray((1.0 - share) * values[before] + share * values[after])
