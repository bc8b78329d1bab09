"""What every acquisition must do: run ``check_acquisition`` over your own in your tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model
from botorch.posteriors.ensemble import EnsemblePosterior
from torch import Tensor

from alearn.acquisition.base import Acquisition, Context, Selection
from alearn.space import Categorical, Continuous, Integer, Space

SPACES: dict[str, Space] = {
    "1-D": Space([Continuous("a", 0.0, 1.0)]),
    "2-D": Space.from_config({"F": [0.01, 0.08], "k": [0.03, 0.07]}),
    "10-D": Space.from_config({f"x{i}": [0.0, 1.0] for i in range(10)}),
    "integer": Space([Integer("n", 0, 40), Continuous("a", 0.0, 1.0)]),
    "categorical": Space([Categorical("kind", ("red", "green", "blue")), Continuous("a", -1.0, 1.0)]),
    "constrained": Space.from_config({"a": [0, 1], "b": [0, 1], "constraints": [{"terms": {"a": 1, "b": 1}, "high": 1.0}]}),
}
"""Spaces of every kind that an acquisition has to cope with."""


class WaveEnsemble(Model):
    """A surrogate without training: ``K`` smooth functions that agree near ``known`` and differ away from it.

    Its standard deviation is largest around the corner (1, … 1).

    Args:
        d: input columns.
        m: outputs.
        known: points where the functions agree, ``n x d``.
        estimators: K.
    """

    def __init__(self, d: int, m: int = 1, known: Tensor | None = None, estimators: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(d)
        self.m = m
        self.known = torch.empty(0, d, dtype=torch.float64) if known is None else known
        self.waves = torch.randn(estimators, d, m, generator=generator, dtype=torch.float64) * 2
        self.phases = torch.rand(estimators, 1, m, generator=generator, dtype=torch.float64) * 6

    @property
    def num_outputs(self) -> int:
        return self.m

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size()

    def posterior(self, X: Tensor, output_indices: Any = None, observation_noise: Any = False, posterior_transform: Any = None) -> Any:
        """The K functions' values, an ``EnsemblePosterior`` over ``batch_shape x K x q x m``."""
        x = X.double()
        waves = torch.sin(x.unsqueeze(-3) @ self.waves + self.phases)
        unknown = 0.05 + x.mean(dim=-1)
        if len(self.known):
            unknown = unknown * torch.cdist(x, self.known.expand(*x.shape[:-2], *self.known.shape)).amin(dim=-1).clamp(max=1.0)
        common = x.sum(dim=-1, keepdim=True).unsqueeze(-3)
        posterior = EnsemblePosterior(common + 0.3 * unknown[..., None, :, None] * waves)
        return posterior if posterior_transform is None else posterior_transform(posterior)


def context_for(space: Space, *, n: int = 12, pending: int = 4, seed: int = 0) -> Context:
    """A study in its course: ``n`` members with data, some pending (half of them half-way)."""
    distinct = np.unique(space.snap(space.sobol(n + pending, seed=1234)), axis=0)
    x: Tensor = torch.from_numpy(np.random.default_rng(0).permutation(distinct))
    pending = min(pending, max(0, len(x) - 1))
    return Context(
        X=x[pending:],
        pending=x[:pending],
        progress=torch.linspace(0, 1, pending, dtype=torch.float64),
        generator=torch.Generator().manual_seed(seed),
        round=3,
        residuals=torch.linspace(0.1, 1.0, len(x) - pending, dtype=torch.float64),
    )


def check_selection(chosen: Selection, space: Space, q: int, context: Context) -> None:
    """Assert that a selection is well formed: ``q`` distinct, valid, new points with scores and reasons in words."""
    x = chosen.x
    assert isinstance(x, np.ndarray), f"Selection.x is a {type(x).__name__}; give a numpy array."
    assert x.dtype == np.float64, f"Selection.x has dtype {x.dtype}; give float64."
    assert x.shape == (q, space.d), f"Selection.x has shape {x.shape}; {q} points of {space.d} columns were asked for."
    assert ((x >= 0) & (x <= 1)).all(), "A selected point lies outside the unit cube."
    assert np.allclose(space.snap(x), x, atol=1e-9), "A selected point does not stand for valid values: use space.snap."
    assert space.feasible(x).all(), "A selected point breaks a constraint: use space.feasible."
    old = np.vstack([context.X.numpy(), context.pending.numpy()])
    everything = np.vstack([old, x])
    gaps = np.linalg.norm(everything[:, None] - x[None], axis=-1)
    gaps[np.arange(len(old), len(everything)), np.arange(len(x))] = np.inf
    assert gaps.min(initial=np.inf) > 1e-7, "A selected point equals another one, a pending one, or one that has data."
    assert len(chosen.scores) == q, f"{len(chosen.scores)} scores for {q} points."
    assert len(chosen.reasons) == q, f"{len(chosen.reasons)} reasons for {q} points."
    for reason in chosen.reasons:
        assert isinstance(reason, str), f"A reason is a {type(reason).__name__}; give words."
        assert len(reason.split()) >= 3, f"The reason {reason!r} is too short to explain anything."


def check_acquisition(
    make: Callable[[], Acquisition], *, spaces: dict[str, Space] | None = None, outputs: tuple[int, ...] = (1, 3)
) -> None:
    """The conformance suite: assert everything that the study's loop relies on.

    Args:
        make: builds a fresh acquisition.
        spaces: defaults to ``SPACES``.
        outputs: numbers of outputs that the surrogate is tried with; the first is used where one is enough.
    """
    for name, space in (spaces or SPACES).items():
        for m in outputs:
            context = context_for(space)
            surrogate = WaveEnsemble(space.d, m, context.X)
            before = context.X.clone(), context.pending.clone()
            for q in (1, 5):
                check_selection(make().select(surrogate, space, q, context), space, q, context)
            assert torch.equal(before[0], context.X), f"The acquisition changed the context's X ({name})."
            assert torch.equal(before[1], context.pending), f"The acquisition changed the context's pending points ({name})."
    check_determinism(make, outputs[0])
    check_empty_history(make, outputs[0])
    check_small_space(make, outputs[0])


def check_determinism(make: Callable[[], Acquisition], m: int = 1) -> None:
    """Assert that the context's generator is the only source of chance."""
    space = SPACES["2-D"]
    chosen: list[Selection] = []
    for _ in range(2):
        torch.manual_seed(len(chosen))
        np.random.seed(len(chosen))  # noqa: NPY002 - the legacy global state is what must not matter
        context = context_for(space, seed=7)
        state = torch.random.get_rng_state()
        chosen.append(make().select(WaveEnsemble(2, m, context.X), space, 4, context))
        assert torch.equal(state, torch.random.get_rng_state()), "The acquisition moved torch's global generator."
    assert np.array_equal(chosen[0].x, chosen[1].x), "Two selections from equal contexts differ: draw from context.generator only."


def check_empty_history(make: Callable[[], Acquisition], m: int = 1) -> None:
    """Assert that nothing pending, and no data at all, are ordinary contexts."""
    space = SPACES["2-D"]
    for n in (0, 5):
        context = context_for(space, n=max(n, 2), pending=0)
        context = Context(X=context.X[:n], pending=context.pending, progress=context.progress, generator=context.generator)
        check_selection(make().select(WaveEnsemble(2, m, context.X), space, 3, context), space, 3, context)


def check_small_space(make: Callable[[], Acquisition], m: int = 1) -> None:
    """Assert that all that is left comes back when more is asked for than there is."""
    space = Space([Integer("n", 0, 5)])
    x = torch.from_numpy(space.to_unit([{"n": 2}, {"n": 4}]))
    context = Context(X=x[:1], pending=x[1:], progress=torch.zeros(1), generator=torch.Generator().manual_seed(0))
    chosen = make().select(WaveEnsemble(1, m, context.X), space, 50, context)
    check_selection(chosen, space, 4, context)
