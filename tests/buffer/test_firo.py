import numpy as np
import pytest

from alearn.buffer import FIRO
from alearn.errors import ConfigError
from alearn.testing.buffer import BufferConformance


class TestFIRO(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return FIRO(capacity=capacity, watermark=watermark, seed=seed)


def test_watermark_stays_behind_until_the_end(rows):
    buffer = FIRO(capacity=100, watermark=20)
    buffer.insert(rows(0, 100))
    while buffer.draw(8) is not None:
        pass
    assert 20 <= len(buffer) < 28
    buffer.finish()
    while buffer.draw(8) is not None:
        pass
    assert len(buffer) == 0


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_row_is_used_exactly_so_often(rows, epochs):
    buffer = FIRO(capacity=64, watermark=8, pseudo_epochs=epochs, seed=1)
    used = np.zeros(500, int)
    sent = 0
    while True:
        if sent < 500:
            sent += buffer.insert(rows(sent, min(20, 500 - sent)))
        else:
            buffer.finish()
        batch = buffer.draw(10)
        if batch is None and sent == 500:
            break
        if batch is not None:
            used[batch.step] += 1
    assert (used == epochs).all()


def test_order_is_random_and_seeded(rows):
    draws = []
    for seed in (0, 0, 1):
        buffer = FIRO(capacity=100, watermark=0, seed=seed)
        buffer.insert(rows(0, 100))
        batch = buffer.draw(100)
        assert batch is not None
        draws.append(batch.step)
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()
    assert (np.diff(draws[0]) < 0).any()


def test_no_pseudo_epochs_is_an_error():
    with pytest.raises(ConfigError, match="at least once"):
        FIRO(pseudo_epochs=0)
