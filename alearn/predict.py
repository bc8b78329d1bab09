"""Predictions from a study's surrogate, by the newest snapshot in its directory."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.errors import ConfigError, UnknownName
from alearn.space import Space
from alearn.surrogate import Surrogate, load_snapshot
from alearn.types import Floats, Parameters, Value

SURROGATE_FILE = "surrogate.pt"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A surrogate and what it is about.

    Args:
        surrogate: calibrated, ready to predict.
        space: the parameter box it learned in.
        outputs: names of its outputs, m of them.
        units: of the outputs.
        t: the times of a whole trajectory, shape ``(T,)``.
    """

    surrogate: Surrogate
    space: Space
    outputs: tuple[str, ...]
    units: Mapping[str, str]
    t: Floats

    def inputs(self, x: Floats, t: Floats) -> torch.Tensor:
        """All pairs of ``n x d`` unit-cube points and ``T`` times, ``n T x d'``, t running fastest."""
        if not self.surrogate.over_t:
            return torch.as_tensor(x)
        rows = np.concatenate([np.repeat(x, len(t), axis=0), np.tile(t, len(x))[:, None]], axis=1)
        return torch.as_tensor(rows)

    def predict(self, x: Floats, t: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation at unit-cube points, each ``n x T x m`` (T is 1 for a surrogate without t)."""
        mean, epistemic, aleatoric = self.surrogate.predict(self.inputs(x, t))
        std = (epistemic**2 + aleatoric**2).sqrt()
        shape = (len(x), len(t) if self.surrogate.over_t else 1, len(self.outputs))
        return mean.double().numpy().reshape(shape), std.double().numpy().reshape(shape)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions at n points and T times.

    Args:
        points: the parameters, n dicts.
        t: the times, shape ``(T,)``.
        outputs: m names.
        mean: shape ``(n, T, m)``, in the outputs' own units.
        std: calibrated standard deviation, shape ``(n, T, m)``.
    """

    points: Sequence[Parameters]
    t: Floats
    outputs: tuple[str, ...]
    mean: Floats
    std: Floats

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict for each point and time."""
        out = []
        for i, point in enumerate(self.points):
            for j, t in enumerate(self.t[: self.mean.shape[1]]):
                row: dict[str, Any] = {**point, "t": float(t)}
                for k, name in enumerate(self.outputs):
                    row[name], row[f"{name}_std"] = float(self.mean[i, j, k]), float(self.std[i, j, k])
                out.append(row)
        return out


def open_surrogate(directory: Path) -> Loaded:
    """The surrogate of a study.

    Raises:
        ConfigError: there is no study, or it has no snapshot yet.
        LedgerCorrupt: the snapshot is damaged.
    """
    if not (directory / "ledger.sqlite").is_file():
        raise ConfigError(f"There is no study in {directory} (no ledger.sqlite); give a study directory.")
    path = directory / "snapshots" / SURROGATE_FILE
    if not path.is_file():
        raise ConfigError(f"The study in {directory} has no snapshot of its surrogate yet; wait until it has trained, or resume it.")
    surrogate, info = load_snapshot(path)
    return Loaded(
        surrogate=surrogate,
        space=info.space,
        outputs=info.outputs,
        units=dict(info.extra.get("units", {})),
        t=np.asarray(info.extra["t"], dtype=np.float64),
    )


def predict(directory: Path, points: Sequence[Parameters], t: Sequence[float] | None = None) -> Prediction:
    """Predict at ``points``; ``t`` None takes the times of a whole trajectory.

    Raises:
        ConfigError: a point is outside the box that the surrogate knows.
    """
    loaded = open_surrogate(directory)
    for point in points:
        loaded.space.check(point)
    times = loaded.t if t is None else np.asarray(list(t), dtype=np.float64)
    mean, std = loaded.predict(loaded.space.to_unit(points), times)
    return Prediction(points, times, loaded.outputs, mean, std)


def predict_command(directory: Path, at: Sequence[str], table: Path | None, t: Sequence[float] | None, *, as_json: bool) -> int:
    """``alearn predict``: print a table, or JSON; returns the exit code.

    Raises:
        ConfigError: no point is given, or one that makes no sense.
    """
    if bool(at) == (table is not None):
        raise ConfigError("Give either --at NAME=VALUE for every parameter, or --csv FILE.")
    loaded = open_surrogate(directory)
    points = _csv_points(table, loaded.space) if table is not None else [_at_point(at, loaded.space)]
    if any(not math.isfinite(v) for v in t or ()):
        raise ConfigError("--t needs finite times.")
    beyond = [v for v in t or () if not loaded.t[0] <= v <= loaded.t[-1]]
    if beyond and loaded.surrogate.over_t:
        seen = f"{loaded.t[0]:g} to {loaded.t[-1]:g}"
        print(f"alearn: t = {beyond[0]:g} lies outside what the surrogate has seen ({seen}); do not trust it.", file=sys.stderr)
    rows = predict(directory, points, t).rows()
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
