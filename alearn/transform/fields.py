"""Transforms of one field at a time: crop, coarsen, cast, normalise, select."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from alearn.errors import ConfigError, SchemaError, UnknownName
from alearn.transform.base import Key, Values, chosen, names_of, replaced
from alearn.types import ALLOWED_DTYPES, Array, Field, Schema

_FLOATS = ("float64", "float32", "float16")


@final
class Crop:
    """Keeps a window of each field.

    Args:
        window: [first, behind the last] cell along each axis, as Python counts them; null keeps an axis whole.
        fields: which fields; all arrays of numbers if empty.

    Raises:
        ConfigError: no window, or it is empty.
    """

    def __init__(self, *, window: Sequence[Sequence[int] | None] = (), fields: str | Sequence[str] = ()) -> None:
        self.fields = names_of(fields, "crop")
        self.window: list[tuple[int, int] | None] = []
        for axis in window:
            if axis is not None and (len(axis) != 2 or not 0 <= axis[0] < axis[1]):
                raise ConfigError(f"The transform 'crop' has the window {list(axis)}; give [first, behind the last] with 0 <= first.")
            self.window.append(None if axis is None else (int(axis[0]), int(axis[1])))
        if not self.window:
            raise ConfigError("The transform 'crop' has no window; give one pair for each axis, e.g. window: [[24, 72], [24, 72]].")
        self._slices = tuple(slice(None) if w is None else slice(*w) for w in self.window)
        self._names: tuple[str, ...] = ()

    def schema(self, given: Schema) -> Schema:
        new = {}
        for f in chosen(given, self.fields, "crop"):
            if len(f.shape) != len(self.window):
                raise SchemaError(
                    f"The transform 'crop' has a window of {len(self.window)} axes; the field '{f.name}' has shape {f.shape}."
                )
            for axis, (w, n) in enumerate(zip(self.window, f.shape, strict=True)):
                if w is not None and w[1] > n:
                    raise SchemaError(f"The window {list(w)} of 'crop' leaves the field '{f.name}', which has {n} cells along axis {axis}.")
            shape = tuple(n if w is None else w[1] - w[0] for w, n in zip(self.window, f.shape, strict=True))
            new[f.name] = (dataclasses.replace(f, shape=shape),)
        self._names = tuple(new)
        return replaced(given, new, "crop")

    def apply(self, values: Values) -> dict[str, Array]:
        return {n: np.ascontiguousarray(v[self._slices]) if n in self._names else v for n, v in values.items()}


@final
class Coarsen:
    """Means over blocks of cells: a field of 96 x 96 becomes one of 24 x 24 with ``factor=4``.

    The mean of the field stays what it was, to rounding; sums are taken in float64.

    Args:
        factor: cells along a side of a block, one number or one for each axis; it must divide the field's sides.
        fields: which fields; all arrays of numbers if empty.

    Raises:
        ConfigError: a factor below 1.
    """

    def __init__(self, *, factor: int | Sequence[int] = 2, fields: str | Sequence[str] = ()) -> None:
        self.fields = names_of(fields, "coarsen")
        factors = [factor] if isinstance(factor, int) else list(factor)
        if not factors or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in factors):
            raise ConfigError(f"The transform 'coarsen' has factor={factor!r}; give a whole number of at least 1, or one for each axis.")
        self.factors = tuple(factors)
        self._blocks: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {}

    def schema(self, given: Schema) -> Schema:
        new = {}
        self._blocks = {}
        for f in chosen(given, self.fields, "coarsen"):
            factors = self.factors * len(f.shape) if len(self.factors) == 1 else self.factors
            if not f.shape or len(factors) != len(f.shape) or any(n % k for n, k in zip(f.shape, factors, strict=True)):
                raise SchemaError(
                    f"The field '{f.name}' has shape {f.shape}, which cannot be coarsened by {list(self.factors)}; "
                    "give a factor that divides every side, or crop it first."
                )
            shape = tuple(n // k for n, k in zip(f.shape, factors, strict=True))
            dtype = f.dtype if f.dtype in _FLOATS else "float64"
            blocks = tuple(m for n, k in zip(shape, factors, strict=True) for m in (n, k))
            self._blocks[f.name] = (blocks, tuple(range(1, 2 * len(shape), 2)), dtype)
            new[f.name] = (dataclasses.replace(f, shape=shape, dtype=dtype),)
        return replaced(given, new, "coarsen")

    def apply(self, values: Values) -> dict[str, Array]:
        out = dict(values)
        for name, (blocks, axes, dtype) in self._blocks.items():
            out[name] = np.asarray(values[name].reshape(blocks).mean(axis=axes, dtype=np.float64), dtype=dtype)
        return out


@final
class Cast:
    """Changes the type of the numbers, e.g. float64 to float32. What does not fit becomes infinite, which a monitor sees.

    Args:
        dtype: float64, float32, float16, …
        fields: which fields; all arrays of numbers if empty.

    Raises:
        UnknownName: there is no such dtype.
    """

    def __init__(self, *, dtype: str = "float32", fields: str | Sequence[str] = ()) -> None:
        if dtype not in ALLOWED_DTYPES:
            raise UnknownName("dtype", str(dtype), ALLOWED_DTYPES)
        self.dtype = dtype
        self.fields = names_of(fields, "cast")
        self._names: tuple[str, ...] = ()

    def schema(self, given: Schema) -> Schema:
        new = {f.name: (dataclasses.replace(f, dtype=self.dtype),) for f in chosen(given, self.fields, "cast")}
        self._names = tuple(new)
        return replaced(given, new, "cast")

    def apply(self, values: Values) -> dict[str, Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return {n: v.astype(self.dtype) if n in self._names else v for n, v in values.items()}


@final
class Normalise:
    """``(value - offset) / scale``: numbers around 0 of size 1, without a unit. A codec: it can be undone.

    Args:
        offset: in the field's unit; one number, or one by field.
        scale: in the field's unit, not 0; one number, or one by field.
        fields: which fields; those named in ``offset`` and ``scale``, or all arrays of numbers, if empty.

    Raises:
        ConfigError: a scale that is 0 or not finite.
    """

    def __init__(
        self, *, offset: float | Mapping[str, float] = 0.0, scale: float | Mapping[str, float] = 1.0, fields: str | Sequence[str] = ()
    ) -> None:
        named = [*(offset if isinstance(offset, Mapping) else ()), *(scale if isinstance(scale, Mapping) else ())]
        self.fields = names_of(fields, "normalise") or tuple(dict.fromkeys(named))
        self.offset, self.scale = offset, scale
        for number in (*_numbers(offset), *_numbers(scale)):
            if not np.isfinite(number):
                raise ConfigError(f"The transform 'normalise' has the number {number}; offset and scale are finite.")
        if any(number == 0 for number in _numbers(scale)):
            raise ConfigError("The transform 'normalise' has scale 0; give the size that the values have.")
        self._rules: dict[str, tuple[float, float, Field]] = {}

    def schema(self, given: Schema) -> Schema:
        new, self._rules = {}, {}
        for f in chosen(given, self.fields, "normalise"):
            dtype = f.dtype if f.dtype in _FLOATS else "float64"
            self._rules[f.name] = (_number(self.offset, f.name, 0.0), _number(self.scale, f.name, 1.0), f)
            new[f.name] = (dataclasses.replace(f, dtype=dtype, unit="1"),)
        return replaced(given, new, "normalise")

    def apply(self, values: Values) -> dict[str, Array]:
        out = dict(values)
        for name, (offset, scale, f) in self._rules.items():
            dtype = f.dtype if f.dtype in _FLOATS else "float64"
            out[name] = np.asarray((np.asarray(values[name], np.float64) - offset) / scale, dtype=dtype)
        return out

    @property
    def encoded(self) -> tuple[str, ...]:
        return tuple(self._rules)

    def decoded(self, given: Schema) -> Schema:
        units = {name: f.unit for name, (_, _, f) in self._rules.items()}
        return Schema(tuple(dataclasses.replace(f, unit=units.get(f.name, f.unit)) for f in given.fields))

    def decode(self, values: Values, key: Key | None = None) -> dict[str, Array]:
        out = dict(values)
        for name, (offset, scale, _) in self._rules.items():
            if name in values:
                out[name] = np.asarray(np.asarray(values[name], np.float64) * scale + offset, dtype=values[name].dtype)
        return out


@final
class Select:
    """Keeps the named fields, or drops them.

    Args:
        fields: which fields stay.
        drop: which fields go; give one of the two.

    Raises:
        ConfigError: neither or both are given.
    """

    def __init__(self, *, fields: str | Sequence[str] = (), drop: str | Sequence[str] = ()) -> None:
        self.fields, self.drop = names_of(fields, "select"), names_of(drop, "select")
        if bool(self.fields) == bool(self.drop):
            raise ConfigError("The transform 'select' needs either fields (what stays) or drop (what goes).")
        self._names: tuple[str, ...] = ()

    def schema(self, given: Schema) -> Schema:
        named = {f.name for f in chosen(given, self.fields or self.drop, "select")}
        gone: dict[str, tuple[Field, ...]] = {f.name: () for f in given.fields if (f.name in named) == bool(self.drop)}
        out = replaced(given, gone, "select")
        self._names = out.names
        return out

    def apply(self, values: Values) -> dict[str, Array]:
        return {n: values[n] for n in self._names}


def _numbers(given: Any) -> list[float]:
    values = list(given.values()) if isinstance(given, Mapping) else [given]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise ConfigError(f"The transform 'normalise' has {given!r}; give a number, or one by field.")
    return [float(v) for v in values]


def _number(given: float | Mapping[str, float], name: str, otherwise: float) -> float:
    return float(given.get(name, otherwise)) if isinstance(given, Mapping) else float(given)
