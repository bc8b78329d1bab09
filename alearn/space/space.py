"""The parameter space: a typed box, its map to the unit cube, and designs in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alearn.errors import ConfigError, UnknownName
from alearn.space.constraints import Constraint, Linear, constraint_from_config
from alearn.space.parameters import Categorical, Continuous, Integer, Parameter, parameter_from_config
from alearn.space.pool import Pool
from alearn.space.relations import Condition, Correlation, condition_from_config, pairs_from_config
from alearn.types import Floats, Parameters, Value

CONSTRAINTS, CORRELATIONS = "constraints", "correlations"
FIDELITY = "fidelity"


class Space:
    """The parameters of a study and the points they allow.

    Everything that learns works on points ``x`` of the unit cube, shape ``(d,)``; everything that people and
    simulations see are dicts of plain values.

    Args:
        parameters: the parameters, in the order of the cube's columns.
        constraints: rules that a point must keep besides the box.
        conditions: mappings ``{when: …, default: …}`` by name, of parameters that count only with some values of others.
        correlations: pairs of continuous parameters with their correlation.
        fidelities: parameters that say how well a simulation resolves the problem, each with the value that is wanted in the end.

    Raises:
        ConfigError: no parameters, two of one name, a constraint over an unknown or non-numeric parameter, or a condition,
            correlation or fidelity that cannot be.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        constraints: Iterable[Constraint] = (),
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        correlations: Sequence[tuple[str, str, float]] = (),
        fidelities: Mapping[str, Any] | None = None,
    ) -> None:
        self.parameters = tuple(parameters)
        self.constraints = tuple(constraints)
        if not self.parameters:
            raise ConfigError("The space has no parameters; give at least one, e.g. {a: [0, 1]}.")
        names = [p.name for p in self.parameters]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"The space names the parameter '{name}' twice; give each name once.")
        self._columns: dict[str, slice] = {}
        at = 0
        for p in self.parameters:
            self._columns[p.name] = slice(at, at + p.width)
            at += p.width
        self._d = at
        named = {p.name: p for p in self.parameters}
        self.conditions: dict[str, Condition] = {}
        for i, name in enumerate(names):
            if conditions and name in conditions:
                asked = conditions[name]
                self.conditions[name] = condition_from_config(name, asked.get("when"), asked.get("default"), named, names[:i])
        self.correlation = Correlation(correlations, named, self._columns) if correlations else None
        for a, b, _ in correlations:
            if a in self.conditions or b in self.conditions:
                raise ConfigError(
                    f"The parameters '{a}' and '{b}' are correlated, and one of them has a condition; leave out one or the other."
                )
        self.fidelities = {name: self._target(name, value) for name, value in (fidelities or {}).items()}
        self._check_constraints()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Space:
        """Make a space from a mapping of names to specifications (see ``parameter_from_config``).

        The key ``constraints`` with a list of mappings or functions is not a parameter (see ``constraint_from_config``).
        A specification with ``count: n`` stands for ``n`` parameters that are numbered from 1: the coefficients of an initial
        condition, say.

        Raises:
            ConfigError: something in it is wrong; the sentence names it.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"The space is given as {config!r}; give a mapping of names to boxes, e.g. {{a: [0, 1]}}.")
        specs = dict(config)
        rules = specs.get(CONSTRAINTS)
        is_rules = isinstance(rules, Sequence) and not isinstance(rules, str) and all(isinstance(r, Mapping) or callable(r) for r in rules)
        constraints = [constraint_from_config(r) for r in specs.pop(CONSTRAINTS)] if is_rules else []
        given = specs.get(CORRELATIONS)
        is_pairs = isinstance(given, Sequence) and not isinstance(given, str) and any(isinstance(p, Sequence) for p in given)
        correlations = pairs_from_config(specs.pop(CORRELATIONS)) if is_pairs else []
        parameters, conditions, fidelities = [], {}, {}
        for name, spec in _counted(specs):
            if isinstance(spec, Mapping) and "when" in spec:
                conditions[name] = {k: spec.get(k) for k in _CONDITION}
                spec = {k: v for k, v in spec.items() if k not in _CONDITION}
            if isinstance(spec, Mapping) and spec.get(FIDELITY, False) is not False:
                fidelities[name] = spec[FIDELITY]
                spec = {k: v for k, v in spec.items() if k != FIDELITY}
            parameters.append(parameter_from_config(name, spec))
        return cls(parameters, constraints, conditions, correlations, fidelities)

    def to_config(self) -> dict[str, Any]:
        """The inverse of ``from_config``: plain dicts, lists, numbers and strings."""
        config: dict[str, Any] = {p.name: p.to_config() for p in self.parameters}
        for name, condition in self.conditions.items():
            config[name] |= condition.to_config()
        for name, target in self.fidelities.items():
            config[name] |= {FIDELITY: target}
        if self.constraints:
            config[CONSTRAINTS] = [c.to_config() for c in self.constraints]
        if self.correlation is not None:
            config[CORRELATIONS] = self.correlation.to_config()
        return config

    def __repr__(self) -> str:
        return f"Space({', '.join(self.names)}; d={self.d})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Space)
            and self.parameters == other.parameters
            and self.constraints == other.constraints
            and self.conditions == other.conditions
            and self._pairs == other._pairs
            and self.fidelities == other.fidelities
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def _pairs(self) -> tuple[tuple[str, str, float], ...]:
        return () if self.correlation is None else self.correlation.pairs

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each parameter; empty where none is given."""
        return {p.name: p.unit for p in self.parameters}

    @property
    def d(self) -> int:
        """Columns of the unit cube (a categorical parameter has one for each choice)."""
        return self._d

    @property
    def bounds(self) -> Floats:
        """The unit cube as BoTorch wants it: zeros and ones, ``2 x d``."""
        return np.stack([np.zeros(self.d), np.ones(self.d)])

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        """Low and high end of each continuous or integer parameter, in its own unit."""
        return {p.name: (float(p.low), float(p.high)) for p in self.parameters if isinstance(p, (Continuous, Integer))}

    @property
    def continuous(self) -> bool:
        """True if every parameter is continuous and always counts, and nothing is constrained: gradients may move points freely."""
        return not self.constraints and not self.conditions and all(isinstance(p, Continuous) for p in self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        for p in self.parameters:
            if p.name == name:
                return p
        raise UnknownName("parameter", name, self.names)

    def columns(self, name: str) -> slice:
        """The unit cube's columns of a parameter.

        Raises:
            UnknownName: no such parameter.
        """
        self[name]
        return self._columns[name]

    def check(self, parameters: Parameters) -> None:
        """Refuse a point that is not in the space. What does not count at the point may be left out, and a fidelity stands at its target.

        Raises:
            UnknownName: a name that the space does not have.
            ConfigError: a name is missing, or a value is out of its box, not finite, not a choice, or against a constraint.
        """
        full = self._whole(parameters)
        for c in self.constraints:
            if not c.allows(full):
                raise ConfigError(f"The point {dict(parameters)!r} breaks the constraint {c.describe()}.")

    def _whole(self, parameters: Parameters) -> Parameters:
        """A point in the box, with the defaults of what does not count at it."""
        for name in parameters:
            if name not in self._columns:
                raise UnknownName("parameter", str(name), self.names)
        full = {**self.fidelities, **parameters}
        for name, condition in self.conditions.items():
            if all(parent in full for parent in condition.when) and not condition.active(full):
                full[name] = condition.default
        missing = [n for n in self.names if n not in full]
        if missing:
            raise ConfigError(f"The point {dict(parameters)!r} has no value for {', '.join(missing)}; give all of {', '.join(self.names)}.")
        for p in self.parameters:
            problem = p.problem(full[p.name])
            if problem:
                raise ConfigError(problem)
        return full

    def contains(self, parameters: Parameters) -> bool:
        """True if ``check`` would pass."""
        try:
            self.check(parameters)
        except ConfigError:
            return False
        return True

    def to_unit(self, points: Sequence[Parameters]) -> Floats:
        """Points of the unit cube, ``n x d``, of dicts in the box.

        Constraints are not tested here, so that data from elsewhere can be placed.

        Raises:
            ConfigError: a dict has unknown or missing names, or a value that its parameter does not allow.
        """
        if isinstance(points, Mapping):
            raise ConfigError("to_unit takes a list of points; put the one point in a list.")
        whole = [self._whole(point) for point in points]
        if not whole:
            return np.empty((0, self.d))
        x = np.hstack([p.to_unit([point[p.name] for point in whole]) for p in self.parameters])
        return x if self.correlation is None else self.correlation.undo(x)

    def from_unit(self, X: Any) -> list[dict[str, Value]]:
        """The nearest valid points, as dicts of plain Python values, of ``n x d`` numbers.

        Raises:
            ConfigError: X has another shape or is not finite.
        """
        x = self._settled(self._rows(X))
        if self.correlation is not None:
            x = self.correlation.apply(x)
        columns = {p.name: p.from_unit(x[:, self._columns[p.name]]) for p in self.parameters}
        return [{name: values[i] for name, values in columns.items()} for i in range(len(x))]

    def snap(self, X: Any) -> Floats:
        """The nearest points of the cube that stand for valid values, ``n x d``: whole numbers, one-hot rows, inside the box."""
        x = self._rows(X)
        return self._settled(np.hstack([p.snap(x[:, self._columns[p.name]]) for p in self.parameters]))

    def feasible(self, X: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of ``n x d`` points keep the constraints, ``n``."""
        x = self._rows(X)
        if not self.constraints:
            return np.ones(len(x), dtype=bool)
        return np.array([all(c.allows(p) for c in self.constraints) for p in self.from_unit(x)], dtype=bool)

    def sobol(self, n: int, seed: int, skip: int = 0) -> Floats:
        """``n`` points of a scrambled Sobol sequence (Owen 1998), ``n x d``, valid and allowed.

        Args:
            n: how many.
            seed: of the scrambling; one seed is one sequence.
            skip: leave out the first points of that sequence, so that a design can be continued.
        """
        from scipy.stats import qmc

        from alearn.space.designs import SobolStream

        return SobolStream(self, qmc.Sobol(len(self.parameters), scramble=True, rng=np.random.default_rng(seed))).take(n, skip)

    def lhs(self, n: int, seed: int) -> Floats:
        """``n`` points of a Latin hypercube, ``n x d``, valid and allowed (with constraints: the allowed part of a larger one)."""
        from alearn.space.designs import latin_hypercube

        return latin_hypercube(self, n, seed)

    def uniform(self, n: int, rng: np.random.Generator) -> Floats:
        """``n`` independent uniform points, ``n x d``, valid and allowed."""
        from alearn.space.designs import rejection

        return rejection(self, n, lambda k: self.spread(rng.random((k, len(self.parameters)))))

    def spread(self, u: Floats) -> Floats:
        """Valid points ``n x d`` from uniform numbers ``n x len(parameters)``; constraints are not applied."""
        return self._settled(np.hstack([p.spread(u[:, i]) for i, p in enumerate(self.parameters)]))

    def from_axes(self, y: Floats) -> Floats:
        """Points ``n x d`` at ``n x len(parameters)`` numbers in [0, 1], one along each parameter's own axis: how maps see the space."""
        x = self.spread(y)
        return x if self.correlation is None else self.correlation.undo(x)

    def to_axes(self, X: Any) -> Floats:
        """Where points ``n x d`` lie along each parameter's own axis, ``n x len(parameters)``: the inverse of ``from_axes``."""
        x = self._rows(X)
        if self.correlation is not None:
            x = self.correlation.apply(x)
        return np.stack([p.position(x[:, self._columns[p.name]]) for p in self.parameters], axis=1)

    def at_target(self, X: Any) -> Floats:
        """Points ``n x d`` with every fidelity at the value that is wanted in the end: where the surrogate is asked, and judged."""
        x = self._rows(X)
        if self.fidelities and len(x):
            x = x.copy()
            for name, target in self.fidelities.items():
                x[:, self._columns[name]] = self[name].to_unit([target])
        return x

    def _target(self, name: str, value: Value) -> Value:
        """The target of a fidelity; ``True`` is the high end, or the last of ordered values."""
        parameter = self[name]
        if name in self.conditions or name in {n for pair in self._pairs for n in pair[:2]} or isinstance(parameter, (Categorical, Pool)):
            raise ConfigError(
                f"Parameter '{name}' is a fidelity, and has a condition, a correlation or labels without an order; "
                "give it a box or ordered values, and nothing else."
            )
        if value is True:
            return parameter.labels[-1] if parameter.labels else parameter.from_unit(np.ones((1, 1)))[0]
        if problem := parameter.problem(value):
            raise ConfigError(f"The fidelity wanted in the end is not one that can be simulated: {problem}")
        return value

    def _settled(self, x: Floats) -> Floats:
        """Points ``n x d`` with the defaults of what does not count at them."""
        if not self.conditions or not len(x):
            return x
        x = x.copy()
        for name, condition in self.conditions.items():
            counts = np.ones(len(x), dtype=bool)
            for parent, values in condition.when.items():
                counts &= np.array([v in values for v in self[parent].from_unit(x[:, self._columns[parent]])])
            x[~counts, self._columns[name]] = self[name].to_unit([condition.default])
        return x

    def _rows(self, X: Any) -> Floats:
        x = np.asarray(X, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.d:
            raise ConfigError(f"Points of shape {x.shape} were given; this space needs n x {self.d} ({', '.join(self.names)}).")
        if not np.isfinite(x).all():
            raise ConfigError("The points in the unit cube hold NaN or infinity; give finite numbers.")
        return x

    def _check_constraints(self) -> None:
        for c in self.constraints:
            if not isinstance(c, Linear):
                continue
            for name in c.terms:
                if isinstance(self[name], Categorical) or not isinstance(self[name], (Continuous, Integer)):
                    raise ConfigError(f"The constraint {c.describe()} uses '{name}', which is not a number; use a target function instead.")


_CONDITION = ("when", "default")


def _counted(specs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and specifications, with those that have a count written out."""
    for name, spec in specs.items():
        if not isinstance(spec, Mapping) or "count" not in spec:
            yield str(name), spec
            continue
        count = spec["count"]
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"The count of parameter '{name}' is {count!r}; give a whole number of at least 1.")
        each = {k: v for k, v in spec.items() if k != "count"}
        for i in range(1, count + 1):
            yield f"{name}{i}", each
