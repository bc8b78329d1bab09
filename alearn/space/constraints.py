"""Constraints: which points of the box are allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from alearn.errors import ConfigError, UnknownName
from alearn.registry import load_object
from alearn.types import Parameters


class Constraint(Protocol):
    """A rule over one point in the user's units."""

    def allows(self, parameters: Parameters) -> bool:
        """True if the point is allowed."""
        ...

    def describe(self) -> str:
        """The rule in words."""
        ...

    def to_config(self) -> dict[str, Any]:
        """The specification from which ``constraint_from_config`` makes the constraint again."""
        ...


@dataclass(frozen=True)
class Linear:
    """``low <= sum of terms[name] * value <= high`` over numeric parameters, in the user's units."""

    terms: Mapping[str, float]
    low: float = -math.inf
    high: float = math.inf

    def allows(self, parameters: Parameters) -> bool:
        total = sum(c * float(parameters[n]) for n, c in self.terms.items())
        return self.low <= total <= self.high

    def describe(self) -> str:
        text = " + ".join(f"{c:g}*{n}" for n, c in self.terms.items())
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{self.low:g} <= {text} <= {self.high:g}"
        return f"{text} <= {self.high:g}" if math.isfinite(self.high) else f"{text} >= {self.low:g}"

    def to_config(self) -> dict[str, Any]:
        ends = {k: v for k, v in (("low", self.low), ("high", self.high)) if math.isfinite(v)}
        return {"terms": dict(self.terms), **ends}


@dataclass(frozen=True)
class Python:
    """A function of the parameters (as keywords) that returns True where a simulation makes sense."""

    function: Callable[..., Any]
    target: str = field(default="")

    def allows(self, parameters: Parameters) -> bool:
        return bool(self.function(**parameters))

    def describe(self) -> str:
        return f"{self.target or getattr(self.function, '__name__', 'a function')}({{parameters}}) is true"

    def to_config(self) -> dict[str, Any]:
        if not self.target:
            raise ConfigError(
                f"The constraint {self.describe()} is a function in memory and cannot be written down; "
                "give {target: FILE.py:NAME} in the configuration instead."
            )
        return {"target": self.target}


def constraint_from_config(spec: Any) -> Constraint:
    """Make a constraint from ``{terms: {a: 1, b: 2}, low: …, high: …}``, ``{target: FILE.py:NAME}`` or a function.

    Raises:
        ConfigError: the specification is none of these.
    """
    if callable(spec):
        return Python(spec)
    if not isinstance(spec, Mapping):
        raise ConfigError(f"A constraint is given as {spec!r}; give {{terms: {{a: 1, b: 1}}, high: 1}} or {{target: FILE.py:NAME}}.")
    for key in spec:
        if key not in ("terms", "low", "high", "target"):
            raise UnknownName("option of a constraint", str(key), ("terms", "low", "high", "target"))
    if "target" in spec:
        function = load_object(str(spec["target"]))
        if not callable(function):
            raise ConfigError(f"The constraint's target '{spec['target']}' is not a function.")
        return Python(function, str(spec["target"]))
    terms = spec.get("terms")
    if not isinstance(terms, Mapping) or not terms or ("low" not in spec and "high" not in spec):
        raise ConfigError(f"The constraint {dict(spec)!r} is incomplete; give terms and at least one of low and high.")
    try:
        return Linear({str(n): float(c) for n, c in terms.items()}, float(spec.get("low", -math.inf)), float(spec.get("high", math.inf)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The constraint {dict(spec)!r} holds something that is not a number: {error}.") from error
