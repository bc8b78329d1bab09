"""The entry ``transform`` of a study's configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from alearn.errors import ConfigError, UnknownName
from alearn.transform.pipeline import Pipeline

WHERES = ("auto", "writer", "reader")
_RAW_TRAVELS = "the raw is kept, so it has to travel"


@dataclass(frozen=True, slots=True)
class Transforms:
    """What is done to the steps on their way, and where.

    Args:
        steps: name and options of each transform, in order.
        where: writer, reader, or auto (chosen by what the first members cost at either place).
        keep_raw: store the raw fields too, so that everything runs at the reader.
        cache: store what the transforms make; false stores the raw and makes it anew whenever it is learned from.
    """

    steps: tuple[Mapping[str, Any], ...] = ()
    where: str = "auto"
    keep_raw: bool = False
    cache: bool = True

    @classmethod
    def of(cls, value: Any) -> Transforms:
        """Read the entry: a list of transforms, or a mapping with ``steps``.

        Raises:
            UnknownName: there is no such entry or place.
            ConfigError: a value of a wrong kind; one sentence.
        """
        if isinstance(value, cls):
            return value
        if value is None:
            return cls()
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = {"steps": value}
        known = [f.name for f in fields(cls)]
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"transform is {value!r}; give a list of transforms, transform='[{{name: coarsen, factor: 4, fields: [v]}}]'."
            )
        for name in value:
            if name not in known:
                raise UnknownName("entry of transform", str(name), known)
        steps = value.get("steps") or ()
        if isinstance(steps, (str, Mapping)) or not all(isinstance(s, Mapping) for s in steps):
            raise ConfigError(f"transform.steps is {steps!r}; give a list of mappings, [{{name: coarsen, factor: 4, fields: [v]}}].")
        made = cls(
            tuple(_plain(step) for step in steps), str(value.get("where", "auto")), value.get("keep_raw", False), value.get("cache", True)
        )
        made._consistent()
        return made

    def to_mapping(self) -> dict[str, Any]:
        """Plain values; ``of`` it is equal."""
        return {"steps": [dict(s) for s in self.steps], "where": self.where, "keep_raw": self.keep_raw, "cache": self.cache}

    def pipeline(self) -> Pipeline:
        """The transforms, ready to be told a schema."""
        return Pipeline(self.steps, self.keep_raw and self.cache)

    @property
    def on_read(self) -> bool:
        """Whether the raw is stored and transformed whenever it is read."""
        return bool(self.steps) and not self.cache

    @property
    def must_read(self) -> str:
        """Why everything has to be transformed at the reader; "" if nothing says so."""
        return _RAW_TRAVELS if self.keep_raw else ""

    def check(self) -> None:
        """See before anything is started that every transform can be made; a file of the user's is run for it.

        Raises:
            UnknownName: there is no such transform or option.
            ConfigError: an option is out of range, or a file is not there.
        """
        if self.pipeline().learning and not self.cache:
            raise ConfigError("transform.cache is false, but a codec that is learned encodes each step once: set transform.cache=true.")

    def _consistent(self) -> None:
        if self.where not in WHERES:
            raise UnknownName("value of transform.where", self.where, WHERES)
        for name, value in (("keep_raw", self.keep_raw), ("cache", self.cache)):
            if not isinstance(value, bool):
                raise ConfigError(f"transform.{name} is {value!r}; write true or false.")
        if not self.steps:
            return
        if not self.cache and not self.keep_raw:
            raise ConfigError("transform.cache is false and transform.keep_raw too: nothing would be stored. Set one of them to true.")
        if self.keep_raw and self.where == "writer":
            raise ConfigError(f"transform.where is writer, but {_RAW_TRAVELS}: set transform.keep_raw=false or transform.where=reader.")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_path(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return _path(value) if isinstance(value, str) else value


def _path(text: str) -> str:
    """``FILE.py:NAME`` with the file's full path, because members run in folders of their own; anything else as it is."""
    path, colon, name = text.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(path))}:{name}" if colon and path.endswith(".py") else text
