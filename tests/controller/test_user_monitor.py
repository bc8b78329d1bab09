"""A monitor of the user's own, in a file of theirs, through the configuration."""

import numpy as np
import pytest

from alearn.assembly import make_monitors
from alearn.config import Config
from alearn.errors import ConfigError, StudyFailed, UnknownName
from alearn.types import Sample

MINE = '''
class Drift:
    """Alarm when the mean has moved too far from where it began."""

    fault = False

    def __init__(self, *, limit=1.0):
        self.limit = limit
        self.first = None

    def see(self, sample):
        mean = float(sample.values["y"].mean())
        self.first = mean if self.first is None else self.first
        if abs(mean - self.first) > self.limit:
            return f"y drifted by {mean - self.first:.2f}"


class Broken:
    def see(self, sample):
        return 1 / 0
'''


@pytest.fixture
def panel(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)

    def make(**monitors):
        config = Config.from_mapping({"space": {"a": [0, 1]}, "monitors": monitors})
        monkeypatch.chdir("/")  # the file is named by its full path
        return make_monitors(config)

    return make


def sample(step, y):
    return Sample("m0000", 1, step, float(step), {"a": 0.5}, {"y": np.asarray([y])})


def test_it_watches_each_attempt_and_ends_it_as_killed(panel):
    made = panel(drift={"target": "mine.py:Drift", "limit": 0.5}, nonfinite={})
    assert made.see(sample(0, 1.0), 0.0) is None
    alarm = made.see(sample(1, 1.6), 1.0)
    assert (alarm.monitor, alarm.reason, alarm.fault) == ("drift", "y drifted by 0.60", False)
    other = Sample("m0001", 1, 0, 0.0, {"a": 0.5}, {"y": np.asarray([9.0])})
    assert made.see(other, 2.0) is None


def test_a_wrong_option_is_told_before_anything_starts(panel):
    with pytest.raises(UnknownName, match="Did you mean 'limit'"):
        panel(drift={"target": "mine.py:Drift", "limti": 0.5})


def test_options_that_are_none_are_told(panel):
    with pytest.raises(ConfigError, match=r"monitors\.drift is 3; give its options"):
        panel(drift=3)


def test_one_that_breaks_ends_the_study_with_a_sentence(panel):
    made = panel(bad={"target": "mine.py:Broken"})
    with pytest.raises(StudyFailed, match="The monitor 'bad' broke at step 0 of m0000: ZeroDivisionError"):
        made.see(sample(0, 1.0), 0.0)
