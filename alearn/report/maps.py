"""Maps over the parameter box: coverage, uncertainty, error. Pure numpy.

A map is drawn for each pair of parameters. With one or two parameters it is the whole truth; with more, each
cell is either the mean over a quasi-random spread of the other parameters (``kind="mean"``) or a cut through a
point (``kind="slice"``). Everything is computed in the unit cube and labelled in the user's units.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from alearn.errors import ConfigError, LedgerCorrupt
from alearn.types import Array, Floats

MAPS_FILE = "maps.npz"
MAPS_VERSION = 1
MOST_PARAMETERS = 7
"""With more than so many, maps show some of them and take the mean over the others."""
_CHUNK = 4096

Score = Callable[[Floats], Floats]
"""Maps points of the unit cube, shape ``(n, d)``, to one number each, shape ``(n,)``."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter's axis, as the maps' coordinates in [0, 1] and in the user's terms.

    Args:
        name: the parameter's name.
        low: value at 0.
        high: value at 1.
        unit: free text.
        log: True if the axis is logarithmic in the value.
        labels: the labels of a categorical parameter, in the order of equal parts of [0, 1].
        knots: values at equally spaced points from 0 to 1, of a scale that is neither linear nor logarithmic.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    log: bool = False
    labels: tuple[str, ...] = ()
    knots: tuple[float, ...] = ()

    def values(self, x: Array) -> Floats:
        """The user's values of unit-cube coordinates, any shape."""
        u = np.asarray(x, dtype=np.float64)
        if self.knots:
            return np.interp(u, np.linspace(0.0, 1.0, len(self.knots)), self.knots)
        if self.log:
            return np.asarray(np.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low))))
        return np.asarray(self.low + u * (self.high - self.low))

    @property
    def label(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True, slots=True)
class Maps:
    """Maps of one arm. Arrays have shape ``(p, n, n)``: pair, row along its second parameter, column along its
    first; with a single parameter ``(1, n)``. None means that it could not be made.

    Args:
        axes: the parameters, d of them.
        pairs: p index pairs; ``((0, 0),)`` with a single parameter.
        centres: cell centres along a side, unit cube, shape ``(n,)``.
        kind: "whole" (d at most 2), "mean" or "slice".
        distance: distance to the nearest member in the unit cube.
        density: members per unit box, 1 where they lie as a uniform design would; projected on the pair.
        uncertainty: the surrogate's predictive standard deviation.
        error: error interpolated from test members.
        members: unit-cube points of the members, shape ``(N, d)``.
        states: their states, shape ``(N,)``.
        test: unit-cube points of the test members, shape ``(T, d)``.
        test_error: their errors, shape ``(T,)``.
        parameters: how many parameters there are, with those that are not shown.
    """

    axes: tuple[Axis, ...]
    pairs: tuple[tuple[int, int], ...]
    centres: Floats
    kind: str
    distance: Floats | None = None
    density: Floats | None = None
    uncertainty: Floats | None = None
    error: Floats | None = None
    members: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    states: Array = field(default_factory=lambda: np.zeros(0, dtype="U8"))
    test: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    test_error: Floats = field(default_factory=lambda: np.zeros(0))
    parameters: int = 0

    @property
    def d(self) -> int:
        """How many parameters are shown."""
        return len(self.axes)


def build_maps(
    axes: Sequence[Axis],
    members: Array,
    states: Sequence[str] = (),
    *,
    uncertainty: Score | None = None,
    test: Array | None = None,
    test_error: Array | None = None,
    resolution: int | None = None,
    kind: str = "mean",
    at: Sequence[float] | None = None,
    spread: int = 12,
    shown: Sequence[int] | None = None,
) -> Maps:
    """All maps of one arm.

    Args:
        axes: the parameters in the order of the unit cube's columns.
        members: unit-cube points of the members that delivered data, shape ``(N, d)``; N may be 0.
        states: their states, for drawing.
        uncertainty: the surrogate's standard deviation at unit-cube points; called with a few thousand at a time.
        test: unit-cube points of test members, shape ``(T, d)``.
        test_error: the surrogate's error at each, shape ``(T,)``; NaN is left out.
        resolution: cells along a side; by default fewer the more pairs there are.
        kind: "mean" or "slice", for more than two parameters.
        at: the point that slices cut through, unit cube; the middle by default.
        spread: how many points of the other parameters a mean takes.
        shown: which parameters get maps; by default the first ``MOST_PARAMETERS``.

    Raises:
        ConfigError: an array has a shape that does not fit.
    """
    d = len(axes)
    if not d:
        raise ConfigError("Maps need at least one parameter, and the space has none.")
    if kind not in ("mean", "slice"):
        raise ConfigError(f"The kind of a map is 'mean' or 'slice', not {kind!r}.")
    points = _points(members, d, "members")
    tests = _points(test if test is not None else np.zeros((0, d)), d, "test members")
    errors = np.asarray(test_error if test_error is not None else np.zeros(0), dtype=np.float64).reshape(-1)
    if len(errors) != len(tests):
        raise ConfigError(f"There are {len(tests)} test members and {len(errors)} test errors; there must be one error a member.")
    labels = np.asarray([str(s) for s in states] or ["done"] * len(points), dtype=np.str_)
    if len(labels) != len(points):
        raise ConfigError(f"There are {len(points)} members and {len(labels)} states; there must be one state a member.")
    good = np.isfinite(errors)
    mine = list(range(d))[:MOST_PARAMETERS] if shown is None else sorted(shown)
    pairs = tuple(combinations(mine, 2)) or ((mine[0], mine[0]),)
    n = resolution or (200 if d == 1 else 48 if d == 2 else 28 if len(pairs) <= 6 else 20)
    centres = (np.arange(n) + 0.5) / n
    others = np.asarray(at if at is not None else [0.5] * d, dtype=np.float64)[None, :] if kind == "slice" else latin(spread, d)

    def each_pair(score: Score) -> Floats:
        return np.stack([_marginal(score, centres, pair, d, others) for pair in pairs])

    return Maps(
        axes=tuple(axes[k] for k in mine),
        pairs=tuple((mine.index(i), mine.index(j)) for i, j in pairs),
        centres=centres,
        kind="whole" if d <= 2 else kind,
        distance=each_pair(lambda x: nearest_distance(x, points)) if len(points) else None,
        density=np.stack([density(centres, points[:, _columns(pair)]) for pair in pairs]) if len(points) else None,
        uncertainty=each_pair(uncertainty) if uncertainty is not None else None,
        error=each_pair(lambda x: interpolate(x, tests[good], errors[good])) if good.any() else None,
        members=points[:, mine],
        states=labels,
        test=tests[:, mine],
        test_error=errors,
        parameters=d,
    )


def _points(x: Array, d: int, what: str) -> Floats:
    points = np.asarray(x, dtype=np.float64)
    if points.size == 0:
        return np.zeros((0, d))
    if points.ndim != 2 or points.shape[1] != d:
        raise ConfigError(f"The points of the {what} have shape {points.shape}; (number, {d}) is needed, one column a parameter.")
    return points


def _columns(pair: tuple[int, int]) -> list[int]:
    return [pair[0]] if pair[0] == pair[1] else list(pair)


def _marginal(score: Score, centres: Floats, pair: tuple[int, int], d: int, others: Floats) -> Floats:
    """The score over a pair's grid: ``(n, n)``, or ``(n,)`` with a single parameter; a mean over ``others`` when d > 2."""
    n = len(centres)
    if d == 1:
        return _evaluate(score, centres[:, None])
    i, j = pair
    first, second = np.meshgrid(centres, centres)  # rows follow the second parameter
    flat = np.stack([first.ravel(), second.ravel()], axis=1)
    if d == 2:
        return _evaluate(score, flat).reshape(n, n)
    x = np.repeat(others[None, :, :], len(flat), axis=0)
    x[:, :, [i, j]] = flat[:, None, :]
    return np.asarray(_evaluate(score, x.reshape(-1, d)).reshape(n, n, len(others)).mean(axis=2))


def _evaluate(score: Score, x: Floats) -> Floats:
    parts = [np.asarray(score(x[k : k + _CHUNK]), dtype=np.float64).reshape(-1) for k in range(0, len(x), _CHUNK)]
    out = np.concatenate(parts)
    if len(out) != len(x):
        raise ConfigError(f"A map's score returned {len(out)} numbers for {len(x)} points; one a point is needed.")
    return out


def latin(n: int, d: int) -> Floats:
    """A Latin hypercube of n points in the unit cube, shape ``(n, d)`` (McKay, Beckman and Conover 1979); always the same."""
    rng = np.random.default_rng(0)
    return np.stack([(rng.permutation(n) + 0.5) / n for _ in range(d)], axis=1)


def nearest_distance(x: Floats, points: Floats) -> Floats:
    """Euclidean distance in the unit cube from each row of x ``(n, d)`` to the nearest of ``points`` ``(N, d)``."""
    return np.asarray(np.sqrt(_squares(x, points).min(axis=1)))


def _squares(x: Floats, points: Floats) -> Floats:
    cross = (x**2).sum(1)[:, None] - 2.0 * x @ points.T + (points**2).sum(1)[None, :]
    return np.asarray(np.maximum(cross, 0.0))


def density(centres: Floats, points: Floats) -> Floats:
    """How densely members lie, relative to a uniform design: a Gaussian kernel estimate with Scott's bandwidth
    (Scott 1992), corrected for the part of the kernel that lies outside the box (Diggle 1985), with mean one.

    Args:
        centres: cell centres along a side, shape ``(n,)``.
        points: members projected on one or two columns, shape ``(N, 1)`` or ``(N, 2)``.

    Returns:
        Shape ``(n,)`` or ``(n, n)`` (rows follow the second column).
    """
    count, k = points.shape
    width = np.maximum(points.std(axis=0) * count ** (-1.0 / (k + 4)), 0.02)
    profiles = []
    for column in range(k):
        h = float(width[column])
        inside = np.asarray([0.5 * (math.erf((1 - c) / (h * math.sqrt(2))) + math.erf(c / (h * math.sqrt(2)))) for c in centres])
        z = (centres[:, None] - points[None, :, column]) / h
        profiles.append(np.exp(-0.5 * z**2) / inside[:, None])
    raw = profiles[0].mean(axis=1) if k == 1 else profiles[1] @ profiles[0].T
    return np.asarray(raw / raw.mean())


def interpolate(x: Floats, points: Floats, values: Floats, neighbours: int = 12) -> Floats:
    """Inverse-distance weighting (Shepard 1968) with weights that vanish at the last of the neighbours (Franke and
    Nielson 1980): exact at the points, continuous, never outside the range of the values.

    Args:
        x: where, shape ``(n, d)``.
        points: known points, shape ``(T, d)``, T at least 1.
        values: known values, shape ``(T,)``.
        neighbours: how many of the nearest points count.
    """
    if x.shape[1] == 1:  # a straight line between neighbours is better than weights
        order = np.argsort(points[:, 0])
        return np.interp(x[:, 0], points[order, 0], values[order])
    squares = _squares(x, points)
    k = min(neighbours + 1, len(points))
    near = np.argpartition(squares, k - 1, axis=1)[:, :k]
    distance = np.sqrt(np.maximum(np.take_along_axis(squares, near, axis=1), 1e-14))
    edge = distance.max(axis=1, keepdims=True) * (1.0 if len(points) > neighbours else 2.0)
    weights = ((edge - distance) / (edge * distance)) ** 2
    total = weights.sum(axis=1)
    even = total <= 0  # all neighbours equally far
    weights[even], total[even] = 1.0, k
    return np.asarray((weights * values[near]).sum(axis=1) / total)


_ARRAYS = ("distance", "density", "uncertainty", "error")


def save_maps(path: Path | str, maps: Maps) -> Path:
    """Write the maps as ``.npz`` (loadable with ``allow_pickle=False``), replacing the file atomically.

    Keys: ``version``, ``names``, ``units``, ``low``, ``high``, ``log``, ``labels`` (JSON), ``pairs`` (p x 2),
    ``centres`` (n, unit cube), ``values`` (d x n, the same in the user's units), ``kind``, ``members``, ``states``,
    ``test``, ``test_error``, and of ``distance``, ``density``, ``uncertainty``, ``error`` those that exist.

    Args:
        path: the file, or a directory that gets ``maps.npz``.
        maps: what to write.
    """
    import json

    target = Path(path)
    if target.is_dir():
        target = target / MAPS_FILE
    arrays: dict[str, Any] = {
        "version": np.int64(MAPS_VERSION),
        "names": np.asarray([a.name for a in maps.axes], dtype=np.str_),
        "units": np.asarray([a.unit for a in maps.axes], dtype=np.str_),
        "low": np.asarray([a.low for a in maps.axes], dtype=np.float64),
        "high": np.asarray([a.high for a in maps.axes], dtype=np.float64),
        "log": np.asarray([a.log for a in maps.axes], dtype=np.bool_),
        "knots": np.asarray([json.dumps(list(a.knots)) for a in maps.axes], dtype=np.str_),
        "labels": np.asarray([json.dumps(list(a.labels)) for a in maps.axes], dtype=np.str_),
        "pairs": np.asarray(maps.pairs, dtype=np.int64),
        "centres": maps.centres,
        "values": np.stack([a.values(maps.centres) for a in maps.axes]),
        "kind": np.str_(maps.kind),
        "parameters": np.int64(maps.parameters),
        "members": maps.members,
        "states": maps.states,
        "test": maps.test,
        "test_error": maps.test_error,
    }
    arrays |= {name: value for name in _ARRAYS if (value := getattr(maps, name)) is not None}
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load_maps(path: Path | str) -> Maps:
    """Inverse of ``save_maps``.

    Raises:
        ConfigError: there is no such file.
        LedgerCorrupt: the file is not what ``save_maps`` wrote.
    """
    import json

    target = Path(path)
    if target.is_dir():
        target = target / MAPS_FILE
    if not target.exists():
        raise ConfigError(f"There are no maps at '{target}'; `alearn report` draws them.")
    try:
        with open(target, "rb") as file, np.load(file, allow_pickle=False) as raw:
            data = {name: raw[name] for name in raw.files}
        if int(data["version"]) > MAPS_VERSION:
            raise ConfigError(f"'{target}' was written by a newer alearn (maps version {int(data['version'])}); update alearn.")
        knots = data.get("knots", ["[]"] * len(data["names"]))  # earlier maps have none
        columns = zip(data["names"], data["low"], data["high"], data["units"], data["log"], data["labels"], knots, strict=True)
        axes = tuple(
            Axis(str(a), float(b), float(c), str(u), bool(g), tuple(json.loads(str(w))), tuple(json.loads(str(k))))
            for a, b, c, u, g, w, k in columns
        )
        return Maps(
            axes=axes,
            pairs=tuple((int(i), int(j)) for i, j in data["pairs"]),
            centres=data["centres"],
            kind=str(data["kind"]),
            members=data["members"],
            states=data["states"],
            test=data["test"],
            test_error=data["test_error"],
            parameters=int(data.get("parameters", 0)),
            **{name: data.get(name) for name in _ARRAYS},
        )
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise LedgerCorrupt(f"'{target}' does not hold maps ({error}); `alearn report` draws them anew.") from error
