"""A next-state operator: networks that take a field one time step further, and whole trajectories by rolling them out.

Every estimator rolls out by itself, from a first state of its own, so that the spread of the roll-outs is the uncertainty
and grows along the trajectory as their disagreement does. Trained over several steps at a time and from slightly disturbed
states (Sanchez-Gonzalez et al. 2020; Brandstetter et al. 2022), or the first step's error would be the last one's ruin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor, nn

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, OnlineSurrogate, Prediction
from alearn.surrogate.bodies import coordinates, make_body
from alearn.surrogate.bootstrap import bootstrap_weights
from alearn.surrogate.operator import CELLS, FromPoint, OnGrid, channels_of
from alearn.surrogate.scaling import Scaling, check_batch, check_factor

NEAR = 0.5
"""A row follows another if it comes later by one time step, to within this share of it."""
LONGEST = 100_000
"""The most steps of a roll-out."""


@final
class NextState(OnlineSurrogate, OnGrid):
    """K networks from (state, parameters) to the state one time step later, and K from the parameters to the first state.

    As a surrogate it is one over (parameters, t) like any other: ``posterior`` and ``predict`` roll out to the times asked
    for, linearly between steps. Pairs of rows are found among those given by member and time: all of them in ``fit``, and in
    ``update`` those of the mini-batch, so that a buffer which draws pairs (``buffer=paired``) lets it learn from the stream.

    Args:
        d: input columns, t included.
        m: outputs: the cells of one or more fields, field after field.
        over_t: must be true.
        seed: of the initial weights, bootstrap, disturbances and mini-batches.
        grid: the fields' shape, of one or two axes; the trainer tells it. None is one field of ``m`` cells.
        body: fno (Fourier neural operator) or unet.
        estimators: K.
        width: channels of a layer.
        depth: layers.
        modes: Fourier modes that an FNO keeps along each axis.
        unroll: steps that are trained through together.
        noise: standard deviation of the disturbance, in units of a step's change.
        lr: Adam's learning rate.
        batch_size: pairs of a mini-batch inside ``fit``.
        max_updates: updates of a fit that decides itself.

    Raises:
        ConfigError: it is not over t, or a number is out of range.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = True,
        seed: int = 0,
        *,
        grid: Sequence[int] | None = None,
        body: str = "fno",
        estimators: int = 3,
        width: int = 24,
        depth: int = 3,
        modes: int = 8,
        unroll: int = 3,
        noise: float = 0.1,
        lr: float = 3e-3,
        batch_size: int = 16,
        max_updates: int = 2000,
    ) -> None:
        super().__init__()
        if not over_t:
            raise ConfigError("The surrogate next_state needs t; leave t_is_input=auto, or choose surrogate=operator.")
        if estimators < 2 or unroll < 1 or not noise >= 0 or not lr > 0 or min(batch_size, max_updates) < 1:
            raise ConfigError(
                f"The next-state operator has estimators={estimators}, unroll={unroll}, noise={noise}, lr={lr}, batch_size={batch_size}, "
                f"max_updates={max_updates}; it needs 2 estimators, a noise that is not negative, a positive lr, and 1 of the others."
            )
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self._grid, self.channels = channels_of(grid, m)
        self.lr, self.unroll, self.noise, self.batch_size, self.max_updates = lr, unroll, noise, batch_size, max_updates
        self._options: dict[str, Any] = {
            "grid": list(self._grid), "body": body, "estimators": estimators, "width": width, "depth": depth, "modes": modes,
            "unroll": unroll, "noise": noise, "lr": lr, "batch_size": batch_size, "max_updates": max_updates,
        }  # fmt: skip
        self._generator = torch.Generator().manual_seed(seed)
        inputs = self.channels + d - 1 + len(self._grid)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = [FromPoint(d - 1, self.channels, self._grid, body, width, depth, modes) for _ in range(estimators)]
            step = [make_body(body, inputs, self.channels, self._grid, width, depth, modes) for _ in range(estimators)]
        self.first, self.step = nn.ModuleList(first), nn.ModuleList(step)
        self.scaling = Scaling(d, m, over_t, common=True)
        for name, value in (("t_first", 0.0), ("dt", 0.0), ("change", 1.0), ("bound", 10.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("factor", torch.ones(m, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("where", coordinates(self._grid), persistent=False)
        self.t_first: Tensor
        self.dt: Tensor
        self.change: Tensor
        self.bound: Tensor
        self.factor: Tensor
        self.updates: Tensor
        self.where: Tensor
        self._optimizer = torch.optim.Adam([*self.first.parameters(), *self.step.parameters()], lr=lr)

    @property
    def grid(self) -> tuple[int, ...]:
        return self._grid

    @property
    def estimators(self) -> int:
        """How many roll-outs there are."""
        return len(self.step)

    @property
    def output_scale(self) -> Tensor:
        return self.scaling.scale

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    # --- learning ----------------------------------------------------------------------------------------------------

    def observe(self, data: Batch) -> None:
        check_batch(data, self.d, self.m)
        if float(self.scaling.count) == 0:
            self.t_first.copy_(data.X[:, -1].min())
        self.t_first.copy_(torch.minimum(self.t_first, data.X[:, -1].min().double()))
        self.scaling.observe(data.Y)
        if self.scaling.moved():
            self._normalise()
        if float(self.dt) == 0:
            self._pace(data)

    def _normalise(self) -> None:
        mean, scale = self.scaling.target()
        self.scaling.mean.copy_(mean)
        self.scaling.scale.copy_(scale)

    def _pace(self, data: Batch) -> None:
        """The time step: the median time between the rows of a member."""
        order = _by_member(data)
        t, group = data.X[order, -1].double(), data.groups[order]
        between = (t[1:] - t[:-1])[group[1:] == group[:-1]]
        if len(between) and float(between.median()) > 0:
            self.dt.copy_(between.median())

    def update(self, batch: Batch) -> float:
        check_batch(batch, self.d, self.m)
        if float(self.scaling.count) == 0 or float(self.dt) == 0:
            self.observe(batch)
        known = self._known(batch)
        return float(self._advance(known, torch.arange(len(batch), device=batch.X.device), self.lr))

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        check_batch(data, self.d, self.m)
        self.scaling.reset_moments()
        self.t_first.copy_(data.X[:, -1].min())
        self.scaling.observe(data.Y)
        self._normalise()
        self._pace(data)
        known = self._known(data)
        rounds = self.max_updates if updates is None else updates
        loss = torch.zeros(())
        for i in range(rounds):
            index = torch.randint(len(data), (min(self.batch_size, len(data)),), generator=self._generator).to(data.X.device)
            rate = self.lr * min(1.0, (i + 1) / 50, 2.0 * (1.0 - i / rounds) + 0.02)
            loss = self._advance(known, index, rate)
        return float(loss)

    def _known(self, data: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Points ``n x (d - 1)``, states ``n x c x grid``, weights ``K x n``, the row that follows each (-1: none), the time to it in
        steps, and whether a row is a first state; and lets the size of a step's change follow the data."""
        n = len(data)
        states = self.scaling.outputs(data.Y.double()).float().reshape(n, self.channels, *self._grid)
        t = data.X[:, -1].double()
        after = torch.full((n,), -1, dtype=torch.int64, device=t.device)
        steps = torch.ones(n, dtype=torch.float64, device=t.device)
        if float(self.dt) > 0:
            order = _by_member(data)
            apart = (t[order[1:]] - t[order[:-1]]) / self.dt
            follows = (data.groups[order[1:]] == data.groups[order[:-1]]) & ((apart - 1.0).abs() < NEAR)
            after[order[:-1][follows]] = order[1:][follows]
            steps[order[:-1][follows]] = apart[follows]
            if bool(follows.any()):
                self.change.copy_((states[order[1:][follows]] - states[order[:-1][follows]]).double().pow(2).mean().sqrt().clamp_min(1e-9))
        self.bound.copy_(torch.maximum(self.bound, 2.0 * states.abs().max().double()))
        weights = bootstrap_weights("soft", self.seed, self.estimators, data.groups) * data.weights.float()
        first = t <= self.t_first + NEAR * torch.where(self.dt > 0, self.dt, torch.ones_like(self.dt))
        return 2.0 * data.X[:, :-1].float() - 1.0, states, weights, after, steps, first

    def _advance(self, known: tuple[Tensor, ...], index: Tensor, rate: float) -> Tensor:
        """One update of all networks on roll-outs from the rows of ``index``."""
        points, states, weights, after, steps, first = known
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=points.device)
        starts = index[first[index]]
        for k in range(self.estimators):
            if len(starts):
                made = self.first[k](points[starts]).reshape(-1, self.channels, *self._grid)
                total = total + (_mean_square(made - states[starts]) * weights[k, starts]).mean()
            at = index[after[index] >= 0]
            state = states[at]
            if self.noise and len(at):
                draw = torch.randn(state.shape, generator=self._generator).to(state)
                state = state + self.noise * float(self.change) * draw
            for _ in range(self.unroll):
                if not len(at):
                    break
                state = self._next(k, state, points[at], steps[at])
                at = after[at]
                total = total + (_mean_square((state - states[at]) / float(self.change)) * weights[k, at]).mean() / self.unroll
                on = after[at] >= 0
                at, state = at[on], state[on]
        if not total.requires_grad:
            return total
        total.backward()
        nn.utils.clip_grad_norm_([p for g in self._optimizer.param_groups for p in g["params"]], 10.0)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self.updates += 1
        return total.detach() / self.estimators

    def _next(self, k: int, state: Tensor, points: Tensor, steps: Tensor | None = None) -> Tensor:
        """The states ``b x c x grid`` of estimator ``k`` one step (or ``steps`` of them, ``b``) later."""
        b = len(state)
        ones = tuple(1 for _ in self._grid)
        numbers = points.reshape(b, -1, *ones).expand(b, points.shape[1], *self._grid)
        change = self.step[k](torch.cat([state, numbers, self.where.expand(b, *self.where.shape)], dim=1)) * float(self.change)
        if steps is not None:
            change = change * steps.float().reshape(b, 1, *ones)
        bound = float(self.bound)
        later: Tensor = (state + change).clamp(-bound, bound)
        return later

    # --- rolling out -------------------------------------------------------------------------------------------------

    def _values(self, X: Tensor) -> Tensor:
        """Raw values of the roll-outs at ``n x d`` inputs, ``K x n x m``."""
        if X.requires_grad:
            return self._roll(X[:, :-1], torch.arange(len(X), device=X.device), X[:, -1])
        points, row = torch.unique(X[:, :-1], dim=0, return_inverse=True)
        out = X.new_empty(self.estimators, len(X), self.m, dtype=torch.float64)
        for chosen in torch.arange(len(points), device=X.device).split(max(1, CELLS // self.m)):
            rows = ((row >= chosen[0]) & (row <= chosen[-1])).nonzero()[:, 0]
            out[:, rows] = self._roll(points[chosen], row[rows] - chosen[0], X[rows, -1]).double()
        return out

    def _roll(self, points: Tensor, row: Tensor, t: Tensor) -> Tensor:
        """Roll out from ``p x (d - 1)`` points; of point ``row[i]`` the state at time ``t[i]``, ``K x n x m``."""
        dt = float(self.dt) if float(self.dt) > 0 else 1.0
        wanted = ((t.double() - self.t_first) / dt).clamp(0.0, float(LONGEST))
        last = int(wanted.max().ceil()) if len(wanted) else 0
        x = 2.0 * points.float() - 1.0
        found = []
        for k in range(self.estimators):
            state = self.first[k](x).reshape(-1, self.channels, *self._grid)
            out = torch.zeros(len(t), self.m, device=points.device)
            for step in range(last + 1):
                share = (1.0 - (wanted - step).abs()).clamp_min(0.0).float()  # linear between the two steps around t
                use = (share > 0).nonzero()[:, 0]
                if len(use):
                    out = out.index_add(0, use, share[use, None] * state[row[use]].flatten(1))
                if step < last:
                    state = self._next(k, state, x)
            found.append(out)
        values = torch.stack(found).double()
        raw: Tensor = values * self.scaling.scale + self.scaling.mean
        return raw

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The K roll-outs at ``batch_shape x q x d``, their spread scaled by the calibration factor: an ``EnsemblePosterior``."""
        values = self._values(self._checked(X))
        values = values.reshape(self.estimators, *X.shape[:-1], self.m).movedim(0, -3).to(X if X.is_floating_point() else values)
        centre = values.mean(dim=-3, keepdim=True)
        values = centre + self.factor.to(values) * (values - centre)
        if output_indices is not None:
            values = values[..., output_indices]
        posterior: Posterior = EnsemblePosterior(values)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def _checked(self, X: Tensor) -> Tensor:
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        return X.reshape(-1, self.d)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        if len(X) == 0:
            return Prediction(*(X.new_empty(0, self.m) for _ in range(3)))
        values = self._values(self._checked(X)).to(X if X.is_floating_point() else torch.float64)
        return Prediction(values.mean(dim=0), values.std(dim=0) * self.factor.to(values), torch.zeros_like(values[0]))

    def scale_variance(self, factor: Tensor) -> None:
        self.factor.copy_(check_factor(factor, self.m))

    def training_state(self) -> dict[str, Any]:
        """What training needs besides ``state_dict`` to go on exactly: Adam's moments and the generator."""
        return {"optimizer": self._optimizer.state_dict(), "generator": self._generator.get_state()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up a training that ``training_state`` described (after ``load_state_dict``)."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])


def _by_member(data: Batch) -> Tensor:
    """The rows ordered by member, and by time in each."""
    order = data.X[:, -1].argsort(stable=True)
    return order[data.groups[order].argsort(stable=True)]


def _mean_square(off: Tensor) -> Tensor:
    """``b x c x grid`` to ``b``."""
    return off.pow(2).flatten(1).mean(dim=1)
