"""The jury: predicts members that the surrogate has not learned, and sets its calibration by how they turn out.

Two kinds of evidence. Members of the hold-out are kept from the training until they are complete and are predicted
whole by the surrogate as it is; they come from a plain random stream, so they stand for the box. Every other member is
predicted by a copy of the surrogate as it was after the last fit that knew nothing of it; these are many, but stand
where the acquisition put them, and count for a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch

from alearn.buffer import Rows
from alearn.surrogate.base import Surrogate
from alearn.surrogate.calibration import Calibrator
from alearn.types import Array, Floats

RESIDUALS = 4096
"""So many residuals of a member are kept at the most; a field learned cell by cell has thousands at every step."""
ACQUIRED = 0.25
"""What an acquired member counts, against one of the hold-out."""


@final
class Jury:
    """Keeps held-out members' rows, and a copy of the surrogate that has not seen the latest members.

    Args:
        m: number of outputs.
        share: share of the members to hold out, besides those named.
        seed: of that choice.
        copy: makes a surrogate like the one that is trained, with the given weights.
        targets: makes of rows' ``y`` what the surrogate predicts.
    """

    def __init__(
        self, m: int, share: float, seed: int, copy: Callable[[Mapping[str, Any]], Surrogate], targets: Callable[[Floats], Floats]
    ) -> None:
        self.calibrator = Calibrator(m, rows_per_group=max(2, min(64, RESIDUALS // m)))
        self.factor: Floats = np.ones(m)
        self._share, self._seed, self._copy, self._targets = share, seed, copy, targets
        self._named: set[str] = set()
        self._held: dict[int, list[Rows]] = {}
        self._quiet: set[int] = set()
        self._before: Surrogate | None = None
        self._factor_before: Floats = np.ones(m)
        self._known: set[int] = set()

    def hold(self, member: str) -> None:
        """Hold this member out, from before its first sample on."""
        self._named.add(member)

    def takes(self, number: int, name: str, new: bool) -> bool:
        """Whether the rows of this member are to be kept aside."""
        self._quiet.discard(number)
        if number in self._held:
            return True
        chosen = name in self._named or bool(np.random.default_rng((self._seed, number)).random() < self._share)
        return new and chosen

    def keep(self, number: int, rows: Rows) -> None:
        """Keep rows of a held-out member aside."""
        self._held.setdefault(number, []).append(rows)

    def hear(self, rows: Rows) -> None:
        """Before a fit on all ``rows``: let the surrogate of the last fit predict the members that it has not seen."""
        new = np.array([g not in self._known for g in rows.group.tolist()], dtype=bool)
        if self._before is not None and new.any():
            met = rows.take(np.flatnonzero(new))
            mean, std = predict(self._before, met.x)
            self.calibrator.add(mean, std, self._targets(met.y), met.group, self._factor_before, weight=ACQUIRED)

    def remember(self, surrogate: Surrogate, rows: Rows) -> None:
        """After a fit on all ``rows``: this is the surrogate that predicts the members to come."""
        self._before = self._copy(surrogate.state_dict())
        self._factor_before = self.factor
        self._known = set(np.unique(rows.group).tolist())

    def forget(self) -> None:
        """The surrogate of the last fit is no longer asked: its outputs mean something else now."""
        self._before = None

    def verdict(self, surrogate: Surrogate, last: Mapping[int, int], ended: set[int], everything: bool) -> list[Rows]:
        """Predict the complete held-out members, set the calibration factor, and hand their rows over to be learned.

        Args:
            surrogate: trained, and ignorant of the held-out members.
            last: the last step of every member.
            ended: members known to stream no more.
            everything: whether incomplete members count as complete.
        """
        longest = max(last.values(), default=0)
        ready = [g for g in self._held if everything or g in ended or g in self._quiet or last[g] >= max(longest, 1)]
        released = [Rows.concatenate(self._held.pop(g)) for g in ready]
        for rows in released:
            mean, std = predict(surrogate, rows.x)
            self.calibrator.add(mean, std, self._targets(rows.y), rows.group, self.factor)
        if self.calibrator.groups:
            self.factor = self.calibrator.factor()
            surrogate.scale_variance(torch.as_tensor(self.factor))
        # one that streams nothing until the next verdict has ended, whether or not anybody said so
        self._quiet = set(self._held)
        self._known |= set(ready)  # predicted once, by the better evidence
        return released

    def release(self) -> list[Rows]:
        """Hand all held-out rows over unjudged."""
        released = [Rows.concatenate(parts) for parts in self._held.values()]
        self._held.clear()
        return released

    def report(self) -> dict[str, float]:
        """Coverage of the 95 % and 50 % intervals, miscalibration area, members, and half-width of the conformal 95 % interval over 1.96
        (the largest of all outputs'), from members that were predicted before they were learned; empty before there are eight."""
        if self.calibrator.groups < 8:
            return {}
        found = self.calibrator.report()
        width = max(found["half_width95"])
        return {
            "coverage95": found["coverage"]["0.95"],
            "coverage50": found["coverage"]["0.5"],
            "miscalibration_area": found["miscalibration_area"],
            "predicted_members": float(self.calibrator.groups),
            **({"conformal95": width / 1.96} if np.isfinite(width) else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "calibrator": self.calibrator.state_dict(),
            "factor": self.factor,
            "factor_before": self._factor_before,
            "named": sorted(self._named),
            "quiet": sorted(self._quiet),
            "known": sorted(self._known),
            "held": {str(k): plain(Rows.concatenate(v)) for k, v in self._held.items()},
            "before": {} if self._before is None else {k: v.clone() for k, v in self._before.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calibrator.load_state_dict(state["calibrator"])
        self.factor = np.asarray(state["factor"], dtype=np.float64)
        self._factor_before = np.asarray(state["factor_before"], dtype=np.float64)
        self._named, self._quiet, self._known = set(state["named"]), set(state["quiet"]), set(state["known"])
        self._held = {int(k): [rows_of(v)] for k, v in state["held"].items()}
        self._before = self._copy(state["before"]) if state["before"] else None


def predict(surrogate: Surrogate, x: Floats) -> tuple[Floats, Floats]:
    """Mean and whole predictive standard deviation at rows ``n x d'``, each ``n x m``."""
    mean, epistemic, aleatoric = surrogate.predict(torch.as_tensor(x, device=surrogate.output_scale.device))
    std = (epistemic.double() ** 2 + aleatoric.double() ** 2).sqrt()
    return mean.double().cpu().numpy(), std.cpu().numpy()


def plain(rows: Rows) -> dict[str, Array]:
    """Rows as named arrays, for a snapshot."""
    return {"x": rows.x, "y": rows.y, "weight": rows.weight, "group": rows.group, "step": rows.step}


def rows_of(state: Mapping[str, Array]) -> Rows:
    """Inverse of ``plain``."""
    return Rows(*(np.array(state[k]) for k in ("x", "y", "weight", "group", "step")))
