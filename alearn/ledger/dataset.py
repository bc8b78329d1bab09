"""The archive as labelled arrays: a lazy ``xarray.Dataset``. The only file that imports xarray."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from alearn.errors import ConfigError
from alearn.ledger import database
from alearn.ledger.data import DataReader
from alearn.ledger.ledger import Ledger
from alearn.ledger.segments import Layout
from alearn.types import Array, Field, Member

_NOWHERE = -1


def open_archive(directory: Path | str) -> xr.Dataset:
    """Every stored sample of a study as one labelled, lazy dataset; also while the study writes.

    Dimensions are ``member``, ``step`` and, for a field u of more than one number, ``u_0``, ``u_1`` …
    Coordinates are the members' ids, their parameters, state and number of stored steps, and the simulation
    time ``t(member, step)``. ``stored(member, step)`` says where there are data; elsewhere floating fields
    are NaN and others zero. Only what is selected is read, and its checksums are verified.

    Args:
        directory: the study directory.

    Returns:
        The dataset as of now; open it again to see what came since.

    Raises:
        LedgerError: there is no study.
    """
    with Ledger.open(Path(directory), readonly=True) as ledger:
        there = [m for m in ledger.members() if m.steps and not m.revoked]
        numbers = ledger.member_numbers()
        schema = ledger.schema()
        if schema is None:
            return xr.Dataset(attrs={"study": ledger.study})
        places = _places(ledger, [numbers[m.id] for m in members], max((m.steps for m in members), default=0))
        study = ledger.study
    source = _Source(Path(directory), Layout(schema))
    data: dict[str, xr.Variable] = {"stored": xr.Variable(("member", "step"), places.stored)}
    for f in schema.fields:
        name = f.name if f.name not in ("member", "step", "t", "stored", "state", "steps") else f"{f.name}_"
        lazy = indexing.LazilyIndexedArray(_FieldArray(source, f, places))
        data[name] = xr.Variable(
            ("member", "step", *(f"{name}_{i}" for i in range(len(f.shape)))), lazy, {"units": f.unit} if f.unit else {}
        )
    coords: dict[str, Any] = {
        "member": ("member", np.asarray([m.id for m in members], dtype=str)),
        "step": ("step", np.arange(places.stored.shape[1])),
        "t": (("member", "step"), places.t),
        "state": ("member", np.asarray([m.state.value for m in members], dtype=str)),
        "steps": ("member", np.asarray([m.steps for m in members], dtype=np.int64)),
    }
    for parameter in dict.fromkeys(name for m in members for name in m.parameters):
        name = parameter if parameter not in coords and parameter not in data else f"param_{parameter}"
        coords[name] = ("member", _column(members, parameter), {"parameter": parameter})
    return xr.Dataset(data, coords, {"study": study, "schema": schema.to_json()})


def select_members(dataset: xr.Dataset, box: Mapping[str, tuple[float, float] | Any]) -> xr.Dataset:
    """The members whose parameters lie in a box; nothing is read for it.

    Args:
        dataset: from ``open_archive``.
        box: for each named parameter ``(low, high)``, both included, or one value.

    Raises:
        ConfigError: there is no such parameter.
    """
    keep = np.ones(dataset.sizes.get("member", 0), dtype=bool)
    by_parameter = {c.attrs["parameter"]: c.values for c in dataset.coords.values() if "parameter" in c.attrs}
    for name, wanted in box.items():
        if name not in by_parameter:
            raise ConfigError(f"The archive has no parameter '{name}'; it has {', '.join(by_parameter) or 'none'}.")
        values = by_parameter[name]
        if isinstance(wanted, (tuple, list)):
            low, high = wanted
            keep &= (values >= low) & (values <= high)
        else:
            keep &= values == wanted
    return dataset.isel(member=np.flatnonzero(keep))


class _Places:
    """Where each (member, step) lies: segment and record, both ``members x steps``."""

    def __init__(self, members: int, steps: int) -> None:
        self.segment = np.full((members, steps), _NOWHERE, np.int32)
        self.record = np.zeros((members, steps), np.int32)
        self.t = np.full((members, steps), np.nan)

    @property
    def stored(self) -> Array:
        return np.asarray(self.segment != _NOWHERE)


def _places(ledger: Ledger, numbers: list[int], steps: int) -> _Places:
    out = _Places(len(numbers), steps)
    row_of = {number: i for i, number in enumerate(numbers)}
    for chunk in ledger.sample_rows():
        kept = [r for r in chunk if r[1] in row_of and r[2] < steps]  # the writer may be ahead of the members we saw
        i = [row_of[r[1]] for r in kept]
        j = [r[2] for r in kept]
        out.segment[i, j] = [r[5] for r in kept]
        out.record[i, j] = [r[6] for r in kept]
        out.t[i, j] = [r[4] for r in kept]
    return out


def _column(members: list[Member], parameter: str) -> Array:
    values = [m.parameters.get(parameter) for m in members]
    if any(isinstance(v, str) for v in values):
        return np.asarray(["" if v is None else str(v) for v in values], dtype=str)
    return np.asarray([np.nan if v is None else v for v in values])


class _Source:
    """One reader for all arrays of a dataset; opened when first needed."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        self.directory = directory
        self.layout = layout
        self.lock = threading.Lock()
        self._reader: DataReader | None = None

    def __deepcopy__(self, memo: object) -> _Source:
        return self  # files and locks are shared by every view of a dataset

    def reader(self) -> DataReader:
        if self._reader is None:
            db = database.connect(self.directory / database.NAME, readonly=True)
            self._reader = DataReader(self.directory, self.layout, db)
        return self._reader


class _FieldArray(BackendArray):
    """One field, ``members x steps x shape``, read as it is indexed."""

    def __init__(self, source: _Source, field: Field, places: _Places) -> None:
        self.source = source
        self.field = field
        self.places = places
        self.shape = (*places.segment.shape, *field.shape)
        self.dtype = np.dtype(field.dtype)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._get)

    def _get(self, key: tuple[Any, ...]) -> Array:
        segment = _outer(self.places.segment, key[:2])
        record = _outer(self.places.record, key[:2])
        rest = key[2:]
        fill = np.nan if self.dtype.kind == "f" else 0
        inner = _outer(np.empty(self.field.shape, bool), rest).shape if rest else ()
        out = np.full((segment.size, *inner), fill, self.dtype)
        flat_segment, flat_record = segment.reshape(-1), record.reshape(-1)
        with self.source.lock:
            reader = self.source.reader()
            for number in np.unique(flat_segment[flat_segment != _NOWHERE]):
                cells = np.flatnonzero(flat_segment == number)
                cells = cells[np.argsort(flat_record[cells], kind="stable")]
                step = max(1, (16 << 20) // max(1, self.field.nbytes))
                for a in range(0, len(cells), step):
                    part = cells[a : a + step]
                    records, where = np.unique(flat_record[part], return_inverse=True)
                    values = reader.read(int(number), records, [self.field.name]).values[self.field.name]
                    chosen = np.stack([_outer(v, rest) for v in values]) if rest else values
                    out[part] = chosen[where]
        return out.reshape((*segment.shape, *inner))


def _outer(array: Array, key: tuple[Any, ...]) -> Array:
    """Index each axis on its own; integers drop theirs."""
    for axis in reversed(range(len(key))):
        array = array[(slice(None),) * axis + (key[axis],)]
    return np.asarray(array)
