"""The books of a competition between surrogates: what each erred on members that none had learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from alearn.types import Array, Floats

MEMORY = 512
"""So many members' errors are remembered."""


@final
class Competition:
    """Squared errors of every competitor on every member, in order of arrival, and the errors that were last compared.

    Args:
        competitors: how many.
    """

    def __init__(self, competitors: int) -> None:
        self.known: Array = np.zeros(0, np.int64)
        self._squared: Floats = np.zeros((0, competitors))
        self.errors: Floats = np.full(competitors, np.nan)
        self.compared = 0
        self.evidence = ""

    @property
    def met(self) -> int:
        """Members that were predicted before they were learned, and are remembered."""
        return len(self._squared)

    def add(self, squared: Floats) -> None:
        """Take in mean squared normalised errors of newly met members, ``n x competitors``; what is not finite counts as hopeless."""
        self._squared = np.concatenate([self._squared, np.nan_to_num(squared, nan=1e12, posinf=1e12)])[-MEMORY:]

    def judge(self, half_life: int) -> None:
        """Compare by the members met: the root of the mean square in which a member's weight halves every ``half_life`` members."""
        age = np.arange(len(self._squared))[::-1]
        weight = 0.5 ** (age / half_life)
        self.errors = np.sqrt((weight[:, None] * self._squared).sum(axis=0) / weight.sum())
        self.compared, self.evidence = len(self._squared), "prequential"

    def compare(self, errors: Sequence[float], members: int) -> None:
        """Compare by cross-validation over so many members instead."""
        self.errors = np.asarray(errors, dtype=np.float64)
        self.compared, self.evidence = members, "cross-validated"

    def state_dict(self) -> dict[str, Any]:
        return {
            "known": self.known,
            "squared": self._squared,
            "errors": self.errors,
            "compared": self.compared,
            "evidence": self.evidence,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.known = np.asarray(state["known"], dtype=np.int64)
        self._squared = np.asarray(state["squared"], dtype=np.float64).reshape(-1, len(self.errors))
        self.errors = np.asarray(state["errors"], dtype=np.float64)
        self.compared, self.evidence = int(state["compared"]), str(state["evidence"])
