"""The archive as labelled arrays: a lazy ``xarray.Dataset``. The only file that imports xarray."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from alearn.errors import ConfigError, UnknownName
from alearn.ledger import database
from alearn.ledger.data import DataReader
from alearn.ledger.ledger import Ledger
from alearn.ledger.segments import Layout
from alearn.transform import Pipeline
from alearn.types import Array, Field, Member, Schema

_NOWHERE = -1
_COORDINATES = ("member", "step", "t", "stored", "state", "steps")

Box = Mapping[str, Any]
"""For each named parameter ``(low, high)``, both included, or one value."""


def open_archive(
    directory: Path | str,
    *,
    box: Box | None = None,
    members: Sequence[str] | None = None,
    fields: Sequence[str] | None = None,
    decode: bool = False,
) -> xr.Dataset:
    """Every stored sample of a study as one labelled, lazy dataset; also while the study writes.

    Dimensions are ``member``, ``step`` and, for a field u of more than one number, ``u_0``, ``u_1`` …
    Coordinates are the members' ids, their parameters, state and number of stored steps, and the simulation
    time ``t(member, step)``. ``stored(member, step)`` says where there are data; elsewhere floating fields
    are NaN and others zero. Only what is selected is read, and its checksums are verified. Units of fields and
    parameters are attributes. A study that keeps no archive (``archive=none``) has only what came since its last
    two snapshots: ``stored`` says so, and so does the attribute ``discarded``, the number of samples that are gone.

    Args:
        directory: the study directory.
        box: only members whose parameters lie in it: ``{"F": (0.03, 0.05)}``, both ends included, or one value.
        members: only these members, by id.
        fields: only these fields.
        decode: the fields as they were before the study's codecs, decoded as they are read (docs/pre-processing.md).

    Returns:
        The dataset as of now; open it again to see what came since.

    Raises:
        UnknownName: there is no such parameter, member or field.
        ConfigError: an interval of the box is none, or what decoding needs cannot be read.
        LedgerError: there is no study.
    """
    with Ledger.open(Path(directory), readonly=True) as ledger:
        there = [m for m in ledger.members() if m.steps and not m.revoked]
        numbers = ledger.member_numbers()
        schema = ledger.schema()
        meta = ledger.meta()
        if schema is None:
            return xr.Dataset(attrs={"study": ledger.study})
        chosen = _chosen(there, box, members)
        steps = max((m.steps for m in chosen), default=0)
        places, discarded = _places(ledger, {m.id: numbers[m.id] for m in chosen}, steps)
    source = _Source(Path(directory), Layout(schema))
    pipeline = Pipeline.described_in(Path(directory)) if decode else None
    data: dict[str, xr.Variable] = {"stored": xr.Variable(("member", "step"), places.stored)}
    for f in _wanted(schema if pipeline is None else pipeline.decoded(), fields):
        name = f.name if f.name not in _COORDINATES else f"{f.name}_"
        plain = pipeline is None or (f.name in schema.names and f.name not in pipeline.encoded)
        stored = _FieldArray(source, f, places) if plain else _DecodedArray(source, f, places, pipeline, [m.id for m in chosen])
        lazy = indexing.LazilyIndexedArray(stored)
        data[name] = xr.Variable(
            ("member", "step", *(f"{name}_{i}" for i in range(len(f.shape)))), lazy, {"units": f.unit} if f.unit else {}
        )
    coords: dict[str, Any] = {
        "member": ("member", np.asarray([m.id for m in chosen], dtype=str)),
        "step": ("step", np.arange(places.stored.shape[1])),
        "t": (("member", "step"), places.t),
        "state": ("member", np.asarray([m.state.value for m in chosen], dtype=str)),
        "steps": ("member", np.asarray([m.steps for m in chosen], dtype=np.int64)),
    }
    units = dict(meta.get("parameter_units", {}))
    for parameter in dict.fromkeys(name for m in chosen for name in m.parameters):
        name = parameter if parameter not in coords and parameter not in data else f"param_{parameter}"
        unit = {"units": units[parameter]} if units.get(parameter) else {}
        coords[name] = ("member", _column(chosen, parameter), {"parameter": parameter, **unit})
    attributes = {"study": str(meta.get("study", "")), "schema": schema.to_json()}
    return xr.Dataset(data, coords, attributes | ({"discarded": discarded} if discarded else {}))


def select_members(dataset: xr.Dataset, box: Box) -> xr.Dataset:
    """The members whose parameters lie in a box; nothing is read for it.

    Args:
        dataset: from ``open_archive``.
        box: for each named parameter ``(low, high)``, both included, or one value.

    Raises:
        UnknownName: there is no such parameter.
        ConfigError: an interval is none.
    """
    by_parameter = {str(c.attrs["parameter"]): c.values for c in dataset.coords.values() if "parameter" in c.attrs}
    return dataset.isel(member=np.flatnonzero(_inside(by_parameter, box, dataset.sizes.get("member", 0))))


def _inside(columns: Mapping[str, Array], box: Box, n: int) -> Array:
    """Which of ``n`` members lie in the box, a mask of shape ``n``."""
    keep = np.ones(n, dtype=bool)
    for name, wanted in box.items():
        if name not in columns:
            raise UnknownName("parameter in the archive", name, columns)
        values = columns[name]
        if not isinstance(wanted, (tuple, list)):
            keep &= values == wanted
            continue
        if len(wanted) != 2 or not wanted[0] <= wanted[1]:
            raise ConfigError(f"The box has {name}={wanted!r}; give (low, high) with low ≤ high, or one value.")
        keep &= (values >= wanted[0]) & (values <= wanted[1])
    return keep


def _chosen(there: list[Member], box: Box | None, ids: Sequence[str] | None) -> list[Member]:
    if ids is not None:
        known = {m.id: m for m in there}
        for name in ids:
            if name not in known:
                raise UnknownName("member with samples", name, known, shown=list(known)[:8])
        there = [m for m in there if m.id in set(ids)]
    if box:
        columns = {name: _column(there, name) for name in dict.fromkeys(n for m in there for n in m.parameters)}
        there = [there[i] for i in np.flatnonzero(_inside(columns, box, len(there)))]
    return there


def _wanted(schema: Schema, names: Sequence[str] | None) -> list[Field]:
    for name in names or ():
        if name not in schema.names:
            raise UnknownName("field in the archive", name, schema.names)
    return [f for f in schema.fields if names is None or f.name in names]


class _Places:
    """Where each (member, step) lies: segment and record, both ``members x steps``."""

    def __init__(self, members: int, steps: int) -> None:
        self.segment = np.full((members, steps), _NOWHERE, np.int32)
        self.record = np.zeros((members, steps), np.int32)
        self.t = np.full((members, steps), np.nan)

    @property
    def stored(self) -> Array:
        return np.asarray(self.segment != _NOWHERE)


def _places(ledger: Ledger, numbers: Mapping[str, int], steps: int) -> tuple[_Places, int]:
    """Where the members' samples lie, and how many were discarded."""
    out = _Places(len(numbers), steps)
    discarded = 0
    row_of = {number: i for i, number in enumerate(numbers.values())}
    gone = ledger.discarded_segments()
    for chunk in ledger.sample_rows(list(numbers)):
        discarded += sum(r[5] in gone for r in chunk)
        kept = [r for r in chunk if r[2] < steps and r[5] not in gone]  # the writer may be ahead of the members we saw
        i = [row_of[r[1]] for r in kept]
        j = [r[2] for r in kept]
        out.segment[i, j] = [r[5] for r in kept]
        out.record[i, j] = [r[6] for r in kept]
        out.t[i, j] = [r[4] for r in kept]
    return out, discarded


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


class _DecodedArray(BackendArray):
    """One field behind the codecs, ``members x steps x shape``, decoded as it is indexed."""

    def __init__(self, source: _Source, field: Field, places: _Places, pipeline: Pipeline | None, members: Sequence[str]) -> None:
        assert pipeline is not None
        self.source, self.field, self.places, self.pipeline, self.members = source, field, places, pipeline, members
        self.shape = (*places.segment.shape, *field.shape)
        self.dtype = np.dtype(field.dtype)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._get)

    def _get(self, key: tuple[Any, ...]) -> Array:
        i, j = (np.arange(n)[k] for n, k in zip(self.places.segment.shape, key[:2], strict=True))
        cells = np.array(np.meshgrid(i, j, indexing="ij")).reshape(2, -1).T
        rest = key[2:]
        inner = _outer(np.empty(self.field.shape, bool), rest).shape if rest else ()
        out = np.full((len(cells), *inner), np.nan if self.dtype.kind == "f" else 0, self.dtype)
        segment, record = (a[cells[:, 0], cells[:, 1]] for a in (self.places.segment, self.places.record))
        names = list(self.pipeline.encoded)
        with self.source.lock:
            reader = self.source.reader()
            for number in np.unique(segment[segment != _NOWHERE]):
                there = np.flatnonzero(segment == number)
                there = there[np.argsort(record[there], kind="stable")]
                for a in range(0, len(there), 256):
                    part = there[a : a + 256]
                    found = reader.read(int(number), record[part], names).values
                    for n, at in enumerate(part):
                        m, s = cells[at]
                        decoded = self.pipeline.decode({name: v[n, ...] for name, v in found.items()}, (self.members[m], int(s)))
                        out[at] = _outer(decoded[self.field.name], rest)
        return out.reshape(*np.shape(i), *np.shape(j), *inner)


def _outer(array: Array, key: tuple[Any, ...]) -> Array:
    """Index each axis on its own; integers drop theirs."""
    for axis in reversed(range(len(key))):
        array = array[(slice(None),) * axis + (key[axis],)]
    return np.asarray(array)
