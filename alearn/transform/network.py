"""A small autoencoder of patches of a field, in numpy: so that every simulation can run it, and the learner train it beside its loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from alearn.types import Array, Floats

HIDDEN = 96
BATCH = 512
RATE = 2e-3
POOL = 1 << 22
"""Numbers in the patches that a network is trained on, at most."""
ROOM = 1.25
"""How much larger than all that a network was trained on a latent may be."""
WEIGHTS = ("into", "into_wide", "into_shift", "into_narrow", "out", "out_wide", "out_shift", "out_narrow")

Weights = dict[str, Array]


@dataclass(frozen=True)
class Patches:
    """A field of some shape as patches side by side, the last of each axis continued by its edge.

    Args:
        shape: of the field.
        sides: of a patch.
    """

    shape: tuple[int, ...]
    sides: tuple[int, ...]
    counts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", tuple(-(-n // p) for n, p in zip(self.shape, self.sides, strict=True)))

    @property
    def number(self) -> int:
        return math.prod(self.counts)

    @property
    def size(self) -> int:
        return math.prod(self.sides)

    def cut(self, fields: Array) -> Array:
        """``k x shape`` to ``k x number x size``."""
        wide = self._padded(fields)
        split = wide.reshape(len(fields), *itertools.chain.from_iterable(zip(self.counts, self.sides, strict=True)))
        d = len(self.shape)
        return np.ascontiguousarray(split.transpose(0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2)).reshape(len(fields), self.number, -1))

    def joined(self, patches: Array) -> Array:
        """``k x number x size`` to ``k x shape``."""
        d = len(self.shape)
        split = patches.reshape(len(patches), *self.counts, *self.sides)
        wide = split.transpose(0, *itertools.chain.from_iterable((1 + i, 1 + d + i) for i in range(d)))
        whole = wide.reshape(len(patches), *(n * p for n, p in zip(self.counts, self.sides, strict=True)))
        return np.ascontiguousarray(whole[(slice(None), *(slice(0, n) for n in self.shape))])

    def drawn(self, fields: Array, most: int, rng: np.random.Generator) -> Array:
        """Patches at random places, not only those of ``cut``: ``m x size`` from ``k x shape``."""
        wide = self._padded(fields)
        places = rng.integers(0, [n - p + 1 for n, p in zip(wide.shape[1:], self.sides, strict=True)], (most, len(self.sides)))
        return np.array(
            [
                wide[(i, *(slice(a, a + p) for a, p in zip(place, self.sides, strict=True)))].ravel()
                for i, place in zip(rng.integers(0, len(fields), most), places, strict=True)
            ]
        )

    def _padded(self, fields: Array) -> Array:
        extra = [(0, c * p - n) for n, p, c in zip(self.shape, self.sides, self.counts, strict=True)]
        return np.pad(fields, [(0, 0), *extra], mode="edge")


@final
@dataclass(frozen=True)
class Network:
    """Each patch less its mean goes through one narrow layer and back, the same for all patches; beside it goes its mean.

    Both halves are a linear map and a layer of tanh added to it. The linear maps begin as the patches' principal directions
    and the layers at zero, so that training starts from the best linear codec of that width (Karhunen-Loève) and only improves
    it: residual learning as in K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition", CVPR
    2016; autoencoders as in G. E. Hinton and R. R. Salakhutdinov, "Reducing the dimensionality of data with neural networks",
    Science 313, 504, 2006. Mean-removed patches are those of mean-removed vector quantisation (R. L. Baker and R. M. Gray, 1983).

    Args:
        version: 1 is the first.
        patches: how a field is cut.
        offset: mean of the fields that the first version was learned from.
        scale: root mean square of those fields about their mean: the unit of every relative error here.
        weights: by name; d numbers in a patch, r in the narrow layer, h in a wide one.
        steps: what a latent's last bit means, ``r + 1`` with the mean's first; see ``quantised``.
        dtype: of the latents, "int8" or "int16"; the least of its numbers stands for NaN.
    """

    version: int
    patches: Patches
    offset: float
    scale: float
    weights: Weights
    steps: Array
    dtype: str

    @property
    def latents(self) -> int:
        """Numbers that stand for a patch, its mean among them."""
        return int(self.weights["into"].shape[1]) + 1

    def quantised(self, fields: Array) -> Network:
        """The same network, whose latents have room for those of these fields, ``k x shape``, and a little more."""
        largest = np.abs(self._exact(fields)).max(axis=(0, 1))
        return replace(self, steps=(ROOM * np.maximum(largest, 1e-6) / np.iinfo(self.dtype).max).astype(np.float32))

    def encode(self, fields: Array) -> Array:
        """``k x shape`` to ``k x number x latents``, whole numbers."""
        exact = self._exact(fields) / self.steps
        most = np.iinfo(self.dtype).max
        return np.asarray(np.where(np.isnan(exact), -most - 1, np.clip(np.rint(exact), -most, most)).astype(self.dtype))

    def _exact(self, fields: Array) -> Array:
        cut = (self.patches.cut(fields.astype(np.float32)) - np.float32(self.offset)) / np.float32(self.scale)
        mean = cut.mean(axis=2, keepdims=True)
        narrow = _inwards(self.weights, cut - mean)
        return np.concatenate([mean, narrow], axis=2)

    def decode(self, latents: Array) -> Array:
        """``k x number x latents`` to ``k x shape``, float32."""
        found = np.where(latents == np.iinfo(self.dtype).min, np.float32(np.nan), latents * self.steps)
        cut = _outwards(self.weights, found[:, :, 1:]) + found[:, :, :1]
        return self.patches.joined(np.asarray(cut * np.float32(self.scale) + np.float32(self.offset)))

    def trained(self, drawn: Array, updates: int, enough: Callable[[Network], bool], seed: int = 0) -> Network:
        """The next version, trained from this one.

        Adam (D. P. Kingma and J. Ba, ICLR 2015) on the mean square error with a cosine schedule.

        Args:
            drawn: patches, ``m x size``, in the fields' own units.
            updates: at most so many.
            enough: asked now and then; training ends when it says so.
            seed: of the batches.
        """
        rng = np.random.default_rng(seed)
        x = ((drawn - self.offset) / self.scale).astype(np.float32)
        x -= x.mean(axis=1, keepdims=True)
        unit = float(np.mean(x.astype(np.float64) ** 2)) or 1.0
        weights = {name: w.copy() for name, w in self.weights.items()}
        first = {name: np.zeros_like(w) for name, w in weights.items()}
        second = {name: np.zeros_like(w) for name, w in weights.items()}
        best = replace(self, version=self.version + 1, weights=weights)
        for i in range(updates):
            if i % 100 == 0 and enough(best):
                break
            slope = _slope(weights, x[rng.integers(0, len(x), min(BATCH, len(x)))], unit)
            rate = RATE * min(1.0, (i + 1) / 50) * 0.5 * (1 + math.cos(math.pi * i / updates))
            for name, g in slope.items():
                first[name] += 0.1 * (g - first[name])
                second[name] += 0.01 * (g**2 - second[name])
                by = first[name] / (1 - 0.9 ** (i + 1)) / (np.sqrt(second[name] / (1 - 0.99 ** (i + 1))) + 1e-10)
                weights[name] -= np.float32(rate) * by.astype(np.float32)
        probe = x[: 16 * BATCH]
        better = _error(weights, probe) <= _error(self.weights, probe)
        return best if better else replace(best, weights=self.weights)


def begun(patches: Patches, fields: Array, narrow: int, offset: float, scale: float, dtype: str = "int16", seed: int = 0) -> Network:
    """Version 0: the best linear codec of the fields' patches, ``k x shape``, with ``narrow`` numbers a patch beside the mean."""
    rng = np.random.default_rng(seed)
    cut = ((patches.cut(fields.astype(np.float32)) - offset) / scale).astype(np.float32)
    x = (cut - cut.mean(axis=2, keepdims=True)).reshape(-1, patches.size)
    values, vectors = np.linalg.eigh(_gram(x) / len(x))
    modes = vectors[:, ::-1][:, :narrow].astype(np.float32)
    sizes = np.sqrt(np.maximum(values[::-1][:narrow], 1e-12 * max(float(values[-1]), 1e-30)))
    d = patches.size
    weights = {
        "into": modes,
        "into_wide": 3 * rng.standard_normal((d, HIDDEN)) / math.sqrt(d),
        "into_shift": np.zeros(HIDDEN),
        "into_narrow": np.zeros((HIDDEN, narrow)),
        "out": modes.T,
        "out_wide": rng.standard_normal((narrow, HIDDEN)) / math.sqrt(narrow) / np.maximum(sizes, 1e-3)[:, None],
        "out_shift": rng.uniform(-1, 1, HIDDEN),
        "out_narrow": np.zeros((HIDDEN, d)),
    }
    plain = {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in weights.items()}
    return Network(0, patches, offset, scale, plain, np.ones(narrow + 1, np.float32), dtype).quantised(fields)


def _inwards(w: Weights, x: Array) -> Array:
    return np.asarray(x @ w["into"] + np.tanh(x @ w["into_wide"] + w["into_shift"]) @ w["into_narrow"])


def _outwards(w: Weights, z: Array) -> Array:
    return np.asarray(z @ w["out"] + np.tanh(z @ w["out_wide"] + w["out_shift"]) @ w["out_narrow"])


def _slope(w: Weights, x: Array, unit: float) -> Weights:
    """Gradient of the mean square error of patches ``m x d``, in units of their mean square."""
    e = np.tanh(x @ w["into_wide"] + w["into_shift"])
    z = x @ w["into"] + e @ w["into_narrow"]
    g = np.tanh(z @ w["out_wide"] + w["out_shift"])
    r = (z @ w["out"] + g @ w["out_narrow"] - x) * np.float32(2 / x.size / unit)
    dg = (r @ w["out_narrow"].T) * (1 - g * g)
    dz = r @ w["out"].T + dg @ w["out_wide"].T
    de = (dz @ w["into_narrow"].T) * (1 - e * e)
    return {
        "into": x.T @ dz, "into_wide": x.T @ de, "into_shift": de.sum(axis=0), "into_narrow": e.T @ dz,
        "out": z.T @ r, "out_wide": z.T @ dg, "out_shift": dg.sum(axis=0), "out_narrow": g.T @ r,
    }  # fmt: skip


def _error(w: Weights, x: Array) -> float:
    return float(np.mean((_outwards(w, _inwards(w, x)) - x) ** 2))


def _gram(x: Array) -> Floats:
    wide = x.astype(np.float64)
    return np.asarray(wide.T @ wide)
