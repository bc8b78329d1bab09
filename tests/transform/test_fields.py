"""Crop, coarsen, cast, normalise, select: conformance, and what they do to real fields."""

import numpy as np
import pytest

from alearn.errors import ConfigError, SchemaError
from alearn.testing.transform import SCHEMA, check_transform, steps_of
from alearn.transform import DIAGNOSTICS
from alearn.transform.fields import Cast, Coarsen, Crop, Normalise, Select
from alearn.types import Field, Schema


@pytest.mark.parametrize(
    "make",
    [
        lambda: Crop(window=[[2, 10], [0, 12]], fields=["v"]),
        lambda: Crop(window=[[2, 10], None]),
        lambda: Coarsen(factor=4),
        lambda: Coarsen(factor=[8, 3], fields=["v"]),
        lambda: Cast(dtype="float16", fields=["v"]),
        lambda: Normalise(offset=1.0, scale=2.0),
        lambda: Normalise(offset={"energy": 1.0}, scale={"v": 3.0}),
        lambda: Select(fields=["v", "n"]),
        lambda: Select(drop="w"),
    ],
)
def test_conformance(make):
    check_transform(make)


def test_coarsening_keeps_the_mean_and_averages_blocks():
    (step,) = steps_of(SCHEMA, 1)
    coarsen = Coarsen(factor=4, fields=["v"])
    assert coarsen.schema(SCHEMA).fields[1] == Field("v", (4, 3), "float32", "m/s")
    out = coarsen.apply(step)
    assert out["v"][1, 2] == pytest.approx(step["v"][4:8, 8:12].mean(), rel=1e-6)
    assert out["v"].mean() == pytest.approx(step["v"].mean(), rel=1e-6)
    assert out["w"] is step["w"]


def test_whole_numbers_are_averaged_as_floats():
    schema = Schema((Field("count", (4,), "int32"),))
    coarsen = Coarsen(factor=2, fields=["count"])
    assert coarsen.schema(schema).fields[0].dtype == "float64"
    assert coarsen.apply({"count": np.array([1, 2, 3, 5], np.int32)})["count"].tolist() == [1.5, 4.0]


def test_cropping_is_a_window_of_the_field():
    (step,) = steps_of(SCHEMA, 1)
    crop = Crop(window=[[2, 10], None], fields=["v"])
    crop.schema(SCHEMA)
    assert np.array_equal(crop.apply(step)["v"], step["v"][2:10])


def test_normalised_fields_have_no_unit_and_come_back_with_it():
    (step,) = steps_of(SCHEMA, 1)
    normalise = Normalise(offset=1.0, scale=4.0, fields=["v"])
    out = normalise.schema(SCHEMA)
    assert out.fields[1].unit == "1"
    made = normalise.apply(step)
    assert np.allclose(made["v"], (step["v"] - 1) / 4)
    assert normalise.decoded(out) == SCHEMA
    assert np.allclose(normalise.decode(made)["v"], step["v"], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Crop(fields=["v"]), "no window"),
        (lambda: Crop(window=[[5, 5]]), "first, behind the last"),
        (lambda: Coarsen(factor=0), "whole number of at least 1"),
        (lambda: Cast(dtype="float23"), "Valid: .*float32"),
        (lambda: Normalise(scale=0), "scale 0"),
        (lambda: Normalise(offset=float("nan")), "finite"),
        (lambda: Normalise(offset="a"), "give a number"),
        (lambda: Select(), "either fields"),
        (lambda: Select(fields=["v"], drop=["w"]), "either fields"),
        (lambda: Select(fields=[3]), "names of fields"),
    ],
)
def test_wrong_options_get_a_sentence(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (Coarsen(factor=5, fields=["v"]), "cannot be coarsened by \\[5\\]"),
        (Coarsen(factor=2, fields=["u"]), "needs the field 'u'; the steps carry energy float64, v float32\\[16, 12\\]"),
        (Coarsen(factor=2, fields=["energy"]), "shape \\(\\)"),
        (Crop(window=[[0, 99], None], fields=["v"]), "16 cells along axis 0"),
        (Crop(window=[[0, 9]], fields=["v"]), "window of 1 axes"),
        (Select(drop=["energy", "v", "w", "n"]), "leaves no field"),
    ],
)
def test_fields_that_do_not_fit_get_a_sentence(transform, words):
    with pytest.raises(SchemaError, match=words):
        transform.schema(SCHEMA)


def test_a_schema_without_arrays_has_nothing_to_choose():
    with pytest.raises(SchemaError, match="names no fields"):
        Coarsen(factor=2).schema(Schema((Field("y"),)))


def test_every_diagnostic_of_a_constant_field():
    field = np.full((8, 6), 2.5)
    values = {name: rule(field) for name, rule in DIAGNOSTICS.items()}
    assert values == {"mean": 2.5, "std": 0.0, "min": 2.5, "max": 2.5, "rms": 2.5, "scale": 0.0}
