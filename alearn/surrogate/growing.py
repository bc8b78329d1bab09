"""A deep ensemble that starts small and grows when its size, and not its data, is what holds it back."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.base import Batch, OnlineSurrogate, Prediction
from alearn.surrogate.ensemble import DeepEnsemble
from alearn.surrogate.information import information, residual
from alearn.surrogate.net2net import grow, may_deepen
from alearn.surrogate.scaling import check_batch
from alearn.surrogate.stacked import StackedMLP

LIMITED = 0.5
"""The size limits when the error on learned data is this share of that on new members, or more; else the data do."""


@final
class GrowingEnsemble(OnlineSurrogate):
    """A deep ensemble whose networks become wider and deeper, with their function kept, when the error stalls.

    Before a ``fit`` the members that are new are predicted by the networks as they were after the last one. Once these
    members have brought enough information since the last look (``information.py``; members like those known count for nothing),
    the ensemble looks at itself. It grows if the error on new members has not fallen by the share ``stall`` since the last look
    *and* the error on the data it has learned is at least half as large: where learned data are met well and new members
    are not, only data help.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the initial weights, bootstrap and mini-batches.
        max_width: the width up to which it grows, twofold each time.
        max_depth: the depth up to which it grows, a layer each time.
        enough: information, in nats, that must have come before it looks at itself again.
        stall: the error has not stalled if it fell by this share.
        estimators: K.
        width: units of a hidden layer at the start.
        depth: hidden layers at the start.
        activation: silu, gelu, relu, tanh or sine; with tanh and sine only a residual body grows deeper.
        body: mlp, residual, fourier or siren.
        first_scale: scale of the first layer's initial weights.
        bootstrap: none, soft, exponential or poisson weights for each (estimator, group).
        lr: AdamW's learning rate.
        weight_decay: AdamW's decay.
        warm_up: updates over which the learning rate rises at the start.
        horizon: updates over which the prediction's weights are averaged.
        batch_size: rows of a mini-batch inside ``fit``.
        max_updates: the most that ``fit`` does when it decides itself.

    Raises:
        ConfigError: a number is out of range, or the body is of the user's own.
    """

    def __init__(
        self,
        d: int,
        m: int,
        over_t: bool = False,
        seed: int = 0,
        *,
        max_width: int = 256,
        max_depth: int = 4,
        enough: float = 8.0,
        stall: float = 0.1,
        estimators: int = 8,
        width: int = 32,
        depth: int = 2,
        activation: str = "silu",
        body: str = "mlp",
        first_scale: float = 1.5,
        bootstrap: str = "soft",
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        warm_up: int = 100,
        horizon: int = 200,
        batch_size: int = 64,
        max_updates: int = 8000,
    ) -> None:
        super().__init__()
        if ":" in body or max_width < width or max_depth < depth or not enough > 0 or not 0 <= stall < 1:
            raise ConfigError(
                f"The growing ensemble has body={body!r}, width={width} to {max_width}, depth={depth} to {max_depth}, enough={enough}, "
                f"stall={stall}; it needs a body of alearn's, ends that are not below the starts, a positive enough and a stall in [0, 1)."
            )
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self._kept: dict[str, Any] = {
            "estimators": estimators,
            "activation": activation,
            "body": body,
            "first_scale": first_scale,
            "bootstrap": bootstrap,
            "lr": lr,
            "weight_decay": weight_decay,
            "warm_up": warm_up,
            "horizon": horizon,
            "batch_size": batch_size,
            "max_updates": max_updates,
        }
        self._limits = {"max_width": max_width, "max_depth": max_depth, "enough": enough, "stall": stall}
        self._first = (width, depth)
        self.register_buffer("size", torch.tensor([width, depth]))
        self.size: Tensor
        self.inner = self._make(width, depth)
        self._before: Mapping[str, Any] = {}
        self._known = np.zeros(0, np.int64)
        self._nats, self._square, self._met = 0.0, 0.0, 0
        self._error = math.nan
        self.verdict = "it has not looked at itself yet"

    def _make(self, width: int, depth: int) -> DeepEnsemble:
        return DeepEnsemble(self.d, self.m, self.over_t, self.seed, width=width, depth=depth, **self._kept)

    def options(self) -> dict[str, Any]:
        return {**self._limits, "width": self._first[0], "depth": self._first[1], **self._kept}

    @property
    def lead(self) -> str:
        """Its size, and what it last thought of it, in words."""
        width, depth = self.size.tolist()
        grown = "" if (width, depth) == self._first else f", grown from {self._first[0]} x {self._first[1]}"
        return f"{self._kept['estimators']} networks of {width} x {depth}{grown}; {self.verdict}"

    # --- learning -------------------------------------------------------------------------------------------------

    @property
    def output_scale(self) -> Tensor:
        return self.inner.output_scale

    @property
    def updates(self) -> Tensor:
        """Optimiser updates so far."""
        return self.inner.updates

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.inner.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.inner.lr = value

    def observe(self, data: Batch) -> None:
        self.inner.observe(data)

    def update(self, batch: Batch) -> float:
        return self.inner.update(batch)

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        """Look at the members that are new, grow if that is what it takes, and train on all rows; returns the loss."""
        check_batch(data, self.d, self.m)
        self._meet(data)
        if self._nats >= self._limits["enough"]:
            self._look(data)
        loss = self.inner.fit(data, updates=updates)
        self._before = {k: v.clone() for k, v in self.inner.state_dict().items()}
        return loss

    def _meet(self, data: Batch) -> None:
        """Predict the new members by the networks of the last fit, and count what they tell."""
        groups = data.groups.cpu().numpy()
        new = ~np.isin(groups, self._known)
        known = self._known
        self._known = np.union1d(known, groups)
        if not new.any() or not self._before:
            return
        before = self._make(*self.size.tolist()).to(self.size.device)
        before.load_state_dict(self._before)
        index = torch.as_tensor(np.flatnonzero(new), device=data.X.device)
        arrived = data.take(index)
        learned = data.take(torch.as_tensor(np.flatnonzero(~new), device=data.X.device))
        if not len(learned):
            return
        self._nats += information(before, arrived, residual(before, learned))
        error = ((before.predict(arrived.X).mean - arrived.Y) / self.output_scale) ** 2
        members, at = torch.unique(arrived.groups, return_inverse=True)
        by_member = torch.zeros(len(members), dtype=torch.float64, device=at.device).index_add_(0, at, error.double().mean(dim=1))
        self._square += float((by_member / torch.bincount(at)).sum())
        self._met += len(members)

    def _look(self, data: Batch) -> None:
        new = math.sqrt(self._square / self._met)
        learned = float(residual(self.inner, data).pow(2).mean().sqrt())
        fell = not math.isfinite(self._error) or new < (1.0 - self._limits["stall"]) * self._error
        figures = f"error {new:.3g} on {self._met} new members, {learned:.3g} on learned ones ({self._nats:.1f} nats)"
        if fell:
            first = not math.isfinite(self._error)
            self.verdict = f"the {'first' if first else 'falling'} {figures}"
        elif learned < LIMITED * new:
            self.verdict = f"data limit it, not size: {figures}"
        else:
            self.verdict = f"the error stalled: {figures}" + ("" if self._grow() else "; it is as large as it may become")
        self._error = new
        self._nats, self._square, self._met = 0.0, 0.0, 0

    def _grow(self) -> bool:
        width, depth = self.size.tolist()
        wider = min(2 * width, int(self._limits["max_width"]))
        deeper = depth + int(depth < self._limits["max_depth"] and may_deepen(self._kept["activation"], self._kept["body"], wider / width))
        if (wider, deeper) == (width, depth):
            return False
        state = self.inner.state_dict()
        larger = self._make(wider, deeper).to(self.size.device)
        seed = self.seed + int(self.updates)
        for old, new, name in ((self.inner.net, larger.net, "net"), (self.inner.average, larger.average, "average")):
            assert isinstance(old, StackedMLP)
            assert isinstance(new, StackedMLP)
            grow(old, new, seed)
            state = {k: v for k, v in state.items() if not k.startswith(f"{name}.")}
            state |= {f"{name}.{k}": v for k, v in new.state_dict().items()}
        larger.load_state_dict(state)
        larger.lr = self.inner.lr
        self.inner = larger
        self.size.copy_(torch.tensor([wider, deeper]))
        return True

    def zoom(self, low: Sequence[float], high: Sequence[float]) -> None:
        """From now on the unit cube is the part between these edges; what was learned stays."""
        self.inner.zoom(low, high)

    # --- prediction and state: the ensemble's ---------------------------------------------------------------------------

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The ensemble's posterior over ``batch_shape x q x m``."""
        return self.inner.posterior(X, output_indices, observation_noise, posterior_transform)

    def predict(self, X: Tensor) -> Prediction:
        return self.inner.predict(X)

    def scale_variance(self, factor: Tensor) -> None:
        self.inner.scale_variance(factor)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        if state_dict["size"].tolist() != self.size.tolist():
            self.inner = self._make(*state_dict["size"].tolist()).to(self.size.device)
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        own = {k.removeprefix("inner."): v for k, v in state_dict.items() if k.startswith("inner.")}
        self.inner.load_state_dict(own)
        return result

    def training_state(self) -> dict[str, Any]:
        """The ensemble's, and what it knows of itself."""
        return {
            "inner": self.inner.training_state(),
            "before": {k: v.clone() for k, v in self._before.items()},
            "known": self._known,
            "looked": [self._nats, self._square, self._met, self._error],
            "verdict": self.verdict,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up a training that ``training_state`` described (after ``load_state_dict``)."""
        self.inner.load_training_state(state["inner"])
        self._before = copy.copy(state["before"])
        self._known = np.asarray(state["known"], dtype=np.int64)
        nats, square, met, error = state["looked"]
        self._nats, self._square, self._met, self._error = float(nats), float(square), int(met), float(error)
        self.verdict = str(state["verdict"])
