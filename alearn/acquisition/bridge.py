"""Every BoTorch acquisition function by its name, over any surrogate."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import botorch.acquisition as functions
import torch
from botorch.acquisition import analytic
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.objective import PosteriorTransform, ScalarizedPosteriorTransform
from botorch.exceptions.errors import BotorchError
from botorch.models.model import Model
from botorch.optim.optimize import optimize_acqf
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from alearn.acquisition.base import Context, Selection
from alearn.acquisition.baselines import check_positive
from alearn.acquisition.batch import explain, selection
from alearn.acquisition.pool import CHUNK, DUPLICATE, nearest, sobol_pool
from alearn.acquisition.scores import moments, prospects
from alearn.errors import ConfigError, UnknownName
from alearn.space import Space

SHORT = {"qNIPV": "qNegIntegratedPosteriorVariance", "std": "PosteriorStandardDeviation"}


class BoTorchAcquisition:
    """Selects with an acquisition function of BoTorch (Balandat et al. 2020).

    The batch is built one point at a time, with pending members and the points already picked as ``X_pending``.
    Each point is the best of a Sobol pool, then moved by gradient where the space is continuous and nothing
    weighs the score. What the function's constructor asks for is supplied if it can be known: the model,
    ``best_f`` (the largest observed mean), ``mc_points``, ``X_baseline``, ``X_pending``, and, for several
    outputs, a transform that adds them up in units of their spread. The rest are ``options``.

    Functions that condition on fantasies (knowledge gradient, qNegIntegratedPosteriorVariance) need a surrogate
    that can do it: a GP.

    Args:
        function: the name of a class in ``botorch.acquisition``, or "qNIPV" or "std" for short.
        options: further arguments of its constructor, e.g. ``{beta: 0.2}`` for ``UpperConfidenceBound``.
        pool: candidates compared for each point.
        mc_points: points over which an integrated criterion integrates.
        gradient: move the best candidates by gradient ascent.
    """

    def __init__(
        self,
        *,
        function: str = "qNegIntegratedPosteriorVariance",
        options: Mapping[str, Any] | None = None,
        pool: int = 1024,
        mc_points: int = 128,
        gradient: bool = True,
    ) -> None:
        check_positive("pool", pool)
        check_positive("mc_points", mc_points)
        self.name = SHORT.get(function, function)
        self.function = _function(self.name)
        self.options = dict(options or {})
        self.accepted = inspect.signature(self.function).parameters
        for option in self.options:
            if option not in self.accepted:
                raise UnknownName(f"option of BoTorch's {self.name}", option, self.accepted)
        self.pool = pool
        self.mc_points = mc_points
        self.gradient = gradient

    def select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        """Choose ``q`` points; fewer if the space has no more.

        Raises:
            ConfigError: the function cannot be built or evaluated with this surrogate.
        """
        with torch.random.fork_rng(devices=[]):
            # BoTorch's samplers draw from torch's global generator
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=context.generator)))
            return self._select(surrogate, space, q, context)

    def _select(self, surrogate: Model, space: Space, q: int, context: Context) -> Selection:
        found = prospects(surrogate, sobol_pool(space, self.pool, context), context)
        given = self._given(surrogate, space, context)
        picked = found.X[:0]
        rows: list[int] = []
        scores: list[float] = []
        free = torch.ones(len(found.X), dtype=torch.bool)
        weighed = bool((found.worth != 1).any())
        for _ in range(min(q, len(found.X))):
            try:
                acquisition = self._build(surrogate, given, torch.cat([context.pending.double(), picked]))
                values = _evaluate(acquisition, found.X)
                merit = (values - min(0.0, float(values.min()))) * found.worth if weighed else values
                merit = merit.masked_fill(~free, -torch.inf)
                if not free.any():
                    break
                row = int(merit.argmax())
                x, value = found.X[row : row + 1], float(values[row])
                if self.gradient and space.continuous and not weighed:
                    x, value = self._climb(
                        acquisition, found.X, merit, x, value, torch.cat([context.X.double(), context.pending.double(), picked])
                    )
            except (BotorchError, RuntimeError, NotImplementedError, AttributeError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"BoTorch's {self.name} does not work with this surrogate ({type(surrogate).__name__}): {error} "
                    "Take another function or the surrogate 'gp', or give what it asks for in acquisition.options."
                ) from error
            rows.append(row)
            scores.append(value)
            picked = torch.cat([picked, x])
            free &= nearest(found.X, x) > DUPLICATE
        lines = explain(
            prospects(surrogate, torch.cat([found.X, picked]), context), range(len(found.X), len(found.X) + len(picked)), context
        )
        return selection(picked, scores, [f"{self.name} {value:.3g}; {line}" for value, line in zip(scores, lines, strict=True)])

    def _given(self, surrogate: Model, space: Space, context: Context) -> dict[str, Any]:
        """What the study can supply to a constructor."""
        given: dict[str, Any] = {"mc_points": sobol_pool(space, self.mc_points, context), "X_baseline": context.X.double()}
        mean, _ = moments(surrogate, given["mc_points"])
        weights = torch.ones(mean.shape[1], dtype=torch.float64)
        if mean.shape[1] > 1:
            weights = 1 / mean.std(dim=0).clamp_min(1e-12)
            given["posterior_transform"] = WeightedSum(weights)
        if len(context.X):
            given["best_f"] = float((moments(surrogate, context.X.double())[0] @ weights).max())
        return given

    def _build(self, surrogate: Model, given: Mapping[str, Any], pending: Tensor) -> AcquisitionFunction:
        arguments = {k: v for k, v in given.items() if k in self.accepted} | self.options
        if "X_pending" in self.accepted:
            arguments["X_pending"] = pending if len(pending) else None
        return self.function(model=surrogate, **arguments)

    def _climb(
        self, acquisition: AcquisitionFunction, pool: Tensor, merit: Tensor, x: Tensor, value: float, avoid: Tensor
    ) -> tuple[Tensor, float]:
        """The better of the pool's best point and what gradient ascent makes of the pool's five best."""
        bounds = torch.stack([torch.zeros(pool.shape[1]), torch.ones(pool.shape[1])]).double()
        starts = pool[merit.topk(min(5, len(merit))).indices].unsqueeze(1)
        with warnings.catch_warnings():
            # an ascent that does not converge still ends somewhere, and counts only where it ends higher
            warnings.simplefilter("ignore")
            higher, at = optimize_acqf(
                acquisition, bounds, q=1, num_restarts=len(starts), batch_initial_conditions=starts, options={"maxiter": 50}
            )
        climbed = torch.as_tensor(higher).detach().double()
        reached = float(torch.as_tensor(at))
        if reached > value and float(nearest(climbed, avoid)) > DUPLICATE:
            return climbed, reached
        return x, value


class WeightedSum(PosteriorTransform):
    """Adds several outputs up, for the posteriors of ensembles as well as for Gaussian ones.

    Args:
        weights: one for each output, ``m``.
    """

    scalarize = True

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights
        self.gaussian = ScalarizedPosteriorTransform(weights)

    def evaluate(self, Y: Tensor, X: Tensor | None = None) -> Tensor:
        """The sum over ``batch_shape x n x m`` outcomes, ``batch_shape x n``."""
        return Y @ self.weights.to(Y)

    def forward(self, posterior: Posterior, X: Tensor | None = None) -> Posterior:
        """The posterior of the sum, with one output."""
        if isinstance(posterior, EnsemblePosterior):
            return EnsemblePosterior(self.evaluate(posterior.values).unsqueeze(-1))
        summed: Posterior = self.gaussian(posterior)
        return summed


def _function(name: str) -> type[AcquisitionFunction]:
    """The class behind a name in ``botorch.acquisition``."""
    classes = {n: getattr(functions, n) for n in functions.__all__} | {n: c for n, c in vars(analytic).items() if not n.startswith("_")}
    known = {
        n: c
        for n, c in classes.items()
        if inspect.isclass(c)
        and issubclass(c, AcquisitionFunction)
        and not inspect.isabstract(c)
        and "model" in inspect.signature(c).parameters
    }
    if name not in known:
        raise UnknownName("acquisition function in botorch.acquisition", name, known)
    return known[name]


@torch.no_grad()
def _evaluate(acquisition: AcquisitionFunction, X: Tensor) -> Tensor:
    """The value of each of ``N x d`` candidates alone, ``N``."""
    values = torch.cat([acquisition(part.unsqueeze(1)) for part in X.split(CHUNK)]).double()
    if not torch.isfinite(values).all():
        raise ValueError(f"{int((~torch.isfinite(values)).sum())} of its {len(X)} values are not finite.")
    return values
