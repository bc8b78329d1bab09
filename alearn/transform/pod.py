"""A codec learned while the study runs: proper orthogonal decomposition of one field, to a stated error."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from alearn.errors import ConfigError, SchemaError
from alearn.transform.base import Key, Values, chosen, replaced
from alearn.transform.basis import Basis, BasisFiles
from alearn.transform.diagnostics import rms
from alearn.transform.promise import OUTLIER, Promise
from alearn.types import Array, Field, Schema

log = logging.getLogger(__name__)


@final
class POD:
    """Replaces a field by its coefficients in a basis that is learned from the fields of the study.

    The field ``v`` becomes ``v_pod`` (``rank`` coefficients, those of modes that are not there yet are 0), and two numbers
    that the surrogate does not learn by itself: ``_v_version``, the version of the basis, and ``_v_misfit``, the relative
    error that the basis made of the field when it came (root mean square, in units of the field's fluctuation about the
    study's mean; 0 while the first version is being learned). The latter is what the monitor ``codec`` watches.

    A field counts as represented when its relative error is at most ``error`` and every diagnostic of ``keep`` is
    the same to within what is stated. Where the codec learns (at the reader), a field that is not makes the basis grow, up to
    ``rank`` modes. One that is still not represented is kept raw beside the basis, up to ``misfit_mb``, so that the archive
    decodes every field within the stated error, or exactly.

    Args:
        field: which field.
        rank: the most modes.
        error: relative error of a field, as above.
        keep: diagnostics (mean, std, min, max, rms, scale, or ``FILE.py:NAME``) with the absolute error allowed, e.g.
            ``{mean: 0.001}``.
        learn: fields from which the first version is learned.
        misfit_mb: 10^6 bytes of raw fields that may be kept at each place where the codec runs.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        *,
        field: str = "",
        rank: int = 32,
        error: float = 0.05,
        keep: Mapping[str, float] | None = None,
        learn: int = 64,
        misfit_mb: float = 64.0,
    ) -> None:
        if not field or not isinstance(field, str):
            raise ConfigError("The transform 'pod' has no field; name the one that it compresses, field: v.")
        if rank < 1 or learn < 1 or misfit_mb < 0:
            raise ConfigError(
                f"The transform 'pod' has rank={rank}, learn={learn}, misfit_mb={misfit_mb}; "
                "the first two are at least 1, the memory is not negative."
            )
        self.promise = Promise("pod", error, keep)
        self.field, self.rank, self.first, self.misfit_mb = field, rank, learn, misfit_mb
        self.coefficients, self.versions, self.misfits = f"{field}_pod", f"_{field}_version", f"_{field}_misfit"
        self._directory: Path | None = None
        self._learn = True
        self._files: BasisFiles | None = None
        self._basis: Basis | None = None
        self._raw: Field | None = None
        self.lossy = 0
        """Fields that are neither represented nor kept raw."""

    # --- the transform ---------------------------------------------------------------------------------------

    def schema(self, given: Schema) -> Schema:
        (f,) = chosen(given, [self.field], "pod")
        if not f.shape or not f.dtype.startswith("float") or f.nbytes == 0:
            raise SchemaError(f"The transform 'pod' needs an array of floating numbers; the field '{f.name}' is {f.dtype}{list(f.shape)}.")
        size = int(np.prod(f.shape))
        if self.rank >= size:
            raise SchemaError(
                f"The transform 'pod' has rank={self.rank}; the field '{f.name}' has only {size} numbers: give a smaller rank."
            )
        if self._raw is not None and (f.shape, f.dtype) != (self._raw.shape, self._raw.dtype):
            was = f"{self._raw.dtype}{list(self._raw.shape)}"
            raise SchemaError(f"The field '{f.name}' is {f.dtype}{list(f.shape)}; the codec was begun with {was}. All members must agree.")
        self._raw = f
        self._open()
        new = (
            Field(self.coefficients, (self.rank,), "float32", f.unit),
            Field(self.versions, (), "int32"),
            Field(self.misfits, (), "float32"),
        )
        return replaced(given, {f.name: new}, "pod")

    def apply(self, values: Values) -> dict[str, Array]:
        """Encode one step with the newest version; nothing is learned, and nothing kept.

        Raises:
            SchemaError: there is no basis yet.
        """
        if self._basis is None:
            raise SchemaError(f"The codec of the field '{self.field}' has learned nothing yet; {self.first} fields must come first.")
        ((coefficients, misfit, _),) = self._fit(self._basis, values[self.field].reshape(1, -1))
        return self._encoded(values, coefficients, misfit)

    # --- learning --------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return 0 if self._basis is None else self._basis.version

    @property
    def wanted(self) -> int:
        return self.first if self._basis is None else 0

    @property
    def modes(self) -> int:
        """How many modes the newest version has."""
        return 0 if self._basis is None else self._basis.rank

    def keep_in(self, directory: Path, learn: bool) -> None:
        self._directory, self._learn = directory / f"{self.field}.pod", learn
        self._open()

    def take(self, steps: Sequence[Values], keys: Sequence[Key]) -> list[dict[str, Array]]:
        fields = np.array([s[self.field].ravel() for s in steps])
        sound = np.isfinite(fields).all(axis=1)
        first = self._basis is None
        if first and (not self._learn or not sound.any()):
            nothing = np.full(self.rank, np.nan, np.float32)  # nobody can encode this, and a monitor will say so
            return [self._encoded(s, nothing, 0.0) for s in steps]
        before = self._fit(self._basis or self._begin(fields[sound]), fields)
        new = [i for i, (_, misfit, good) in enumerate(before) if sound[i] and not good and (first or misfit <= OUTLIER)]
        fitted = self._fit(self._basis, fields) if self._learn and self._grow(fields[new]) and self._basis else before
        for values, key, (_, misfit, good) in zip(steps, keys, fitted, strict=True):
            if not good and math.isfinite(misfit):
                self._keep_misfit(key, values[self.field])
        return [self._encoded(s, c, 0.0 if first else was[1]) for s, (c, _, _), was in zip(steps, fitted, before, strict=True)]

    def refresh(self) -> bool:
        if self._files is None:
            return False
        if not self._learn:
            changed = self._files.refresh()
            self._basis = self._files.basis
            return changed
        new = self._files.misfits.unseen()
        fields = np.array([np.load(path, allow_pickle=False).ravel() for path in new])
        if not new or self._basis is None:
            return False
        wrong = [i for i, (_, misfit, good) in enumerate(self._fit(self._basis, fields)) if not good and misfit <= OUTLIER]
        return self._grow(fields[wrong])

    def _begin(self, fields: Array) -> Basis:
        """A basis without modes: the fields' mean, and the size of what is left about it."""
        centre = fields.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = float(np.sqrt(np.mean([rms(field - centre) ** 2 for field in fields]))) or rms(centre) or 1.0
        self._basis = Basis(0, centre, scale, np.empty((0, fields.shape[1]), np.float32))
        return self._basis

    def _grow(self, fields: Array) -> bool:
        """Add what these fields need to the basis; True if there is a new version."""
        basis = self._basis
        assert basis is not None
        if basis.version and (not len(fields) or basis.rank >= self.rank):
            return False
        residuals = fields - basis.decode(basis.encode(fields))
        enough = (lambda b: all(good for _, _, good in self._fit(b, fields))) if self.promise.keep else None
        grown = basis.grown(residuals, self.promise.error, enough, self.rank)
        if basis.version and grown.rank == basis.rank:
            return False
        if self._files is not None:
            self._files.add(grown)
        self._basis = grown
        if grown.rank == self.rank:
            log.info("The codec of the field '%s' has all its %d modes.", self.field, self.rank)
        return True

    def _fit(self, basis: Basis, fields: Array) -> list[tuple[Array, float, bool]]:
        """Of each of the ``k x n`` fields: its coefficients (``r``), its misfit, whether it is represented."""
        assert self._raw is not None
        shape = self._raw.shape
        out = []
        with np.errstate(invalid="ignore", over="ignore"):
            coefficients = basis.encode(fields).astype(np.float32)
            for c, field in zip(coefficients, fields, strict=True):
                decoded = basis.decode(c[None])[0]
                out.append((c, *self.promise.judge(field.reshape(shape), decoded.reshape(shape), basis.scale)))
        return out

    def _encoded(self, values: Values, coefficients: Array, misfit: float) -> dict[str, Array]:
        padded = np.zeros(self.rank, np.float32)
        padded[: len(coefficients)] = coefficients
        out = {n: v for n, v in values.items() if n != self.field}
        out[self.coefficients] = padded
        out[self.versions] = np.asarray(self.version, np.int32)
        out[self.misfits] = np.asarray(misfit, np.float32)
        return out

    # --- what is kept ----------------------------------------------------------------------------------------

    def _keep_misfit(self, key: Key, field: Array) -> None:
        if self._files is not None and self._files.misfits.keep(key, field):
            return
        if not self.lossy:
            log.warning(
                "Step %d of member %s is not represented by the codec of '%s' within what is stated, and there is no room for more raw "
                "fields (misfit_mb=%g): raise rank, error or misfit_mb.", key[1], key[0], self.field, self.misfit_mb,
            )  # fmt: skip
        self.lossy += 1

    def _open(self) -> None:
        if self._directory is None or self._raw is None or self._files is not None:
            return
        self._files = BasisFiles(self._directory, self._raw.shape, self.misfit_mb)
        self._basis = self._files.basis
        if self._basis is not None and self._basis.rank > self.rank:
            raise ConfigError(f"The basis in {self._directory} has {self._basis.rank} modes; rank={self.rank} is too small for it.")

    # --- the codec -------------------------------------------------------------------------------------------

    @property
    def encoded(self) -> tuple[str, ...]:
        return (self.coefficients, self.versions, self.misfits)

    def decoded(self, given: Schema) -> Schema:
        if self._raw is None:
            raise SchemaError(f"The codec of the field '{self.field}' does not know the field yet; call schema first.")
        mine = {self.coefficients: (self._raw,), self.versions: (), self.misfits: ()}
        return replaced(given, {n: mine[n] for n in given.names if n in mine}, "pod")

    def decode(self, values: Values, key: Key | None = None) -> dict[str, Array]:
        """The field from its coefficients, or as it was if it is kept because they do not represent it.

        Raises:
            SchemaError: the basis has not the version that the sample names.
        """
        if self.coefficients not in values:
            return dict(values)
        assert self._raw is not None
        named = int(values[self.versions])
        if self._basis is None or named > self._basis.version:
            raise SchemaError(f"A sample names version {named} of the basis of '{self.field}'; the study has {self.version}.")
        out = {n: v for n, v in values.items() if n not in self.encoded}
        kept = None if self._files is None or key is None else self._files.misfits.read(key)
        if kept is None:
            kept = self._basis.decode(np.asarray(values[self.coefficients], np.float32)[None])[0]
        out[self.field] = kept.reshape(self._raw.shape).astype(self._raw.dtype)
        return out

    def described(self) -> dict[str, Any]:
        """Where the codec stands, for the report."""
        exact = 0 if self._files is None else len(self._files.misfits.kept())
        what = f"{self.modes} of {self.rank} modes"
        return {"field": self.field, "version": self.version, "what": what, "modes": self.modes, "exact": exact, "lossy": self.lossy}
