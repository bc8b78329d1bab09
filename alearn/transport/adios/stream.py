"""Steps out of an ADIOS2 engine: its variables and attributes as a schema, and their bytes as the wire wants them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from alearn.errors import SchemaError
from alearn.types import Field, Schema

TIMES = ("t", "time", "physical_time")
"""Names under which a scalar is taken for the simulation time, unless one is named."""
_DTYPES = {
    "double": "float64", "float": "float32", "int64_t": "int64", "int32_t": "int32", "int16_t": "int16", "int8_t": "int8",
    "uint64_t": "uint64", "uint32_t": "uint32", "uint16_t": "uint16", "uint8_t": "uint8",
}  # fmt: skip
_TEXT = ("string", "char")
STORED_AS = {"bool": "uint8", "float16": "uint16"}
"""What ADIOS2 has no type for travels bit by bit as another."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a field comes from: its variable, and how its block is chosen."""

    variable: str
    field: Field
    local: bool = False
    stored: str = ""


class Steps:
    """Reads the steps of one open engine.

    Args:
        bindings: adios2's.
        io: the IO that the engine was opened with.
        engine: open for reading.
        variables: which variables become fields; empty takes every numeric one.
        time: the scalar variable that is the simulation time; empty looks for ``TIMES``.
        schema: what our own client announced; None if it must be inferred.
    """

    def __init__(
        self, bindings: ModuleType, io: Any, engine: Any, *, variables: Sequence[str] = (), time: str = "", schema: Schema | None = None
    ) -> None:
        self._b, self._io, self._engine = bindings, io, engine
        self._variables, self._time = tuple(variables), time
        self._sources: list[_Source] = []
        self._clock = np.zeros(1)
        self._clock_name = ""
        self._own = schema is not None
        self.schema: Schema | None = schema
        if schema is not None:
            self._clock_name = "alearn_t"
            self._sources = [
                _Source(v, f, stored=STORED_AS.get(f.dtype, "")) for v, f in zip(own_names(schema), schema.fields, strict=True)
            ]

    def describe(self) -> Schema:
        """The schema, inferred from the step that has begun if it is the first.

        Raises:
            SchemaError: a variable is nothing that can be streamed.
        """
        if self.schema is not None and (self._sources or self._own):
            return self.schema
        there: Mapping[str, Mapping[str, str]] = self._io.AvailableVariables()
        for name in self._variables:
            if name not in there:
                raise SchemaError(f"The stream has no variable '{name}'; it has {sorted(there)}: set transport.variables to some of them.")
        self._clock_name = self._find_time(there)
        units = self._units()
        names = self._variables or sorted(n for n in there if n != self._clock_name and there[n]["Type"] not in _TEXT)
        self._sources = [self._source(name, there[name]["Type"], units) for name in names if name != self._clock_name]
        fields = [s.field for s in self._sources]
        if not fields:
            raise SchemaError(f"The stream has no numeric variable besides the time; it has {sorted(there)}.")
        if len({f.name for f in fields}) < len(fields):
            raise SchemaError(f"Two of the variables {sorted(names)} have the same name as a field; choose with transport.variables.")
        self.schema = Schema(tuple(fields))
        return self.schema

    def attributes(self) -> dict[str, str]:
        """The stream's attributes that belong to no variable, as text: provenance."""
        there: Mapping[str, Mapping[str, str]] = self._io.AvailableAttributes()
        return {name: a["Value"].strip('"')[:200] for name, a in list(there.items())[:64] if "/" not in name}

    def take(self, body: memoryview, number: int) -> float:
        """Read the step that has begun into ``body``, the fields one after another; returns its time.

        Args:
            body: writable, ``schema.nbytes`` long.
            number: the step's number, which is its time if the stream has none.

        Raises:
            SchemaError: the step is not like the first.
        """
        at = 0
        for source in self._sources:
            f = source.field
            if not f.nbytes:  # our own client writes no variable for it
                continue
            variable = self._io.InquireVariable(source.variable)
            if not variable:
                raise SchemaError(
                    f"Step {number} has no variable '{source.variable}', which the first step had; name those that every step has in "
                    "transport.variables."
                )
            if not self._own:
                self._check(variable, source, number)
            array: Any = np.ndarray(f.shape or (1,), source.stored or f.dtype, body, at)
            self._engine.Get(variable, array, self._b.Mode.Deferred)
            at += f.nbytes
        clock = self._io.InquireVariable(self._clock_name) if self._clock_name else None
        if clock:
            dtype = _DTYPES[clock.Type()]
            if self._clock.dtype != dtype:
                self._clock = np.zeros(1, dtype)
            self._engine.Get(clock, self._clock, self._b.Mode.Deferred)
        self._engine.PerformGets()
        return float(self._clock[0]) if clock else float(number)

    def own_number(self) -> int:
        """The number of the step that has begun, as our own client wrote it."""
        number = np.zeros(1, np.uint64)
        self._engine.Get(self._io.InquireVariable("alearn_step"), number, self._b.Mode.Sync)
        return int(number[0])

    def _find_time(self, there: Mapping[str, Mapping[str, str]]) -> str:
        if self._time and self._time not in there:
            raise SchemaError(f"The stream has no variable '{self._time}' for the time; it has {sorted(there)}: set transport.time to one.")
        for name in (self._time,) if self._time else TIMES:
            if name in there and there[name]["Type"] in _DTYPES and there[name].get("Shape", "") in ("", "1"):
                return name
        return ""

    def _units(self) -> dict[str, str]:
        """Units by variable: the attributes ``variable/units`` and ``variable/unit``."""
        there: Mapping[str, Mapping[str, str]] = self._io.AvailableAttributes()
        found = {}
        for name, attribute in there.items():
            variable, _, last = name.rpartition("/")
            if last in ("unit", "units") and attribute["Type"] == "string":
                found[variable] = attribute["Value"].strip('"')
        return found

    def _source(self, name: str, kind: str, units: Mapping[str, str]) -> _Source:
        if kind not in _DTYPES:
            raise SchemaError(
                f"The variable '{name}' is of type {kind}; numbers are needed ({', '.join(_DTYPES)}): name others in transport.variables."
            )
        variable = self._io.InquireVariable(name)
        shape, local = self._shape(name, variable)
        return _Source(name, Field(re.sub(r"\W", "_", name.strip("/")), shape, _DTYPES[kind], units.get(name, "")), local)

    def _shape(self, name: str, variable: Any) -> tuple[tuple[int, ...], bool]:
        if variable.ShapeID() != self._b.ShapeID.LocalArray:
            return tuple(variable.Shape()), False
        blocks = self._engine.BlocksInfo(name, self._engine.CurrentStep())
        if len(blocks) != 1:
            raise SchemaError(
                f"The variable '{name}' is a local array of {len(blocks)} blocks, which have no common shape; write it as a global array, "
                "or name others in transport.variables."
            )
        variable.SetBlockSelection(0)
        return tuple(variable.Count()), True

    def _check(self, variable: Any, source: _Source, number: int) -> None:
        if source.local:
            variable.SetBlockSelection(0)
        shape = tuple(variable.Count() if source.local else variable.Shape())
        if shape != source.field.shape or _DTYPES.get(variable.Type()) != source.field.dtype:
            raise SchemaError(
                f"The variable '{source.variable}' of step {number} is {variable.Type()} of shape {shape}; the first step had "
                f"{source.field.dtype} of shape {source.field.shape}: every step must be alike."
            )


def sentence(error: Exception) -> str:
    """What ADIOS2 says, without its colours and in one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:300]


def own_names(schema: Schema) -> list[str]:
    """Under which names our own client writes a schema's fields: their own, but for those that it needs itself."""
    return [f"field_{f.name}" if f.name.startswith(("alearn_", "field_")) else f.name for f in schema.fields]
