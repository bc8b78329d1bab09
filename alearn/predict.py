"""Predictions from a study's surrogate, by the newest snapshot in its directory."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.errors import ConfigError, UnknownName
from alearn.space import Space
from alearn.surrogate import Surrogate, load_snapshot
from alearn.surrogate.decode import predict_field
from alearn.surrogate.field import FieldDecoder, joint_scale
from alearn.types import Floats, Parameters, Value

SURROGATE_FILE = "surrogate.pt"
SPECIAL = "special"
"""The folder of a study's special surrogates (``alearn specialise``)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A surrogate and what it is about.

    Args:
        surrogate: calibrated, ready to predict.
        space: the parameter box it learned in.
        outputs: names of its outputs, m of them.
        units: of the outputs.
        t: the times of a whole trajectory, shape ``(T,)``.
        fields: the way from the last outputs, which are coefficients, to whole fields.
        part: of a special surrogate, what it is special in: space, conditions (where), and the trial's errors; else empty.
    """

    surrogate: Surrogate
    space: Space
    outputs: tuple[str, ...]
    units: Mapping[str, str]
    t: Floats
    fields: tuple[FieldDecoder, ...] = ()
    part: Mapping[str, Any] = field(default_factory=dict)

    @property
    def singles(self) -> tuple[str, ...]:
        """The outputs that are numbers by themselves, and no coefficients of a field."""
        return self.outputs[: self.fields[0].first] if self.fields else self.outputs

    @property
    def learned(self) -> tuple[str, ...]:
        """The single numbers and whole fields that are learned."""
        return (*self.singles, *(f.name for f in self.fields))

    def decoders(self) -> tuple[FieldDecoder, ...]:
        """The way from the surrogate's outputs to the fields."""
        return self.fields

    @property
    def scale(self) -> Floats:
        """By what each output is divided where one number is wanted for all (``alearn.surrogate.field.joint_scale``), ``m``."""
        scale = self.surrogate.output_scale.double().numpy()
        return joint_scale(np.where(scale > 0, scale, 1.0), [(f.rank, f.used) for f in self.fields])

    def inputs(self, x: Floats, t: Floats) -> Floats:
        """All pairs of ``n x d`` unit-cube points and ``T`` times, ``n T x d'``, t running fastest."""
        if not self.surrogate.over_t:
            return x
        return np.concatenate([np.repeat(x, len(t), axis=0), np.tile(t, len(x))[:, None]], axis=1)

    def predict(self, x: Floats, t: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation at unit-cube points, each ``n x T x m`` (T is 1 for a surrogate without t)."""
        mean, epistemic, aleatoric = self.surrogate.predict(torch.as_tensor(self.inputs(x, t)))
        std = (epistemic**2 + aleatoric**2).sqrt()
        shape = (len(x), len(t) if self.surrogate.over_t else 1, len(self.outputs))
        return mean.double().numpy().reshape(shape), std.double().numpy().reshape(shape)

    def predict_field(self, name: str, x: Floats, t: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of a whole field at unit-cube points, each ``n x T x …`` (T is 1 for a surrogate without t).

        Raises:
            UnknownName: it has not learned that field.
        """
        found = next((f for f in self.fields if f.name == name), None)
        if found is None:
            raise UnknownName("field", name, [f.name for f in self.fields])
        mean, std = predict_field(self.surrogate, torch.as_tensor(self.inputs(x, t)), found)
        shape = (len(x), len(t) if self.surrogate.over_t else 1, *found.shape)
        return mean.reshape(shape), std.reshape(shape)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions at n points and T times.

    Args:
        points: the parameters, n dicts.
        t: the times, shape ``(T,)``.
        outputs: m names.
        mean: shape ``(n, T, m)``, in the outputs' own units.
        std: calibrated standard deviation, shape ``(n, T, m)``.
        loaded: what predicted it.
    """

    points: Sequence[Parameters]
    t: Floats
    outputs: tuple[str, ...]
    mean: Floats
    std: Floats
    loaded: Loaded

    def field(self, name: str) -> tuple[Floats, Floats]:
        """Mean and calibrated standard deviation of a field that is learned as a whole, each ``(n, T, …)``.

        Raises:
            UnknownName: the surrogate has not learned that field.
        """
        return self.loaded.predict_field(name, self.loaded.space.to_unit(self.points), self.t)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict for each point and time. Of a whole field ``v`` it holds ``v.mean``, ``v.min`` and ``v.max`` over its cells,
        and ``v.std``, the root mean square of the standard deviations of its cells."""
        out = []
        for i, point in enumerate(self.points):
            x = self.loaded.space.to_unit([point])
            fields = {f.name: tuple(v[0] for v in self.loaded.predict_field(f.name, x, self.t)) for f in self.loaded.fields}
            for j, t in enumerate(self.t[: self.mean.shape[1]]):
                row: dict[str, Any] = {**point, "t": float(t)}
                for k, name in enumerate(self.loaded.singles):
                    row[name], row[f"{name}_std"] = float(self.mean[i, j, k]), float(self.std[i, j, k])
                for name, (mean, std) in fields.items():
                    numbers = {"mean": mean[j].mean(), "min": mean[j].min(), "max": mean[j].max(), "std": np.sqrt((std[j] ** 2).mean())}
                    row |= {f"{name}.{k}": float(v) for k, v in numbers.items()}
                out.append(row)
        return out


def open_surrogate(directory: Path, special: str | None = None) -> Loaded:
    """The surrogate of a study, or a special one of it by its name (``alearn specialise``).

    Raises:
        ConfigError: there is no study, or it has no snapshot yet.
        UnknownName: it has no special surrogate of that name.
        LedgerCorrupt: the snapshot is damaged.
    """
    if not (directory / "ledger.sqlite").is_file():
        raise ConfigError(f"There is no study in {directory} (no ledger.sqlite); give a study directory.")
    path = directory / "snapshots" / SURROGATE_FILE
    if special is not None:
        path = directory / SPECIAL / f"{special}.pt"
        if not path.is_file():
            raise UnknownName("special surrogate", special, [p.stem for p in sorted((directory / SPECIAL).glob("*.pt"))])
    if not path.is_file():
        raise ConfigError(f"The study in {directory} has no snapshot of its surrogate yet; wait until it has trained, or resume it.")
    surrogate, info = load_snapshot(path)
    return Loaded(
        surrogate=surrogate,
        space=info.space,
        outputs=info.outputs,
        units=dict(info.extra.get("units", {})),
        t=np.asarray(info.extra["t"], dtype=np.float64),
        fields=tuple(FieldDecoder.from_plain(f) for f in info.extra.get("fields", ())),
        part=dict(info.extra.get("part", {})),
    )


def predict(directory: Path, points: Sequence[Parameters], t: Sequence[float] | None = None, special: str | None = None) -> Prediction:
    """Predict at ``points``; ``t`` None takes the times of a whole trajectory, ``special`` names a special surrogate.

    Raises:
        ConfigError: a point is outside the box that the surrogate knows.
    """
    loaded = open_surrogate(directory, special)
    for point in points:
        loaded.space.check(point)
    times = loaded.t if t is None else np.asarray(list(t), dtype=np.float64)
    mean, std = loaded.predict(loaded.space.to_unit(points), times)
    return Prediction(points, times, loaded.outputs, mean, std, loaded)


def write_fields(found: Prediction, path: Path) -> None:
    """Write predicted fields as ``.npz``: ``t``, the points' parameters (``n`` each), every field's mean and ``…_std``, ``n x T x …``.

    Raises:
        ConfigError: the surrogate has learned no whole field, or the file cannot be written.
    """
    if not found.loaded.fields:
        raise ConfigError(f"The surrogate has learned no whole field; its outputs are {', '.join(found.outputs)}.")
    arrays = {name: np.array([p[name] for p in found.points]) for name in found.loaded.space.names}
    for f in found.loaded.fields:
        arrays[f.name], arrays[f"{f.name}_std"] = (v.astype(np.float32) for v in found.field(f.name))
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, t=found.t, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise ConfigError(f"The fields cannot be written to {path}: {error}.") from error


def predict_command(
    directory: Path,
    at: Sequence[str],
    table: Path | None,
    t: Sequence[float] | None,
    *,
    as_json: bool,
    fields: Path | None = None,
    special: str | None = None,
) -> int:
    """``alearn predict``: print a table, or JSON, and write fields if a file for them is named; returns the exit code.

    Raises:
        ConfigError: no point is given, or one that makes no sense.
    """
    if bool(at) == (table is not None):
        raise ConfigError("Give either --at NAME=VALUE for every parameter, or --csv FILE.")
    loaded = open_surrogate(directory, special)
    points = _csv_points(table, loaded.space) if table is not None else [_at_point(at, loaded.space)]
    if any(not math.isfinite(v) for v in t or ()):
        raise ConfigError("--t needs finite times.")
    near = 1e-9 * max(abs(float(loaded.t[0])), abs(float(loaded.t[-1])))
    beyond = [v for v in t or () if not loaded.t[0] - near <= v <= loaded.t[-1] + near]
    if beyond and loaded.surrogate.over_t:
        seen = f"{loaded.t[0]:g} to {loaded.t[-1]:g}"
        print(f"alearn: t = {beyond[0]:g} lies outside what the surrogate has seen ({seen}); do not trust it.", file=sys.stderr)
    found = predict(directory, points, t, special)
    if fields is not None:
        write_fields(found, fields)
    rows = found.rows()
    if as_json:
        print(json.dumps([{k: _finite(v) for k, v in row.items()} for row in rows], indent=1))
        return 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row.values()] for row in rows)
    return 0


def _at_point(words: Sequence[str], space: Space) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            raise ConfigError(f"--at {word} is no NAME=VALUE; write --at {space.names[0]}=...")
        point[name] = text
    return _typed(point, space, "--at")


def _csv_points(path: Path, space: Space) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(f"The table {path} does not exist; give a CSV file with the columns {', '.join(space.names)}.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"The table {path} cannot be read as CSV ({error}); save it as UTF-8 text with commas.") from error
    if not rows:
        raise ConfigError(f"The table {path} has no rows; give a CSV file with the columns {', '.join(space.names)}.")
    return [_typed({k: v for k, v in row.items() if k in space.names}, space, f"{path}, row {i}") for i, row in enumerate(rows, 2)]


def _typed(point: Mapping[str, Any], space: Space, where: str) -> dict[str, Any]:
    """Texts become the parameters' values."""
    out: dict[str, Any] = {}
    for name, text in point.items():
        if name not in space.names:
            raise UnknownName("parameter", name, space.names)
        out[name] = _value(text or "")
    missing = [n for n in space.names if n not in out]
    if missing:
        raise ConfigError(f"{where}: no value for {', '.join(missing)}; the surrogate needs {', '.join(space.names)}.")
    try:
        space.check(out)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return out


def _value(text: str) -> Value:
    """A number if it reads as one, else the label itself."""
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
