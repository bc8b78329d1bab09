"""Reference files: a fixed test design with the simulation's true answers, small enough to ship."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alearn.errors import ConfigError, UnknownName
from alearn.types import Array, Floats

DATA = Path(__file__).parent / "data"
REFERENCE_SEED = 20_240_229
"""Seed of every shipped test design; studies count their seeds from 0 and must never draw this sequence."""
FIELD = "field_"
"""Before the name of a field in the file."""

Runner = Callable[[Callable[[Mapping[str, float]], Any], Iterable[Mapping[str, float]]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Reference:
    """A test set: trajectories of the scalar outputs, and of fields where these are learned, at points that no study trains on.

    Args:
        names: the parameters' names, in the order of the columns of ``points``.
        points: parameters in their own units, ``N x d``.
        t: time of every frame, ``T``.
        outputs: the outputs' names.
        values: the true outputs, ``N x T x m``, float32.
        box: the parameter box that the points fill evenly.
        labels: of parameters that are no numbers: their values, which ``points`` counts from 0.
        provenance: how the file was made.
        fields: true fields by name, ``N x T x …``, float32.
    """

    names: tuple[str, ...]
    points: Floats
    t: Floats
    outputs: tuple[str, ...]
    values: Array = field(repr=False)
    box: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    fields: Mapping[str, Array] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shape = (len(self.points), len(self.t), len(self.outputs))
        if self.points.ndim != 2 or self.points.shape[1] != len(self.names) or self.values.shape != shape:
            raise ConfigError(
                f"The reference has points {self.points.shape} and values {self.values.shape}; with {len(self.names)} parameters, "
                f"{len(self.t)} times and {len(self.outputs)} outputs they must be N x {len(self.names)} and {shape}."
            )
        for name, fields in self.fields.items():
            if fields.shape[:2] != shape[:2]:
                raise ConfigError(f"The reference has the field '{name}' {fields.shape}; it must be {shape[0]} x {shape[1]} x …")
        if not all(np.isfinite(a).all() for a in (self.points, self.values, *self.fields.values())):
            raise ConfigError("The reference holds NaN or infinity; leave out the members that fail.")

    def __len__(self) -> int:
        return len(self.points)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The points as dicts."""
        return [
            {n: self.labels[n][int(v)] if n in self.labels else float(v) for n, v in zip(self.names, row, strict=True)}
            for row in self.points
        ]

    def thinned(self, times: int) -> Reference:
        """The same members at no more than so many of the times, evenly chosen, the last among them."""
        keep = np.unique(np.linspace(len(self.t) - 1, 0, min(times, len(self.t))).round().astype(int))
        return replace(self, t=self.t[keep], values=self.values[:, keep], fields={n: f[:, keep] for n, f in self.fields.items()})

    def write(self, path: str | Path) -> Path:
        """Write the file (compressed ``.npz``, plain arrays only), replacing an older one atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"names": self.names, "outputs": self.outputs, "box": dict(self.box), "provenance": dict(self.provenance)}
        about["labels"] = {name: list(values) for name, values in self.labels.items()}
        part = path.with_name(f".{path.name}.part")
        arrays: dict[str, Array] = {"points": self.points, "t": self.t, "values": self.values}
        arrays |= {f"{FIELD}{name}": values for name, values in self.fields.items()}
        with part.open("wb") as file:
            np.savez_compressed(file, about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]
        os.replace(part, path)
        return path

    @classmethod
    def read(cls, path: str | Path) -> Reference:
        """Read a file that ``write`` made.

        Raises:
            ConfigError: there is no such file, or it is not a reference.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                return cls(
                    tuple(about["names"]),
                    np.asarray(file["points"], dtype=np.float64),
                    np.asarray(file["t"], dtype=np.float64),
                    tuple(about["outputs"]),
                    np.asarray(file["values"], dtype=np.float32),
                    {name: (float(low), float(high)) for name, (low, high) in about["box"].items()},
                    about["provenance"],
                    about.get("labels", {}),
                    {n.removeprefix(FIELD): np.asarray(file[n], dtype=np.float32) for n in file.files if n.startswith(FIELD)},
                )
        except FileNotFoundError as error:
            raise ConfigError(f"The reference file {path} does not exist; make it with scripts/make_reference.py.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, EOFError) as error:
            raise ConfigError(f"The file {path} is not a reference ({error}); make it anew with scripts/make_reference.py.") from error


def available() -> list[str]:
    """Names of the simulators whose reference ships with alearn."""
    return sorted(p.stem for p in DATA.glob("*.npz"))


def load_reference(name: str) -> Reference:
    """The shipped reference of a simulator.

    Raises:
        UnknownName: none of that name ships.
    """
    if name not in available():
        raise UnknownName("shipped reference", name, available())
    return Reference.read(DATA / f"{name}.npz")


def make_reference(
    simulate: Callable[..., Iterable[Mapping[str, Any]]],
    box: Mapping[str, tuple[float, float]],
    outputs: Sequence[str],
    n: int,
    *,
    seed: int = REFERENCE_SEED,
    provenance: Mapping[str, Any] | None = None,
    run: Runner = map,
) -> Reference:
    """Run a simulation over a scrambled Sobol design of its box and keep its scalar outputs.

    Args:
        simulate: a generator function of the parameters, one dict with ``t`` and the outputs a frame.
        box: low and high end of each parameter.
        outputs: the scalars to keep.
        n: how many points; a power of two is balanced best.
        seed: of the scrambling.
        provenance: noted in the file, besides the seed.
        run: maps a function over the points; a process pool's ``imap`` runs them side by side.

    Raises:
        ConfigError: the members differ in their times, or one is not finite.
    """
    from scipy.stats import qmc

    low, high = (np.array([ends[i] for ends in box.values()], dtype=np.float64) for i in (0, 1))
    unit = qmc.Sobol(len(box), scramble=True, rng=np.random.default_rng(seed)).random(1 << max(n - 1, 0).bit_length())[:n]
    points = low + (high - low) * unit
    members = [dict(zip(box, map(float, row), strict=True)) for row in points]
    results = list(run(Trajectory(simulate, tuple(outputs)), members))
    times = {tuple(t) for t, _ in results}
    if len(times) != 1:
        raise ConfigError(f"The members' frames lie at {len(times)} different series of times; a reference needs one for all.")
    values = np.array([v for _, v in results], dtype=np.float32)
    about = {**(provenance or {}), "seed": seed, "design": "scrambled Sobol"}
    return Reference(tuple(box), points, np.array(times.pop()), tuple(outputs), values, dict(box), about)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Runs one member to its end and returns its times and its scalar outputs. A class, so that a process pool can carry it."""

    simulate: Callable[..., Iterable[Mapping[str, Any]]]
    outputs: tuple[str, ...]

    def __call__(self, parameters: Mapping[str, float]) -> tuple[list[float], list[list[float]]]:
        frames = [(float(f["t"]), [float(f[o]) for o in self.outputs]) for f in self.simulate(**parameters)]
        return [t for t, _ in frames], [v for _, v in frames]
