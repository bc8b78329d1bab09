"""Whole fields as outputs: a field becomes a few coefficients that any surrogate can learn, and comes back with its variance.

Two bases, because what is stored must not change its meaning and what is learned must follow the data:

* the *memory* basis only ever gains modes (``alearn.transform.basis``: incremental POD without turning what is there). Rows
  hold a field's coefficients in it, so that a row written once is right for good, whatever comes later;
* the *view* is a rotation of the memory down to the leading principal directions of all fields so far (proper orthogonal
  decomposition: Sirovich 1987). The surrogate learns the coefficients in the view. The view is renewed only between two
  fits, only when it leaves out too much, and as near to the old axes as the new subspace allows (the orthogonal Procrustes
  problem: Schoenemann 1966), so that a network which has learned the old coefficients has nearly learned the new ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from alearn.errors import ConfigError
from alearn.transform.basis import Basis
from alearn.types import Array, Field, Floats

FINER = 0.3
"""The memory leaves at most this share of the error that the view may leave."""
MARGIN = 0.7
"""A new view leaves at most this share of the error allowed, so that the next fields do not ask for another at once."""
ARRAYS = ("centre", "modes", "lost")
WORTH = 1.3
"""A view that leaves out too much is renewed if it leaves this many times the variance that the best one would."""


@dataclass(frozen=True, slots=True)
class FieldOptions:
    """How fields are learned.

    Args:
        rank: the most coefficients of a field that the surrogate learns.
        error: relative error, in units of the field's fluctuation over the study, that the coefficients may leave.
        memory: the most coefficients of a field that are remembered for every time step.
        first: fields from which the basis is begun; it is begun with fewer if the first fit comes before.
        elements: arrays of up to so many numbers are learned number by number instead.

    Raises:
        ConfigError: a number is out of range.
    """

    rank: int = 16
    error: float = 0.01
    memory: int = 128
    first: int = 256
    elements: int = 64

    def __post_init__(self) -> None:
        if min(self.rank, self.first) < 1 or self.memory < self.rank or self.elements < 1 or not 0 < self.error < 1:
            raise ConfigError(
                f"The trainer's field options are {', '.join(f'{k}={v}' for k, v in dataclasses.asdict(self).items())}; rank, first and "
                "elements are at least 1, memory at least rank, and the error is between 0 and 1."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> FieldOptions:
        """From a mapping of some of the options.

        Raises:
            ConfigError: there is no such option, or it is out of range.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        wrong = [k for k in given or {} if k not in names]
        if wrong:
            raise ConfigError(f"trainer.field has no option '{wrong[0]}'; there are {', '.join(names)}.")
        return cls(**dict(given or {}))


@dataclass(frozen=True, slots=True)
class FieldDecoder:
    """From coefficients back to a field: ``field = centre + coefficients @ modes``; or from the cells themselves.

    Args:
        name: the field's.
        unit: the field's.
        shape: the field's; ``n`` is how many numbers that is.
        first: column of the surrogate's outputs at which the coefficients begin.
        version: of the view; 1 is the first.
        centre: ``n``.
        modes: ``r x n``, orthonormal, or 0 for coefficients that are not needed; None where the outputs are the ``n`` cells.
        lost: variance that the coefficients leave out at each cell, ``n``.
        scale: root mean square fluctuation of the field about its mean over the study: the unit of normalised errors.
    """

    name: str
    unit: str
    shape: tuple[int, ...]
    first: int
    version: int
    centre: Array
    modes: Array | None
    lost: Array
    scale: float

    @property
    def rank(self) -> int:
        """How many of the surrogate's outputs are this field's."""
        return len(self.centre) if self.modes is None else len(self.modes)

    @property
    def used(self) -> int:
        """How many of the coefficients are needed; they are the first ones."""
        return self.rank if self.modes is None else int(self.modes.any(axis=1).sum())

    @property
    def columns(self) -> slice:
        """Which of the surrogate's outputs are this field's coefficients."""
        return slice(self.first, self.first + self.rank)

    def mean(self, coefficients: Any) -> Array:
        """Fields of coefficients, ``... x r`` to ``... x n``, float32."""
        return np.asarray(self._spread(np.asarray(coefficients, dtype=np.float32)) + self.centre)

    def _spread(self, y: Array) -> Array:
        return y if self.modes is None else np.asarray(y @ self.modes)

    def variance(self, draws: Any, noise: Any = None) -> Array:
        """Variance of every cell, what the coefficients leave out included.

        Args:
            draws: deviations whose outer products sum to the coefficients' covariance, ``k x ... x r``.
            noise: further variance of the coefficients, independent of one another, ``... x r``; None is none.

        Returns:
            ``... x n``, float32.
        """
        total = np.zeros((*np.shape(draws)[1:-1], len(self.centre)), np.float32) + self.lost
        for deviation in np.asarray(draws, dtype=np.float32):
            total += self._spread(deviation) ** 2
        if noise is not None:
            own = np.asarray(noise, dtype=np.float32)
            total += own if self.modes is None else own @ self.modes**2
        return total

    def to_plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and tensors, for a snapshot."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays = {k: torch.from_numpy(np.array(own[k], dtype=np.float32)) for k in ARRAYS if own[k] is not None}
        return {**own, **arrays, "shape": list(self.shape)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> FieldDecoder:
        """Inverse of ``to_plain``."""
        arrays = {k: np.asarray(plain[k], dtype=np.float32) for k in ARRAYS if plain[k] is not None}
        return cls(**{**plain, **arrays, "shape": tuple(int(n) for n in plain["shape"])})


def joint_scale(output_scale: Floats, fields: Sequence[tuple[int, int]]) -> Floats:
    """By what each of ``m`` outputs is divided where one number is wanted for all.

    The mean square over outputs then counts every single number and every whole field alike, and in a field every coefficient
    by its share of the field's variance; coefficients that are not needed count nothing.

    Args:
        output_scale: each output's standard deviation, ``m``: the single numbers, then the fields' coefficients.
        fields: of every field the number of coefficients, and how many are needed.
    """
    if not fields:
        return output_scale
    m = len(output_scale)
    at = m - sum(rank for rank, _ in fields)
    parts = at + len(fields)
    scale = output_scale * math.sqrt(parts / m)
    for rank, used in fields:
        scale[at : at + rank] = np.inf
        scale[at : at + used] = math.sqrt(float((output_scale[at : at + used] ** 2).sum()) * parts / m)
        at += rank
    return scale


@final
class FieldCode:
    """Learns how to write one field as coefficients, from the fields as they come.

    Args:
        field: name and shape; an array of numbers.
        options: see there.
    """

    def __init__(self, field: Field, options: FieldOptions) -> None:
        self.field, self.error = field, options.error
        self.size = int(np.prod(field.shape, dtype=np.int64))
        self.width = min(options.memory, self.size)
        self.rank = min(options.rank, self.width)
        self.version = 0
        self.used = 0
        self._basis: Basis | None = None
        self._count = 0.0
        self._sum: Floats = np.zeros(self.width)
        self._second: Floats = np.zeros((self.width, self.width))
        self._lost: Floats = np.zeros(self.size)
        self._view: Floats = np.zeros((self.rank, self.width))

    @property
    def begun(self) -> bool:
        """Whether fields can be written as coefficients."""
        return self._basis is not None

    @property
    def modes(self) -> int:
        """How many modes the memory has."""
        return 0 if self._basis is None else self._basis.rank

    def begin(self, fields: Array) -> None:
        """Make the first basis from ``k x n`` fields."""
        centre = fields.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = float(np.sqrt(np.mean((fields - centre) ** 2, dtype=np.float64)))
        scale = spread or float(np.abs(centre).max(initial=0.0)) or 1.0
        empty = Basis(0, centre, scale, np.empty((0, self.size), np.float32))
        self._basis = empty.grown(fields - centre, FINER * self.error, None, self.width)

    def codes(self, fields: Array) -> Floats:
        """Remember ``k x n`` fields: their coefficients in the memory, ``k x width``. Fields unlike all before add modes."""
        basis = self._basis
        assert basis is not None
        flat = np.asarray(fields, dtype=np.float32)
        found = basis.encode(flat)
        left = flat - basis.decode(found)
        tolerance = FINER * self.error * self._scale(basis)
        new = np.sqrt((left**2).mean(axis=1, dtype=np.float64)) > tolerance
        if new.any() and basis.rank < self.width:
            basis = dataclasses.replace(basis, scale=self._scale(basis)).grown(left[new], FINER * self.error, None, self.width)
            self._basis = basis
            found = basis.encode(flat)
            left = flat - basis.decode(found)
        out = np.zeros((len(flat), self.width))
        out[:, : basis.rank] = found
        self._count += len(flat)
        self._sum += out.sum(axis=0)
        self._second += out.T @ out
        self._lost += (left.astype(np.float64) ** 2).sum(axis=0)
        return out

    def _scale(self, basis: Basis) -> float:
        """Root mean square fluctuation of the fields so far."""
        return self.scale if self._count > 1 and self.scale > 0 else basis.scale

    @property
    def scale(self) -> float:
        """Root mean square, over cells, of the fields' fluctuation about their mean."""
        return float(np.sqrt(max(0.0, self._fluctuation()) / self.size))

    def _fluctuation(self) -> float:
        n = max(self._count, 1.0)
        return float((np.trace(self._second) + self._lost.sum()) / n - ((self._sum / n) ** 2).sum())

    def renew(self) -> bool:
        """Make a new view if the present one leaves out too much and another would leave out less; True if there is a new one."""
        if not self._count:
            return False
        second = self._second / self._count
        weights, vectors = np.linalg.eigh(second)
        weights, vectors = np.maximum(weights[::-1], 0.0), vectors[:, ::-1]
        tail = np.maximum(0.0, weights.sum() - np.cumsum(weights))
        allowed = self.error**2 * self._fluctuation()
        enough = np.flatnonzero(tail[: self.rank] <= MARGIN**2 * allowed)
        count = max(self.used, int(enough[0]) + 1 if len(enough) else self.rank)
        if self.version:
            now = float(np.trace(second) - np.trace(self._view @ second @ self._view.T))
            if now <= allowed or now <= WORTH * float(tail[count - 1]):
                return False
        best = vectors[:, :count].T
        # the old axes, turned into the new subspace by as little as possible; then what of the subspace they do not span
        turn, _, axes = np.linalg.svd(best @ self._view[: self.used].T, full_matrices=True)
        aligned = axes.T @ turn[:, : self.used].T @ best
        self._view = np.zeros_like(self._view)
        self._view[: self.used] = aligned
        rest = turn[:, self.used :].T @ best
        order = np.argsort(-np.einsum("ij,jk,ik->i", rest, second, rest), kind="stable")
        self._view[self.used : count] = rest[order]
        self.used, self.version = count, self.version + 1
        return True

    def targets(self, codes: Floats) -> Floats:
        """What the surrogate learns of remembered fields, ``k x width`` to ``k x rank``.

        Coefficients that are not needed yet repeat the leading ones: as easy to learn, and as well calibrated.
        """
        own = codes @ self._view[: self.used].T
        repeats: Floats = own[:, np.arange(self.rank) % max(self.used, 1)]
        return repeats

    def decoder(self, first: int) -> FieldDecoder:
        """The way back from the surrogate's outputs, whose column ``first`` is the first coefficient."""
        basis = self._basis
        assert basis is not None
        known = slice(0, basis.rank)
        modes = (self._view[:, known] @ basis.modes).astype(np.float32)
        n = max(self._count, 1.0)
        left = np.eye(self.width) - self._view.T @ self._view
        weights, vectors = np.linalg.eigh(left @ (self._second / n) @ left)
        kept = weights > 1e-14 * max(float(np.trace(self._second)) / n, 1e-300)
        parts = (vectors[known, :][:, kept] * np.sqrt(weights[kept])).T @ basis.modes
        lost = ((parts**2).sum(axis=0) + self._lost / n).astype(np.float32)
        f = self.field
        return FieldDecoder(f.name, f.unit, f.shape, first, self.version, basis.centre, modes, lost, self.scale)

    def state_dict(self) -> dict[str, Any]:
        """Both bases and the moments of what was seen."""
        state: dict[str, Any] = {
            "version": self.version,
            "used": self.used,
            "count": self._count,
            "sum": self._sum,
            "second": self._second,
            "lost": self._lost,
            "view": self._view,
        }
        if self._basis is not None:
            b = self._basis
            state |= {"basis_version": b.version, "centre": b.centre, "scale": b.scale, "modes": b.modes}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.version, self.used, self._count = int(state["version"]), int(state["used"]), float(state["count"])
        self._sum, self._second, self._lost, self._view = (np.array(state[k], np.float64) for k in ("sum", "second", "lost", "view"))
        if "centre" in state:
            centre, modes = (np.array(state[k], np.float32) for k in ("centre", "modes"))
            self._basis = Basis(int(state["basis_version"]), centre, float(state["scale"]), modes.reshape(-1, self.size))


@final
class CellCode:
    """Writes a field as its cells, for a surrogate that knows the grid. Has what ``FieldCode`` has; there is nothing to learn.

    Args:
        field: name and shape.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.size = self.width = self.rank = self.used = int(np.prod(field.shape, dtype=np.int64))
        self.begun = True
        self.version = 1
        self._count = 0.0
        self._sum: Floats = np.zeros(self.size)
        self._square: Floats = np.zeros(self.size)

    def begin(self, fields: Array) -> None:
        """Nothing is to be begun."""

    def codes(self, fields: Array) -> Floats:
        """``k x n`` fields as they are."""
        out = np.asarray(fields, dtype=np.float64)
        self._count += len(out)
        self._sum += out.sum(axis=0)
        self._square += (out**2).sum(axis=0)
        return out

    def renew(self) -> bool:
        """Cells mean the same for good."""
        return False

    def targets(self, codes: Floats) -> Floats:
        """The cells."""
        return codes

    def decoder(self, first: int) -> FieldDecoder:
        """From the surrogate's outputs, whose column ``first`` is the first cell."""
        n = max(self._count, 1.0)
        scale = float(np.sqrt(np.maximum(0.0, self._square / n - (self._sum / n) ** 2).mean()))
        zero = np.zeros(self.size, np.float32)
        return FieldDecoder(self.field.name, self.field.unit, self.field.shape, first, 1, zero, None, zero, scale)

    def state_dict(self) -> dict[str, Any]:
        """The moments of what was seen."""
        return {"count": self._count, "sum": self._sum, "square": self._square}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count = float(state["count"])
        self._sum, self._square = (np.array(state[k], np.float64) for k in ("sum", "square"))
