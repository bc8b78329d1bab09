"""From samples to training rows: parameters to the unit cube, t as a column, the chosen outputs as numbers.

A field among the outputs is written as coefficients (``alearn/surrogate/field.py``). A row's ``y`` holds first the single
numbers, then every field's coefficients as they are remembered, which never change their meaning; ``targets`` makes of
them what the surrogate learns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from alearn.buffer import Rows
from alearn.errors import ConfigError, UnknownName
from alearn.space import Space
from alearn.surrogate.field import CellCode, FieldCode, FieldDecoder, FieldOptions, joint_scale
from alearn.types import Array, Field, Floats, Parameters, Sample, Schema

MAX_AUTO = 64
"""Fields without a scalar among them become outputs by themselves up to so many numbers a step."""


@dataclass(frozen=True, slots=True)
class _Column:
    """Where one output lies: a field and the flat index in it."""

    name: str
    field: str
    index: int


@final
class Features:
    """The map from samples to rows, and the register of the members it has met.

    A row's ``x`` is the member's point in the unit cube, with the simulation time t, in its own unit, as one more
    column if ``over_t``; its ``y`` holds the outputs in their own units; its ``group`` is the member's number in
    order of first arrival.

    Args:
        space: the parameters.
        schema: what a time step carries.
        outputs: names of fields or of single elements of them. A field of up to ``elements`` numbers gives all its elements,
            named ``u[3]`` or ``u[1,2]``; a larger one is learned as a whole, by ``rank`` coefficients named ``u.pod0`` and on.
            "auto" takes all scalar fields or, if there is none, all fields up to 64 numbers.
        over_t: whether t is an input.
        field: see ``FieldOptions``.
        cells: learn whole fields cell by cell, for a surrogate that knows the grid; of any size.

    Raises:
        UnknownName: an output that the schema does not have.
        ConfigError: "auto" would take too many numbers, an element lies outside its field, or none is left.
    """

    def __init__(
        self,
        space: Space,
        schema: Schema,
        outputs: str | Sequence[str] = "auto",
        over_t: bool = True,
        field: Mapping[str, Any] | None = None,
        cells: bool = False,
    ) -> None:
        self.space = space
        self.schema = schema
        self.over_t = over_t
        self.options = FieldOptions.of(field)
        self._columns, whole = _choose(schema, outputs, 1 if cells else self.options.elements)
        self.codes: tuple[FieldCode | CellCode, ...] = tuple(CellCode(f) if cells else FieldCode(f, self.options) for f in whole)
        kind = "cell" if cells else "pod"
        self.outputs = (*(c.name for c in self._columns), *(f"{c.field.name}.{kind}{i}" for c in self.codes for i in range(c.rank)))
        by_field: dict[str, tuple[list[int], list[int]]] = {}
        for at, column in enumerate(self._columns):
            where, index = by_field.setdefault(column.field, ([], []))
            where.append(at)
            index.append(column.index)
        self._fields = {f: (np.array(where), np.array(index)) for f, (where, index) in by_field.items()}
        self.members: dict[str, int] = {}
        self._points: list[Floats] = []

    @property
    def d(self) -> int:
        """Columns of a row's ``x``, t included."""
        return self.space.d + int(self.over_t)

    @property
    def m(self) -> int:
        """Number of outputs."""
        return len(self.outputs)

    @property
    def width(self) -> int:
        """Columns of a row's ``y``."""
        return len(self._columns) + sum(c.width for c in self.codes)

    @property
    def sources(self) -> tuple[str, ...]:
        """The schema's fields that the outputs are made of."""
        return tuple(dict.fromkeys((*(c.field for c in self._columns), *(c.field.name for c in self.codes))))

    @property
    def learned(self) -> tuple[str, ...]:
        """The single numbers and whole fields that are learned."""
        return (*(c.name for c in self._columns), *(c.field.name for c in self.codes))

    @property
    def ready(self) -> bool:
        """Whether samples can be made rows: every field that is learned has a basis."""
        return all(c.begun for c in self.codes)

    @property
    def X(self) -> Floats:
        """The members' points in the unit cube, ``n x d``, in the order of their numbers."""
        return np.array(self._points).reshape(len(self._points), self.space.d)

    def number(self, member: str, parameters: Parameters) -> int:
        """The member's number, given out at its first arrival."""
        number = self.members.get(member)
        if number is None:
            point = self.space.to_unit([{n: parameters[n] for n in self.space.names if n in parameters}])[0]
            number = self.members[member] = len(self._points)
            self._points.append(point)
        return number

    def rows(self, samples: Sequence[Sample]) -> tuple[Rows, Array]:
        """The rows of the samples whose outputs and t are finite, and a mask over all samples of which those are."""
        n = len(samples)
        groups = np.array([self.number(s.member, s.parameters) for s in samples], dtype=np.int64).reshape(n)
        x = np.empty((n, self.d))
        y = np.empty((n, self.width))
        for i, sample in enumerate(samples):
            x[i, : self.space.d] = self._points[groups[i]]
            y[i, : len(self._columns)] = self.values(sample.values)
        at = len(self._columns)
        for code in self.codes:
            y[:, at : at + code.width] = _coded(code, samples)
            at += code.width
        t = np.array([s.t for s in samples], dtype=np.float64).reshape(n)
        if self.over_t:
            x[:, -1] = t
        good = np.isfinite(t) & np.isfinite(y).all(axis=1)
        steps = np.array([s.step for s in samples], dtype=np.int64).reshape(n)
        rows = Rows(x, y, np.ones(n), groups, steps)
        return (rows if good.all() else rows.take(np.flatnonzero(good))), good

    def values(self, values: Mapping[str, Any]) -> Floats:
        """The single numbers among the outputs of one step's values, ``s``."""
        y = np.empty(len(self._columns))
        for name, (where, index) in self._fields.items():
            y[where] = np.asarray(values[name], dtype=np.float64).reshape(-1)[index]
        return y

    # --- fields ------------------------------------------------------------------------------------------------------

    def begin(self, samples: Sequence[Sample]) -> None:
        """Make the fields' first bases from these samples."""
        for code in self.codes:
            fields = _flat(code, samples)
            sound = fields[np.isfinite(fields).all(axis=1)]
            if len(sound) and not code.begun:
                code.begin(sound)

    def renew(self) -> bool:
        """Let the fields' coefficients follow the data; True if some of them mean something else now."""
        return sum(code.renew() for code in self.codes) > 0

    def targets(self, y: Floats) -> Floats:
        """What the surrogate learns of rows' ``n x width``: ``n x m``."""
        if not self.codes:
            return y
        parts, at = [y[:, : len(self._columns)]], len(self._columns)
        for code in self.codes:
            parts.append(code.targets(y[:, at : at + code.width]))
            at += code.width
        return np.concatenate(parts, axis=1)

    def decoders(self) -> tuple[FieldDecoder, ...]:
        """The way from the surrogate's outputs to the fields."""
        if not self.ready:
            return ()
        firsts = np.cumsum([len(self._columns), *(c.rank for c in self.codes)]).tolist()
        return tuple(code.decoder(first) for code, first in zip(self.codes, firsts, strict=False))

    def scale(self, output_scale: Floats) -> Floats:
        """The outputs' scales where one number is wanted for all of them (``joint_scale``), from the surrogate's, each ``m``."""
        return joint_scale(output_scale, [(c.rank, c.used) for c in self.codes])

    def inputs(self, x: Floats, t: Floats) -> Floats:
        """All pairs of ``n x d`` points and ``T`` times as rows, ``n T x d'``, t running fastest; without t, ``n x d``."""
        if not self.over_t:
            return np.array(x, dtype=np.float64)
        n, steps = len(x), len(t)
        out = np.empty((n * steps, self.d))
        out[:, :-1] = np.repeat(x, steps, axis=0)
        out[:, -1] = np.tile(t, n)
        return out

    def state_dict(self) -> dict[str, Any]:
        """The members met so far, and the fields' bases."""
        return {
            "members": dict(self.members),
            "points": self.X,
            "fields": {c.field.name: c.state_dict() for c in self.codes},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.members = {str(k): int(v) for k, v in state["members"].items()}
        self._points = list(np.asarray(state["points"], dtype=np.float64))
        for code in self.codes:
            code.load_state_dict(state["fields"][code.field.name])


def _flat(code: FieldCode | CellCode, samples: Sequence[Sample]) -> Array:
    """The samples' fields, ``k x n``."""
    return np.array([np.ravel(s.values[code.field.name]) for s in samples], dtype=np.float32).reshape(len(samples), code.size)


def _coded(code: FieldCode | CellCode, samples: Sequence[Sample]) -> Floats:
    """The samples' coefficients in the memory, ``k x width``; NaN for fields that are not finite."""
    fields = _flat(code, samples)
    sound = np.isfinite(fields).all(axis=1)
    out = np.full((len(fields), code.width), np.nan)
    if sound.any():
        out[sound] = code.codes(fields[sound])
        if not code.version:
            code.renew()
    return out


def _choose(schema: Schema, outputs: str | Sequence[str], elements: int) -> tuple[list[_Column], list[Field]]:
    """The single numbers, and the fields that are learned as a whole."""
    if outputs == "auto":
        if schema.scalars:
            return [_Column(n, n, 0) for n in schema.scalars], []
        fields = [f for f in schema.fields if not f.name.startswith("_")]
        total = sum(_size(f) for f in fields)
        if total > MAX_AUTO:
            raise ConfigError(
                f"A time step has no scalar field and {total} numbers in its arrays, more than {MAX_AUTO}; "
                f"name the outputs to learn (whole fields, {', '.join(schema.names)}, or elements like {schema.names[0]}[0])."
            )
        chosen: Sequence[str] = [f.name for f in fields]
    else:
        chosen = [outputs] if isinstance(outputs, str) else list(outputs)
    columns: list[_Column] = []
    known = {f.name: f for f in schema.fields}
    whole = [known[n] for n in chosen if n in known and _size(known[n]) > elements]
    for name in chosen:
        columns += [] if known.get(name) in whole else _expand(schema, name)
    if not columns and not whole:
        raise ConfigError(f"No output is chosen; name at least one of {', '.join(schema.names)}, or 'auto'.")
    names = [*(c.name for c in columns), *(f.name for f in whole)]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"The output {twice[0]} is chosen twice; name each once.")
    return columns, whole


def _expand(schema: Schema, name: str) -> list[_Column]:
    fields = {f.name: f for f in schema.fields}
    if name in fields:
        f = fields[name]
        if f.shape == ():
            return [_Column(name, name, 0)]
        return [_Column(f"{name}[{','.join(map(str, np.unravel_index(i, f.shape)))}]", name, i) for i in range(_size(f))]
    match = re.fullmatch(r"(\w+)\[(\d+(?:,\d+)*)\]", name.replace(" ", ""))
    if match is None or match[1] not in fields:
        raise UnknownName("output", name, fields)
    f = fields[match[1]]
    index = tuple(int(i) for i in match[2].split(","))
    if len(index) != len(f.shape) or any(i >= n for i, n in zip(index, f.shape, strict=True)):
        raise ConfigError(f"The output {name} lies outside the field '{f.name}', whose shape is {f.shape}.")
    return [_Column(f"{f.name}[{','.join(map(str, index))}]", f.name, int(np.ravel_multi_index(index, f.shape)))]


def _size(f: Field) -> int:
    return int(np.prod(f.shape, dtype=np.int64))
