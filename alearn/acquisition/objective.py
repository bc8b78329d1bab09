"""One number out of a prediction: which output, and when along the trajectory."""

from __future__ import annotations

from typing import Any

import torch
from botorch.models.model import Model
from botorch.posteriors.ensemble import EnsemblePosterior
from torch import Tensor

from alearn.acquisition.pool import CHUNK, draw_seed
from alearn.errors import ConfigError, UnknownName
from alearn.surrogate import OverTime

WHEN = ("last", "mean", "max", "min")
DRAWS = 64
"""Samples of a Gaussian posterior, where an objective is no linear function of it."""


class Objective:
    """Reduces the ``T x m`` outputs of a point to one number.

    Args:
        output: the number of the output, in the order in which the study learns them.
        when: its value at the last time, or its mean, largest or smallest value over the trajectory.
    """

    def __init__(self, output: int = 0, when: str = "last") -> None:
        if isinstance(output, bool) or not isinstance(output, int) or output < 0:
            raise ConfigError(f"The acquisition's option output is {output!r}; give the number of an output, counted from 0.")
        if when not in WHEN:
            raise UnknownName("value of the acquisition's option when:", str(when), WHEN)
        self.output, self.when = output, when

    @torch.no_grad()
    def draws(self, surrogate: Model, X: Tensor, generator: torch.Generator) -> Tensor:
        """Samples of the objective at ``N x d`` points, ``S x N``: an ensemble's estimators (each one function), or draws of
        each point by itself.

        Raises:
            ConfigError: the surrogate has no such output.
        """
        times = surrogate.T if isinstance(surrogate, OverTime) else 1
        outputs = surrogate.num_outputs // times
        if self.output >= outputs:
            raise ConfigError(
                f"The acquisition's option output is {self.output}, but the surrogate has {outputs} outputs, counted from 0; "
                "choose another."
            )
        parts = []
        with torch.random.fork_rng(devices=[]):
            # BoTorch's samplers draw from torch's global generator
            torch.manual_seed(draw_seed(generator))
            for part in X.split(CHUNK):
                posterior: Any = surrogate.posterior(part.unsqueeze(1))
                if isinstance(posterior, EnsemblePosterior):
                    values = posterior.values.squeeze(-2).movedim(1, 0)
                else:
                    values = posterior.rsample(torch.Size([DRAWS])).squeeze(-2)
                parts.append(self._reduced(values.reshape(*values.shape[:2], times, outputs)[..., self.output].double()))
        return torch.cat(parts, dim=1) if parts else X.new_empty(1, 0)

    def _reduced(self, trajectory: Tensor) -> Tensor:
        match self.when:
            case "last":
                return trajectory[..., -1]
            case "mean":
                return trajectory.mean(dim=-1)
            case "max":
                return trajectory.amax(dim=-1)
            case _:
                return trajectory.amin(dim=-1)
