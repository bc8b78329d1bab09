"""What parameters have to do with one another: conditions (one counts only with some values of another) and correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alearn.errors import ConfigError, UnknownName
from alearn.metrics import normal_cdf
from alearn.space.parameters import Continuous, Parameter
from alearn.types import Array, Floats, Parameters, Value

WIDEST = 8.0
"""Normal scores are cut off here: the distribution function is 0 or 1 in double precision."""


@dataclass(frozen=True)
class Condition:
    """A parameter counts only where others have certain values; elsewhere it stands at its default.

    Args:
        name: the parameter.
        when: for each parent the values with which it counts; all of them must agree.
        default: its value elsewhere.
    """

    name: str
    when: Mapping[str, tuple[Value, ...]]
    default: Value

    def active(self, point: Parameters) -> bool:
        """Whether the parameter counts at a point that has the parents' values."""
        return all(point[parent] in values for parent, values in self.when.items())

    def to_config(self) -> dict[str, Any]:
        """The keys that it adds to the parameter's specification."""
        when = {n: values[0] if len(values) == 1 else list(values) for n, values in self.when.items()}
        return {"when": when, "default": self.default}


def condition_from_config(name: str, when: Any, default: Any, parameters: Mapping[str, Parameter], earlier: Sequence[str]) -> Condition:
    """Make a condition from ``when: {PARENT: VALUE or [VALUES]}`` and ``default``, which is by default the middle of the box.

    Args:
        name: the parameter that it is about.
        when: see above.
        default: see above, or None.
        parameters: all parameters by name.
        earlier: the names that stand before it, one of which each parent must be.

    Raises:
        ConfigError: a value that the parent or the parameter cannot have, or no parent.
        UnknownName: a parent that does not stand before the parameter.
    """
    if not isinstance(when, Mapping) or not when:
        raise ConfigError(f"The condition of parameter '{name}' is {when!r}; give when: {{PARAMETER: VALUE}}, or a list of values.")
    found: dict[str, tuple[Value, ...]] = {}
    for parent, given in when.items():
        if parent not in earlier:
            raise UnknownName(f"parameter before '{name}' for its condition", str(parent), earlier)
        values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
        for value in values:
            if problem := parameters[parent].problem(value):
                raise ConfigError(f"The condition of parameter '{name}' cannot come true: {problem}")
        if isinstance(parameters[parent], Continuous):
            raise ConfigError(
                f"The condition of parameter '{name}' asks for values of '{parent}', a real number; use a constraint instead."
            )
        found[str(parent)] = values
    parameter = parameters[name]
    if default is None:
        default = parameter.from_unit(np.full((1, parameter.width), 0.5))[0]
    elif problem := parameter.problem(default):
        raise ConfigError(f"The default of parameter '{name}' is not one of its values: {problem}")
    return Condition(name, found, default)


class Correlation:
    """Correlated continuous parameters: a Gaussian copula (Sklar 1959; Nelsen, *An Introduction to Copulas*, 2006).

    Each parameter keeps its own density, and the unit cube stays uniform in the joint one. The given numbers are the
    correlations of the parameters' normal scores (for normal densities: of the parameters themselves).

    Args:
        pairs: two names and their correlation each.
        parameters: all parameters by name.
        columns: of the unit cube, of each parameter.

    Raises:
        ConfigError: a pair is wrong, or the correlations contradict one another.
        UnknownName: a name that is no parameter.
    """

    def __init__(self, pairs: Sequence[tuple[str, str, float]], parameters: Mapping[str, Parameter], columns: Mapping[str, slice]) -> None:
        self.pairs = tuple(pairs)
        names: list[str] = []
        for a, b, r in self.pairs:
            for name in (a, b):
                if name not in parameters:
                    raise UnknownName("parameter", name, tuple(parameters))
                if not isinstance(parameters[name], Continuous):
                    raise ConfigError(f"Parameter '{name}' is correlated but not continuous; correlations are for real numbers.")
                names += [name] if name not in names else []
            if a == b or not -1 < r < 1:
                raise ConfigError(f"The correlation of '{a}' and '{b}' is {r:g}; name two parameters and a number between -1 and 1.")
        matrix = np.eye(len(names))
        for a, b, r in self.pairs:
            i, j = names.index(a), names.index(b)
            matrix[i, j] = matrix[j, i] = r
        try:
            self.factor = np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
        except np.linalg.LinAlgError:
            said = ", ".join(f"{a} and {b} {r:g}" for a, b, r in self.pairs)
            raise ConfigError(
                f"The correlations ({said}) contradict one another: no density has them all; bring them nearer to 0."
            ) from None
        self.inverse = np.asarray(np.linalg.inv(self.factor), dtype=np.float64)
        self.columns: Array = np.array([columns[name].start for name in names])

    def apply(self, x: Floats) -> Floats:
        """Columns of the independent cube ``n x d`` to the parameters' own distribution functions."""
        return self._mixed(x, self.factor)

    def undo(self, x: Floats) -> Floats:
        """The inverse of ``apply``."""
        return self._mixed(x, self.inverse)

    def _mixed(self, x: Floats, matrix: Floats) -> Floats:
        from scipy.special import ndtri

        edge = float(normal_cdf(np.array(-WIDEST)))
        out = np.array(x, dtype=np.float64)
        scores = ndtri(np.clip(out[:, self.columns], edge, 1.0 - 1e-16))
        out[:, self.columns] = normal_cdf(scores @ matrix.T)
        return out

    def to_config(self) -> list[list[Any]]:
        """The specification: a list of ``[name, name, correlation]``."""
        return [list(pair) for pair in self.pairs]


def pairs_from_config(spec: Any) -> list[tuple[str, str, float]]:
    """The pairs of ``correlations: [[a, b, 0.7], …]``.

    Raises:
        ConfigError: it is not such a list.
    """
    pairs = []
    for item in spec:
        good = isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 3
        if not good or isinstance(item[2], (str, bool)) or not isinstance(item[2], (int, float)):
            raise ConfigError(f"A correlation is given as {item!r}; give [PARAMETER, PARAMETER, NUMBER], e.g. [a, b, 0.7].")
        pairs.append((str(item[0]), str(item[1]), float(item[2])))
    return pairs
