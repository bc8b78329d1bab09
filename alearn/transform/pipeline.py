"""All transforms of a study, one after the other, and what becomes of the raw fields."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from alearn.errors import ConfigError, SchemaError
from alearn.registry import build
from alearn.transform.base import Codec, Key, Learning, Transform, Values
from alearn.types import Array, Field, Schema

FOLDER = "transform"
"""Where in the study's directory the codecs keep their versions."""
ABOUT = "about.json"


@final
class Pipeline:
    """Transforms in order, at the writer or at the reader.

    Args:
        steps: name and options of each transform: ``{"name": "coarsen", "factor": 4, "fields": ["v"]}``.
        keep_raw: carry the raw of every field that is changed or dropped along, as ``v_raw``.

    Raises:
        UnknownName: there is no such transform or option.
        ConfigError: an option is out of range, or a name is missing.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]], keep_raw: bool = False) -> None:
        self.steps = [dict(step) for step in steps]
        self.keep_raw = keep_raw
        self.transforms: list[Transform] = []
        for step in self.steps:
            if not isinstance(step.get("name"), str):
                raise ConfigError(f"The transform {step!r} has no name; write {{name: coarsen, factor: 4, fields: [v]}}.")
            self.transforms.append(build("transform", step["name"], {k: v for k, v in step.items() if k != "name"}))
        self._raw: Schema | None = None
        self._out: Schema | None = None
        self._kept: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Pipeline:
        """Inverse of ``to_json``.

        Raises:
            ConfigError: the text is no pipeline.
        """
        try:
            raw = json.loads(text)
            steps, keep_raw = raw["steps"], bool(raw["keep_raw"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"This is no list of transforms: {text[:80]!r} ({error}).") from error
        return cls(steps, keep_raw)

    def to_json(self) -> str:
        return json.dumps({"steps": self.steps, "keep_raw": self.keep_raw}, sort_keys=True)

    @property
    def raw(self) -> Schema | None:
        """What a step carries before the first transform; None before that is known."""
        return self._raw

    @property
    def learning(self) -> list[Learning]:
        """Those that are learned, in order."""
        return [t for t in self.transforms if isinstance(t, Learning)]

    @property
    def ready(self) -> bool:
        """Whether a writer could use it: everything that is learned has a version."""
        return all(t.version for t in self.learning)

    @property
    def wanted(self) -> int:
        """How many steps it would like to see together first."""
        return max((t.wanted for t in self.learning), default=0)

    def keep_in(self, directory: Path, learn: bool) -> None:
        """Tell what is learned where its versions are kept: in a study's directory."""
        for t in self.learning:
            t.keep_in(directory / FOLDER, learn)

    def refresh(self) -> bool:
        """Take notice of new versions; True if there are any."""
        return sum(t.refresh() for t in self.learning) > 0

    def schema(self, given: Schema) -> Schema:
        """What a step carries behind the last transform.

        Raises:
            SchemaError: a transform does not fit; one sentence.
        """
        if given == self._raw and self._out is not None:
            return self._out
        out = given
        for t in self.transforms:
            out = t.schema(out)
        if self.keep_raw:
            same = set(out.fields)
            kept = [f for f in given.fields if f not in same]
            self._kept = tuple(f.name for f in kept)
            taken = next((f.name for f in kept if f"{f.name}_raw" in out.names), None)
            if taken is not None:
                raise SchemaError(
                    f"The raw field '{taken}' is to be kept as '{taken}_raw', which the steps carry already; rename that field."
                )
            out = Schema((*out.fields, *(_raw(f) for f in kept)))
        self._out, self._raw = out, given  # in this order: another thread that finds the one finds the other
        return out

    def apply(self, values: Values) -> dict[str, Array]:
        """One step by itself; nothing is learned."""
        return self._through([values], None)[0]

    def take(self, steps: Sequence[Values], keys: Sequence[Key]) -> list[dict[str, Array]]:
        """Several steps, from which may be learned what can be learned here."""
        return self._through(steps, keys)

    def _through(self, steps: Sequence[Values], keys: Sequence[Key] | None) -> list[dict[str, Array]]:
        assert self._raw is not None
        assert self._out is not None
        raws = [self._raw.conform(s) for s in steps]
        out: list[dict[str, Array]] = raws
        for t in self.transforms:
            out = t.take(out, keys) if keys is not None and isinstance(t, Learning) else [t.apply(values) for values in out]
        if self._kept:
            out = [{**values, **{f"{n}_raw": raw[n] for n in self._kept}} for values, raw in zip(out, raws, strict=True)]
        return [self._out.conform(values) for values in out]

    @property
    def encoded(self) -> tuple[str, ...]:
        """The stored fields that decoding needs."""
        names = [n for t in self.transforms if isinstance(t, Codec) for n in t.encoded]
        return tuple(n for n in dict.fromkeys(names) if self._out is None or n in self._out.names)

    def decoded(self) -> Schema:
        """What a step carries once everything that can be undone is undone."""
        assert self._out is not None
        out = self._out
        for t in reversed(self.transforms):
            if isinstance(t, Codec):
                out = t.decoded(out)
        return out

    def decode(self, values: Values, key: Key | None = None) -> dict[str, Array]:
        """Undo what can be undone."""
        out = dict(values)
        for t in reversed(self.transforms):
            if isinstance(t, Codec):
                out = t.decode(out, key)
        return out

    # --- in a study's directory ------------------------------------------------------------------------------

    def describe_in(self, directory: Path) -> None:
        """Write down what the raw steps carried, so that the archive can be decoded for ever; nothing without a codec."""
        assert self._raw is not None
        if not self.encoded:
            return
        path = directory / FOLDER / ABOUT
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps({"pipeline": json.loads(self.to_json()), "raw": json.loads(self._raw.to_json())}, indent=1))
        draft.replace(path)

    @classmethod
    def described_in(cls, directory: Path) -> Pipeline | None:
        """The pipeline that a study's archive was written through, ready to decode; None if there was none.

        Raises:
            ConfigError: what was written down cannot be read.
        """
        path = directory / FOLDER / ABOUT
        if not path.exists():
            return None
        try:
            about = json.loads(path.read_text())
            pipeline = cls.from_json(json.dumps(about["pipeline"]))
            pipeline.keep_in(directory, learn=False)
            pipeline.schema(Schema.from_json(json.dumps(about["raw"])))
        except (OSError, ValueError, KeyError, TypeError, SchemaError) as error:
            raise ConfigError(f"The description of the transforms in {path} cannot be read: {error}. Restore it from a copy.") from error
        return pipeline


def arrays(values: Mapping[str, Any]) -> dict[str, Array]:
    """Values that a simulation put, as arrays."""
    return {name: np.asarray(value) for name, value in values.items()}


def _raw(field: Field) -> Field:
    return dataclasses.replace(field, name=f"{field.name}_raw")
