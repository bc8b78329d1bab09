"""Schema, samples and their bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alearn.errors import SchemaError
from alearn.types import ALLOWED_DTYPES, Field, MemberState, Sample, Schema, member_id


@given(st.sampled_from(ALLOWED_DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), st.data())
def test_pack_and_unpack_are_inverse(dtype, shape, data):
    array = data.draw(hnp.arrays(np.dtype(dtype), shape))
    schema = Schema((Field("a", shape, dtype), Field("s")))
    values = {"a": array, "s": 1.5}
    back = schema.unpack(schema.pack(values))
    np.testing.assert_array_equal(back["a"], array)
    assert back["s"] == 1.5
    assert Schema.from_json(schema.to_json()) == schema


def test_fortran_order_and_strides_are_made_right():
    array = np.arange(12.0).reshape(3, 4)
    schema = Schema.of({"a": array})
    np.testing.assert_array_equal(schema.unpack(schema.pack({"a": np.asfortranarray(array)}))["a"], array)
    np.testing.assert_array_equal(schema.unpack(schema.pack({"a": np.repeat(array, 2, axis=1)[:, ::2]}))["a"], array)


def test_integers_from_python_may_become_floats_later():
    schema = Schema.of({"y": 0})
    assert schema.conform({"y": 0.5})["y"] == 0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [({"a": 1, "b": 2}, "unexpected"), ({}, "missing"), ({"a": [1, 2]}, "shape"), ({"a": 1j}, "dtype")],
)
def test_steps_that_changed_are_refused(values, words):
    with pytest.raises(SchemaError, match=words):
        Schema.of({"a": 1.0}).conform(values)


@pytest.mark.parametrize("text", ["", "[]x", '[{"name": "a"}]', '[{"name": "a", "shape": [-1], "dtype": "float64"}]', "[1]"])
def test_texts_that_are_no_schema(text):
    with pytest.raises(SchemaError):
        Schema.from_json(text)


def test_objects_are_refused():
    with pytest.raises(SchemaError, match="numeric"):
        Schema.of({"a": "text"})


def test_finite_and_key():
    sample = Sample("m0001", 1, 3, 0.1, {}, {"a": np.array([1.0, np.nan])})
    assert sample.key == ("m0001", 3)
    assert not sample.finite


def test_member_ids_and_states():
    assert member_id(12) == "m0012"
    assert MemberState.RUNNING.active
    assert MemberState.LOST.final
