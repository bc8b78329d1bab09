import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alearn.buffer import SumTree, Weighted
from alearn.errors import ConfigError, UnknownName
from alearn.testing.buffer import BufferConformance


class TestProportional(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return Weighted(capacity=capacity, watermark=watermark, seed=seed)


class TestRanked(BufferConformance):
    def make(self, capacity, watermark, seed=0):
        return Weighted(capacity=capacity, watermark=watermark, ranking="rank", seed=seed)


@settings(max_examples=60, deadline=None, database=None)
@given(n=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_tree_is_a_running_sum(n, seed):
    rng = np.random.default_rng(seed)
    tree, values = SumTree(n), np.zeros(n)
    for _ in range(5):
        index = rng.choice(n, rng.integers(1, n + 1), replace=False)
        values[index] = rng.random(len(index)) * (rng.random(len(index)) < 0.7)
        tree.set(index, values[index])
    np.testing.assert_allclose(tree.total, values.sum(), rtol=1e-12)
    if tree.total:
        at = rng.random(50) * tree.total
        found = tree.find(at)
        assert (values[found] > 0).all()
        ends = np.cumsum(values)
        assert (at <= ends[found] + 1e-12).all()
        assert (at >= ends[found] - values[found] - 1e-12).all()


def learned(rows, n=200, **options):
    """A buffer whose rows were all drawn, with row i's priority growing with i."""
    buffer = Weighted(capacity=n, watermark=0, **options)
    buffer.insert(rows(0, n))
    while buffer.unseen:
        batch = buffer.draw(20)
        buffer.prioritise(0.01 + batch.step / n)
    for _ in range(60):
        buffer.prioritise(0.01 + buffer.draw(20).step / n)
    return buffer


@pytest.mark.parametrize("ranking", ["proportional", "rank"])
def test_the_mean_stays_honest(rows, ranking):
    """At beta = 1 the weighted mean over mini-batches is the mean over the stored rows, while the draws are far from uniform."""
    buffer = learned(rows, alpha=1.0, beta=1.0, ranking=ranking, seed=3)
    plain, honest = [], []
    for _ in range(4000):
        batch = buffer.draw(16)
        f = batch.step**2 / 200**2
        plain.append(f.mean())
        honest.append((batch.weight / np.ones(len(batch)) * f).mean())
        buffer.prioritise(0.01 + batch.step / 200)
    truth = (np.arange(200) ** 2 / 200**2).mean()
    sigma = np.std(honest) / np.sqrt(len(honest))
    assert np.mean(plain) > 1.25 * truth
    assert abs(np.mean(honest) - truth) < 5 * sigma
    assert sigma < 0.01 * truth


def test_draws_follow_the_priorities(rows):
    buffer = learned(rows, alpha=1.0, uniform=0.2, seed=1)
    drawn = np.zeros(200)
    for _ in range(3000):
        batch = buffer.draw(16)
        drawn[batch.step] += 1
        buffer.prioritise(0.01 + batch.step / 200)
    priority = 0.01 + np.arange(200) / 200
    expected = 0.2 / 200 + 0.8 * priority / priority.sum()
    np.testing.assert_allclose(drawn.reshape(10, 20).sum(1) / drawn.sum(), expected.reshape(10, 20).sum(1), rtol=0.08)


def test_weights_are_bounded_by_the_uniform_share(rows):
    buffer = learned(rows, alpha=2.0, beta=1.0, uniform=0.25, seed=2)
    for _ in range(500):
        batch = buffer.draw(16)
        assert batch.weight.max() <= 1 / 0.25 * 3  # a row that the uniform draws gave three times in 16 of 200
        buffer.prioritise(0.01 + batch.step / 200)


def test_the_correction_is_annealed(rows):
    buffer = Weighted(watermark=0, beta=0.5, anneal=10)
    buffer.insert(rows(0, 50))
    found = []
    for _ in range(12):
        found.append(buffer.beta)
        buffer.draw(4)
    np.testing.assert_allclose(found, [0.5 + 0.05 * min(i, 10) for i in range(12)])


def test_a_priority_for_a_row_that_is_gone_changes_nothing(rows):
    buffer = Weighted(capacity=4, watermark=0, seed=0)
    buffer.insert(rows(0, 4))
    for _ in range(8):
        buffer.draw(4)
    batch = buffer.draw(4)
    buffer.insert(rows(4, 4))
    before = buffer.state_dict()["priority"].copy()
    buffer.prioritise(np.full(len(batch), 1e6))
    kept = buffer.state_dict()
    gone = ~np.isin(kept["store"]["step"], batch.step)
    assert gone.any()
    np.testing.assert_array_equal(kept["priority"][gone], before[gone])


def test_wrong_options_and_priorities_are_named(rows):
    with pytest.raises(UnknownName, match="error"):
        Weighted(by="eror")
    with pytest.raises(UnknownName, match="rank"):
        Weighted(ranking="rnk")
    with pytest.raises(ConfigError, match="uniform=0"):
        Weighted(uniform=0)
    buffer = Weighted(watermark=0)
    buffer.insert(rows(0, 5))
    batch = buffer.draw(3)
    for bad in (np.ones(len(batch) + 1), np.full(len(batch), np.nan), -np.ones(len(batch))):
        with pytest.raises(ConfigError, match="finite priorities"):
            buffer.prioritise(bad)
