"""Diagnostics of fields, against what they are by definition."""

import numpy as np
import pytest

from alearn.errors import ConfigError, SchemaError, UnknownName
from alearn.testing.transform import SCHEMA, check_transform, steps_of
from alearn.transform.diagnostics import Diagnostics, diagnostic, spectrum_scale
from alearn.types import Field


@pytest.mark.parametrize("options", [{}, {"fields": ["v"], "compute": ["mean", "min", "max", "rms", "scale"]}, {"drop": True}])
def test_conformance(options):
    check_transform(lambda: Diagnostics(**options))


def test_numbers_stand_behind_their_field_with_its_unit():
    (step,) = steps_of(SCHEMA, 1)
    rule = Diagnostics(fields="v", compute=["std", "scale"])
    out = rule.schema(SCHEMA)
    assert out.names == ("energy", "v", "v_std", "v_scale", "w", "n")
    assert out.fields[2] == Field("v_std", (), "float64", "m/s")
    assert out.fields[3].unit == "cycles/domain"
    made = rule.apply(step)
    assert made["v_std"] == pytest.approx(step["v"].std(), rel=1e-6)
    assert "v" not in Diagnostics(fields="v", compute="mean", drop=True).schema(SCHEMA).names


@pytest.mark.parametrize(("shape", "waves"), [((64,), (5,)), ((63,), (5,)), ((32, 48), (3, 4)), ((16, 8, 12), (2, 1, 2))])
def test_the_scale_of_one_wave_is_its_wavenumber(shape, waves):
    grid = np.indices(shape, dtype=float)
    phase = sum(2 * np.pi * k * axis / n for k, axis, n in zip(waves, grid, shape, strict=True))
    assert spectrum_scale(3.0 + 0.1 * np.sin(phase)) == pytest.approx(np.hypot.reduce(np.array(waves, float)), rel=1e-9)


def test_the_scale_does_not_depend_on_size_or_offset():
    field = np.random.default_rng(0).random((20, 20))
    assert spectrum_scale(1e3 * field + 7) == pytest.approx(spectrum_scale(field), rel=1e-9)


def test_an_own_diagnostic_is_a_function_in_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("def span(field):\n    return float(field.max() - field.min())\n")
    assert diagnostic(f"{tmp_path}/mine.py:span")(np.array([1.0, 4.0])) == 3.0


def test_wrong_options_get_a_sentence():
    with pytest.raises(UnknownName, match="Did you mean 'mean'"):
        Diagnostics(compute=["meen"])
    with pytest.raises(ConfigError, match="computes nothing"):
        Diagnostics(compute=[])
    with pytest.raises(SchemaError, match="needs arrays"):
        Diagnostics(fields=["energy"]).schema(SCHEMA)
