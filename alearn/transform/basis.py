"""The basis of a POD codec: a centre, a scale and orthonormal modes that are only ever added to, kept in files by version."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from alearn.errors import ConfigError, SchemaError
from alearn.transform.misfits import Misfits, load, save
from alearn.types import Array, Floats


@dataclass(frozen=True, slots=True)
class Basis:
    """``field = centre + modes.T @ coefficients``.

    Nested versions: version v + 1 is version v with more modes behind. So coefficient i means the same mode for good,
    a surrogate may learn it, and the newest version decodes what every older one has encoded.

    Args:
        version: 1 is the first.
        centre: mean of the fields that the first version was learned from, ``n``, float32.
        scale: root mean square of those fields about the centre: the unit of every relative error here.
        modes: ``r x n``, float32, orthonormal rows.
    """

    version: int
    centre: Array
    scale: float
    modes: Array

    @property
    def rank(self) -> int:
        return len(self.modes)

    def encode(self, flat: Array) -> Array:
        """Coefficients of fields, ``k x n`` to ``k x r``."""
        return np.asarray((flat - self.centre) @ self.modes.T)

    def decode(self, coefficients: Array) -> Array:
        """Fields of coefficients, ``k x r'`` with r' >= r (what lies behind is 0) to ``k x n``."""
        return np.asarray(coefficients[:, : self.rank] @ self.modes + self.centre)

    def grown(self, residuals: Array, error: float, enough: Callable[[Basis], bool] | None, capacity: int) -> Basis:
        """The next version: with as few of the residuals' principal directions as are enough.

        The directions are those of the method of snapshots (L. Sirovich, "Turbulence and the dynamics of coherent
        structures", Quart. Appl. Math. 45, 561, 1987) on what the basis leaves over, as in incremental POD (G. M.
        Oxberry, T. Kostova-Vassilevska, W. Arrighi and K. Chand, "Limited-memory adaptive snapshot selection for proper
        orthogonal decomposition", Int. J. Numer. Meth. Engng 109, 198, 2017), without turning the modes there are.

        Args:
            residuals: what the basis leaves of some fields, ``k x n``.
            error: the largest relative error that may be left of each.
            enough: what else a basis must fulfil; None is nothing.
            capacity: the most modes.
        """
        directions = self._directions(residuals, max(0, capacity - self.rank))
        taken = np.cumsum(np.asarray(residuals @ directions.T, np.float64) ** 2, axis=1)  # what orthonormal modes take off
        left = np.maximum(0.0, np.diag(_gram(residuals))[:, None] - taken) / max(1, residuals.shape[1])
        good = (left <= (0.99 * error * self.scale) ** 2).all(axis=0)
        high = len(directions)
        low = min(high, int(np.argmax(good)) + 1 if good.any() else high)
        while enough is not None and low < high:  # more modes hardly ever represent less, so halving finds the fewest
            middle = (low + high) // 2
            if enough(self._with(directions[:middle])):
                high = middle
            else:
                low = middle + 1
        return self._with(directions[:low])

    def _with(self, directions: Array) -> Basis:
        return Basis(self.version + 1, self.centre, self.scale, np.concatenate([self.modes, directions]))

    def _directions(self, residuals: Array, most: int) -> Array:
        """The first principal directions of the rows, orthonormal to the modes and to one another."""
        if not len(residuals) or not most:
            return np.empty((0, residuals.shape[1]), np.float32)
        weights, vectors = np.linalg.eigh(_gram(residuals))
        order = np.argsort(weights)[::-1][:most]
        kept = order[weights[order] > 1e-10 * max(float(weights[order[0]]), 1e-300)]
        found = np.asarray((vectors[:, kept] / np.sqrt(weights[kept])).T.astype(residuals.dtype) @ residuals)
        for _ in range(2):  # twice is enough (W. Kahan, in B. N. Parlett, The Symmetric Eigenvalue Problem)
            found = found - (found @ self.modes.T) @ self.modes
            found = np.linalg.inv(np.linalg.cholesky(_gram(found))).astype(found.dtype) @ found
        return found.astype(np.float32)


def _gram(rows: Array) -> Floats:
    """Inner products of rows, ``k x n`` to ``k x k``, summed in float64."""
    out = np.zeros((len(rows), len(rows)))
    for at in range(0, rows.shape[1], 1 << 16):
        part = rows[:, at : at + (1 << 16)].astype(np.float64)
        out += part @ part.T
    return out


@final
class BasisFiles:
    """The versions of one basis in a directory, and the fields that it could not represent.

    ``basis-0001.npz`` holds centre, scale and modes; each later file only the modes that its version adds. A file appears
    whole and durable. ``misfits/MEMBER-STEP.npy`` is a raw field that no version represents within the stated error.

    Args:
        directory: made if absent.
        shape: of the field.
        misfit_mb: 10^6 bytes of misfits that are kept at most.

    Raises:
        ConfigError: what lies there is for fields of another shape, or cannot be read.
    """

    def __init__(self, directory: Path, shape: tuple[int, ...], misfit_mb: float) -> None:
        self.directory = directory
        self.shape = shape
        self.misfits = Misfits(directory / "misfits", misfit_mb)
        self.basis: Basis | None = None
        self.refresh()

    def path(self, version: int) -> Path:
        return self.directory / f"basis-{version:04d}.npz"

    def refresh(self) -> bool:
        """Read versions that came since; True if there are any."""
        before = self.basis
        while (path := self.path(self.basis.version + 1 if self.basis else 1)).exists():
            self.basis = self._read(path, self.basis)
        return self.basis is not before

    def add(self, basis: Basis) -> None:
        """Keep the next version; durable on return."""
        known = self.basis.rank if self.basis is not None else 0
        content: dict[str, Array] = {"modes": basis.modes[known:], "shape": np.array(self.shape, np.int64)}
        if self.basis is None:
            content |= {"centre": basis.centre, "scale": np.array(basis.scale)}
        save(self.path(basis.version), content)
        self.basis = basis

    def _read(self, path: Path, before: Basis | None) -> Basis:
        try:
            content = load(path)
            shape = tuple(int(n) for n in content["shape"])
            if shape != self.shape:
                raise SchemaError(f"The basis {path} is for fields of shape {shape}; the steps have {self.shape}. All members must agree.")
            if before is None:
                return Basis(1, content["centre"], float(content["scale"]), content["modes"])
            return Basis(before.version + 1, before.centre, before.scale, np.concatenate([before.modes, content["modes"]]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"The basis {path} cannot be read: {error}. Restore it from a copy; samples that name it need it.") from error
