"""Warm start: what the user has simulated before becomes the first members of a study.

Read are CSV, NPZ, netCDF, a plain BP5 file, and the directory of another study. Names decide: arrays or columns named as
the parameters are parameters, ``t`` is time, the rest are outputs.
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alearn import events as ev
from alearn.errors import ConfigError
from alearn.space import Space
from alearn.types import Array, Sample, Schema, Value, member_id

if TYPE_CHECKING:
    from alearn.chronicle import Chronicle
    from alearn.ledger import Ledger

MEMBER = "member"
TIME = "t"
BLOCK = 64
"""Members that are stored in one go."""


@dataclass(frozen=True, slots=True)
class Past:
    """One simulation of the past: its parameters, its time steps ``(t, outputs)`` in order, and where it stood."""

    parameters: dict[str, Value]
    steps: tuple[tuple[float, dict[str, Array]], ...]
    where: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a file held: the usable members, and one line for each that is left out."""

    members: tuple[Past, ...]
    left_out: tuple[str, ...]

    def summary(self, path: Path) -> str:
        """One sentence."""
        text = f"{len(self.members)} members taken over from {path.name}"
        return f"{text}; {len(self.left_out)} left out, the first: {self.left_out[0]}" if self.left_out else text


def read_past(path: Path, space: Space) -> Found:
    """The simulations in a file that lie in the space and are finite.

    Args:
        path: ``.csv``, ``.npz``, ``.nc``, ``.bp``, or a study's directory.
        space: names the parameters, and says which points are allowed.

    Raises:
        ConfigError: there is no such file, it cannot be read, a parameter is missing, or nothing in it is usable.
    """
    if not path.exists():
        raise ConfigError(f"The data {path} do not exist; give design.data the path of a CSV, NPZ, netCDF or BP5 file, or of a study.")
    kind = "study" if (path / "ledger.sqlite").exists() else path.suffix.lower()
    reader = _READERS.get(kind)
    if reader is None:
        raise ConfigError(
            f"The data {path} are of no kind that is read: give {', '.join(k for k in _READERS if k != 'study')} or a study's directory."
        )
    members: list[Past] = []
    left_out: list[str] = []
    try:
        for past in reader(path, space):
            problem = _problem(past, space)
            if problem is None:
                members.append(past)
            else:
                left_out.append(f"{past.where}: {problem}")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise ConfigError(f"The data {path} cannot be read: {type(error).__name__}: {error}.") from error
    if not members:
        why = f"; the first is left out because {left_out[0]}" if left_out else ""
        raise ConfigError(f"The data {path} hold no member that can be used{why}.")
    return Found(tuple(members), tuple(left_out))


def take_over(found: Found, path: Path, space: Space, ledger: Ledger, chronicle: Chronicle, units: Mapping[str, str]) -> None:
    """Store past simulations as ended members, outside the budget: limits on members and steps rise by what they use.

    Args:
        found: what ``read_past`` found.
        path: where, for the record.
        space: maps parameters to the unit cube.
        ledger: open for writing.
        chronicle: of the ledger.
        units: of the outputs.

    Raises:
        SchemaError: the members differ in their outputs.
    """
    first = chronicle.state.queued_total
    if ledger.schema() is None:
        ledger.set_schema(Schema.of(found.members[0].steps[0][1], units))
    schema = ledger.schema()
    assert schema is not None
    budget = dict(chronicle.state.budget)
    for name, used in (("members", len(found.members)), ("steps", sum(len(p.steps) for p in found.members))):
        if name in budget:
            budget[name] += used
    x = space.to_unit([p.parameters for p in found.members])
    now = ledger.now()
    chronicle.record(ev.BudgetChanged(at=now, budget=budget), ev.RoundDecided(at=now, round=0, q=len(found.members), acquisition=path.name))
    for start in range(0, len(found.members), BLOCK):
        block = list(enumerate(found.members[start : start + BLOCK], start=start))
        samples: list[Sample] = []
        queued: list[ev.Event] = []
        for i, past in block:
            name = member_id(first + i)
            why = f"from {path.name}, {past.where}: simulated before this study"
            queued += [
                ev.MemberQueued(at=now, member=name, parameters=past.parameters, x=tuple(x[i].tolist()), origin="data", why=why),
                ev.MemberLaunched(at=now, member=name, attempt=1),
                ev.MemberRunning(at=now, member=name, attempt=1, steps_total=len(past.steps)),
            ]
            samples += [Sample(name, 1, k, t, past.parameters, schema.conform(values)) for k, (t, values) in enumerate(past.steps)]
        chronicle.record(*queued)
        chronicle.fold(*ledger.store(samples, schema))
        chronicle.record(
            *[ev.MemberEnded(at=ledger.now(), member=member_id(first + i), attempt=1, state="done", cause="done") for i, _ in block]
        )


def _problem(past: Past, space: Space) -> str | None:
    """Why a member cannot be used; None if it can."""
    try:
        space.check(past.parameters)
    except ConfigError as error:
        return str(error)
    if not past.steps:
        return "it has no time step."
    for k, (t, values) in enumerate(past.steps):
        if not math.isfinite(t):
            return f"the time of its step {k} is {t}."
        for name, value in values.items():
            if not np.isfinite(value).all():
                return f"its output {name} is not finite at step {k}."
    return None


# --- the kinds of files ----------------------------------------------------------------------------------------------


def _csv(path: Path, space: Space) -> Iterator[Past]:
    """A row for each member, or for each time step if there is a column t (members then have a column ``member``, or rows
    with the same parameters beside one another)."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        names = [n.strip() for n in rows.fieldnames or []]
        _needed(names, space, path)
        outputs = [n for n in names if n not in (*space.names, TIME, MEMBER)]
        if not outputs:
            raise ConfigError(f"The data {path} have no column beside the parameters; the outputs are missing.")
        group: tuple[Any, ...] | None = None
        gathered: list[tuple[float, dict[str, Array]]] = []
        parameters: dict[str, Value] = {}
        line = 0
        for number, raw in enumerate(rows, start=2):
            row = {str(k).strip(): v for k, v in raw.items() if k is not None}
            cells = {n: _plain(space, n, (row.get(n) or "").strip()) for n in space.names}
            mine = (row[MEMBER],) if MEMBER in names else tuple(cells.values()) if TIME in names else (number,)
            if mine != group:
                if gathered:
                    yield Past(parameters, tuple(gathered), f"line {line}")
                group, gathered, parameters, line = mine, [], cells, number
            values = {n: np.asarray(_number(row.get(n))) for n in outputs}
            gathered.append((_number(row.get(TIME)) if TIME in names else float(len(gathered)), values))
        if gathered:
            yield Past(parameters, tuple(gathered), f"line {line}")


def _npz(path: Path, space: Space) -> Iterator[Past]:
    with np.load(path, allow_pickle=False) as file:
        yield from _arrays({name: file[name] for name in file.files}, space, path)


def _netcdf(path: Path, space: Space) -> Iterator[Past]:
    import xarray as xr

    try:
        dataset = xr.open_dataset(path)
    except ValueError as error:  # no engine knows the file, and xarray lists those that are missing
        raise ConfigError(f"The data {path} cannot be read as netCDF; for netCDF 4: pip install h5netcdf h5py ({error}).") from error
    with dataset:
        parameter = dataset.get(space.names[0])
        if parameter is None or parameter.ndim != 1:
            _needed(list(dataset.variables), space, path)
            raise ConfigError(f"In the data {path} the parameter {space.names[0]} is no list of one value for each member.")
        member = parameter.dims[0]
        arrays = {
            str(n): np.asarray((v.transpose(member, ...) if member in v.dims else v).values)
            for n, v in dataset.variables.items()
            if str(n) in (*space.names, TIME) or (member in v.dims and v.dtype.kind in "fiub" and str(n) != str(member))
        }
        yield from _arrays(arrays, space, path)


def _bp(path: Path, space: Space) -> Iterator[Past]:
    """A BP file whose arrays are as those of an NPZ file; its steps are time if it has several. The archive of a study is
    read through the study."""
    if (path.parent / "ledger.sqlite").exists():
        yield from _study(path.parent, space)
        return
    from alearn.ledger.archive import load_adios2

    with load_adios2().Stream(str(path), "r") as stream:
        parts: dict[str, list[Array]] = {}
        for step in stream.steps():
            for name in step.available_variables():
                parts.setdefault(name, []).append(np.asarray(step.read(name)))
    arrays = {n: p[0] if len(p) == 1 or n in space.names else _over_time(p, n) for n, p in parts.items()}
    yield from _arrays(arrays, space, path)


def _over_time(steps: Sequence[Array], name: str) -> Array:
    """What every step of a file says, ``N x T x …``; of the time ``T``."""
    if name == TIME:
        return np.concatenate([np.reshape(a, -1)[:1] for a in steps])
    return np.stack(steps, axis=1)


def _study(path: Path, space: Space) -> Iterator[Past]:
    from alearn.ledger import Ledger

    with Ledger.open(path, readonly=True) as ledger:
        by_member: dict[str, list[Sample]] = {}
        for sample in ledger.samples():
            by_member.setdefault(sample.member, []).append(sample)
    for name, samples in by_member.items():
        steps = tuple((s.t, {k: np.asarray(v) for k, v in s.values.items()}) for s in sorted(samples, key=lambda s: s.step))
        _needed(list(samples[0].parameters), space, path)
        yield Past({n: samples[0].parameters[n] for n in space.names}, steps, f"member {name}")


def _arrays(arrays: Mapping[str, Array], space: Space, path: Path) -> Iterator[Past]:
    """Parameters ``N``, outputs ``N`` or, with t of ``T`` or ``N x T`` values, ``N x T x …``."""
    _needed(list(arrays), space, path)
    columns = {n: np.asarray(arrays[n]).reshape(-1) for n in space.names}
    n = len(columns[space.names[0]])
    times = None if TIME not in arrays else np.asarray(arrays[TIME], dtype=np.float64)
    outputs = {k: np.asarray(v) for k, v in arrays.items() if k not in (*space.names, TIME, MEMBER)}
    if not outputs:
        raise ConfigError(f"The data {path} hold no array beside the parameters; the outputs are missing.")
    for name, array in {**columns, **outputs}.items():
        if array.shape[:1] != (n,):
            raise ConfigError(f"In the data {path} the array {name} has shape {array.shape}; its first axis must be the {n} members.")
        if times is not None and name in outputs and array.shape[1:2] != times.shape[-1:]:
            raise ConfigError(
                f"In the data {path} the array {name} has shape {array.shape}; its second axis must be the {times.shape[-1]} times."
            )
    for i in range(n):
        parameters = {k: _plain(space, k, v[i]) for k, v in columns.items()}
        if times is None:
            steps: tuple[tuple[float, dict[str, Array]], ...] = ((0.0, {k: v[i] for k, v in outputs.items()}),)
        else:
            own = times[i] if times.ndim == 2 else times
            # a shorter trajectory is padded with NaN times
            steps = tuple((float(t), {k: v[i, j] for k, v in outputs.items()}) for j, t in enumerate(own) if np.isfinite(t))
        yield Past(parameters, steps, f"number {i}")


_READERS: dict[str, Callable[[Path, Space], Iterator[Past]]] = {
    ".csv": _csv,
    ".npz": _npz,
    ".nc": _netcdf,
    ".bp": _bp,
    "study": _study,
}


def _needed(names: Sequence[Any], space: Space, path: Path) -> None:
    missing = [n for n in space.names if n not in [str(m) for m in names]]
    if missing:
        raise ConfigError(
            f"The data {path} lack the parameters {', '.join(missing)}; they have {', '.join(str(m) for m in names) or 'nothing'}."
        )


def _plain(space: Space, name: str, value: Any) -> Value:
    """A cell or an array's entry as a value of a parameter: a number, or the label that is written so."""
    item = value.item() if isinstance(value, np.generic) else value
    return space[name].parse(item.decode() if isinstance(item, bytes) else str(item))


def _number(cell: str | None) -> float:
    """A number, NaN for an empty cell or one that is none (such a member is then left out with its reason)."""
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan
