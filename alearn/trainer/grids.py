"""Surrogates that know the grid on which a field lives: they learn its cells, and are told its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alearn.errors import ConfigError
from alearn.registry import build, resolve
from alearn.surrogate import Surrogate
from alearn.surrogate.operator import OnGrid
from alearn.trainer.features import Features


def on_grid(surrogate: str) -> bool:
    """Whether the registered surrogate of that name learns whole fields cell by cell."""
    found = resolve("surrogate", surrogate)
    return isinstance(found, type) and issubclass(found, OnGrid)


def make_surrogate(name: str, options: Mapping[str, Any] | None, features: Features, seed: int) -> Surrogate:
    """The surrogate of these outputs.

    Raises:
        ConfigError: it learns fields on a grid, and the outputs are no fields of one shape.
    """
    given: dict[str, Any] = {"d": features.d, "m": features.m, "over_t": features.over_t, "seed": seed}
    if on_grid(name):
        shapes = {code.field.shape for code in features.codes}
        if len(shapes) != 1 or len(features.learned) != len(features.codes):
            raise ConfigError(
                f"surrogate={name} learns whole fields of one shape, and the outputs are {', '.join(features.learned)}; "
                "name fields alone, outputs=[v], or choose surrogate=ensemble."
            )
        options = {**(options or {}), "grid": list(shapes.pop())}
    made: Surrogate = build("surrogate", name, options, **given)
    return made
