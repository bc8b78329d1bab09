import numpy as np
import pytest

from alearn.buffer import FIFO
from alearn.errors import ConfigError
from alearn.registry import build
from alearn.testing.buffer import BufferConformance


class TestFIFO(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return FIFO(capacity=capacity, watermark=watermark, seed=seed)


def test_gives_every_row_once_in_order(rows):
    buffer = FIFO(capacity=50)
    got = []
    for start in range(0, 400, 40):
        assert buffer.insert(rows(start, 40)) == 40
        while (batch := buffer.draw(16)) is not None:
            got.append(batch.step)
    buffer.finish()
    while (batch := buffer.draw(16)) is not None:
        got.append(batch.step)
    np.testing.assert_array_equal(np.concatenate(got), np.arange(400))


def test_full_buffer_refuses_the_rest_and_takes_it_later(rows):
    buffer = FIFO(capacity=10)
    assert buffer.insert(rows(0, 14)) == 10
    assert buffer.insert(rows(10, 4)) == 0
    assert buffer.counts.refused == 8
    assert buffer.draw(4) is not None
    assert buffer.insert(rows(10, 4)) == 4


def test_made_by_name():
    assert isinstance(build("buffer", "fifo", {"capacity": 7}, seed=3), FIFO)


def test_rows_after_the_end_are_refused_with_a_sentence(rows):
    buffer = FIFO()
    buffer.finish()
    with pytest.raises(ConfigError, match="reception is over"):
        buffer.insert(rows(0, 1))
