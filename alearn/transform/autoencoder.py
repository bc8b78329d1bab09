"""A codec learned while the study runs: a small network that knows what patches of the field look like, to a stated error."""

from __future__ import annotations

import dataclasses
import logging
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from alearn.errors import ConfigError, SchemaError
from alearn.transform.base import Key, Values, chosen, replaced
from alearn.transform.diagnostics import rms
from alearn.transform.misfits import Misfits, load, save
from alearn.transform.network import POOL, WEIGHTS, Network, Patches, begun
from alearn.transform.promise import OUTLIER, Promise
from alearn.types import Array, Field, Schema

log = logging.getLogger(__name__)

PATCH = 144
"""Numbers in a patch, about, if its sides are not told."""
FINE = 0.03
"""Relative errors below this take latents of 16 bits; 8 bits are about 0.01 off."""
VERSIONS = 8
"""Networks at most; every one of them is kept, for what it has encoded."""


@final
class Autoencoder:
    """Replaces a field by a few numbers for each of its patches, which a network learned from the fields of the study.

    The field ``v`` becomes ``_v_latents`` (patches x (``latents`` + 1) whole numbers), ``_v_version``, the network that made them, and
    ``_v_misfit``, its relative error (in units of the field's fluctuation about the study's mean; 0 while the first version is
    being learned), which the monitor ``codec`` watches. All are private: the latents of two networks mean different things, so
    no surrogate learns them (compute ``diagnostics`` of the field before it, or use ``pod`` where coefficients are to be learned).

    The promise is that of ``pod``: a field counts as represented when its relative error is at most ``error`` and every diagnostic of
    ``keep`` is the same to within what is stated. What is not is kept raw beside the codec, up to ``misfit_mb``, so that
    the archive decodes every field within the stated error, or exactly. When ``learn`` more fields have been kept raw, the next
    version is trained from the last one on them too. A network of patches does not mind where in the field a structure is, so
    it fits fields that it has never seen; a global basis needs fewer numbers once it has seen them all.

    Args:
        field: which field.
        latents: numbers for each patch, beside its mean.
        patch: the patch's sides in cells, one number or one for each axis; 0 makes it about 144 cells.
        error: relative error of a field, as above.
        keep: diagnostics (mean, std, min, max, rms, scale, or ``FILE.py:NAME``) with the absolute error allowed.
        learn: fields from which the first version is learned.
        updates: of the network for one version, at most; it ends as soon as all the fields that it learns from are represented.
        misfit_mb: 10^6 bytes of raw fields that may be kept at each place where the codec runs.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        *,
        field: str = "",
        latents: int = 16,
        patch: int | Sequence[int] = 0,
        error: float = 0.05,
        keep: Mapping[str, float] | None = None,
        learn: int = 64,
        updates: int = 1500,
        misfit_mb: float = 64.0,
    ) -> None:
        if not field or not isinstance(field, str):
            raise ConfigError("The transform 'autoencoder' has no field; name the one that it compresses, field: v.")
        if latents < 1 or learn < 1 or updates < 0 or misfit_mb < 0:
            raise ConfigError(
                f"The transform 'autoencoder' has latents={latents}, learn={learn}, updates={updates}, misfit_mb={misfit_mb}; "
                "the first two are at least 1, the others are not negative."
            )
        self._sides = (patch,) if isinstance(patch, int) else tuple(patch)
        if isinstance(patch, bool) or not all(isinstance(n, int) and n >= 0 for n in self._sides):
            raise ConfigError(f"The transform 'autoencoder' has patch={patch!r}; give cells, one number or one for each axis.")
        self.promise = Promise("autoencoder", error, keep)
        self._dtype = "int8" if self.promise.error >= FINE else "int16"
        self.field, self.latents, self.first, self.updates, self.misfit_mb = field, latents, learn, updates, misfit_mb
        self._encoded_names = (f"_{field}_latents", f"_{field}_version", f"_{field}_misfit")
        self._directory: Path | None = None
        self._learn = True
        self._misfits: Misfits | None = None
        self._networks: list[Network] = []
        self._learned: set[Key] = set()
        self._drawn: Array | None = None
        self._raw: Field | None = None
        self._patches: Patches | None = None
        self.lossy = 0
        """Fields that are neither represented nor kept raw."""

    # --- the transform ---------------------------------------------------------------------------------------

    def schema(self, given: Schema) -> Schema:
        (f,) = chosen(given, [self.field], "autoencoder")
        if not f.shape or not f.dtype.startswith("float") or f.nbytes == 0:
            raise SchemaError(f"The transform 'autoencoder' needs an array of numbers; the field '{f.name}' is {f.dtype}{list(f.shape)}.")
        if self._raw is not None and (f.shape, f.dtype) != (self._raw.shape, self._raw.dtype):
            was = f"{self._raw.dtype}{list(self._raw.shape)}"
            raise SchemaError(f"The field '{f.name}' is {f.dtype}{list(f.shape)}; the codec was begun with {was}. All members must agree.")
        patches = Patches(f.shape, self._sides_for(f.shape))
        if self.latents >= patches.size:
            raise SchemaError(
                f"The transform 'autoencoder' has latents={self.latents}, but a patch of {list(patches.sides)} cells has only "
                f"{patches.size} numbers: give fewer latents or larger patches."
            )
        self._raw, self._patches = f, patches
        self._open()
        latents, version, misfit = self._encoded_names
        new = (Field(latents, (patches.number, self.latents + 1), self._dtype), Field(version, (), "int32"), Field(misfit, (), "float32"))
        return replaced(given, {f.name: new}, "autoencoder")

    def apply(self, values: Values) -> dict[str, Array]:
        """Encode one step with the newest version; nothing is learned, and nothing kept.

        Raises:
            SchemaError: there is no version yet.
        """
        if not self._networks:
            raise SchemaError(f"The codec of the field '{self.field}' has learned nothing yet; {self.first} fields must come first.")
        ((latents, misfit, _),) = self._fit(self._networks[-1], values[self.field][None])
        return self._encoded(values, latents, misfit)

    # --- learning --------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return len(self._networks)

    @property
    def wanted(self) -> int:
        return 0 if self._networks else self.first

    def keep_in(self, directory: Path, learn: bool) -> None:
        self._directory, self._learn = directory / f"{self.field}.autoencoder", learn
        self._open()

    def take(self, steps: Sequence[Values], keys: Sequence[Key]) -> list[dict[str, Array]]:
        fields = np.array([s[self.field] for s in steps])
        sound = np.isfinite(fields.reshape(len(fields), -1)).all(axis=1)
        first = not self._networks
        if first and (not self._learn or not sound.any()):
            assert self._patches is not None
            nothing = np.full((self._patches.number, self.latents + 1), np.iinfo(self._dtype).min, self._dtype)  # NaN
            return [self._encoded(s, nothing, math.nan) for s in steps]
        if first:
            self._begin(fields[sound])
        fitted = self._fit(self._networks[-1], fields)
        for values, key, fine, (_, _, good) in zip(steps, keys, sound, fitted, strict=True):
            if fine and not good:
                self._keep_misfit(key, values[self.field])
        return [
            self._encoded(s, latents, 0.0 if first and fine else misfit)
            for s, fine, (latents, misfit, _) in zip(steps, sound, fitted, strict=True)
        ]

    def refresh(self) -> bool:
        if self._misfits is None:
            return False
        if not self._learn:
            before = self.version
            self._read()
            return self.version != before
        if not self._networks or self.version >= VERSIONS:
            return False
        kept = self._misfits.kept()
        new = sorted(set(kept) - self._learned)
        if len(new) < self.first:
            return False
        self._learned.update(new)
        fields = np.array([np.load(kept[key], allow_pickle=False) for key in new])
        usual = [i for i, (_, misfit, _) in enumerate(self._fit(self._networks[-1], fields)) if misfit <= OUTLIER]
        if not usual:
            return False
        self._train(self._networks[-1], fields[usual])
        return True

    def _begin(self, fields: Array) -> None:
        """The first version: from the best linear codec of these fields' patches, ``k x shape``."""
        assert self._patches is not None
        centre = fields.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(np.mean([rms(f - centre) ** 2 for f in fields]))) or rms(centre) or 1.0
        self._train(begun(self._patches, fields, self.latents, float(centre.mean()), scale, self._dtype), fields)

    def _train(self, network: Network, fields: Array) -> None:
        """The next version, learned from these fields and from patches of those before."""
        assert self._patches is not None
        most = max(1, min(POOL // self._patches.size, 16 * len(fields) * self._patches.number))
        drawn = self._patches.drawn(fields.astype(np.float32), most, np.random.default_rng(network.version))
        if self._drawn is not None:
            drawn = np.concatenate([drawn, self._drawn])
        some = fields[:: max(1, len(fields) // 64)]

        def enough(candidate: Network) -> bool:
            return all(good for _, _, good in self._fit(candidate.quantised(some), some))

        found = network.trained(drawn, self.updates, enough, seed=network.version).quantised(fields)
        found = dataclasses.replace(found, steps=np.maximum(found.steps, network.steps) if network.version else found.steps)
        good = sum(good for _, _, good in self._fit(found, fields))
        if good < len(fields):
            said = "The codec of '%s' represents %d of %d fields that it learned from; the others are kept raw."
            log.info(said, self.field, good, len(fields))
        if self._directory is not None:
            content = {"shape": np.array(self._patches.shape), "sides": np.array(self._patches.sides)}
            save(
                self._path(found.version),
                found.weights | content | {"offset": np.array(found.offset), "scale": np.array(found.scale), "steps": found.steps},
            )
        self._networks.append(found)
        self._drawn = drawn[np.random.default_rng(0).permutation(len(drawn))[: POOL // self._patches.size]]

    def _fit(self, network: Network, fields: Array) -> list[tuple[Array, float, bool]]:
        """Of each of the fields, ``k x shape``: its latents, its misfit, whether it is represented."""
        with np.errstate(invalid="ignore", over="ignore"):
            latents = network.encode(fields)
            decoded = network.decode(latents)
            judged = [self.promise.judge(f, d, network.scale) for f, d in zip(fields, decoded, strict=True)]
        return [(code, misfit, good) for code, (misfit, good) in zip(latents, judged, strict=True)]

    def _encoded(self, values: Values, latents: Array, misfit: float) -> dict[str, Array]:
        out = {n: v for n, v in values.items() if n != self.field}
        news = (latents, np.asarray(self.version, np.int32), np.asarray(misfit, np.float32))
        return out | dict(zip(self._encoded_names, news, strict=True))

    # --- what is kept ----------------------------------------------------------------------------------------

    def _keep_misfit(self, key: Key, field: Array) -> None:
        if self._misfits is not None and self._misfits.keep(key, field):
            return
        if not self.lossy:
            log.warning(
                "Step %d of member %s is not represented by the codec of '%s' within what is stated, and there is no room for more raw "
                "fields (misfit_mb=%g): raise latents, error or misfit_mb.", key[1], key[0], self.field, self.misfit_mb,
            )  # fmt: skip
        self.lossy += 1

    def _open(self) -> None:
        if self._directory is None or self._raw is None or self._misfits is not None:
            return
        self._misfits = Misfits(self._directory / "misfits", self.misfit_mb)
        self._read()

    def _path(self, version: int) -> Path:
        assert self._directory is not None
        return self._directory / f"network-{version:04d}.npz"

    def _read(self) -> None:
        """Take over versions that came since."""
        assert self._patches is not None
        while (path := self._path(self.version + 1)).exists():
            try:
                content = load(path)
                patches = Patches(tuple(map(int, content["shape"])), tuple(map(int, content["sides"])))
                weights = {name: content[name] for name in WEIGHTS}
                network = Network(
                    self.version + 1, patches, float(content["offset"]), float(content["scale"]), weights, content["steps"], self._dtype
                )
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise ConfigError(f"The network {path} cannot be read: {error}. Restore it from a copy; samples need it.") from error
            if patches != self._patches or network.latents != self.latents + 1:
                raise ConfigError(
                    f"The network {path} has {network.latents - 1} latents for patches of {list(patches.sides)} cells of a field of shape "
                    f"{list(patches.shape)}; latents={self.latents} and patches of {list(self._patches.sides)} do not go with it."
                )
            self._networks.append(network)

    def _sides_for(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sides = self._sides if len(self._sides) > 1 else self._sides * len(shape)
        if len(sides) != len(shape):
            raise SchemaError(f"The transform 'autoencoder' has patch={list(sides)}; the field '{self.field}' has {len(shape)} axes.")
        usual = max(2, round(PATCH ** (1 / len(shape))))
        return tuple(min(side or usual, n) for side, n in zip(sides, shape, strict=True))

    # --- the codec -------------------------------------------------------------------------------------------

    @property
    def encoded(self) -> tuple[str, ...]:
        return self._encoded_names

    def decoded(self, given: Schema) -> Schema:
        if self._raw is None:
            raise SchemaError(f"The codec of the field '{self.field}' does not know the field yet; call schema first.")
        mine: dict[str, tuple[Field, ...]] = dict.fromkeys(self._encoded_names, ()) | {self._encoded_names[0]: (self._raw,)}
        return replaced(given, {n: mine[n] for n in given.names if n in mine}, "autoencoder")

    def decode(self, values: Values, key: Key | None = None) -> dict[str, Array]:
        """The field from its latents, or as it was if it is kept because they do not represent it.

        Raises:
            SchemaError: the study has not the version that the sample names.
        """
        latents, version, _ = self._encoded_names
        if latents not in values:
            return dict(values)
        assert self._raw is not None
        named = int(values[version])
        if not 1 <= named <= self.version:
            raise SchemaError(f"A sample names version {named} of the codec of '{self.field}'; the study has {self.version}.")
        out = {n: v for n, v in values.items() if n not in self._encoded_names}
        kept = None if self._misfits is None or key is None else self._misfits.read(key)
        if kept is None:
            kept = self._networks[named - 1].decode(values[latents][None])[0]
        out[self.field] = kept.reshape(self._raw.shape).astype(self._raw.dtype)
        return out

    def described(self) -> dict[str, Any]:
        """Where the codec stands, for the report."""
        number = 0 if self._patches is None else self._patches.number
        exact = 0 if self._misfits is None else len(self._misfits.kept())
        what = f"{self.latents} latents for each of {number} patches"
        return {"field": self.field, "version": self.version, "what": what, "exact": exact, "lossy": self.lossy}
