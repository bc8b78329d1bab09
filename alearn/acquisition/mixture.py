"""A batch from several acquisitions: side by side (mixture) or one after the other (schedule)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model

from alearn.acquisition.base import Acquisition, Context, Selection
from alearn.errors import ConfigError, UnknownName
from alearn.registry import build
from alearn.space import Space


class Mixture:
    """Each round, shares of the batch come from several acquisitions; each sees the picks of those before it as pending.

    Args:
        of: the acquisitions, each a mapping with ``name``, ``share`` (weights, 1 by default) and its options.
        seed: handed to those that take one.

    Raises:
        ConfigError: nothing to mix, or a share that is no positive number.
    """

    def __init__(
        self,
        *,
        of: Sequence[Mapping[str, Any]] = ({"name": "std_distance", "share": 0.85}, {"name": "sobol", "share": 0.15}),
        seed: int = 0,
    ) -> None:
        self.parts = parts_of("mixture", of, "share", seed)
        self.shares = [_positive("mixture", name, p.get("share", 1.0)) for (name, _), p in zip(self.parts, of, strict=True)]

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        counts = np.zeros(len(self.parts), dtype=int)
        due = np.array(self.shares) / sum(self.shares)
        # what earlier rounds could not give a part in whole points it gets later: a share of 0.1 of batches of 4 is no 0
        for i in range(q):
            nth = context.round * q + i
            counts[_turn(due, nth)] += 1
        found: list[Selection] = []
        for (name, part), count in zip(self.parts, counts.tolist(), strict=True):
            if count:
                chosen = part.select(surrogate, space, count, after(context, found))
                found.append(dataclasses.replace(chosen, reasons=[f"{name}: {reason}" for reason in chosen.reasons]))
        return joined(found, space)


class Schedule:
    """One acquisition after the other, by the number of members so far.

    Args:
        phases: the acquisitions in order, each a mapping with ``name``, ``until`` (members; the last has none) and its options.
        seed: handed to those that take one.

    Raises:
        ConfigError: no phases, or ends that do not rise.
    """

    def __init__(
        self, *, phases: Sequence[Mapping[str, Any]] = ({"name": "maximin", "until": 40}, {"name": "std_distance"}), seed: int = 0
    ) -> None:
        self.parts = parts_of("schedule", phases, "until", seed)
        last = len(phases) - 1
        self.ends = [
            _positive("schedule", n, p.get("until", math.inf if i == last else None))
            for i, ((n, _), p) in enumerate(zip(self.parts, phases, strict=True))
        ]
        if sorted(self.ends) != self.ends:
            raise ConfigError(f"The schedule's phases end at {self.ends} members; give ends that rise.")

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        members = len(context.X) + len(context.pending) if context.created is None else context.created
        at = next((i for i, end in enumerate(self.ends) if members < end), len(self.ends) - 1)
        name, part = self.parts[at]
        chosen = part.select(surrogate, space, q, context)
        return dataclasses.replace(chosen, reasons=[f"{name} (phase {at + 1}): {reason}" for reason in chosen.reasons])


def parts_of(whole: str, specs: Sequence[Mapping[str, Any]], own: str, seed: int) -> list[tuple[str, Acquisition]]:
    """The acquisitions that a list of mappings names.

    Args:
        whole: the acquisition that they are parts of, for messages.
        specs: mappings with ``name`` and options.
        own: the entry beside ``name`` that is no option of the part.
        seed: handed to those that take one.

    Raises:
        ConfigError: the list is empty or holds something else.
        UnknownName: no such acquisition or option.
    """
    if isinstance(specs, (str, Mapping)) or not specs:
        raise ConfigError(f"The acquisition '{whole}' is given {specs!r}; give a list of mappings with a name and options.")
    made = []
    for spec in specs:
        if not isinstance(spec, Mapping) or "name" not in spec:
            raise ConfigError(f"A part of the acquisition '{whole}' is {spec!r}; give a mapping with a name, e.g. {{name: sobol}}.")
        name = str(spec["name"])
        if name == whole:
            raise UnknownName(f"part of the acquisition '{whole}'", name, ["std_distance", "sobol"])
        options = {str(k): v for k, v in spec.items() if k not in ("name", own)}
        made.append((name, build("acquisition", name, options, seed=seed)))
    return made


def after(context: Context, found: Sequence[Selection]) -> Context:
    """The context once these selections are on their way."""
    if not found:
        return context
    picks = torch.cat([torch.from_numpy(s.x) for s in found])
    created = context.created
    return dataclasses.replace(
        context,
        pending=torch.cat([context.pending.double(), picks]),
        progress=torch.cat([context.progress.double(), torch.zeros(len(picks), dtype=torch.float64)]),
        created=None if created is None else created + len(picks),
    )


def joined(found: Sequence[Selection], space: Space) -> Selection:
    """One selection of several."""
    if not found:
        return Selection(np.empty((0, space.d)))
    return Selection(np.vstack([s.x for s in found]), np.concatenate([s.scores for s in found]), tuple(r for s in found for r in s.reasons))


def _turn(due: np.ndarray[Any, Any], nth: int) -> int:
    """Whose turn the ``nth`` point is, such that every prefix keeps the shares as well as whole points can."""
    counts = np.zeros(len(due))
    for i in range(nth % 1000 + 1):
        at = int((due * (i + 1) - counts).argmax())
        counts[at] += 1
    return at


def _positive(whole: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f"The part '{name}' of the acquisition '{whole}' has {value!r} for its share or end; give a number above 0.")
    return float(value)
