import logging

import pytest
import torch

from alearn.errors import StudyFailed
from alearn.surrogate import Batch, DeepEnsemble
from alearn.trainer.guard import Guard


def batch(seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(64, 2, generator=g, dtype=torch.float64)
    return Batch(x, torch.sin(4 * x[:, :1]) + x[:, 1:], torch.ones(64, dtype=torch.float64), torch.arange(64))


def ensemble(**options) -> DeepEnsemble:
    return DeepEnsemble(d=2, m=1, estimators=2, width=8, depth=1, warm_up=1, **options)


def test_poisoned_weights_are_replaced_by_good_ones_at_a_lower_rate(caplog):
    model = ensemble(lr=1e-2)
    guard = Guard(model)
    losses = [guard.update(lambda i=i: model.update(batch(i))) for i in range(170)]
    with torch.no_grad():
        model.net.weights[0].fill_(float("nan"))
    with caplog.at_level(logging.WARNING):
        assert guard.update(lambda: model.update(batch(500))) is None
    assert "last good weights are restored" in caplog.text
    assert model.lr == pytest.approx(3e-3)
    after = guard.update(lambda: model.update(batch(501)))
    assert after is not None
    assert after < 0.5 * losses[0]  # what was learned is not lost
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_rate_far_too_high_is_lowered_until_a_fit_converges():
    model = ensemble(lr=1e6)
    guard = Guard(model)

    def run() -> float:
        loss = model.fit(batch(0), updates=60)
        return loss if loss < 1e3 else float("nan")

    assert guard.burst(run) < 1e3
    assert model.lr < 1e6


def test_gives_up_with_a_sentence():
    model = ensemble()
    guard = Guard(model)
    for _ in range(11):
        assert guard.update(lambda: float("nan")) is None
    with pytest.raises(StudyFailed, match="diverged 12 times in a row"):
        guard.update(lambda: float("nan"))
