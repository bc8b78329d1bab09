"""Recipes: the hyper-parameters of the models of a population, from a grid or by name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from alearn.errors import ConfigError, UnknownName
from alearn.surrogate.network import Training
from alearn.surrogate.stacked import ACTIVATIONS, BODIES

MOST = 512
"""A grid is refused beyond so many models."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model of a population is made and trained; what the entries mean is said at ``DeepEnsemble``."""

    name: str
    width: int = 64
    depth: int = 3
    activation: str = "silu"
    body: str = "mlp"
    first_scale: float = 1.5
    lr: float = 3e-3
    weight_decay: float = 1e-4

    @property
    def shape(self) -> tuple[int, int, str, str]:
        """What models must have in common to be trained in one batched product."""
        return self.width, self.depth, self.activation, self.body


VARIED = tuple(f.name for f in fields(Recipe) if f.name != "name")


def recipes(grid: Mapping[str, Sequence[Any]] | None, named: Mapping[str, Mapping[str, Any] | None] | None) -> tuple[Recipe, ...]:
    """Every combination of the grid's values, and the named ones; neighbours have the same shape, and then the same rate.

    Args:
        grid: for each hyper-parameter its values; a combination is called by those that have several.
        named: hyper-parameters by the model's name.

    Raises:
        UnknownName: no such hyper-parameter, activation or body.
        ConfigError: a value is out of range, a name is there twice, or the models are none or too many.
    """
    lists = {str(k): list(v) if isinstance(v, (list, tuple)) else [v] for k, v in (grid or {}).items()}
    wanted: list[tuple[str, Mapping[str, Any]]] = []
    if lists:
        many = [k for k, values in lists.items() if len(values) > 1]
        for combination in itertools.product(*lists.values()):
            values = dict(zip(lists, combination, strict=True))
            wanted.append((" ".join(f"{k}={values[k]}" for k in many) or "grid", values))
    wanted += [(str(name), values or {}) for name, values in (named or {}).items()]
    if not 1 <= len(wanted) <= MOST:
        raise ConfigError(f"The population has {len(wanted)} models; give lists in surrogate.grid, or models by name, 1 to {MOST} in all.")
    made = [_recipe(name, values) for name, values in wanted]
    names = [r.name for r in made]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"The population has two models '{twice[0]}'; name each once, and give each value of the grid once.")
    shapes = list(dict.fromkeys(r.shape for r in made))
    return tuple(sorted(made, key=lambda r: (shapes.index(r.shape), r.lr, r.weight_decay)))


def _recipe(name: str, values: Mapping[str, Any]) -> Recipe:
    for key in values:
        if key not in VARIED:
            raise UnknownName("hyper-parameter of a population", str(key), VARIED)
    recipe = Recipe(name, **{str(k): v for k, v in values.items()})
    numbers = {k: v for k, v in asdict(recipe).items() if k not in ("name", "activation", "body")}
    wrong = [k for k, v in numbers.items() if isinstance(v, bool) or not isinstance(v, (int, float))]
    wrong += [k for k in ("width", "depth") if k not in wrong and (numbers[k] < 1 or numbers[k] != int(numbers[k]))]
    if wrong or not recipe.first_scale > 0:
        key = wrong[0] if wrong else "first_scale"
        raise ConfigError(
            f"The model '{name}' of the population has {key}={values.get(key)!r}; give a positive number, a whole one for sizes."
        )
    if recipe.activation not in ACTIVATIONS:
        raise UnknownName("activation", recipe.activation, ACTIVATIONS)
    if recipe.body not in BODIES:
        raise UnknownName("body", recipe.body, BODIES)
    Training(lr=recipe.lr, weight_decay=recipe.weight_decay)
    return recipe
