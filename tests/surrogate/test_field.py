"""Fields as coefficients: what is remembered keeps its meaning, what is learned follows the data, and the variance comes back."""

import numpy as np
import pytest
import torch

from alearn.errors import ConfigError
from alearn.surrogate import Batch, DeepEnsemble, ExactGP
from alearn.surrogate.decode import predict_field
from alearn.surrogate.field import FieldCode, FieldDecoder, FieldOptions, joint_scale
from alearn.types import Field

CELLS = np.linspace(0.0, 1.0, 120)


def bumps(n, seed=0, low=0.2, high=0.8):
    """Moving bumps: a family that no few modes hold exactly, ``n x 120``, and where they stand."""
    where = np.random.default_rng(seed).uniform(low, high, n)
    return np.exp(-60.0 * (CELLS - where[:, None]) ** 2).astype(np.float32), where


def begun(fields, **options):
    code = FieldCode(Field("u", (120,), "float32", "m"), FieldOptions.of(options))
    code.begin(fields)
    return code


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b - b.mean(axis=0))


def test_coefficients_give_the_field_back_within_the_error():
    fields, _ = bumps(80)
    code = begun(fields, rank=30, error=0.02)
    codes = code.codes(fields)
    assert code.renew()
    assert code.used < 30
    decoder = code.decoder(0)
    unseen, _ = bumps(40, seed=1)
    for truth, remembered in ((fields, codes), (unseen, code.codes(unseen))):
        assert relative(decoder.mean(code.targets(remembered)), truth) < 0.02


def test_rows_written_once_are_right_for_good_while_the_view_turns():
    early, _ = bumps(40, high=0.35)
    code = begun(early, rank=12, error=0.05)
    rows = code.codes(early)
    code.renew()
    before = code.decoder(0)
    late, _ = bumps(400, seed=1, low=0.5)
    code.codes(late)
    modes = code.modes
    assert relative(before.mean(code.targets(rows)), early) < 0.05
    assert code.renew()
    after = code.decoder(0)
    assert after.version == before.version + 1
    assert code.modes == modes
    # rows of the first day, read through the new view, are the fields of the first day
    assert relative(after.mean(code.targets(rows)), early) < 0.1
    assert relative(after.mean(code.targets(code.codes(late))), late) < 0.1
    assert relative(before.mean((late - before.centre) @ before.modes.T), late) > 0.3


def test_a_new_view_turns_the_old_axes_as_little_as_it_can():
    early, _ = bumps(60)
    code = begun(early, rank=6, error=0.01)
    rows = code.codes(early)
    code.renew()
    old = code.targets(rows)
    wider, _ = bumps(200, seed=1, low=0.1, high=0.9)
    code.codes(wider)
    assert code.renew()
    new = code.targets(rows)
    for i in range(3):  # the leading coefficients mean nearly what they meant
        assert np.corrcoef(old[:, i], new[:, i])[0, 1] > 0.8


def test_a_view_that_is_good_enough_stays():
    fields, _ = bumps(200)
    code = begun(fields[:100], rank=40, error=0.05)
    code.codes(fields[:100])
    assert code.renew()
    code.codes(fields[100:])
    assert not code.renew()
    assert code.version == 1


def test_what_the_coefficients_leave_out_is_known_cell_by_cell():
    fields, _ = bumps(300)
    code = begun(fields, rank=4, error=0.001)
    codes = code.codes(fields)
    code.renew()
    decoder = code.decoder(0)
    left = ((decoder.mean(code.targets(codes)) - fields) ** 2).mean(axis=0)
    np.testing.assert_allclose(decoder.lost, left, rtol=0.02, atol=1e-6)
    assert decoder.scale == pytest.approx(np.sqrt(fields.var(axis=0).mean()), rel=1e-3)


def test_coefficients_that_are_not_needed_repeat_the_others_and_count_nothing():
    plane = np.outer(np.random.default_rng(0).normal(size=50), CELLS).astype(np.float32)
    code = begun(plane, rank=5)
    codes = code.codes(plane)
    code.renew()
    y = code.targets(codes)
    assert code.used == 1
    np.testing.assert_array_equal(y, np.repeat(y[:, :1], 5, axis=1))
    assert relative(code.decoder(0).mean(y), plane) < 1e-3
    scale = joint_scale(np.array([2.0, *y.std(axis=0)]), [(5, 1)])
    errors = np.array([[2.0, y[:, 0].std(), 9.0, 9.0, 9.0, 9.0]])
    assert ((errors / scale) ** 2).mean() == pytest.approx(1.0)  # one standard deviation in the number and in the field


def test_a_saved_code_goes_on():
    fields, _ = bumps(60)
    a = begun(fields, rank=6)
    a.codes(fields)
    a.renew()
    b = FieldCode(a.field, FieldOptions(rank=6))
    b.load_state_dict(a.state_dict())
    more, _ = bumps(60, seed=3, low=0.05)
    np.testing.assert_array_equal(a.codes(more), b.codes(more))
    a.renew(), b.renew()
    plain = b.decoder(2).to_plain()
    again = FieldDecoder.from_plain(plain)
    np.testing.assert_allclose(again.modes, a.decoder(2).modes, atol=1e-6)
    assert (again.columns, again.shape, again.unit) == (slice(2, 8), (120,), "m")


@pytest.mark.parametrize("make", [lambda m: DeepEnsemble(1, m, estimators=4, width=32, depth=2), lambda m: ExactGP(1, m)])
def test_a_surrogate_of_coefficients_predicts_the_field_with_honest_intervals(make):
    fields, where = bumps(40)
    code = begun(fields, rank=8, error=0.01)
    codes = code.codes(fields)
    code.renew()
    Y = torch.as_tensor(code.targets(codes))
    surrogate = make(8)
    surrogate.fit(Batch(torch.as_tensor(where)[:, None], Y, torch.ones(40), torch.arange(40)))
    truth, at = bumps(200, seed=5)
    mean, std = predict_field(surrogate, torch.as_tensor(at)[:, None], code.decoder(0))
    assert mean.shape == std.shape == truth.shape
    assert relative(mean, truth) < 0.12
    assert 0.8 < (np.abs(mean - truth) < 1.96 * std).mean() <= 1.0


def test_the_variance_of_an_ensemble_knows_that_coefficients_go_together():
    decoder = FieldDecoder(
        "u", "", (2,), 0, 1, np.zeros(2, np.float32), np.array([[0.6, 0.8], [0.8, -0.6]], np.float32), np.array([0.0, 0.5], np.float32), 1.0
    )
    draws = np.array([[[1.0, 1.0]], [[-1.0, -1.0]]]) / np.sqrt(2.0)  # one point, two draws, perfectly correlated
    np.testing.assert_allclose(decoder.variance(draws), [[(0.6 + 0.8) ** 2, (0.8 - 0.6) ** 2 + 0.5]], rtol=1e-5)
    np.testing.assert_allclose(decoder.variance(np.zeros((0, 1, 2)), np.array([[1.0, 1.0]])), [[1.0, 1.5]], rtol=1e-5)


@pytest.mark.parametrize("options", [{"rank": 0}, {"memory": 3}, {"error": 0.0}, {"elements": 0}])
def test_bad_options(options):
    with pytest.raises(ConfigError, match="field options"):
        FieldOptions.of(options)


def test_an_unknown_option_is_named():
    with pytest.raises(ConfigError, match="no option 'ranks'; there are rank"):
        FieldOptions.of({"ranks": 3})
