"""Importance weights: what kills truncate and acquisition skews must not bias what is learned.

**Truncation.** Kills end trajectories early, so late steps are rarer among the rows than in the simulations'
distribution of t. A row of step ``s`` is weighted by ``1 / S(s)`` (inverse probability of censoring: Robins and
Rotnitzky 1992), where ``S(s)`` is the probability that a member is not killed before step ``s``, estimated by Kaplan
and Meier (1958) from all members so far: with ``r_j`` members that reached step ``j`` and ``k_j`` members killed with
``j`` as their last step,

    S(s) = prod_{j = 1..s}  r_j / (r_j + k_{j-1}).

Members that still run, that ended by themselves or that failed are not kills: they only leave the risk set. The weights make the
marginal distribution of t among the rows that of untruncated members; they are capped. They do not undo that kills
choose *which* members stay (those the surrogate knows are killed, and known regions need the rows least).

**Density.** Acquisition places members unevenly. A member's weight is the volume of the cube that is nearest to it
over its fair share: ``w_g = n * share_g``, where every point of a uniform sample of the cube gives ``1/k`` to each of
its ``k`` nearest members (nearest-neighbour importance weighting: Loog 2012). Tempered by an exponent
``density_correction`` in [0, 1], capped on both sides, mean one. An exponent of 0.5 lowers the mean error and leaves the tail as it
is; full weights cost some of the tail while training is brief (``benchmarks/importance.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import qmc

from alearn.buffer import Rows
from alearn.errors import ConfigError
from alearn.types import Array, Floats


def survival(last: Array, killed: Array) -> Floats:
    """Kaplan-Meier probability that a member reaches each step before it is killed.

    Args:
        last: the last step of each member, ``n``; -1 where none came.
        killed: whether that was the end because it was killed, ``n`` booleans.

    Returns:
        ``S(0) … S(max(last))``; ``S(0)`` is one.
    """
    if not len(last) or last.max() < 0:
        return np.ones(1)
    top = int(last.max())
    reached = np.bincount(last[last >= 0], minlength=top + 1)[::-1].cumsum()[::-1]
    kills = np.bincount(last[killed & (last >= 0)], minlength=top + 1)
    stay = np.ones(top + 1)
    stay[1:] = reached[1:] / (reached[1:] + kills[:-1])
    return np.asarray(np.cumprod(stay))


def density_weights(X: Floats, uniform: Floats, neighbours: int = 3) -> Floats:
    """Nearest-neighbour estimate of the uniform density over the members' density, ``n``, mean one.

    Args:
        X: the members' points, ``n x d``.
        uniform: a uniform sample of the region that matters, ``N x d``.
        neighbours: how many members share a uniform point.
    """
    n = len(X)
    k = min(neighbours, n)
    _, index = cKDTree(X).query(uniform, k=k)
    share = np.bincount(np.asarray(index).reshape(-1), minlength=n) / (k * len(uniform))
    return np.asarray(n * share)


@final
class ImportanceWeights:
    """Tables of the weights of steps and members, made anew when the population has changed enough.

    Args:
        d: parameters' columns in the unit cube.
        truncation: whether to weigh for kills.
        truncation_cap: the largest weight of a step before normalisation.
        density_correction: exponent of the density ratio; 0 leaves the density as it is, 1 corrects fully.
        density_cap: the density weights stay within [1/cap, cap].
        pool: size of the uniform sample.
        seed: of the uniform sample.

    Raises:
        ConfigError: a cap under one, or an exponent outside [0, 1].
    """

    def __init__(
        self,
        d: int,
        *,
        truncation: bool = True,
        truncation_cap: float = 10.0,
        density_correction: float = 0.0,
        density_cap: float = 10.0,
        pool: int = 4096,
        seed: int = 0,
    ) -> None:
        if not 0 <= density_correction <= 1:
            raise ConfigError(f"density_correction is {density_correction}; give an exponent between 0 (none) and 1 (full).")
        if truncation_cap < 1 or density_cap < 1:
            raise ConfigError(f"The caps of the weights are {truncation_cap} and {density_cap}; give at least 1.")
        self._truncation = truncation
        self._truncation_cap = truncation_cap
        self._power = density_correction
        self._density_cap = density_cap
        self._d, self._pool, self._seed = d, pool, seed
        self._step_weight: Floats = np.ones(1)
        self._member_weight: Floats = np.ones(0)

    def refresh(self, X: Floats, last: Array, killed: Array) -> None:
        """Compute the tables from the population: points ``n x d``, last steps ``n``, killed or not ``n``."""
        steps = np.minimum(1.0 / np.maximum(survival(last, killed), 1e-12), self._truncation_cap) if self._truncation else np.ones(1)
        members = np.ones(len(X))
        if self._power > 0 and len(X) > 1:
            uniform = qmc.Sobol(self._d, rng=np.random.default_rng(self._seed)).random(self._pool)
            ratio = np.clip(density_weights(X, uniform), 1.0 / self._density_cap, self._density_cap)
            members = ratio**self._power
        # Over the rows received, which are steps 0 … last of each member, the mean weight is one.
        counts = last + 1
        if counts.sum() > 0:
            until = np.cumsum(steps[np.minimum(np.arange(int(counts.max())), len(steps) - 1)])
            total = (members * np.where(counts > 0, until[np.maximum(last, 0)], 0.0)).sum()
            members = members * (counts.sum() / total)
        self._step_weight, self._member_weight = steps, members

    def of(self, rows: Rows) -> Floats:
        """The weights of rows: theirs times the tables'. Members and steps not yet in a table count as the last known."""
        if not len(self._member_weight):
            return rows.weight
        step = self._step_weight[np.minimum(rows.step, len(self._step_weight) - 1)]
        known = rows.group < len(self._member_weight)
        member = np.where(known, self._member_weight[np.where(known, rows.group, 0)], 1.0)
        weights: Floats = rows.weight * step * member
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._step_weight, "members": self._member_weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step_weight = np.asarray(state["steps"], dtype=np.float64)
        self._member_weight = np.asarray(state["members"], dtype=np.float64)
