"""Acquisitions that go where the surrogate is unsure, and how each keeps a batch from clumping."""

from __future__ import annotations

import torch
from botorch.models.model import Model
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, greedy, known_distance, selection
from alearn.acquisition.difficulty import Difficulty
from alearn.acquisition.pool import refine, sobol_pool
from alearn.acquisition.scores import Prospects, prospects, worth
from alearn.errors import ConfigError
from alearn.space import Space


class PosteriorStd:
    """The ``q`` candidates of largest posterior standard deviation.

    .. warning:: This is a trap, kept as a baseline. The standard deviation varies smoothly, so the best ``q``
       candidates are neighbours of one another: a batch of near-duplicates that in two dimensions is far worse
       than random. Use ``std_distance``, or set ``diversity`` above 0.

    Args:
        pool: candidates compared.
        diversity: weight of the distance to what is known and already chosen; 0 is plain top-K.
    """

    def __init__(self, *, pool: int = 8192, diversity: float = 0.0) -> None:
        check_positive("pool", pool)
        self.pool = pool
        self.diversity = _not_negative("diversity", diversity)

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        found = prospects(surrogate, sobol_pool(space, self.pool, context), context)
        rows, scores = greedy(found.X, found.std * found.worth, known_distance(found.X, context), q, self.diversity)
        return selection(found.X[rows], scores, explain(found, rows, context))


class StdDistance:
    """Standard deviation times distance, chosen one by one: the default.

    Each pick is the candidate with the largest ``std x distance^gamma``, where distance is that to the nearest
    observed, pending or already picked point. Distance does what the ensemble's spread does not: it falls to
    zero at a point that is about to be known, so a batch spreads over the uncertain region instead of piling up
    in its middle. The standard deviation is read as ``Difficulty`` says: a Gaussian process's is corrected by its
    leave-one-out errors.

    Args:
        gamma: weight of distance.
        pool: candidates spread over the space.
        refine: further candidates around the best of them.
    """

    def __init__(self, *, gamma: float = 1.0, pool: int = 8192, refine: int = 2048) -> None:
        check_positive("pool", pool)
        self.gamma = _not_negative("gamma", gamma)
        self.pool = pool
        self.refine = int(_not_negative("refine", refine))

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        found, distance = gather(surrogate, space, context, self.pool, self.refine, self.gamma)
        rows, scores = greedy(found.X, found.std * found.worth, distance, q, self.gamma)
        return selection(found.X[rows], scores, explain(found, rows, context))


class StochasticBatch:
    """Draw the batch with probability proportional to ``score^power`` (SBAL: Kirsch et al., "Stochastic Batch
    Acquisition", TMLR 2023, arXiv 2106.12059), by perturbing log-scores with Gumbel noise.

    Args:
        power: 0 is uniform, large is top-K.
        pool: candidates compared.
    """

    def __init__(self, *, power: float = 2.0, pool: int = 8192) -> None:
        check_positive("pool", pool)
        self.power = _not_negative("power", power)
        self.pool = pool

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more."""
        found = prospects(surrogate, sobol_pool(space, self.pool, context), context)
        score = found.std * found.worth
        noise = torch.rand(len(score), generator=context.generator, dtype=torch.float64).clamp(1e-300, 1 - 1e-16)
        perturbed = self.power * score.clamp_min(1e-300).log() - (-noise.log()).log()
        rows = perturbed.topk(min(q, len(perturbed))).indices.tolist()
        return selection(found.X[rows], score[rows].tolist(), [f"drawn at random by {r}" for r in explain(found, rows, context)])


def gather(surrogate: Model, space: Space, context: Context, pool: int, children: int, gamma: float) -> tuple[Prospects, Tensor]:
    """A pool and its refinement around the best ``std x distance^gamma``, with the distances to what is known."""
    measure = Difficulty(surrogate, context)
    X = sobol_pool(space, pool, context)
    std, distance = measure(X), known_distance(X, context)
    more = refine(X, std * worth(X, context)[0] * distance**gamma, space, children, context)
    X = torch.cat([X, more])
    std, distance = torch.cat([std, measure(more)]), torch.cat([distance, known_distance(more, context)])
    return Prospects(X, std, *worth(X, context)), distance


def _not_negative(option: str, value: float) -> float:
    if not value >= 0:
        raise ConfigError(f"The acquisition's option {option} is {value}; give a number of at least 0.")
    return value
