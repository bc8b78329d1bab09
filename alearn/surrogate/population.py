"""A population: networks of many hyper-parameters trained on one stream, of which the better half goes on, and again.

Whoever does not know which width, depth or learning rate suits a simulation would train one surrogate for each on the same
data. Here they are trained on the same samples as they pass: models of one shape in stacked tensors, one batched product a
layer for all of them, each at its own learning rate. Members that arrive are predicted by every model before any has learned
them; each time enough have been met, the worse half is dropped (successive halving: Jamieson and Talwalkar 2016, Li et al.
2018), until so few are left as answer together.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch
from alearn.surrogate.bootstrap import bootstrap_weights
from alearn.surrogate.competition import Competition
from alearn.surrogate.network import BETAS, CHUNK, SpreadSurrogate, Training
from alearn.surrogate.recipes import Recipe, recipes
from alearn.surrogate.rows import folds_of
from alearn.surrogate.scaling import Scaling, check_batch
from alearn.surrogate.stacked import Stacked, StackedMany, StackedMLP
from alearn.types import Floats

FOLDS = 5
"""One in so many members is held out while a fit to convergence decides what the stream has not."""
WHY = ("", "a larger error on members met before they were learned", "a larger error on members held out of the last fit", "it diverged")
ALIVE, WORSE, OUTRUN, DIVERGED = range(4)


@dataclass(frozen=True, slots=True)
class Model:
    """How a model of a population fared.

    Args:
        name: what tells it from the others.
        recipe: its hyper-parameters.
        error: at its last comparison, in units of the outputs' standard deviation; NaN before the first.
        members: how many members it was compared on.
        answers: whether it is among those that answer.
        dropped: why it was dropped; "" while it is trained.
        at_members: members met when it was dropped.
        at_updates: updates it had been given then.
    """

    name: str
    recipe: Recipe
    error: float
    members: int
    answers: bool
    dropped: str
    at_members: int
    at_updates: int


@final
class Population(SpreadSurrogate):
    """Networks of many hyper-parameters on one stream; the survivors of successive halving answer.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights, bootstrap and mini-batches.
        grid: lists of values of width, depth, activation, body, first_scale, lr and weight_decay; every combination is a model.
        models: further models, hyper-parameters by name.
        estimators: networks of one model, with other initial weights and bootstrap weights.
        survivors: how many models are left in the end.
        keep: the share of the models that stays at each halving.
        evidence: members that must be met from one halving to the next.
        window: how many members back a member's weight in the error has halved.
        rung: updates between the halvings of a fit to convergence that finds too many models.
        answer: "ensemble" (the survivors together; before there are errors, all) or "best" (the best model's networks alone).
        bootstrap: none, soft, exponential or poisson weights for each (network, group); see ``bootstrap_weights``.
        warm_up: updates over which the learning rates rise at the start.
        horizon: updates over which the prediction's weights are averaged.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: the most that ``fit`` does when it decides itself.

    Raises:
        ConfigError: no model or too many, or a number out of range.
        UnknownName: no such hyper-parameter, activation or body.
    """

    net: StackedMany
    average: StackedMany

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        grid: Mapping[str, Sequence[Any]] | None = None,
        models: Mapping[str, Mapping[str, Any] | None] | None = None,
        estimators: int = 2,
        survivors: int = 4,
        keep: float = 0.5,
        evidence: int = 16,
        window: int = 24,
        rung: int = 500,
        answer: str = "ensemble",
        bootstrap: str = "soft",
        warm_up: int = 100,
        horizon: int = 200,
        batch_size: int = 64,
        max_updates: int = 8000,
    ) -> None:
        found = recipes(grid, models)
        lr = max(r.lr for r in found)
        super().__init__(d, m, over_t, seed, Training(lr, 0.0, warm_up, horizon, batch_size, max_updates), bootstrap)
        networks = estimators * (1 if answer == "best" else min(survivors, len(found)))
        if min(estimators, survivors, evidence, window, rung) < 1 or not 0 < keep < 1 or answer not in ("ensemble", "best") or networks < 2:
            raise ConfigError(
                f"The population has estimators={estimators}, survivors={survivors}, keep={keep}, evidence={evidence}, window={window}, "
                f"rung={rung}, answer={answer!r}; the counts are at least 1, keep is inside (0, 1), the answer is 'ensemble' or 'best', "
                "and at least 2 networks must answer, or their spread says nothing."
            )
        self.recipes = found
        self._options: dict[str, Any] = {
            "grid": None if grid is None else {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in grid.items()},
            "models": None if models is None else {k: dict(v or {}) for k, v in models.items()},
            "estimators": estimators,
            "survivors": survivors,
            "keep": keep,
            "evidence": evidence,
            "window": window,
            "rung": rung,
            "answer": answer,
            "bootstrap": bootstrap,
            "warm_up": warm_up,
            "horizon": horizon,
            "batch_size": batch_size,
            "max_updates": max_updates,
        }
        self._each, self._survivors, self._keep, self._answer = estimators, survivors, keep, answer
        self._evidence, self._window, self._rung = evidence, window, rung
        count = len(self.recipes)
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool))
        self.register_buffer("answering", torch.ones(count, dtype=torch.bool))
        self.register_buffer("errors", torch.full((count,), math.nan, dtype=torch.float64))
        for name in ("compared", "why", "at_members", "at_updates"):
            self.register_buffer(name, torch.zeros(count, dtype=torch.int64))
        self.alive: Tensor
        self.answering: Tensor
        self.errors: Tensor
        self.compared: Tensor
        self.why: Tensor
        self.at_members: Tensor
        self.at_updates: Tensor
        self._competition = Competition(count)
        self._met = self._halved_at = 0
        self._broken: set[int] = set()
        self._before: dict[str, Any] = {}
        self._start(self._make_networks())

    def options(self) -> dict[str, Any]:
        return copy.deepcopy(self._options)

    # --- the report -------------------------------------------------------------------------------------------------

    @property
    def standings(self) -> tuple[Model, ...]:
        """How every model fared: those alive first, by error, then those dropped, the last first."""
        found = [
            Model(
                r.name,
                r,
                float(self.errors[i]),
                int(self.compared[i]),
                bool(self.answering[i]),
                WHY[int(self.why[i])],
                int(self.at_members[i]),
                int(self.at_updates[i]),
            )
            for i, r in enumerate(self.recipes)
        ]
        return tuple(sorted(found, key=lambda s: (s.dropped != "", -s.at_updates, math.inf if math.isnan(s.error) else s.error)))

    @property
    def lead(self) -> str:
        """Who is best and how many are left, in words."""
        standings = self.standings
        alive = [s for s in standings if not s.dropped]
        best = alive[0]
        if math.isnan(best.error):
            return f"{len(alive)} of {len(standings)} models are trained; none has been compared yet"
        text = f"{best.name} is best: error {best.error:.3g} on {best.members} members; {len(alive)} of {len(standings)} models left"
        gone = [s for s in standings if s.dropped]
        if not gone:
            return text
        error = "" if math.isnan(gone[0].error) else f" at error {gone[0].error:.3g}"
        return f"{text}, the last dropped {gone[0].name}{error} after {gone[0].at_updates} updates ({gone[0].dropped})"

    # --- learning ---------------------------------------------------------------------------------------------------

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        """Score the members that are new, halve if enough have been met, train all that are left on all rows; returns the mean loss.

        A fit to convergence first halves down to the survivors: by the members met, or, where there are too few, by members that
        it holds out for the while.
        """
        check_batch(data, self.d, self.m)
        self._score_arrivals(data)
        self._halve_by_stream(final=updates is None)
        if updates is None:
            self._race(data)
        loss = super().fit(data, updates=updates)
        if self._drop_broken():
            loss = self._mean_loss(*self._prepare(data))
        self._before = {"average": copy.deepcopy(self.average), "scaling": copy.deepcopy(self.scaling), "models": self._alive()}
        return loss

    def _follow(self, x: Tensor, y: Tensor, w: Tensor) -> None:
        self._drop_broken()

    def _loss(self, net: Stacked, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        each: Tensor = (((net(x) - y) ** 2).mean(dim=-1) * w).mean(dim=-1)
        return each

    def _told(self, losses: Tensor) -> Tensor:
        finite = torch.isfinite(losses)
        if bool(finite.all()):
            return losses.mean()
        models = self._alive()
        self._broken |= {models[i // self._each] for i in (~finite).nonzero()[:, 0].tolist()}
        return losses[finite].mean()

    def _bootstrap(self, groups: Tensor) -> Tensor:
        return bootstrap_weights(self.bootstrap, self.seed, len(self.recipes) * self._each, groups)[self._rows(self._alive())]

    # --- who goes on ------------------------------------------------------------------------------------------------

    def _alive(self) -> list[int]:
        return self.alive.nonzero()[:, 0].tolist()

    def _rows(self, models: Sequence[int]) -> Tensor:
        """The places of these models' networks, where each model has ``estimators`` of them."""
        first = torch.tensor(models, dtype=torch.int64, device=self.alive.device)[:, None] * self._each
        return (first + torch.arange(self._each, device=first.device)).reshape(-1)

    def _score_arrivals(self, data: Batch) -> None:
        """Let every model, as it was after the last fit, predict the members that it has not seen."""
        c = self._competition
        groups = data.groups.cpu().numpy()
        new = ~np.isin(groups, c.known)
        c.known = np.union1d(c.known, groups)
        if not new.any() or not self._before:
            return
        arrived = data.take(torch.as_tensor(np.flatnonzero(new), device=data.X.device))
        squared = np.full((len(np.unique(groups[new])), len(self.recipes)), np.nan)
        squared[:, self._before["models"]] = self._squared(self._before["average"], self._before["scaling"], arrived)
        c.add(squared)
        self._met += len(squared)

    @torch.no_grad()
    def _squared(self, networks: Stacked, scaling: Scaling, data: Batch) -> Floats:
        """Mean squared normalised error of every member by every model of ``networks``, ``members x models``."""
        x, y = scaling.inputs(data.X).float(), scaling.outputs(data.Y.double())
        parts = []
        for start in range(0, len(x), CHUNK):
            out = networks(x[start : start + CHUNK]).double()
            mean = out.reshape(-1, self._each, *out.shape[1:]).mean(dim=1)
            parts.append(((mean - y[start : start + CHUNK]) ** 2).mean(dim=-1))
        errors = (torch.cat(parts, dim=1) * (scaling.scale / self.scaling.scale).pow(2).mean()).cpu().numpy()
        _, at = np.unique(data.groups.cpu().numpy(), return_inverse=True)
        rows = np.bincount(at)
        return np.stack([np.bincount(at, weights=e) / rows for e in errors], axis=1)

    def _halve_by_stream(self, final: bool) -> None:
        c = self._competition
        if c.met < self._evidence or not (final or self._met - self._halved_at >= self._evidence):
            return
        c.judge(self._window)
        self._halved_at = self._met
        self._halve(c.errors, c.compared, WORSE, to=self._survivors if final else 0)

    def _race(self, data: Batch) -> None:
        """Halve down to the survivors by the errors on members that are held out, with a rung of training between."""
        members = len(data.groups.unique())
        held = folds_of(data.groups, FOLDS, self.seed) == 0
        test = data.take(held.nonzero()[:, 0])
        while len(self._alive()) > self._survivors and members >= 2 * FOLDS:
            super().fit(data.take((~held).nonzero()[:, 0]), updates=self._rung)
            if self._drop_broken():
                continue
            errors = np.full(len(self.recipes), np.nan)
            errors[self._alive()] = np.sqrt(self._squared(self.average, self.scaling, test).mean(axis=0))
            self._halve(errors, len(test.groups.unique()), OUTRUN)

    def _halve(self, errors: Floats, members: int, why: int, to: int = 0) -> None:
        """Take down the errors, drop the worse of the models, and name those that answer."""
        alive = self._alive()
        ranked = sorted(alive, key=lambda i: (math.isnan(errors[i]), errors[i]))
        for i in alive:
            self.errors[i], self.compared[i] = float(errors[i]), members
        left = max(self._survivors, to or math.ceil(self._keep * len(alive)))
        self._drop(ranked[left:], why)
        self.answering.zero_()
        self.answering[ranked[: 1 if self._answer == "best" else self._survivors]] = True

    def _drop_broken(self) -> bool:
        """Drop models whose loss is not finite, unless none would be left; whether any was."""
        broken, self._broken = self._broken, set()
        if not broken or len(broken) == len(self._alive()):
            return False
        self._drop(sorted(broken), DIVERGED)
        if not bool(self.answering.any()):
            self.answering.copy_(self.alive)
        return True

    def _drop(self, models: Sequence[int], why: int) -> None:
        if not models:
            return
        moments = self._moments()
        stays = {name: self._rows([at for at, i in enumerate(mine) if i not in models]) for name, mine in self._stacks()}
        index = self._rows([at for at, i in enumerate(self._alive()) if i not in models])
        for i in models:
            self.alive[i] = self.answering[i] = False
            self.why[i], self.at_members[i], self.at_updates[i] = why, len(self._competition.known), self._done
        self.net.keep(index)
        self.average.keep(index)
        self._optimizer = self._make_optimizer()
        for name, view, rows in self._views:
            state = {key: tensor[stays[name.partition(".")[0]]][rows] for key, tensor in moments.get(name, {}).items()}
            if state:
                self._optimizer.state[view] = {key: tensor[0] if key == "step" else tensor.clone() for key, tensor in state.items()}

    # --- networks and optimiser -------------------------------------------------------------------------------------

    def _stacks(self, models: Sequence[int] | None = None) -> list[tuple[str, list[int]]]:
        """The numbers of the shapes, with the models of each (None: those alive)."""
        shapes = list(dict.fromkeys(r.shape for r in self.recipes))
        by_shape = itertools.groupby(self._alive() if models is None else models, key=lambda i: shapes.index(self.recipes[i].shape))
        return [(str(shape), list(mine)) for shape, mine in by_shape]

    def _make_networks(self, of: Sequence[int] | None = None) -> StackedMany:
        parts = {}
        for name, models in self._stacks(of):
            r = self.recipes[models[0]]
            k = len(models) * self._each
            part = StackedMLP(k, self.d, self.m, r.width, r.depth, r.activation, r.body, 1.0, self._generator)
            scale = torch.tensor([self.recipes[i].first_scale for i in models]).repeat_interleave(self._each)[:, None, None]
            with torch.no_grad():
                for tensor in (part.weights[0], part.biases[0], part.frequency):
                    if tensor is not None:
                        tensor *= scale
            parts[name] = part
        return StackedMany(parts)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        # a group for each learning rate of each stack: its tensors are slices of the stack, which a fused step changes in place
        self._views: list[tuple[str, Tensor, slice]] = []
        groups = []
        fastest = max(r.lr for r in self.recipes)
        for name, models in self._stacks():
            rates = [(self.recipes[i].lr, self.recipes[i].weight_decay) for i in models]
            for (lr, decay), places in itertools.groupby(range(len(models)), key=rates.__getitem__):
                run = list(places)
                rows = slice(run[0] * self._each, (run[-1] + 1) * self._each)
                views = [(f"{name}.{n}", p.detach()[rows], rows) for n, p in self.net.parts[name].named_parameters()]
                self._views += views
                groups.append({"params": [view for _, view, _ in views], "share": lr / fastest, "weight_decay": decay})
        return torch.optim.AdamW(groups, lr=self.lr, betas=BETAS, fused=True)

    def _hand_over(self) -> None:
        whole = {f"{stack}.{n}": p for stack, part in self.net.parts.items() for n, p in part.named_parameters()}
        for name, view, rows in self._views:
            parameter = whole[name]
            assert parameter.grad is not None
            view.data = parameter.data[rows]  # BoTorch may have moved the model to the same numbers elsewhere
            view.grad = parameter.grad[rows]

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        """AdamW's moments, whole stacks by the parameter's name; empty before the first step."""
        found: dict[str, dict[str, list[Tensor]]] = {}
        for name, view, _ in self._views:
            for key, value in self._optimizer.state.get(view, {}).items():
                found.setdefault(name, {}).setdefault(key, []).append(value if value.ndim else value.expand(len(view)))
        return {name: {key: torch.cat(parts) for key, parts in state.items()} for name, state in found.items()}

    # --- prediction: of those that answer -----------------------------------------------------------------------------

    def answer(self) -> StackedMany:
        """The averaged networks of the models that answer, copied."""
        chosen = copy.deepcopy(self.average)
        chosen.keep(self._answering())
        return chosen

    def _answering(self) -> Tensor:
        """The numbers of the answering networks among those that are alive."""
        answering = self.answering.tolist()
        return self._rows([at for at, i in enumerate(self._alive()) if answering[i]])

    def _values(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        flat = self._checked(X)
        chosen = self._answering()
        pieces = [flat] if flat.requires_grad or len(flat) <= CHUNK else flat.split(CHUNK)
        return self._raw(torch.cat([self.average.of(piece, chosen) for piece in pieces], dim=1), X), None

    # --- state ------------------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        if not torch.equal(state_dict["alive"].to(self.alive), self.alive):
            self.alive.copy_(state_dict["alive"])
            self.net = self._make_networks().to(self.alive.device)
            self.average = copy.deepcopy(self.net).requires_grad_(False)
            self._optimizer = self._make_optimizer()
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def training_state(self) -> dict[str, Any]:
        """Optimiser, random state, the books of the competition, and the models as they were after the last fit."""
        before = {k: {n: t.clone() for n, t in self._before[k].state_dict().items()} for k in ("average", "scaling") if self._before}
        return {
            **super().training_state(),
            "competition": self._competition.state_dict(),
            "met": self._met,
            "halved_at": self._halved_at,
            "before": {**before, "models": list(self._before["models"])} if before else {},
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up a training that ``training_state`` described (after ``load_state_dict``)."""
        super().load_training_state(state)
        self._competition.load_state_dict(state["competition"])
        self._met, self._halved_at = int(state["met"]), int(state["halved_at"])
        self._broken = set()
        self._before = {}
        if state["before"]:
            models = [int(i) for i in state["before"]["models"]]
            scaling = Scaling(self.d, self.m, self.over_t).to(self.alive.device)
            scaling.load_state_dict(state["before"]["scaling"])
            average = self._make_networks(models).to(self.alive.device).requires_grad_(False)
            average.load_state_dict(state["before"]["average"])
            self._before = {"average": average, "scaling": scaling, "models": models}
