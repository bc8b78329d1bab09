import tracemalloc

import numpy as np
import pytest

from alearn.buffer import FIFO, Reservoir
from alearn.errors import ConfigError
from alearn.testing.buffer import BufferConformance


class TestReservoir(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return Reservoir(capacity=capacity, watermark=watermark, seed=seed)


def test_unseen_rows_are_never_overwritten(rows):
    buffer = Reservoir(capacity=50, watermark=0, seed=2)
    assert buffer.insert(rows(0, 60)) == 50
    batch = buffer.draw(10)
    assert batch is not None
    assert buffer.insert(rows(50, 30)) == 10
    stored = set(buffer.state_dict()["store"]["step"].tolist())
    assert stored == (set(range(60)) - set(batch.step.tolist()))


def test_every_row_is_trained_on_though_the_producer_is_faster(rows):
    buffer = Reservoir(capacity=40, watermark=10, seed=0)
    used = np.zeros(1000, int)
    sent = 0
    while sent < 1000:
        sent += buffer.insert(rows(sent, min(30, 1000 - sent)))  # thrice as many rows as are drawn
        batch = buffer.draw(10)
        assert batch is not None
        used[batch.step] += 1
    buffer.finish()
    while (batch := buffer.draw(10)) is not None:
        used[batch.step] += 1
    assert (used >= 1).all()
    assert buffer.counts.first == 1000
    assert buffer.counts.drawn == used.sum()


def test_draws_are_uniform(rows):
    buffer = Reservoir(capacity=100, watermark=0, seed=5)
    buffer.insert(rows(0, 100))
    used = np.zeros(100)
    for _ in range(4000):
        batch = buffer.draw(5)
        assert batch is not None
        used[batch.step] += 1
    # 200 expected for each; chi-square with 99 degrees of freedom, 1e-6 quantile about 182
    assert ((used - 200) ** 2 / 200).sum() < 182


def test_memory_stays_within_the_byte_budget_under_a_flood(rows):
    buffer = Reservoir(capacity=None, max_mb=2.0, watermark=10)
    wide = rows(0, 100, width=500)
    buffer.insert(wide)
    tracemalloc.start()
    sent = 0
    for _ in range(2000):  # 800 MB are offered
        sent += buffer.insert(wide)
        buffer.draw(10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert buffer.nbytes <= 2_000_000
    assert peak < 4_000_000
    assert buffer.capacity == len(buffer)
    assert sent > 2 * buffer.capacity


def test_one_row_larger_than_the_budget_is_an_error(rows):
    with pytest.raises(ConfigError, match="raise max_mb"):
        Reservoir(capacity=None, max_mb=0.001).insert(rows(0, 1, width=1000))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"capacity": None, "max_mb": None}, "must be bounded"),
        ({"capacity": 5, "watermark": 5}, "less than"),
        ({"capacity": 0, "watermark": 0}, "watermark|at least 1"),
        ({"max_mb": -1.0}, "positive"),
    ],
)
def test_wrong_bounds_are_named(options, match):
    with pytest.raises(ConfigError, match=match):
        Reservoir(**options)


def test_state_of_another_buffer_is_refused(rows):
    big = Reservoir(capacity=1000)
    big.insert(rows(0, 400))
    with pytest.raises(ConfigError, match="resume with the same buffer"):
        FIFO().load_state_dict(big.state_dict())
    with pytest.raises(ConfigError, match="as large a capacity"):
        Reservoir(capacity=300).load_state_dict(big.state_dict())


def test_rows_of_another_width_are_refused(rows):
    buffer = Reservoir()
    buffer.insert(rows(0, 3, width=2))
    with pytest.raises(ConfigError, match="one schema"):
        buffer.insert(rows(0, 3, width=4))
