import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from alearn.buffer import Rows
from alearn.errors import ConfigError
from alearn.trainer import ImportanceWeights, density_weights, survival


def population(n: int, steps: int, hazard: float, seed: int):
    """Members that are killed after any step with a probability that grows with time; the rest run to the end."""
    rng = np.random.default_rng(seed)
    last = np.full(n, steps - 1)
    for i in range(n):
        for s in range(steps - 1):
            if rng.random() < hazard * (s + 1) / steps:
                last[i] = s
                break
    return last, last < steps - 1


def rows_of(last) -> Rows:
    group = np.repeat(np.arange(len(last)), last + 1)
    step = np.concatenate([np.arange(k + 1) for k in last])
    n = len(step)
    return Rows(np.zeros((n, 1)), np.zeros((n, 1)), np.ones(n), group, step)


def test_truncation_weights_restore_the_distribution_of_steps():
    steps = 20
    last, killed = population(4000, steps, 0.12, seed=3)
    rows = rows_of(last)
    weights = ImportanceWeights(1, truncation_cap=100.0)
    weights.refresh(np.zeros((len(last), 1)), last, killed)
    w = weights.of(rows)
    assert w.mean() == pytest.approx(1.0)
    raw = np.bincount(rows.step, minlength=steps) / len(rows)
    restored = np.bincount(rows.step, weights=w, minlength=steps) / w.sum()
    assert raw[-1] < 0.6 / steps  # truncated: late steps are rare
    # r_s / (n S(s)) is one for every s when nothing is censored: the restored marginal is exactly uniform
    np.testing.assert_allclose(restored, 1 / steps, rtol=1e-9)


def test_the_weighted_mean_of_a_function_of_time_is_unbiased():
    """Over many small populations the weighted mean hits the untruncated one; the plain mean misses it."""
    steps, plain, weighted = 12, [], []
    f = np.sin(np.arange(steps) / 3.0) + 0.2 * np.arange(steps)
    for seed in range(150):
        last, killed = population(30, steps, 0.25, seed)
        rows = rows_of(last)
        weights = ImportanceWeights(1, truncation_cap=1e6)
        weights.refresh(np.zeros((30, 1)), last, killed)
        w = weights.of(rows)
        plain.append(f[rows.step].mean())
        weighted.append((w * f[rows.step]).sum() / w.sum())
    error = np.std(weighted) / np.sqrt(len(weighted))
    assert abs(np.mean(weighted) - f.mean()) < 4 * error + 1e-9
    assert abs(np.mean(plain) - f.mean()) > 0.15


def test_members_that_still_run_are_no_kills():
    last = np.array([9, 9, 3, 5])
    assert (survival(last, np.zeros(4, bool)) == 1).all()
    s = survival(last, np.array([False, False, True, False]))
    # one of four is killed after step 3; the one at step 5 runs on and only leaves the risk set
    np.testing.assert_allclose(s, [1, 1, 1, 1] + [0.75] * 6)


@given(st.lists(st.tuples(st.integers(-1, 15), st.booleans()), min_size=1, max_size=60))
def test_survival_is_a_falling_probability(members):
    last = np.array([m[0] for m in members])
    killed = np.array([m[1] for m in members])
    s = survival(last, killed)
    assert s[0] == 1
    assert ((s > 0) & (s <= 1)).all()
    assert (np.diff(s) <= 0).all()


def test_weights_are_capped():
    last = np.array([0] * 99 + [1])
    killed = last == 0
    weights = ImportanceWeights(1, truncation_cap=5.0)
    weights.refresh(np.zeros((100, 1)), last, killed)
    w = weights.of(rows_of(last))
    assert w.max() / w.min() == pytest.approx(5.0)


def test_density_weights_undo_a_skewed_design():
    """Members crowd at x = 0; the weighted mean of a function over members is near its mean over the cube."""
    rng = np.random.default_rng(0)
    x = rng.random((400, 2)) ** 3
    uniform = qmc.Sobol(2, rng=np.random.default_rng(1)).random(4096)

    def f(p):
        return np.sin(2 * p[:, 0]) + p[:, 1]

    w = density_weights(x, uniform)
    assert w.mean() == pytest.approx(1.0)
    truth = f(uniform).mean()
    assert abs((w * f(x)).mean() - truth) < 0.03
    assert abs(f(x).mean() - truth) > 0.1


def test_density_correction_is_tempered_and_has_mean_one():
    x = np.random.default_rng(2).random((50, 2)) ** 2
    last, killed = np.full(50, 4), np.zeros(50, bool)
    spread = []
    for power in (0.0, 0.5, 1.0):
        weights = ImportanceWeights(2, density_correction=power)
        weights.refresh(x, last, killed)
        w = weights.of(rows_of(last))
        assert w.mean() == pytest.approx(1.0)
        spread.append(w.std())
    assert spread[0] == 0
    assert 0 < spread[1] < spread[2]


def test_rows_of_members_not_yet_in_the_tables_get_a_plain_weight():
    weights = ImportanceWeights(1)
    weights.refresh(np.zeros((1, 1)), np.array([2]), np.array([False]))
    rows = Rows(np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1), np.array([5]), np.array([40]))
    assert weights.of(rows).tolist() == [1.0]


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match="between 0"):
        ImportanceWeights(1, density_correction=2.0)
    with pytest.raises(ConfigError, match="at least 1"):
        ImportanceWeights(1, truncation_cap=0.5)
