"""scikit-learn's regressors as surrogates, with variances that their own structure gives.

A forest's trees and boosted models of several seeds and halves of the data are ensembles; nearest neighbours differ from one
another and from the point that is asked about. Their posteriors are piecewise constant: nothing for gradients, much for tables
with categories. Needs scikit-learn (``pip install scikit-learn``). Nothing is pickled: a snapshot holds the data and the
options, and loading fits again with the same seed.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from typing import Any, final

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from alearn.errors import AlearnError, ConfigError
from alearn.surrogate.base import Batch, Prediction, Surrogate
from alearn.surrogate.bootstrap import bootstrap_weights
from alearn.surrogate.scaling import Scaling, check_batch, check_factor
from alearn.types import Floats

F64 = torch.float64
CHUNK = 1 << 14
FLOOR = 1e-4
"""Least standard deviation of the nearest neighbours' answer, in units of the output's own."""
_LEVELS = torch.special.ndtri((torch.arange(16, dtype=F64) + 0.5) / 16)
QUANTILES: Floats = (_LEVELS / _LEVELS.std()).numpy()
"""Sixteen values that stand for a normal distribution of standard deviation one."""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{name}")
    except ImportError as error:
        raise ConfigError("This surrogate needs scikit-learn; install it with: pip install scikit-learn") from error


class SklearnSurrogate(Surrogate):
    """A surrogate whose estimators are scikit-learn's; a subclass fits them and asks them.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the fit.
    """

    def __init__(self, d: int, m: int, over_t: bool, seed: int) -> None:
        super().__init__()
        _module("base")
        self.d, self.m, self.over_t, self.seed = d, m, over_t, seed
        self.scaling = Scaling(d, m, over_t)
        self.register_buffer("train_X", torch.empty(0, d, dtype=F64))
        self.register_buffer("train_Y", torch.empty(0, m, dtype=F64))
        self.register_buffer("train_weights", torch.empty(0, dtype=F64))
        self.register_buffer("train_groups", torch.empty(0, dtype=torch.int64))
        self.register_buffer("factor", torch.ones(m, dtype=F64))
        self.register_buffer("seeded", torch.tensor(seed, dtype=torch.int64))  # a snapshot fits again with the seed of its own
        self.train_X: Tensor
        self.train_Y: Tensor
        self.train_weights: Tensor
        self.train_groups: Tensor
        self.factor: Tensor
        self.seeded: Tensor

    @abstractmethod
    def _learn(self, x: Floats, y: Floats, weights: Floats, groups: Floats) -> None:
        """Fit the estimators to normalised rows."""

    @abstractmethod
    def _ask(self, x: Floats) -> Floats:
        """What each of the K estimators says of normalised rows, ``K x n x m``."""

    @property
    def output_scale(self) -> Tensor:
        return self.scaling.scale

    def fit(self, data: Batch, *, updates: int | None = None) -> float:
        check_batch(data, self.d, self.m)
        self.train_X, self.train_Y = data.X.to(F64), data.Y.to(F64)
        self.train_weights, self.train_groups = data.weights.to(F64), data.groups.to(torch.int64)
        self._refit()
        return float((((self.predict(data.X).mean - data.Y) / self.scaling.scale) ** 2).mean())

    def _refit(self) -> None:
        X, Y = self.train_X, self.train_Y
        grown = self.scaling.grown_range(X)
        if grown is not None:
            self.scaling.t_range.copy_(torch.tensor(grown, dtype=F64))
        self.scaling.reset_moments()
        self.scaling.observe(Y)
        mean, scale = self.scaling.target()
        self.scaling.mean.copy_(mean)
        self.scaling.scale.copy_(scale)
        x, y = self.scaling.inputs(X).numpy(), self.scaling.outputs(Y).numpy()
        self._learn(x, y, self.train_weights.numpy(), self.train_groups.numpy())

    def _values(self, X: Tensor) -> Tensor:
        """Raw values ``K x n x m`` of rows ``n x d``, their spread scaled by the calibration factor."""
        if X.shape[-1] != self.d:
            raise ConfigError(f"The surrogate takes {self.d} input columns; X has the shape {tuple(X.shape)}.")
        if not len(self.train_X):
            raise AlearnError("The surrogate has not seen any data; call fit first.")
        raw = torch.as_tensor(self._ask(self.scaling.inputs(X.detach().to(F64)).numpy())) * self.scaling.scale + self.scaling.mean
        centre = raw.mean(dim=0)
        return (centre + self.factor * (raw - centre)).to(X.dtype if X.is_floating_point() else F64)

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """An ``EnsemblePosterior`` over ``batch_shape x K x q x m``; without gradients, for it is piecewise constant."""
        values = self._values(X.reshape(-1, self.d) if X.shape[-1] == self.d else X)
        values = values.reshape(len(values), *X.shape[:-1], self.m).movedim(0, -3)
        posterior: Posterior = EnsemblePosterior(values if output_indices is None else values[..., output_indices])
        return posterior if posterior_transform is None else posterior_transform(posterior)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Prediction:
        if len(X) == 0:
            return Prediction(*(X.new_empty(0, self.m) for _ in range(3)))
        parts = [self._values(x) for x in X.split(CHUNK)]
        values = torch.cat(parts, dim=1)
        return Prediction(values.mean(dim=0), values.std(dim=0), torch.zeros_like(values[0]))

    def scale_variance(self, factor: Tensor) -> None:
        self.factor.copy_(check_factor(factor, self.m))

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        for name in ("train_X", "train_Y", "train_weights", "train_groups"):
            setattr(self, name, state_dict[name].clone())
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        if len(self.train_X):
            self._refit()
        return result


@final
class RandomForest(SklearnSurrogate):
    """A forest of extremely randomised trees (Geurts et al. 2006), each on its own bootstrap of the rows; the trees'
    spread is the uncertainty.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the trees.
        trees: how many.
        leaf: rows in the smallest leaf.
    """

    def __init__(self, d: int, m: int, over_t: bool = False, seed: int = 0, *, trees: int = 100, leaf: int = 1) -> None:
        if trees < 2 or leaf < 1:
            raise ConfigError(f"The forest has trees={trees} and leaf={leaf}; it needs at least 2 trees and 1 row in a leaf.")
        super().__init__(d, m, over_t, seed)
        self._trees, self._leaf = trees, leaf
        self._forest: Any = None

    def options(self) -> dict[str, Any]:
        return {"trees": self._trees, "leaf": self._leaf}

    def _learn(self, x: Floats, y: Floats, weights: Floats, groups: Floats) -> None:
        make = _module("ensemble").ExtraTreesRegressor
        self._forest = make(self._trees, min_samples_leaf=self._leaf, bootstrap=True, random_state=int(self.seeded))
        self._forest.fit(x, y if self.m > 1 else y[:, 0], sample_weight=weights)

    def _ask(self, x: Floats) -> Floats:
        return np.stack([tree.predict(x).reshape(len(x), self.m) for tree in self._forest.estimators_])


@final
class NearestNeighbours(SklearnSurrogate):
    """Inverse-distance mean of the nearest rows; the K values are quantiles of a normal distribution.

    The variance is the weighted variance of the neighbours' values plus the square of the local slope (the largest difference
    between neighbours over their distance) times the distance to the nearest row: zero where a row is, and larger the farther
    the rows and the rougher the response there.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: not used; every surrogate takes one.
        neighbours: how many.
    """

    def __init__(self, d: int, m: int, over_t: bool = False, seed: int = 0, *, neighbours: int = 6) -> None:
        if neighbours < 2:
            raise ConfigError(f"neighbours={neighbours}; it needs at least 2.")
        super().__init__(d, m, over_t, seed)
        self._neighbours = neighbours
        self._index: Any = None
        self._y: Floats = np.empty((0, m))

    def options(self) -> dict[str, Any]:
        return {"neighbours": self._neighbours}

    def _learn(self, x: Floats, y: Floats, weights: Floats, groups: Floats) -> None:
        self._index = _module("neighbors").NearestNeighbors(n_neighbors=min(self._neighbours, len(x))).fit(x)
        self._y = y

    def _ask(self, x: Floats) -> Floats:
        distance, index = self._index.kneighbors(x)
        near = np.maximum(distance, 1e-9)
        weight = near**-2 / (near**-2).sum(axis=1, keepdims=True)
        y = self._y[index]
        mean = (weight[..., None] * y).sum(axis=1)
        inner = (weight[..., None] * (y - mean[:, None]) ** 2).sum(axis=1)
        slope = np.ptp(y, axis=1) / np.maximum(distance[:, -1:], 1e-9)
        std = np.sqrt(inner + (slope * distance[:, :1]) ** 2 + FLOOR**2)
        values: Floats = mean + std * QUANTILES[:, None, None]
        return values


@final
class GradientBoosting(SklearnSurrogate):
    """Histogram gradient boosting, several times: each model learns bootstrap-weighted members from a seed of its own.

    Args:
        d: input columns, t included.
        m: outputs.
        over_t: whether the last input column is simulation time.
        seed: of the models and the bootstrap.
        models: how many.
        iterations: trees of each.
        rate: learning rate.
    """

    def __init__(
        self, d: int, m: int, over_t: bool = False, seed: int = 0, *, models: int = 8, iterations: int = 150, rate: float = 0.1
    ) -> None:
        if models < 2 or iterations < 1 or rate <= 0:
            raise ConfigError(
                f"The boosted surrogate has models={models}, iterations={iterations}, rate={rate}; "
                "it needs at least 2 models, 1 iteration and a positive rate."
            )
        super().__init__(d, m, over_t, seed)
        self._count, self._iterations, self._rate = models, iterations, rate
        self._models: list[list[Any]] = []

    def options(self) -> dict[str, Any]:
        return {"models": self._count, "iterations": self._iterations, "rate": self._rate}

    def _learn(self, x: Floats, y: Floats, weights: Floats, groups: Floats) -> None:
        make = _module("ensemble").HistGradientBoostingRegressor
        shares = bootstrap_weights("exponential", int(self.seeded), self._count, torch.as_tensor(groups)).numpy()
        leaf = max(1, min(20, len(x) // 10))
        self._models = [
            [
                make(learning_rate=self._rate, max_iter=self._iterations, min_samples_leaf=leaf, early_stopping=False, random_state=k).fit(
                    x, y[:, j], sample_weight=share * weights
                )
                for j in range(self.m)
            ]
            for k, share in enumerate(shares)
        ]

    def _ask(self, x: Floats) -> Floats:
        return np.stack([np.stack([model.predict(x) for model in row], axis=-1) for row in self._models])
