import numpy as np
import pytest

from alearn.buffer import Rows, Spill
from alearn.errors import ConfigError
from alearn.testing.buffer import STEPS, BufferConformance, stream_rows


def archive(group, step):
    """Reads rows of ``stream_rows`` back."""
    ids = 2 * STEPS * (group // 2) + 2 * step + group % 2
    return Rows.concatenate([stream_rows(int(i), 1) for i in ids])


class TestWithoutAnArchive(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return Spill(capacity=capacity, watermark=watermark, refresh=0.5, block=3, seed=seed)


class TestWithAnArchive(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        buffer = Spill(capacity=capacity, watermark=watermark, refresh=0.5, block=3, seed=seed)
        buffer.recall_from(archive)
        return buffer


def test_nothing_is_refused_or_lost_and_everything_is_counted_once():
    buffer = Spill(capacity=30, watermark=4, refresh=0.5, block=8)
    buffer.recall_from(archive)
    assert buffer.insert(stream_rows(0, 400)) == 400
    assert (len(buffer), buffer.away) == (30, 370)
    used = np.zeros(400, int)
    for _ in range(1500):
        rows = buffer.draw(10)
        used[((rows.x[:, 0]) - 0.25).astype(int)] += 1
        assert len(buffer) + buffer.away == 400
    assert (used > 0).all()
    assert buffer.counts.first == 400
    assert buffer.counts.drawn == used.sum()
    assert used.std() < 0.35 * used.mean()  # training passes over everything evenly
    state = buffer.state_dict()
    stored = {(g, s): u for g, s, u in zip(*(state["store"][k].tolist() for k in ("group", "step", "uses")), strict=True)}
    away = {(g, s): u for g, s, u in np.concatenate([state["seen_away"], state["unseen_away"]]).tolist()}
    for i, n in enumerate(used.tolist()):
        row = stream_rows(i, 1)
        assert (stored | away)[int(row.group[0]), int(row.step[0])] == n
    assert not set(stored) & set(away)


def test_rows_that_are_no_longer_there_are_counted():
    def gone(group, step):
        rows = archive(group, step)
        return rows.take(np.flatnonzero(rows.step % 2 == 0))

    buffer = Spill(capacity=20, watermark=0, refresh=1.0, block=5)
    buffer.recall_from(gone)
    buffer.insert(stream_rows(0, 100))
    for _ in range(60):
        buffer.draw(10)
    assert buffer.counts.lost > 0
    assert len(buffer) + buffer.away + buffer.counts.lost == 100


@pytest.mark.parametrize("options", [{"refresh": 0.0}, {"refresh": 2.0}, {"block": 0}])
def test_wrong_options_are_named(options):
    with pytest.raises(ConfigError, match="refresh="):
        Spill(**options)
