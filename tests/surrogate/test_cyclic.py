import pytest
import torch

from alearn.errors import ConfigError
from alearn.surrogate.cyclic import SnapshotEnsemble
from alearn.testing.surrogate import F64, SurrogateConformance, smooth_data

SMALL = {"snapshots": 4, "cycle": 50, "width": 48, "depth": 2, "max_updates": 1200}


class TestSnapshotEnsemble(SurrogateConformance):
    rmse = 0.15
    away = 1.5

    def make(self, d, m, over_t=False, seed=0):
        return SnapshotEnsemble(d, m, over_t, seed, **SMALL)


def test_a_snapshot_is_taken_at_the_end_of_every_cycle_and_the_oldest_goes():
    surrogate = SnapshotEnsemble(2, 1, **SMALL)
    data = smooth_data(32)
    X = torch.rand(5, 2, dtype=F64)
    for i in range(250):
        surrogate.update(data)
        assert int(surrogate.taken) == (i + 1) // 50
        if i == 49:
            assert float(surrogate.predict(X).epistemic.max()) < 1e-6  # one snapshot stands for all
        if i == 199:
            four = surrogate.posterior(X).values.detach()
    five = surrogate.posterior(X).values.detach()
    assert not torch.equal(four[0], five[0])
    assert torch.equal(four[1:], five[1:])
    with torch.no_grad():
        now = surrogate.net(surrogate.scaling.inputs(X).float())[0].double() * surrogate.scaling.scale + surrogate.scaling.mean
    assert torch.allclose(five[0], now, atol=1e-5)


def test_the_rate_falls_in_every_cycle_and_starts_anew():
    surrogate = SnapshotEnsemble(2, 1, **SMALL)
    rates = [surrogate._rate(i % 50, 50) for i in range(100)]
    assert rates[0] > 0.9 * surrogate.lr
    assert rates[49] < 0.01 * surrogate.lr
    assert rates[50] == rates[0]


def test_bad_options():
    with pytest.raises(ConfigError, match="snapshots=1"):
        SnapshotEnsemble(2, 1, snapshots=1)
