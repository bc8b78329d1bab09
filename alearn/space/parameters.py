"""The kinds of parameters, each with its invertible map between the user's values and the unit interval."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alearn.errors import ConfigError, UnknownName
from alearn.types import Floats, Value

SCALES = ("linear", "log")


class Parameter(ABC):
    """One axis of the parameter space.

    ``width`` columns of the unit cube belong to it: one, or one for each choice of a categorical parameter.
    """

    name: str
    unit: str
    width: int = 1

    @abstractmethod
    def to_unit(self, values: Sequence[Value]) -> Floats:
        """Columns in the unit cube, ``n x width``, of ``n`` valid values."""

    @abstractmethod
    def from_unit(self, columns: Floats) -> list[Value]:
        """The plain Python values nearest to columns ``n x width``."""

    @abstractmethod
    def spread(self, u: Floats) -> Floats:
        """Columns ``n x width`` of valid points from uniform numbers ``n`` in [0, 1]: how designs fill the axis."""

    @abstractmethod
    def problem(self, value: Any) -> str | None:
        """Why ``value`` is not allowed, as a sentence; None if it is."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """The specification from which ``parameter_from_config`` makes this parameter again."""

    def snap(self, columns: Floats) -> Floats:
        """The nearest valid columns, ``n x width``."""
        return self.to_unit(self.from_unit(columns))

    def parse(self, text: str) -> Value:
        """A value as it is written in a table. What cannot be one comes back as it is, for ``problem`` to name."""
        try:
            return float(text)
        except ValueError:
            return text


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"The parameter name {name!r} is not an identifier; use letters, digits and underscores, e.g. 'kappa_1'.")


def _finite(name: str, what: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ConfigError(f"The {what} of parameter '{name}' is {value!r}; give a number.")
    if not math.isfinite(value):
        raise ConfigError(f"The {what} of parameter '{name}' is {value}; give a finite number.")
    return float(value)


def _check_box(name: str, low: Any, high: Any, scale: str) -> None:
    low, high = _finite(name, "low end", low), _finite(name, "high end", high)
    if scale not in SCALES:
        raise UnknownName(f"scale of parameter '{name}'", str(scale), SCALES)
    if not low < high:
        raise ConfigError(f"The box of parameter '{name}' is [{low:g}, {high:g}]; the low end must be smaller than the high end.")
    if scale == "log" and low <= 0:
        raise ConfigError(f"Parameter '{name}' has a log scale and starts at {low:g}; its low end must be positive.")


def _warp(v: Floats, low: float, high: float, scale: str) -> Floats:
    if scale == "log":
        return np.log(v / low) / math.log(high / low)
    return (v - low) / (high - low)


def _unwarp(u: Floats, low: float, high: float, scale: str) -> Floats:
    u = np.clip(u, 0.0, 1.0)
    if scale == "log":
        return low * np.exp(u * math.log(high / low))
    return low * (1.0 - u) + high * u


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))


def _number_problem(name: str, value: Any, low: float, high: float, unit: str) -> str | None:
    if not _is_number(value):
        return f"Parameter '{name}' is {value!r}; give a number in [{low:g}, {high:g}]."
    if not math.isfinite(value):
        return f"Parameter '{name}' is {value}; give a finite number in [{low:g}, {high:g}]."
    if not low <= value <= high:
        suffix = f" {unit}" if unit else ""
        return f"Parameter '{name}' is {value:.6g}{suffix}, outside its box [{low:g}, {high:g}]{suffix}."
    return None


@dataclass(frozen=True)
class Continuous(Parameter):
    """A real number in ``[low, high]``; on a log scale the unit interval is uniform in the logarithm."""

    name: str
    low: float
    high: float
    scale: str = "linear"
    unit: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_box(self.name, self.low, self.high, self.scale)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def to_unit(self, values: Sequence[Value]) -> Floats:
        return np.clip(_warp(np.asarray(values, dtype=np.float64), self.low, self.high, self.scale), 0.0, 1.0)[:, None]

    def from_unit(self, columns: Floats) -> list[Value]:
        v = np.clip(_unwarp(columns[:, 0], self.low, self.high, self.scale), self.low, self.high)
        return [float(x) for x in v]

    def spread(self, u: Floats) -> Floats:
        return np.asarray(u, dtype=np.float64)[:, None]

    def snap(self, columns: Floats) -> Floats:
        return np.clip(columns, 0.0, 1.0)

    def problem(self, value: Any) -> str | None:
        return _number_problem(self.name, value, self.low, self.high, self.unit)

    def to_config(self) -> dict[str, Any]:
        return _spec(self, low=self.low, high=self.high)


@dataclass(frozen=True)
class Integer(Parameter):
    """A whole number in ``[low, high]``, both included; every number owns an equal share of its (linear or log) axis."""

    name: str
    low: int
    high: int
    scale: str = "linear"
    unit: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_box(self.name, self.low, self.high, self.scale)
        for end in (self.low, self.high):
            if float(end) != int(end):
                raise ConfigError(f"The integer parameter '{self.name}' has the end {end}; give whole numbers.")
        object.__setattr__(self, "low", int(self.low))
        object.__setattr__(self, "high", int(self.high))

    def to_unit(self, values: Sequence[Value]) -> Floats:
        return _warp(np.asarray(values, dtype=np.float64), self.low - 0.5, self.high + 0.5, self.scale)[:, None]

    def from_unit(self, columns: Floats) -> list[Value]:
        v = np.rint(_unwarp(columns[:, 0], self.low - 0.5, self.high + 0.5, self.scale))
        return [int(min(max(x, self.low), self.high)) for x in v]

    def spread(self, u: Floats) -> Floats:
        return self.snap(np.asarray(u, dtype=np.float64)[:, None])

    def parse(self, text: str) -> Value:
        number = super().parse(text)
        return int(number) if isinstance(number, float) and number.is_integer() else number

    def problem(self, value: Any) -> str | None:
        problem = _number_problem(self.name, value, self.low, self.high, self.unit)
        if problem is None and float(value) != int(value):
            return f"Parameter '{self.name}' is {value}; give a whole number in [{self.low}, {self.high}]."
        return problem

    def to_config(self) -> dict[str, Any]:
        return _spec(self, low=self.low, high=self.high, integer=True)


@dataclass(frozen=True)
class Ordinal(Parameter):
    """One of a few ordered values (a grade, a mesh level); equally spaced in the unit interval."""

    name: str
    values: tuple[Value, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name)
        object.__setattr__(self, "values", _labels(self.name, "ordinal", self.values))

    def to_unit(self, values: Sequence[Value]) -> Floats:
        index = np.array([self.values.index(v) for v in values], dtype=np.float64)
        return ((index + 0.5) / len(self.values))[:, None]

    def from_unit(self, columns: Floats) -> list[Value]:
        n = len(self.values)
        return [self.values[int(i)] for i in np.clip(np.floor(columns[:, 0] * n), 0, n - 1)]

    def spread(self, u: Floats) -> Floats:
        return self.snap(np.asarray(u, dtype=np.float64)[:, None])

    def parse(self, text: str) -> Value:
        return {str(v): v for v in self.values}.get(text, text)

    def problem(self, value: Any) -> str | None:
        return _label_problem(self.name, value, self.values)

    def to_config(self) -> dict[str, Any]:
        return _spec(self, ordinal=list(self.values))


@dataclass(frozen=True)
class Categorical(Parameter):
    """One of a few unordered labels; one column of the unit cube for each (one-hot)."""

    name: str
    choices: tuple[Value, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name)
        object.__setattr__(self, "choices", _labels(self.name, "choices", self.choices))
        object.__setattr__(self, "width", len(self.choices))

    def to_unit(self, values: Sequence[Value]) -> Floats:
        return np.eye(len(self.choices))[[self.choices.index(v) for v in values]]

    def from_unit(self, columns: Floats) -> list[Value]:
        return [self.choices[int(i)] for i in columns.argmax(axis=1)]

    def spread(self, u: Floats) -> Floats:
        n = len(self.choices)
        index = np.clip(np.floor(np.asarray(u) * n), 0, n - 1).astype(int)
        return np.asarray(np.eye(n)[index], dtype=np.float64)

    def parse(self, text: str) -> Value:
        return {str(v): v for v in self.choices}.get(text, text)

    def problem(self, value: Any) -> str | None:
        return _label_problem(self.name, value, self.choices)

    def to_config(self) -> dict[str, Any]:
        return _spec(self, choices=list(self.choices))


def _spec(parameter: Continuous | Integer | Ordinal | Categorical, **spec: Any) -> dict[str, Any]:
    if isinstance(parameter, (Continuous, Integer)) and parameter.scale != "linear":
        spec["scale"] = parameter.scale
    if parameter.unit:
        spec["unit"] = parameter.unit
    return spec


def _labels(name: str, what: str, values: Any) -> tuple[Value, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or len(values) < 2:
        raise ConfigError(f"The {what} of parameter '{name}' are {values!r}; give a list of at least two values.")
    plain: list[Value] = []
    for v in values:
        item = v.item() if isinstance(v, np.generic) else v
        if not isinstance(item, (str, int, float, bool)) or (isinstance(item, float) and not math.isfinite(item)):
            raise ConfigError(f"The {what} of parameter '{name}' hold {item!r}; give names or finite numbers.")
        if item in plain:
            raise ConfigError(f"The {what} of parameter '{name}' hold {item!r} twice; give each value once.")
        plain.append(item)
    return tuple(plain)


def _label_problem(name: str, value: Any, valid: tuple[Value, ...]) -> str | None:
    try:
        if value in valid:
            return None
    except (TypeError, ValueError):
        pass
    return str(UnknownName(f"value of parameter '{name}':", str(value), [str(v) for v in valid]))


_KEYS = ("low", "high", "scale", "unit", "integer", "choices", "ordinal")


def parameter_from_config(name: str, spec: Any) -> Parameter:
    """Make a parameter from its specification.

    Args:
        name: the parameter's name.
        spec: ``[low, high]``; or a mapping with ``low``, ``high`` and optionally ``scale`` (linear, log), ``integer``
            and ``unit``; or ``{"choices": [...]}``; or ``{"ordinal": [...]}``.

    Raises:
        ConfigError: the specification is none of these, or holds bad numbers.
    """
    _check_name(name)
    if isinstance(spec, Sequence) and not isinstance(spec, (str, bytes)):
        if len(spec) != 2:
            raise ConfigError(f"Parameter '{name}' is given as {list(spec)!r}; give [low, high], or {{choices: [...]}} for labels.")
        return Continuous(name, spec[0], spec[1])
    if not isinstance(spec, Mapping):
        raise ConfigError(f"Parameter '{name}' is given as {spec!r}; give [low, high] or a mapping, e.g. {{low: 0, high: 1, scale: log}}.")
    for key in spec:
        if key not in _KEYS:
            raise UnknownName(f"option of parameter '{name}'", str(key), _KEYS)
    unit = str(spec.get("unit") or "")
    kinds = [k for k in ("choices", "ordinal", "low") if k in spec]
    if kinds == ["choices"]:
        return Categorical(name, spec["choices"], unit)
    if kinds == ["ordinal"]:
        return Ordinal(name, spec["ordinal"], unit)
    if kinds != ["low"] or "high" not in spec:
        raise ConfigError(f"Parameter '{name}' is given as {dict(spec)!r}; give either low and high, or choices, or ordinal.")
    kind = Integer if spec.get("integer") else Continuous
    return kind(name, spec["low"], spec["high"], str(spec.get("scale") or "linear"), unit)
