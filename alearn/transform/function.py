"""A transform of the user's own: a function from fields to fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np

from alearn.errors import ConfigError, SchemaError
from alearn.registry import load_object
from alearn.transform.base import Values
from alearn.types import Array, Schema


@final
class UserFunction:
    """Calls ``function(values, **arguments)`` for each step; it returns the new fields by name.

    What it returns is learned by calling it once with fields of ones. Whatever it returns without change of name and
    shape keeps its unit.

    Args:
        target: ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``; members must be able to reach it, too.
        units: units of what it returns.
        keep: keep the step's other fields, besides those that it returns.
        arguments: further keyword arguments.

    Raises:
        ConfigError: no target, or it is no function.
    """

    def __init__(
        self, *, target: str = "", units: Mapping[str, str] | None = None, keep: bool = True, arguments: Mapping[str, Any] | None = None
    ) -> None:
        if not target:
            raise ConfigError("The transform 'function' has no target; give FILE.py:FUNCTION or package.module:FUNCTION.")
        found = load_object(target)
        if not callable(found):
            raise ConfigError(f"The target '{target}' of the transform 'function' is a {type(found).__name__}; a function is needed.")
        self.target = target
        self.units = dict(units or {})
        self.keep = keep
        self.arguments = dict(arguments or {})
        self._function: Callable[..., Any] = found
        self._schema: Schema | None = None

    def schema(self, given: Schema) -> Schema:
        ones = {f.name: np.ones(f.shape, f.dtype) for f in given.fields}
        with np.errstate(all="ignore"):
            out = self._call(ones)
        units = {f.name: f.unit for f in given.fields if f.name in out and np.shape(out[f.name]) == f.shape} | self.units
        self._schema = Schema.of({n: np.asarray(v) for n, v in out.items()}, units)
        return self._schema

    def apply(self, values: Values) -> dict[str, Array]:
        assert self._schema is not None
        return self._schema.conform(self._call(values))

    def _call(self, values: Values) -> dict[str, Any]:
        try:
            made = self._function(dict(values), **self.arguments)
        except Exception as error:
            raise SchemaError(f"The transform {self.target} failed: {type(error).__name__}: {error}.") from error
        if not isinstance(made, Mapping):
            raise SchemaError(f"The transform {self.target} returned a {type(made).__name__}; it must return a dict of fields.")
        return {**(values if self.keep else {}), **made}
