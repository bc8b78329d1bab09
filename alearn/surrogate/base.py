"""The surrogate contract: a BoTorch model that also learns and is calibrated.

Shapes follow BoTorch's grammar. The input's last dimension is ``d`` (parameters in the unit cube) or, for a
surrogate over trajectories, ``d + 1`` with simulation time t, in its own unit, as the last column; the
surrogate normalises t and the outputs itself. ``posterior(X)`` maps ``batch_shape x q x d'`` to a posterior
over ``batch_shape x q x m`` in the outputs' own units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from botorch.models.model import Model
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Training data: ``X`` is ``n x d'``, ``Y`` is ``n x m``, ``weights`` ``n`` (importance weights, mean near one)
    and ``groups`` ``n`` (an integer for each trajectory, so that bootstrap and cross-validation keep a member whole)."""

    X: Tensor
    Y: Tensor
    weights: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def take(self, index: Tensor) -> Batch:
        """The rows named by ``index``."""
        return Batch(self.X[index], self.Y[index], self.weights[index], self.groups[index])


@dataclass(frozen=True, slots=True)
class Prediction:
    """Marginal prediction at ``n`` points: mean, epistemic and aleatoric standard deviation, each ``n x m``, in the outputs' units."""

    mean: Tensor
    epistemic: Tensor
    aleatoric: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.mean, self.epistemic, self.aleatoric))


class Surrogate(Model, ABC):
    """A BoTorch model that can be fitted, calibrated, saved and restored.

    Subclasses set ``d`` (input columns, t included), ``m`` (outputs) and ``over_t`` in their constructor, which
    takes these three, a ``seed`` and their own options, and nothing else.
    """

    d: int
    m: int
    over_t: bool

    @property
    def num_outputs(self) -> int:
        return self.m

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # BoTorch's acquisition functions call .to(X): they may move the model, but must not change its numbers
        super()._apply(lambda tensor: fn(tensor).to(tensor.dtype), recurse)
        return self

    @abstractmethod
    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        """Train on all of ``data`` (from the present weights if the model is warm); returns the final loss.

        Args:
            data: the training data.
            updates: how many optimiser updates; None lets the surrogate train to convergence.
        """

    @abstractmethod
    def predict(self, X: Tensor) -> Prediction:
        """Marginal prediction at ``n x d`` points, without gradients and in bounded memory."""

    @property
    @abstractmethod
    def output_scale(self) -> Tensor:
        """Standard deviation of each output over the data seen, shape ``m``: what errors are normalised by."""

    @abstractmethod
    def scale_variance(self, factor: Tensor) -> None:
        """Set the calibration factor of the standard deviation, shape ``m``; posteriors use it from now on."""

    def options(self) -> dict[str, Any]:
        """The constructor's options, so that a snapshot can rebuild the model."""
        return {}


class OnlineSurrogate(Surrogate):
    """A surrogate that learns from mini-batches of a stream."""

    @abstractmethod
    def observe(self, data: Batch) -> None:
        """Let the normalisation follow newly arrived data (streaming moments); does not train."""

    @abstractmethod
    def update(self, batch: Batch) -> float:
        """One optimiser update on a mini-batch; returns the loss."""


@runtime_checkable
class Resumable(Protocol):
    """A surrogate whose training goes on exactly after it was saved: optimiser and random state."""

    def training_state(self) -> dict[str, Any]:
        """What training needs besides ``state_dict``: nested mappings of tensors, arrays, numbers and strings."""
        ...

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from there (after ``load_state_dict``)."""
        ...


@runtime_checkable
class Competing(Protocol):
    """A surrogate made of candidates of which one answers."""

    @property
    def lead(self) -> str:
        """Which one, and by how much it leads, in words."""
        ...


@runtime_checkable
class Zoomable(Protocol):
    """A surrogate that can take a part of the cube for the whole."""

    def zoom(self, low: Sequence[float], high: Sequence[float]) -> None:
        """From now on the unit cube is the part between these edges, ``d`` each (t not included) in the cube until now; what was
        learned stays."""
        ...


@runtime_checkable
class Rated(Protocol):
    """A surrogate with a learning rate."""

    lr: float


@runtime_checkable
class Counted(Protocol):
    """A surrogate that counts its optimiser updates."""

    @property
    def updates(self) -> Tensor:
        """The updates so far, one integer."""
        ...


class Partners(Protocol):
    """Other processes that compute gradients for the same update."""

    def begin(self) -> None:
        """An update begins: let them compute theirs meanwhile."""
        ...

    def finish(self) -> None:
        """The own gradients are there: replace them by the average over all."""
        ...


@runtime_checkable
class Parallel(Protocol):
    """A surrogate trained by gradient, for whose updates several processes may each compute gradients on rows of their own."""

    def work_with(self, partners: Partners | None) -> None:
        """From now on every update is made with these."""
        ...

    def trained(self) -> list[Tensor]:
        """The parameters that updates change; their ``grad`` is what is averaged."""
        ...

    def framed(self) -> tuple[int, dict[str, Tensor]]:
        """What else the loss depends on (normalisation, fixed networks), and a number that changes when it does."""
        ...

    def contribute(self, batch: Batch) -> None:
        """Compute the gradients on a mini-batch, and update nothing."""
        ...
