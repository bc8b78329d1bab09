"""Several objectives at once: the points that push the Pareto front the farthest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import WeightedMCMultiOutputObjective
from botorch.exceptions.errors import BotorchError
from botorch.models.model import Model
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from botorch.sampling.index_sampler import IndexSampler
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, selection
from alearn.acquisition.pool import draw_seed, refine, sobol_pool
from alearn.acquisition.scores import moments, prospects
from alearn.errors import ConfigError
from alearn.space import Space
from alearn.surrogate import OverTime

CHUNK = 256
DRAWS = torch.Size([16])
"""Samples of the posterior: each costs a partition of the objectives' space at every pick."""
MOST = 64
"""Members of the baseline, at most: those on the front first."""


class Nehvi:
    """Picks one by one the largest expected gain in the volume that the Pareto front dominates, over noisy members
    (qLogNEHVI of BoTorch: Daulton, Balandat and Bakshy 2021; Ament et al. 2023). Outputs count at the last time.

    Args:
        outputs: numbers of the objectives among the outputs, counted from 0; at least two.
        minimise: those of them that should be small.
        pool: candidates spread over the space.
        refine: further candidates around the front.
    """

    def __init__(self, *, outputs: Sequence[int] = (0, 1), minimise: Sequence[int] = (), pool: int = 1024, refine: int = 256) -> None:
        check_positive("pool", pool)
        self.outputs, self.minimise = tuple(outputs), tuple(minimise)
        if len(set(self.outputs)) < 2 or any(isinstance(o, bool) or not isinstance(o, int) or o < 0 for o in self.outputs):
            raise ConfigError(
                f"The acquisition's option outputs is {list(outputs)}; give the numbers of two or more outputs, counted from 0."
            )
        if set(self.minimise) - set(self.outputs):
            raise ConfigError(f"The acquisition's option minimise is {list(minimise)}, but the objectives are {list(outputs)}.")
        self.pool, self.refine = pool, refine

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more.

        Raises:
            ConfigError: the surrogate has too few outputs, or BoTorch cannot use it.
        """
        model = Objectives(surrogate, self.outputs)
        signs = torch.tensor([-1.0 if o in self.minimise else 1.0 for o in self.outputs], dtype=torch.float64)
        X = sobol_pool(space, self.pool, context)
        if not len(context.X):
            return selection(X[:q], [float("nan")] * len(X[:q]), ["no member has data yet, so there is no front to push"] * len(X[:q]))
        value = moments(model, X)[0] * signs
        X = torch.cat([X, refine(X, is_non_dominated(value).double(), space, self.refine, context)])
        found = prospects(surrogate, X, context)
        known = context.X.double()
        theirs = moments(model, known)[0] * signs
        on_front = is_non_dominated(theirs)
        known = torch.cat([known[on_front], known[~on_front]])[:MOST]
        with torch.random.fork_rng(devices=[]):
            # BoTorch's samplers draw from torch's global generator
            torch.manual_seed(draw_seed(context.generator))
            rows, scores = self._greedy(model, X, known, theirs, signs, found.worth, q, context)
        lines = explain(found, rows, context)
        mean = moments(model, X[rows])[0]
        why = [
            f"pushes the front, predicted {', '.join(f'{v:.3g}' for v in m)}; {line}" for m, line in zip(mean.tolist(), lines, strict=True)
        ]
        return selection(X[rows], scores, why)

    def _greedy(
        self, model: Objectives, X: Tensor, known: Tensor, theirs: Tensor, signs: Tensor, worth: Tensor, q: int, context: Context
    ) -> tuple[list[int], list[float]]:
        rows: list[int] = []
        scores: list[float] = []
        reference = infer_reference_point(theirs[is_non_dominated(theirs)])
        for _ in range(min(q, len(X))):
            pending = torch.cat([context.pending.double(), X[rows]])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # BoTorch would rather sample a Gaussian posterior
                    criterion = qLogNoisyExpectedHypervolumeImprovement(
                        model,
                        ref_point=reference,
                        X_baseline=known,
                        sampler=IndexSampler(DRAWS) if model.discrete(X) else SobolQMCNormalSampler(DRAWS),
                        objective=WeightedMCMultiOutputObjective(signs),
                        prune_baseline=False,
                        cache_root=False,
                        X_pending=pending if len(pending) else None,
                    )
                    with torch.no_grad():
                        log_gain = torch.cat([criterion(part.unsqueeze(1)) for part in X.split(CHUNK)]).double()
            except (BotorchError, RuntimeError, NotImplementedError, ValueError) as error:
                raise ConfigError(
                    f"BoTorch's qLogNEHVI does not work with this surrogate ({type(model.surrogate).__name__}): {error}"
                ) from error
            merit = log_gain + worth.log()
            merit[rows] = -torch.inf
            row = int(merit.argmax())
            rows.append(row)
            scores.append(float(log_gain[row]))
        return rows, scores


class Objectives(Model):
    """A surrogate seen through a few of its outputs, at the last time.

    Args:
        surrogate: over parameters.
        outputs: their numbers, counted from 0.

    Raises:
        ConfigError: there is no such output.
    """

    def __init__(self, surrogate: Model, outputs: Sequence[int]) -> None:
        super().__init__()
        times = surrogate.T if isinstance(surrogate, OverTime) else 1
        m = surrogate.num_outputs // times
        if max(outputs) >= m:
            raise ConfigError(f"The acquisition's option outputs is {list(outputs)}, but the surrogate has {m} outputs, counted from 0.")
        self.surrogate = surrogate
        self.columns = [(times - 1) * m + o for o in outputs]

    @property
    def num_outputs(self) -> int:
        return len(self.columns)

    @property
    def batch_shape(self) -> torch.Size:
        return self.surrogate.batch_shape

    def posterior(
        self, X: Tensor, output_indices: list[int] | None = None, observation_noise: Any = False, posterior_transform: Any = None
    ) -> Posterior:
        """The chosen outputs' posterior."""
        found: Any = self.surrogate.posterior(X)
        if isinstance(found, EnsemblePosterior):
            found = EnsemblePosterior(found.values[..., self.columns].double())
        elif self.columns != list(range(self.surrogate.num_outputs)):
            found = self.surrogate.posterior(X, output_indices=self.columns)
        return found  # type: ignore[no-any-return]

    def discrete(self, X: Tensor) -> bool:
        """Whether the posterior is an ensemble's, which has no more samples than estimators."""
        return isinstance(self.surrogate.posterior(X[:1].unsqueeze(1)), EnsemblePosterior)
