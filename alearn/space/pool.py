"""A finite pool: candidates that exist already, each described by features (molecules, geometries, measured shapes)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alearn.errors import ConfigError, UnknownName
from alearn.space.parameters import Parameter
from alearn.types import Floats, Value


@dataclass(frozen=True)
class Pool(Parameter):
    """One entry of a table, known to the simulation by its id and to the surrogate by its features.

    The unit cube has a column for each feature, scaled so that the pool fills [0, 1]; the nearest entry stands for a point.

    Args:
        name: an identifier.
        ids: of the entries, all different: what the simulation is given.
        features: of the entries, ``n x width``, finite; no two entries have the same.
        path: of the table, so that the space can be written down.
        id: the table's column of ids.
        columns: the table's columns of features.
        unit: a text for labels.
    """

    name: str
    ids: tuple[str, ...]
    features: Floats = field(repr=False, compare=False)
    path: str = ""
    id: str = ""
    columns: tuple[str, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        f = np.asarray(self.features, dtype=np.float64)
        if f.ndim != 2 or len(f) != len(self.ids) or len(f) < 2 or not f.shape[1]:
            raise ConfigError(
                f"The pool of parameter '{self.name}' has {len(self.ids)} ids and features of shape {f.shape}; give at least two entries."
            )
        if not np.isfinite(f).all():
            bad = self.ids[int(np.flatnonzero(~np.isfinite(f).all(axis=1))[0])]
            raise ConfigError(f"The pool of parameter '{self.name}' has features that are not finite, at {bad!r} first.")
        for what, count in (("ids", len(set(self.ids))), ("features", len(np.unique(f, axis=0)))):
            if count < len(f):
                raise ConfigError(
                    f"In the pool of parameter '{self.name}' {len(f) - count} entries have the {what} of another; keep one of each."
                )
        low, high = f.min(axis=0), f.max(axis=0)
        object.__setattr__(self, "features", (f - low) / np.where(high > low, high - low, 1.0))
        object.__setattr__(self, "width", f.shape[1])
        object.__setattr__(self, "_rows", {name: i for i, name in enumerate(self.ids)})

    @classmethod
    def from_file(cls, name: str, path: str, id: Any = None, features: Any = None, unit: str = "") -> Pool:
        """Read a CSV table.

        Args:
            name: of the parameter.
            path: of the table.
            id: its column of ids; the first by default.
            features: its columns of features; all the others by default.
            unit: a text for labels.

        Raises:
            ConfigError: there is no such table, or a feature is no number.
            UnknownName: no such column.
        """
        file = Path(path).expanduser()
        if not file.is_file():
            raise ConfigError(f"The pool {path} of parameter '{name}' does not exist; give the path of a CSV table.")
        with file.open(newline="") as text:
            rows = list(csv.reader(text, skipinitialspace=True))
        head = [c.strip() for c in rows[0]] if rows else []
        key = str(id) if id is not None else head[0] if head else ""
        columns = [str(c) for c in features] if features else [c for c in head if c != key]
        for column in (key, *columns):
            if column not in head:
                raise UnknownName(f"column of the pool {path}", column, head)
        at = [head.index(c) for c in columns]
        table = [r for r in rows[1:] if any(cell.strip() for cell in r)]
        try:
            values = np.array([[float(r[i]) for i in at] for r in table], dtype=np.float64).reshape(len(table), len(at))
            ids = tuple(r[head.index(key)].strip() for r in table)
        except (ValueError, IndexError) as error:
            raise ConfigError(f"The pool {path} of parameter '{name}' has a row without a number for each feature: {error}.") from error
        return cls(name, ids, values, str(path), key, tuple(columns), unit)

    @property
    def labels(self) -> tuple[Value, ...]:
        return self.ids

    def to_unit(self, values: Sequence[Value]) -> Floats:
        rows: dict[str, int] = getattr(self, "_rows")  # noqa: B009 - set on a frozen instance
        return np.asarray(self.features[[rows[str(v)] for v in values]])

    def from_unit(self, columns: Floats) -> list[Value]:
        return [self.ids[i] for i in self._nearest(columns)]

    def spread(self, u: Floats) -> Floats:
        n = len(self.ids)
        return np.asarray(self.features[np.clip(np.floor(np.asarray(u) * n), 0, n - 1).astype(int)])

    def position(self, columns: Floats) -> Floats:
        return (np.array(self._nearest(columns), dtype=np.float64) + 0.5) / len(self.ids)

    def snap(self, columns: Floats) -> Floats:
        return np.asarray(self.features[self._nearest(columns)])

    def parse(self, text: str) -> Value:
        return text

    def problem(self, value: Any) -> str | None:
        rows: dict[str, int] = getattr(self, "_rows")  # noqa: B009 - set on a frozen instance
        if str(value) in rows:
            return None
        return str(UnknownName(f"entry of the pool '{self.name}':", str(value), self.ids, shown=[*self.ids[:3], "…"]))

    def to_config(self) -> dict[str, Any]:
        if not self.path:
            raise ConfigError(
                f"The pool of parameter '{self.name}' is in memory and cannot be written down; give {{pool: FILE.csv}} instead."
            )
        unit = {"unit": self.unit} if self.unit else {}
        return {"pool": self.path, "id": self.id, "features": list(self.columns), **unit}

    def _nearest(self, columns: Floats) -> list[int]:
        """The row of the nearest entry of each of ``n x width`` points."""
        from scipy.spatial import cKDTree

        tree = getattr(self, "_tree", None)
        if tree is None:
            tree = cKDTree(self.features)
            object.__setattr__(self, "_tree", tree)
        return [int(i) for i in np.atleast_1d(tree.query(np.asarray(columns, dtype=np.float64))[1])]
