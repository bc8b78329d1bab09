"""The kinds of parameters, each with its invertible map between the user's values and the unit interval."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alearn.errors import ConfigError, UnknownName
from alearn.metrics import normal_cdf
from alearn.types import Floats, Value

SCALES = ("linear", "log", "normal")


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

    def position(self, columns: Floats) -> Floats:
        """Where columns ``n x width`` lie along the axis, ``n`` numbers in [0, 1]: what ``spread`` makes such columns from."""
        return np.asarray(columns[:, 0])

    @abstractmethod
    def problem(self, value: Any) -> str | None:
        """Why ``value`` is not allowed, as a sentence; None if it is."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """The specification from which ``parameter_from_config`` makes this parameter again."""

    @property
    def labels(self) -> tuple[Value, ...]:
        """The values of a parameter that is a label; empty for a number."""
        return ()

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
    """A real number in ``[low, high]``; on a log scale the unit interval is uniform in the logarithm.

    On the scale "normal" the unit interval is uniform in the distribution function of a normal density, cut off at the
    ends of the box: designs, candidates and test members are then drawn from it, and so is the error measured in it.

    Args:
        name: an identifier.
        low: the low end, part of the box.
        high: the high end, part of the box.
        scale: linear, log or normal.
        unit: a text for labels.
        mean: of the normal density.
        std: of the normal density.
    """

    name: str
    low: float
    high: float
    scale: str = "linear"
    unit: str = ""
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_box(self.name, self.low, self.high, self.scale)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        self._check_density()

    def _check_density(self) -> None:
        if self.scale != "normal":
            if self.mean is not None or self.std is not None:
                raise ConfigError(f"Parameter '{self.name}' has a mean or std but the scale {self.scale}; write scale: normal.")
            return
        mean, std = _finite(self.name, "mean", self.mean), _finite(self.name, "std", self.std)
        if not std > 0 or self._share(mean, std) < 1e-6:
            raise ConfigError(
                f"The normal density of parameter '{self.name}' has mean={mean:g} and std={std:g}; it needs a positive std and a share of "
                f"at least a millionth inside [{self.low:g}, {self.high:g}]."
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def _share(self, mean: float, std: float) -> float:
        return float(normal_cdf((self.high - mean) / std) - normal_cdf((self.low - mean) / std))

    def to_unit(self, values: Sequence[Value]) -> Floats:
        v = np.asarray(values, dtype=np.float64)
        if self.mean is not None and self.std is not None:
            u = (normal_cdf((v - self.mean) / self.std) - normal_cdf((self.low - self.mean) / self.std)) / self._share(self.mean, self.std)
        else:
            u = _warp(v, self.low, self.high, self.scale)
        return np.clip(u, 0.0, 1.0)[:, None]

    def from_unit(self, columns: Floats) -> list[Value]:
        u = columns[:, 0]
        if self.mean is not None and self.std is not None:
            from scipy.special import ndtri

            level = normal_cdf((self.low - self.mean) / self.std) + np.clip(u, 0.0, 1.0) * self._share(self.mean, self.std)
            raw = self.mean + self.std * np.asarray(ndtri(np.clip(level, 1e-300, 1 - 1e-16)))
        else:
            raw = _unwarp(u, self.low, self.high, self.scale)
        v = np.clip(raw, self.low, self.high)
        return [float(x) for x in v]

    def spread(self, u: Floats) -> Floats:
        return np.asarray(u, dtype=np.float64)[:, None]

    def snap(self, columns: Floats) -> Floats:
        return np.clip(columns, 0.0, 1.0)

    def problem(self, value: Any) -> str | None:
        return _number_problem(self.name, value, self.low, self.high, self.unit)

    def to_config(self) -> dict[str, Any]:
        density = {} if self.mean is None else {"mean": self.mean, "std": self.std}
        return _spec(self, low=self.low, high=self.high, **density)


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

    @property
    def labels(self) -> tuple[Value, ...]:
        return self.values

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

    @property
    def labels(self) -> tuple[Value, ...]:
        return self.choices

    def to_unit(self, values: Sequence[Value]) -> Floats:
        return np.eye(len(self.choices))[[self.choices.index(v) for v in values]]

    def from_unit(self, columns: Floats) -> list[Value]:
        return [self.choices[int(i)] for i in columns.argmax(axis=1)]

    def spread(self, u: Floats) -> Floats:
        n = len(self.choices)
        index = np.clip(np.floor(np.asarray(u) * n), 0, n - 1).astype(int)
        return np.asarray(np.eye(n)[index], dtype=np.float64)

    def position(self, columns: Floats) -> Floats:
        return np.asarray((columns.argmax(axis=1) + 0.5) / len(self.choices))

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


_KEYS = ("low", "high", "scale", "unit", "integer", "mean", "std", "choices", "ordinal", "pool", "id", "features")


def parameter_from_config(name: str, spec: Any) -> Parameter:
    """Make a parameter from its specification.

    Args:
        name: the parameter's name.
        spec: ``[low, high]``; or a mapping with ``low``, ``high`` and optionally ``scale`` (linear, log), ``integer``
            and ``unit`` (with ``scale: normal`` also ``mean`` and ``std``); or ``{"choices": [...]}``; or ``{"ordinal": [...]}``;
            or ``{"pool": FILE.csv, "id": COLUMN, "features": [COLUMN, ...]}``.

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
    kinds = [k for k in ("choices", "ordinal", "pool", "low") if k in spec]
    if kinds == ["pool"]:
        from alearn.space.pool import Pool

        return Pool.from_file(name, str(spec["pool"]), spec.get("id"), spec.get("features"), unit)
    if kinds == ["choices"]:
        return Categorical(name, spec["choices"], unit)
    if kinds == ["ordinal"]:
        return Ordinal(name, spec["ordinal"], unit)
    if kinds != ["low"] or "high" not in spec:
        raise ConfigError(f"Parameter '{name}' is given as {dict(spec)!r}; give either low and high, or choices, or ordinal, or pool.")
    scale = str(spec.get("scale") or "linear")
    if not spec.get("integer"):
        return Continuous(name, spec["low"], spec["high"], scale, unit, spec.get("mean"), spec.get("std"))
    if scale == "normal":
        raise ConfigError(f"The integer parameter '{name}' has the scale normal; give linear or log, or make it continuous.")
    return Integer(name, spec["low"], spec["high"], scale, unit)
