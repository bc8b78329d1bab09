"""The codec's error as an alarm."""

import numpy as np
import pytest

from alearn.errors import ConfigError
from alearn.registry import build
from alearn.transform.monitor import Unrepresented
from alearn.types import Sample


def sample(step: int, misfit: float) -> Sample:
    return Sample("m0000", 1, step, float(step), {}, {"y": np.asarray(1.0), "_v_misfit": np.asarray(misfit, np.float32)})


def test_large_errors_in_a_row_are_an_alarm():
    monitor = build("monitor", "codec", {"limit": 3.0, "confirm": 2})
    assert monitor.see(sample(0, 0.1)) is None
    assert monitor.see(sample(1, 9.0)) is None
    assert monitor.see(sample(2, 0.1)) is None
    assert monitor.see(sample(3, 9.0)) is None
    assert "field 'v' at step 4 is unlike all others: the codec leaves 8.5 of" in monitor.see(sample(4, 8.5))


def test_steps_without_a_codec_are_none_of_its_business():
    assert Unrepresented().see(Sample("m0000", 1, 0, 0.0, {}, {"misfit": np.asarray(99.0)})) is None


def test_wrong_options_get_a_sentence():
    with pytest.raises(ConfigError, match="limit=0"):
        Unrepresented(limit=0)
