"""Samples that came before the fields they carry could be written as coefficients: a basis wants to see many fields first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from alearn.trainer.features import Features
from alearn.types import Sample

MOST_BYTES = 256_000_000
"""The basis is begun earlier if the fields that wait need more memory than this."""


@final
class Early:
    """Holds samples back until there are enough of them to begin the fields' bases.

    Args:
        features: what makes rows of samples.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        self._held: list[Sample] = []
        self._newest: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def newest(self, member: str) -> int:
        """The last step of a member that is held back; -1 if none is."""
        return self._newest.get(member, -1)

    def pass_on(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Those samples, held ones first, of which rows can be made now."""
        if self._features.ready:
            return samples
        for sample in samples:
            self._features.number(sample.member, sample.parameters)  # so that its end can be told before its rows are made
            self._newest[sample.member] = sample.step
        self._held += samples
        enough = len(self._held) >= self._features.options.first
        return self.release() if enough or sum(v.nbytes for s in self._held for v in s.values.values()) > MOST_BYTES else []

    def release(self) -> Sequence[Sample]:
        """Begin the bases with what there is; all held samples, or none if no field among them is finite."""
        if self._held:
            self._features.begin(self._held)
        if not self._features.ready:
            return []
        held, self._held = self._held, []
        self._newest.clear()
        return held

    def state_dict(self) -> dict[str, Any]:
        """The samples held back."""
        sources = self._features.sources
        return {
            "held": [
                {
                    "member": s.member,
                    "attempt": s.attempt,
                    "step": s.step,
                    "t": s.t,
                    "parameters": dict(s.parameters),
                    "values": {n: np.asarray(s.values[n]) for n in sources},
                }
                for s in self._held
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._held = [Sample(**held) for held in state["held"]]
        self._newest = {s.member: s.step for s in self._held}
