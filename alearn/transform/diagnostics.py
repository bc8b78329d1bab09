"""Single numbers that say what a field is like, and the transform that computes them in the stream."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import final

import numpy as np

from alearn.errors import ConfigError, SchemaError, UnknownName
from alearn.transform.base import Values, chosen, names_of, replaced
from alearn.types import Array, Field, Floats, Schema

Diagnostic = Callable[[Array], float]


def rms(field: Array) -> float:
    """Root mean square."""
    flat = np.asarray(field, np.float64).ravel()
    return float(np.sqrt(np.dot(flat, flat) / max(1, flat.size)))


def spectrum_scale(field: Array) -> float:
    """Mean wavenumber of the field about its mean, cycles over the domain: the centroid of its power spectrum.

    0 for a constant field. The field counts as periodic; on other fields the jump at the boundary adds to it.
    """
    values = np.asarray(field, np.float64)
    fluctuation = values - values.mean()
    power = np.abs(np.fft.rfftn(fluctuation)) ** 2
    half = [slice(None)] * values.ndim
    half[-1] = slice(1, (values.shape[-1] + 1) // 2)
    power[tuple(half)] *= 2  # rfftn keeps one of each conjugate pair
    total = float(power.sum())
    size = float(np.abs(values).max(initial=0.0)) * values.size
    if total <= (1e-12 * size) ** 2:  # rounding, not structure
        return 0.0
    return float((_wavenumbers(values.shape) * power).sum() / total)


@functools.lru_cache(maxsize=16)
def _wavenumbers(shape: tuple[int, ...]) -> Floats:
    axes = [np.fft.fftfreq(n, 1 / n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1], 1 / shape[-1])]
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(np.sqrt(sum(g**2 for g in grids)), dtype=np.float64)


DIAGNOSTICS: dict[str, Diagnostic] = {
    "mean": lambda field: float(field.mean(dtype=np.float64)),
    "std": lambda field: float(field.std(dtype=np.float64)),
    "min": lambda field: float(field.min()),
    "max": lambda field: float(field.max()),
    "rms": rms,
    "scale": spectrum_scale,
}
"""By name: a field of numbers, of any shape, to one number."""


def diagnostic(name: str) -> Diagnostic:
    """A diagnostic by its name, or by ``FILE.py:NAME`` one of the user's own (a field to a number).

    Raises:
        UnknownName: there is none of that name.
        ConfigError: file or name are not there.
    """
    if ":" in name:
        from alearn.registry import load_object

        found: Diagnostic = load_object(name)
        return found
    if name not in DIAGNOSTICS:
        raise UnknownName("diagnostic", name, DIAGNOSTICS)
    return DIAGNOSTICS[name]


@final
class Diagnostics:
    """Adds numbers about a field to the step: ``v`` gives ``v_mean``, ``v_std``, … The surrogate can learn them.

    Args:
        fields: of which fields; all arrays of numbers if empty.
        compute: out of mean, std, min, max, rms and scale (mean wavenumber of the spectrum, cycles over the domain).
        drop: leave the fields themselves out.

    Raises:
        UnknownName: there is no such diagnostic.
        ConfigError: nothing is to be computed.
    """

    def __init__(self, *, fields: str | Sequence[str] = (), compute: str | Sequence[str] = ("mean", "std"), drop: bool = False) -> None:
        self.fields = names_of(fields, "diagnostics")
        self.compute = names_of(compute, "diagnostics")
        self.drop = drop
        if not self.compute:
            raise ConfigError(f"The transform 'diagnostics' computes nothing; name some of {', '.join(DIAGNOSTICS)}.")
        for name in self.compute:
            if name not in DIAGNOSTICS:
                raise UnknownName("diagnostic", name, DIAGNOSTICS)
        self._rules: list[tuple[str, str, Diagnostic]] = []
        self._dropped: tuple[str, ...] = ()

    def schema(self, given: Schema) -> Schema:
        new: dict[str, tuple[Field, ...]] = {}
        self._rules = []
        for f in chosen(given, self.fields, "diagnostics"):
            if not f.nbytes or not f.shape:
                raise SchemaError(f"The transform 'diagnostics' needs arrays; the field '{f.name}' has shape {f.shape}.")
            numbers = [Field(f"{f.name}_{c}", (), "float64", "cycles/domain" if c == "scale" else f.unit) for c in self.compute]
            self._rules += [(f.name, n.name, DIAGNOSTICS[c]) for n, c in zip(numbers, self.compute, strict=True)]
            new[f.name] = (*(() if self.drop else (f,)), *numbers)
        self._dropped = tuple(new) if self.drop else ()
        return replaced(given, new, "diagnostics")

    def apply(self, values: Values) -> dict[str, Array]:
        out = {n: v for n, v in values.items() if n not in self._dropped}
        for source, name, rule in self._rules:
            out[name] = np.asarray(rule(values[source]), dtype=np.float64)
        return out
