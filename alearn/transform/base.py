"""What a transform is: fields of a time step in, fields out; the same at the writer and at the reader.

A transform is told once what a raw step carries (``schema``) and then handed one step after the other (``apply``).
Two powers are optional: a ``Codec`` can undo what it did, and a ``Learning`` one gets better as it sees fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from alearn.errors import ConfigError, SchemaError
from alearn.types import Array, Field, Schema

Values = Mapping[str, Array]
"""The fields of one time step."""

Key = tuple[str, int]
"""A sample's identity: member and step."""

PRIVATE = "_"
"""Fields whose names begin so describe how a step is encoded; the surrogate never learns them by itself."""


class Transform(Protocol):
    """One step of the pre-processing."""

    def schema(self, given: Schema) -> Schema:
        """What a step carries afterwards, units included; called before the first ``apply``.

        Raises:
            SchemaError: what is given does not fit; one sentence.
        """
        ...

    def apply(self, values: Values) -> dict[str, Array]:
        """One step, transformed. The arguments and their arrays stay what they were."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A transform that can be undone, exactly or within the error that it states."""

    @property
    def encoded(self) -> tuple[str, ...]:
        """The fields that ``decode`` needs."""
        ...

    def decoded(self, given: Schema) -> Schema:
        """What a step carries after ``decode``."""
        ...

    def decode(self, values: Values, key: Key | None = None) -> dict[str, Array]:
        """The fields as they were before ``apply``, as nearly as this transform can tell; ``key`` says of which sample."""
        ...


@runtime_checkable
class Learning(Protocol):
    """A transform that is learned from the fields themselves, in versions that are kept in the study's directory."""

    @property
    def version(self) -> int:
        """The newest version; 0 while nothing can be encoded yet."""
        ...

    @property
    def wanted(self) -> int:
        """How many steps it would like to see together before its first version; 0 once it has one."""
        ...

    def keep_in(self, directory: Path, learn: bool) -> None:
        """Read the versions that are there; with ``learn`` new ones are made, durable before any step names them."""
        ...

    def take(self, steps: Sequence[Values], keys: Sequence[Key]) -> list[dict[str, Array]]:
        """Learn what is new in these steps, if it learns here, and transform each by what is now known."""
        ...

    def refresh(self) -> bool:
        """Take notice of what others have put into the directory since; True if the version is another now."""
        ...


@runtime_checkable
class Described(Protocol):
    """A codec that can say where it stands."""

    def described(self) -> dict[str, Any]:
        """``field``, ``version``, ``what`` it has learned in words, and how many fields are ``exact`` (kept raw) and ``lossy``."""
        ...


def chosen(given: Schema, names: Sequence[str], what: str) -> list[Field]:
    """The named fields of a schema; all floating ones that are arrays if none is named.

    Raises:
        SchemaError: there is no such field, or none to choose.
    """
    fields = {f.name: f for f in given.fields}
    if not names:
        found = [f for f in given.fields if f.shape and f.dtype.startswith("float") and not f.name.startswith(PRIVATE)]
        if not found:
            raise SchemaError(f"The transform '{what}' names no fields, and the steps carry no array of numbers: {listed(given)}.")
        return found
    for name in names:
        if name not in fields:
            raise SchemaError(f"The transform '{what}' needs the field '{name}'; the steps carry {listed(given)}.")
    return [fields[name] for name in names]


def listed(given: Schema) -> str:
    """A schema in a sentence: ``v float32[96, 96], v_mean float64``."""
    return ", ".join(f"{f.name} {f.dtype}{list(f.shape) if f.shape else ''}" for f in given.fields)


def replaced(given: Schema, new: Mapping[str, Sequence[Field]], what: str) -> Schema:
    """The schema with some fields replaced, each by any number of others in its place.

    Raises:
        SchemaError: two fields would have one name, or none is left.
    """
    fields = [g for f in given.fields for g in new.get(f.name, (f,))]
    names = [f.name for f in fields]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise SchemaError(f"The transform '{what}' would make a second field '{twice}'; the steps carry {listed(given)}.")
    if not fields:
        raise SchemaError(f"The transform '{what}' leaves no field; the steps carried {listed(given)}.")
    return Schema(tuple(fields))


def names_of(fields: str | Sequence[str], what: str) -> tuple[str, ...]:
    """The option ``fields`` of a transform: one name or several.

    Raises:
        ConfigError: it is neither.
    """
    names = (fields,) if isinstance(fields, str) else tuple(fields)
    if not all(isinstance(n, str) and n for n in names):
        raise ConfigError(f"The transform '{what}' has fields={list(names)!r}; give names of fields, e.g. [v].")
    return names
