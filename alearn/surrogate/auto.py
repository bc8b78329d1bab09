"""Auto: several surrogates compete for the lead, each judged on members that it has not learned yet.

No fixed choice is right: where the response is smooth a Gaussian process needs a half to a third of the data of an
ensemble, and where it has a front the ensemble's error is a fraction of the process's. So every candidate predicts the
members that arrive before any of them learns them (prequential: Dawid 1984), and who errs least leads: it is the one
that answers. While few members have been met that way, cross-validation on those known takes their place.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.posterior import Posterior
from torch import Tensor, nn

from alearn import registry
from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, Counted, OnlineSurrogate, Prediction, Rated, Resumable, Surrogate
from alearn.surrogate.competition import Competition
from alearn.surrogate.crossval import cross_validate
from alearn.surrogate.rows import folds_of, thin
from alearn.surrogate.scaling import check_batch

CANDIDATES: Mapping[str, Mapping[str, Any]] = {"ensemble": {}, "gp": {"fit_rows": 300, "max_updates": 60}}
FOLDS = 4
HOPELESS = 2.0
"""A candidate whose error is so many times the leader's is trained only now and then."""
GROWTH = 1.4
"""… namely when the data have grown by this factor since it last was."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a candidate stands: its error in units of the outputs' standard deviation (NaN before the first comparison),
    on how many members it was compared, how they were predicted ("prequential" or "cross-validated"), and whether it leads."""

    name: str
    error: float
    members: int
    evidence: str
    leads: bool


class AutoSurrogate(OnlineSurrogate):
    """Whichever of its candidates has the smallest error on members that it had not learned.

    All candidates learn the same data. At each ``fit`` the members that are new in the data are first predicted by every
    candidate as it was after the previous ``fit`` (one that learns online is remembered as it was then, so that none has
    seen a part of a member before). The score of a candidate is the root mean square of the latest members' errors,
    newer ones counting more. The lead changes when a challenger's score is smaller by the share ``hysteresis``.

    Posterior, prediction and calibration are the leader's. A candidate that learns only by ``fit`` is given at most
    ``max_rows`` rows (time steps are thinned first, then members), and a hopeless one is fitted only when the data have
    grown much, so that the competition costs little.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of all candidates.
        candidates: names of registered surrogates with their options, or a list of names.
        hysteresis: by which share a challenger must be better to take the lead, in [0, 1).
        evidence: members that must have been predicted before prequential errors decide; before, and for the fit to
            convergence, cross-validation does.
        window: how many members back a score has lost half of its weight.
        max_rows: the most rows of a candidate that learns only by ``fit``, and of cross-validation; where members have several
            time steps it is divided by twice the number of outputs.

    Raises:
        ConfigError: no candidate, or a number out of range.
        UnknownName: a candidate is no registered surrogate.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        candidates: Mapping[str, Mapping[str, Any] | None] | Sequence[str] | None = None,
        hysteresis: float = 0.1,
        evidence: int = 24,
        window: int = 24,
        max_rows: int = 1000,
    ) -> None:
        super().__init__()
        named = CANDIDATES if candidates is None else candidates
        wanted = {n: dict(o or {}) for n, o in named.items()} if isinstance(named, Mapping) else {n: {} for n in named}
        if not wanted or not 0 <= hysteresis < 1 or evidence < 1 or window < 1 or max_rows < 8:
            raise ConfigError(
                f"The auto surrogate has the candidates {list(wanted)}, hysteresis={hysteresis}, evidence={evidence}, "
                f"window={window}, max_rows={max_rows}; it needs a candidate, a hysteresis in [0, 1), at least 8 rows and 1 of the others."
            )
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self._wanted = wanted
        self._hysteresis, self._evidence, self._window, self._max_rows = hysteresis, evidence, window, max_rows
        self.names = tuple(wanted)
        self.candidates = nn.ModuleDict({name: self._make(name) for name in wanted})
        self.register_buffer("led_by", torch.tensor(self._first(), dtype=torch.int64))
        self.register_buffer("factor", torch.ones(m, dtype=torch.float64))
        self.led_by: Tensor
        self.factor: Tensor
        self._competition = Competition(len(wanted))
        self._before: dict[str, Surrogate] = {}
        self._fitted: dict[str, int] = {}

    def _make(self, name: str) -> Surrogate:
        given = {"d": self.d, "m": self.m, "over_t": self.over_t, "seed": self.seed}
        made = registry.build("surrogate", name, self._wanted[name], **given)
        if not isinstance(made, Surrogate) or isinstance(made, AutoSurrogate):
            raise ConfigError(f"The candidate '{name}' makes a {type(made).__name__}; name surrogates, and not 'auto' itself.")
        return made

    def _copy(self, name: str, weights: Mapping[str, Any]) -> Surrogate:
        copied = self._make(name).to(self.factor.device)
        copied.load_state_dict(weights)
        return copied

    def _first(self) -> int:
        online = [i for i, name in enumerate(self.names) if isinstance(self.candidates[name], OnlineSurrogate)]
        return online[0] if online else 0

    def options(self) -> dict[str, Any]:
        return {
            "candidates": copy.deepcopy(self._wanted),
            "hysteresis": self._hysteresis,
            "evidence": self._evidence,
            "window": self._window,
            "max_rows": self._max_rows,
        }

    # --- who leads ------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> Surrogate:
        """The candidate that answers at present."""
        return self._candidate(self.names[int(self.led_by)])

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Where every candidate stands, the leader first and then by error."""
        c = self._competition
        found = [Standing(name, float(c.errors[i]), c.compared, c.evidence, i == int(self.led_by)) for i, name in enumerate(self.names)]
        return tuple(sorted(found, key=lambda s: (not s.leads, math.inf if math.isnan(s.error) else s.error)))

    @property
    def lead(self) -> str:
        """Who leads and by how much, in words: "gp leads: error 0.012, ensemble 0.034 (48 members, prequential)"."""
        first, *others = self.standings
        if math.isnan(first.error):
            return f"{first.name} leads; no comparison yet" if others else first.name
        rest = ", ".join(f"{s.name} {s.error:.3g}" for s in others)
        return f"{first.name} leads: error {first.error:.3g}" + (f", {rest} ({first.members} members, {first.evidence})" if others else "")

    def _candidate(self, name: str) -> Surrogate:
        module = self.candidates[name]
        assert isinstance(module, Surrogate)
        return module

    @property
    def _online(self) -> dict[str, OnlineSurrogate]:
        return {n: c for n in self.names if isinstance(c := self.candidates[n], OnlineSurrogate)}

    # --- learning -------------------------------------------------------------------------------------------------

    @property
    def output_scale(self) -> Tensor:
        return self.leader.output_scale

    @property
    def batch_shape(self) -> torch.Size:
        return self.leader.batch_shape

    @property
    def updates(self) -> Tensor:
        """Optimiser updates of the candidates that count them."""
        counts = [c.updates for c in self._online.values() if isinstance(c, Counted)]
        if not counts:
            raise AttributeError("no candidate counts its updates")
        return torch.stack(counts).max()

    @property
    def lr(self) -> float:
        """The largest learning rate among the candidates; setting it changes all in proportion."""
        return max(c.lr for c in self._rated())

    @lr.setter
    def lr(self, value: float) -> None:
        factor = value / self.lr
        for candidate in self._rated():
            candidate.lr *= factor

    def _rated(self) -> list[Rated]:
        rated: list[Rated] = [c for c in self._online.values() if isinstance(c, Rated)]
        if not rated:
            raise AttributeError("no candidate has a learning rate")
        return rated

    def observe(self, data: Batch) -> None:
        check_batch(data, self.d, self.m)
        for candidate in self._online.values():
            candidate.observe(data)

    def update(self, batch: Batch) -> float:
        """One update of every candidate that learns online; returns the leader's loss, or one that is not finite."""
        check_batch(batch, self.d, self.m)
        losses = {name: candidate.update(batch) for name, candidate in self._online.items()}
        return _told(losses, self.names[int(self.led_by)])

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        """Score the members that are new, train every candidate that has a chance, and settle who leads; returns the leader's loss.

        Raises:
            SchemaError: the data are empty, not finite or of another shape.
        """
        check_batch(data, self.d, self.m)
        c = self._competition
        self._score_arrivals(data)
        few = data.take(thin(data, self._most_rows(data), self.over_t, self.seed))
        losses: dict[str, float] = {}
        for name in self.names:
            if name == self.names[int(self.led_by)] or not self._hopeless(name, len(data)):
                candidate = self._candidate(name)
                if isinstance(candidate, OnlineSurrogate):
                    losses[name] = candidate.fit(data, updates=updates)
                else:
                    losses[name] = candidate.fit(few, updates=updates)
                self._fitted[name] = len(data)
        if len(self.names) > 1:
            if c.met >= self._evidence and not (updates is None and self._close()):
                c.judge(self._window)
            elif len(few) == len(data) or not c.met:
                self._cross_validate(few, updates)
            self._settle()
        self._before = {name: self._copy(name, candidate.state_dict()) for name, candidate in self._online.items()}
        return _told(losses, self.names[int(self.led_by)])

    def _most_rows(self, data: Batch) -> int:
        """The most rows of a candidate that learns only by ``fit``.

        Over several time steps it is asked for every time and output of a candidate at once, so that it may hold fewer.
        """
        single = len(data.groups.unique()) == len(data)
        return self._max_rows if single else max(64, self._max_rows // (2 * self.m))

    def _hopeless(self, name: str, rows: int) -> bool:
        """Whether a candidate is so far behind that it need not be trained on these data."""
        c = self._competition
        i, best = self.names.index(name), int(self.led_by)
        if name not in self._fitted or not (math.isfinite(c.errors[i]) and math.isfinite(c.errors[best])):
            return False
        return bool(c.errors[i] > HOPELESS * c.errors[best]) and c.compared >= self._evidence and rows < GROWTH * self._fitted[name]

    def _close(self) -> bool:
        errors = np.sort(self._competition.errors)
        return bool(len(errors) > 1 and errors[1] < HOPELESS * errors[0])

    def _score_arrivals(self, data: Batch) -> None:
        """Let every candidate, as it was after the last fit, predict the members that it has not seen."""
        c = self._competition
        groups = data.groups.cpu().numpy()
        new = ~np.isin(groups, c.known)
        c.known = np.union1d(c.known, groups)
        if not new.any() or not self._fitted or len(self.names) < 2:
            return
        arrived = data.take(torch.as_tensor(np.flatnonzero(new), device=data.X.device))
        _, at = np.unique(groups[new], return_inverse=True)
        rows = np.bincount(at)
        squared = []
        for name in self.names:
            mean = self._before.get(name, self._candidate(name)).predict(arrived.X).mean
            error = (((mean - arrived.Y) / self.output_scale.to(mean)) ** 2).mean(dim=1)
            squared.append(np.bincount(at, weights=error.double().cpu().numpy()) / rows)
        c.add(np.stack(squared, axis=1))

    def _cross_validate(self, data: Batch, updates: int | None) -> None:
        count = min(FOLDS, len(data.groups.unique()))
        if count < 2:
            return
        folds = folds_of(data.groups, count, self.seed)
        weights = data.weights.double() / data.weights.double().sum()
        errors = []
        for name in self.names:
            found = cross_validate(self._candidate(name), lambda name=name: self._make(name), data, folds, updates)  # type: ignore[misc]
            scale = self.output_scale.to(found.mean) ** 2
            raw, excess = (float(((v / scale).mean(dim=1) * weights).sum()) for v in ((found.mean - data.Y) ** 2, found.excess))
            errors.append(math.sqrt(max(raw - excess, 0.25 * raw)))
        self._competition.compare(errors, len(data.groups.unique()))

    def _settle(self) -> None:
        errors = self._competition.errors
        best = int(np.nanargmin(errors)) if np.isfinite(errors).any() else int(self.led_by)
        if not errors[best] >= (1.0 - self._hysteresis) * errors[int(self.led_by)]:
            self.led_by.fill_(best)

    # --- prediction: the leader's -----------------------------------------------------------------------------------

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The leader's posterior over ``batch_shape x q x m``."""
        return self.leader.posterior(X, output_indices, observation_noise, posterior_transform)

    def predict(self, X: Tensor) -> Prediction:
        return self.leader.predict(X)

    def scale_variance(self, factor: Tensor) -> None:
        for name in self.names:
            self._candidate(name).scale_variance(factor)
        self.factor.copy_(torch.as_tensor(factor, dtype=torch.float64))

    # --- state ------------------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        for name in self.names:
            prefix = f"candidates.{name}."
            own = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
            self._candidate(name).load_state_dict(own, strict=strict, assign=assign)
        self.led_by.copy_(state_dict["led_by"])
        self.factor.copy_(state_dict["factor"])
        return nn.modules.module._IncompatibleKeys([], [])

    def training_state(self) -> dict[str, Any]:
        """The competition so far and every candidate's own training state: with ``state_dict``, all that it takes to go on exactly."""
        return {
            "competition": self._competition.state_dict(),
            "fitted": dict(self._fitted),
            "before": {n: {k: v.clone() for k, v in c.state_dict().items()} for n, c in self._before.items()},
            "candidates": {n: c.training_state() for n, c in self._online.items() if isinstance(c, Resumable)},
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up a training that ``training_state`` described (after ``load_state_dict``)."""
        self._competition.load_state_dict(state["competition"])
        self._fitted = {str(k): int(v) for k, v in state["fitted"].items()}
        self._before = {name: self._copy(name, weights) for name, weights in state["before"].items()}
        for name, own in state["candidates"].items():
            candidate = self._candidate(name)
            assert isinstance(candidate, Resumable)
            candidate.load_training_state(own)


def _told(losses: Mapping[str, float], leader: str) -> float:
    """The leader's loss, unless one is not finite: that must not go unnoticed."""
    broken = [v for v in losses.values() if not math.isfinite(v)]
    return broken[0] if broken else losses.get(leader, next(iter(losses.values()), 0.0))
