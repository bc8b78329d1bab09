import numpy as np
import pytest

from alearn.errors import ConfigError, UnknownName
from alearn.space import Space
from alearn.trainer import Features
from alearn.types import Sample, Schema

SPACE = Space.from_config({"a": [0, 10], "b": [1, 3]})
FIELDS = {"s": 1.0, "u": np.zeros(4), "w": np.zeros((2, 3))}


def sample(step: int, member: str = "m0001", **values):
    return Sample(member, 1, step, 0.5 * step, {"a": 5.0, "b": 1.5}, {**FIELDS, **values})


def test_auto_takes_scalars_only():
    assert Features(SPACE, Schema.of(FIELDS)).outputs == ("s",)


def test_auto_without_scalars_flattens_all():
    features = Features(SPACE, Schema.of({"u": np.zeros(2), "w": np.zeros((1, 2))}))
    assert features.outputs == ("u[0]", "u[1]", "w[0,0]", "w[0,1]")


def test_auto_without_scalars_refuses_a_large_field():
    with pytest.raises(ConfigError, match="4096 numbers"):
        Features(SPACE, Schema.of({"v": np.zeros((64, 64))}))


def test_rows_hold_point_time_and_named_outputs():
    features = Features(SPACE, Schema.of(FIELDS), ["w[1,2]", "u", "s"])
    assert features.outputs == ("w[1,2]", "u[0]", "u[1]", "u[2]", "u[3]", "s")
    w = np.arange(6.0).reshape(2, 3)
    rows, good = features.rows([sample(3, u=np.arange(4.0), w=w, s=9.0), sample(1, member="m0002")])
    assert good.all()
    np.testing.assert_allclose(rows.x[0], [0.5, 0.25, 1.5])
    np.testing.assert_allclose(rows.y[0], [5, 0, 1, 2, 3, 9])
    assert rows.group.tolist() == [0, 1]
    assert rows.step.tolist() == [3, 1]
    assert features.d == 3


def test_without_t_the_rows_are_points():
    features = Features(SPACE, Schema.of(FIELDS), over_t=False)
    rows, _ = features.rows([sample(2)])
    assert rows.x.shape == (1, 2)
    assert features.inputs(np.array([[0.1, 0.2]]), np.array([1.0, 2.0])).shape == (1, 2)


def test_rows_that_are_not_finite_are_left_out_and_others_stay():
    features = Features(SPACE, Schema.of(FIELDS))
    rows, good = features.rows([sample(0), sample(1, s=np.nan), sample(2, u=np.full(4, np.inf))])
    assert good.tolist() == [True, False, True]  # u is no output here
    assert rows.step.tolist() == [0, 2]


def test_inputs_pairs_points_and_times():
    features = Features(SPACE, Schema.of(FIELDS))
    pairs = features.inputs(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([7.0, 8.0]))
    np.testing.assert_allclose(pairs, [[0.1, 0.2, 7], [0.1, 0.2, 8], [0.3, 0.4, 7], [0.3, 0.4, 8]])


@pytest.mark.parametrize(
    ("outputs", "error", "match"),
    [
        (["sz"], UnknownName, "Did you mean 's'"),
        (["u[4]"], ConfigError, "outside the field 'u'"),
        (["w[1]"], ConfigError, "outside the field 'w'"),
        (["s", "s"], ConfigError, "chosen twice"),
        ([], ConfigError, "No output"),
    ],
)
def test_wrong_outputs_are_named(outputs, error, match):
    with pytest.raises(error, match=match):
        Features(SPACE, Schema.of(FIELDS), outputs)


def test_members_return_from_a_saved_state():
    a, b = Features(SPACE, Schema.of(FIELDS)), Features(SPACE, Schema.of(FIELDS))
    a.rows([sample(0), sample(0, member="m0007")])
    b.load_state_dict(a.state_dict())
    assert b.members == {"m0001": 0, "m0007": 1}
    np.testing.assert_array_equal(a.X, b.X)
