"""From samples to training rows: parameters to the unit cube, t as a column, the chosen outputs as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from alearn.buffer import Rows
from alearn.errors import ConfigError, UnknownName
from alearn.space import Space
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
        outputs: names of fields (an array field gives all its elements, named ``u[3]`` or ``u[1,2]``) or of single
            elements; "auto" takes all scalar fields or, if there is none, all fields up to 64 numbers.
        over_t: whether t is an input.

    Raises:
        UnknownName: an output that the schema does not have.
        ConfigError: "auto" would take too many numbers, an element lies outside its field, or none is left.
    """

    def __init__(self, space: Space, schema: Schema, outputs: str | Sequence[str] = "auto", over_t: bool = True) -> None:
        self.space = space
        self.schema = schema
        self.over_t = over_t
        self._columns = _choose(schema, outputs)
        self.outputs = tuple(c.name for c in self._columns)
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
        y = np.empty((n, self.m))
        for i, sample in enumerate(samples):
            x[i, : self.space.d] = self._points[groups[i]]
            y[i] = self.values(sample.values)
        t = np.array([s.t for s in samples], dtype=np.float64).reshape(n)
        if self.over_t:
            x[:, -1] = t
        good = np.isfinite(t) & np.isfinite(y).all(axis=1)
        steps = np.array([s.step for s in samples], dtype=np.int64).reshape(n)
        rows = Rows(x, y, np.ones(n), groups, steps)
        return (rows if good.all() else rows.take(np.flatnonzero(good))), good

    def values(self, values: Mapping[str, Any]) -> Floats:
        """The outputs of one step's values, ``m``."""
        y = np.empty(self.m)
        for name, (where, index) in self._fields.items():
            y[where] = np.asarray(values[name], dtype=np.float64).reshape(-1)[index]
        return y

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
        """The members met so far."""
        return {"members": dict(self.members), "points": self.X}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.members = {str(k): int(v) for k, v in state["members"].items()}
        self._points = list(np.asarray(state["points"], dtype=np.float64))


def _choose(schema: Schema, outputs: str | Sequence[str]) -> list[_Column]:
    if outputs == "auto":
        if schema.scalars:
            return [_Column(n, n, 0) for n in schema.scalars]
        fields = [f for f in schema.fields if not f.name.startswith("_")]
        total = sum(_size(f) for f in fields)
        if total > MAX_AUTO:
            raise ConfigError(
                f"A time step has no scalar field and {total} numbers in its arrays, more than {MAX_AUTO}; "
                f"name the outputs to learn (fields {', '.join(schema.names)}, or elements like {schema.names[0]}[0])."
            )
        chosen: Sequence[str] = [f.name for f in fields]
    else:
        chosen = [outputs] if isinstance(outputs, str) else list(outputs)
    columns: list[_Column] = []
    for name in chosen:
        columns += _expand(schema, name)
    if not columns:
        raise ConfigError(f"No output is chosen; name at least one of {', '.join(schema.names)}, or 'auto'.")
    names = [c.name for c in columns]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"The output {twice[0]} is chosen twice; name each once.")
    return columns


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
