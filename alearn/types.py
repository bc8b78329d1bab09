"""The nouns of alearn. numpy only; everything here is frozen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from alearn.errors import SchemaError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Value = float | int | str | bool
"""A parameter's value: a number, or the label of a categorical parameter."""
Parameters = Mapping[str, Value]


class MemberState(StrEnum):
    """Where a member is in its life. QUEUED -> STARTING -> RUNNING -> a final state; LOST may be queued again."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    KILLED = "killed"
    FAILED = "failed"
    LOST = "lost"

    @property
    def active(self) -> bool:
        """True while the member holds a slot."""
        return self in (MemberState.STARTING, MemberState.RUNNING)

    @property
    def final(self) -> bool:
        """True once nothing more will come from this attempt."""
        return self in (MemberState.DONE, MemberState.KILLED, MemberState.FAILED, MemberState.LOST)


class ExitCause(StrEnum):
    """How an attempt ended, as its supervisor saw it."""

    DONE = "done"
    EXCEPTION = "exception"
    EXIT_CODE = "exit code"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out of memory"
    DISK = "disk"
    WALL_TIME = "wall time"
    PREEMPTED = "preempted"
    NODE_LOST = "node lost"
    CANCELLED = "cancelled"


ALLOWED_DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")


@dataclass(frozen=True, slots=True)
class Field:
    """One named output of a simulation's time step.

    Args:
        name: an identifier.
        shape: the shape of one step's value; ``()`` is a scalar.
        dtype: a numpy dtype name out of ``ALLOWED_DTYPES``.
        unit: free text, e.g. "m/s".
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    unit: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of one step's value."""
        return int(np.dtype(self.dtype).itemsize) * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Schema:
    """What every time step of a simulation carries, in the order in which it travels."""

    fields: tuple[Field, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)

    @property
    def nbytes(self) -> int:
        """Bytes of one step."""
        return sum(f.nbytes for f in self.fields)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the fields that hold one number a step, but for those that say how it is encoded (``_v_version``)."""
        return tuple(f.name for f in self.fields if f.shape == () and not f.name.startswith("_"))

    @classmethod
    def of(cls, values: Mapping[str, Any], units: Mapping[str, str] | None = None) -> Schema:
        """Infer the schema from the values of a first step.

        Raises:
            SchemaError: a value is not numeric.
        """
        units = units or {}
        fields = []
        for name, value in values.items():
            array = np.asarray(value)
            dtype = array.dtype.name
            if dtype not in ALLOWED_DTYPES:
                raise SchemaError(f"The step's value '{name}' has dtype {dtype}; numeric arrays are needed ({', '.join(ALLOWED_DTYPES)}).")
            if array.shape == () and not isinstance(value, (np.generic, np.ndarray)):
                dtype = "float64"  # a plain Python number may be 0 now and 0.5 later
            fields.append(Field(name, tuple(array.shape), dtype, units.get(name, "")))
        if not fields:
            raise SchemaError("The step carries no values; give at least one named number or array besides t.")
        return cls(tuple(fields))

    def conform(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Return the values as C-contiguous arrays of exactly this schema, in its order.

        Raises:
            SchemaError: a field is missing, extra, or of another shape or an unsafe dtype.
        """
        missing = [n for n in self.names if n not in values]
        extra = [n for n in values if n not in self.names]
        if missing or extra:
            raise SchemaError(
                f"The step's fields changed: missing {missing}, unexpected {extra}; every step must carry {list(self.names)}."
            )
        out: dict[str, Array] = {}
        for f in self.fields:
            array = np.asarray(values[f.name])
            if tuple(array.shape) != f.shape:
                raise SchemaError(f"The step's field '{f.name}' has shape {tuple(array.shape)}; it was announced with {f.shape}.")
            if array.dtype.name != f.dtype and not np.can_cast(array.dtype, f.dtype, casting="same_kind"):
                raise SchemaError(f"The step's field '{f.name}' has dtype {array.dtype.name}; it was announced with {f.dtype}.")
            out[f.name] = np.ascontiguousarray(array, dtype=f.dtype).reshape(f.shape)
        return out

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """The step's bytes: every field's C-order buffer, little endian, in the schema's order."""
        arrays = self.conform(values)
        return b"".join(arrays[f.name].astype(np.dtype(f.dtype).newbyteorder("<"), copy=False).tobytes() for f in self.fields)

    def unpack(self, data: bytes | bytearray | memoryview) -> dict[str, Array]:
        """The arrays of a step's bytes: read-only views where the machine's byte order allows.

        Raises:
            SchemaError: the length does not match.
        """
        view = memoryview(data)
        if len(view) != self.nbytes:
            raise SchemaError(f"A step of {len(view)} bytes arrived; the schema says {self.nbytes}.")
        out: dict[str, Array] = {}
        at = 0
        for f in self.fields:
            out[f.name] = np.frombuffer(view[at : at + f.nbytes], dtype=np.dtype(f.dtype).newbyteorder("<")).reshape(f.shape)
            at += f.nbytes
        return out

    def to_json(self) -> str:
        return json.dumps([{"name": f.name, "shape": list(f.shape), "dtype": f.dtype, "unit": f.unit} for f in self.fields])

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Inverse of ``to_json``.

        Raises:
            SchemaError: the text is not a schema.
        """
        try:
            raw = json.loads(text)
            fields = tuple(Field(str(f["name"]), tuple(int(n) for n in f["shape"]), str(f["dtype"]), str(f.get("unit", ""))) for f in raw)
        except (ValueError, TypeError, KeyError) as error:
            raise SchemaError(f"This is not a schema: {text[:80]!r} ({error}).") from error
        for f in fields:
            if f.dtype not in ALLOWED_DTYPES or any(n < 0 for n in f.shape):
                raise SchemaError(
                    f"The field '{f.name}' has dtype {f.dtype} and shape {f.shape}; allowed dtypes: {', '.join(ALLOWED_DTYPES)}."
                )
        return cls(fields)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point that may become a member.

    Args:
        parameters: the values in the user's units.
        x: the same point in the unit cube, shape ``(d,)``.
        origin: "design", "acquisition", "holdout" (the Sobol stream kept beside), "data" (simulated before), or "user".
        score: the acquisition's score, if one was made.
        reason: why this point, in words.
        round: the acquisition round it came from (0 is the initial design).
    """

    parameters: Parameters
    x: tuple[float, ...]
    origin: str = "user"
    score: float = math.nan
    reason: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """One execution of the simulation at one point, as the ledger knows it."""

    id: str
    parameters: Parameters
    x: tuple[float, ...]
    state: MemberState = MemberState.QUEUED
    attempt: int = 0
    reason: str = ""
    origin: str = "user"
    score: float = math.nan
    why: str = ""
    round: int = 0
    steps: int = 0
    t: float = math.nan
    core_s: float = 0.0
    queued_at: float = math.nan
    started_at: float = math.nan
    ended_at: float = math.nan
    revoked: str = ""
    """Why its samples must not be used any more; "" if they may."""


def member_id(number: int) -> str:
    """The id of the study's n-th member: ``m0012``."""
    return f"m{number:04d}"


_COPY = ".copy"


def copy_name(member: str) -> str:
    """The name under which a member's copy runs: every fence between members then stands between the two as well."""
    return member + _COPY


def copied_member(name: str) -> str | None:
    """The member whose copy has this name; None if it is no copy's."""
    return name.removesuffix(_COPY) if name.endswith(_COPY) else None


@dataclass(frozen=True, slots=True)
class Sample:
    """One streamed datum. Its identity is ``(member, step)``.

    Args:
        member: the member's id.
        attempt: which attempt of the member sent it.
        step: 0, 1, 2 … along the trajectory, without gaps.
        t: simulation time.
        parameters: the member's parameters.
        values: the fields, in the schema's order.
    """

    member: str
    attempt: int
    step: int
    t: float
    parameters: Parameters
    values: Mapping[str, Array] = field(repr=False)

    @property
    def key(self) -> tuple[str, int]:
        return (self.member, self.step)

    @property
    def finite(self) -> bool:
        """False if any floating value is NaN or infinite."""
        return math.isfinite(self.t) and all(bool(np.isfinite(v).all()) for v in self.values.values())


@dataclass(frozen=True, slots=True)
class Exit:
    """How an attempt ended.

    Args:
        member: the member's id.
        attempt: which attempt.
        cause: see ``ExitCause``.
        code: exit code, if it exited.
        signal: signal number, if one ended it.
        detail: one line for people (the exception, or the last line of stderr).
        wall_s: seconds from start to end.
        core_s: CPU seconds of the whole process tree.
        max_rss: peak resident memory of the tree's largest process, bytes.
    """

    member: str
    attempt: int
    cause: ExitCause
    code: int | None = None
    signal: int | None = None
    detail: str = ""
    wall_s: float = math.nan
    core_s: float = math.nan
    max_rss: int = 0
