"""Portfolio: a bandit over acquisitions, so that a bad choice costs little."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.batch import known_distance
from alearn.acquisition.mixture import after, joined, parts_of
from alearn.acquisition.pool import DUPLICATE, EXACT
from alearn.errors import ConfigError
from alearn.space import Space

ARMS = ({"name": "std_distance"}, {"name": "ivr"}, {"name": "lcmd"})
FALLBACK = "sobol"


class Portfolio:
    """Shares the batch out among acquisitions by what their points taught so far; Sobol is always among them.

    What a point taught is measured when its member arrives: the error of the prediction made before it was learned,
    times the distance to what was known when it was chosen (an error right beside a member tells of little volume).
    Rewards count relative to the mean of the round, an old one half after ``half_life`` rounds; shares grow with the
    exponential of the mean reward (Auer et al. 2002, Exp3; Hoffman, Brochu and de Freitas 2011 for acquisitions), and
    every arm keeps at least ``floor``. Without errors (``context.residuals``) shares stay even.

    What it has learned is not stored: a resumed study shares out evenly again.

    Args:
        of: the acquisitions besides Sobol, each a mapping with ``name`` and its options.
        floor: least share of every arm.
        temperature: the smaller, the sooner the best arm takes over.
        half_life: rounds.
        seed: handed to those that take one.

    Raises:
        ConfigError: nothing to choose from, or a share that cannot be kept.
    """

    def __init__(
        self, *, of: Sequence[Mapping[str, Any]] = ARMS, floor: float = 0.1, temperature: float = 0.3, half_life: float = 5.0, seed: int = 0
    ) -> None:
        named = [s for s in of if isinstance(s, Mapping) and s.get("name") == FALLBACK] if not isinstance(of, (str, Mapping)) else []
        self.arms = parts_of("portfolio", of if named else [*of, {"name": FALLBACK}], "", seed)
        if not 0 < floor * len(self.arms) <= 1 or not temperature > 0 or not half_life > 0:
            raise ConfigError(
                f"The portfolio of {len(self.arms)} arms has floor={floor}, temperature={temperature}, half_life={half_life}; "
                "all must be positive, and the floors together at most 1."
            )
        self.floor, self.temperature, self.half_life = floor, temperature, half_life
        self._open: list[tuple[int, int, Tensor, float]] = []
        self._rewards: list[tuple[int, int, float]] = []

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        self._credit(context)
        shares = self.shares(context.round)
        counts = torch.bincount(
            torch.multinomial(torch.from_numpy(shares), q, replacement=True, generator=context.generator), minlength=len(shares)
        )
        found: list[Selection] = []
        for i, ((name, arm), count) in enumerate(zip(self.arms, counts.tolist(), strict=True)):
            if not count:
                continue
            now = after(context, found)
            chosen = arm.select(surrogate, space, count, now)
            distance = known_distance(torch.from_numpy(chosen.x), now)
            self._open += [(i, context.round, torch.from_numpy(x), float(far)) for x, far in zip(chosen.x, distance, strict=True)]
            note = f"{name} (share {100 * shares[i]:.0f} %)"
            found.append(dataclasses.replace(chosen, reasons=[f"{note}: {reason}" for reason in chosen.reasons]))
        return joined(found, space)

    def shares(self, now: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Each arm's share of the batch in round ``now``."""
        n = len(self.arms)
        merit = np.zeros(n)
        for arm in range(n):
            rewards = [(r, 0.5 ** ((now - when) / self.half_life)) for a, when, r in self._rewards if a == arm]
            weight = sum(w for _, w in rewards)
            # one mean reward of prior weight: an arm without evidence is neither good nor bad
            merit[arm] = (sum(r * w for r, w in rewards) + 1.0) / (weight + 1.0)
        scaled = np.exp((merit - merit.max()) / self.temperature)
        return np.asarray(self.floor + (1 - n * self.floor) * scaled / scaled.sum())

    def _credit(self, context: Context) -> None:
        """Turn the errors of members that have arrived into rewards of the arms that chose them."""
        if context.residuals is None or not len(context.X) or not self._open:
            return
        known = context.X.double()
        settled: list[tuple[int, int, float]] = []
        waiting = []
        for entry in self._open:
            arm, when, x, far = entry
            distance, row = torch.cdist(x[None], known, compute_mode=EXACT)[0].min(dim=0)
            error = float(context.residuals[row]) if float(distance) <= DUPLICATE else float("nan")
            if np.isfinite(error):
                settled.append((arm, when, error * far))
            else:
                waiting.append(entry)
        self._open = waiting
        mean = float(np.mean([r for _, _, r in settled])) if settled else 0.0
        if mean > 0:
            self._rewards += [(arm, when, r / mean) for arm, when, r in settled]
