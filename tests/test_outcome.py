"""What the face of a running study says."""

import pytest

from alearn.config import Config
from alearn.outcome import seconds_to_come


def config(**entries):
    return Config.from_mapping(
        {
            "simulation": {"name": "python", "target": "alearn.simulators:heat"},
            "space": {"a": [0.0, 1.0]},
            "budget": {"members": 40},
            **entries,
        }
    )


@pytest.mark.parametrize(
    ("arm", "control", "seconds"),
    [("active", False, 30.0), ("active", True, 70.0), ("control", True, 30.0)],
)
def test_the_time_to_come_counts_the_arms_that_are_still_to_run(arm, control, seconds):
    assert seconds_to_come(config(control={"enabled": control}), arm, 10.0, 0.25) == pytest.approx(seconds)


def test_while_the_test_members_run_the_time_to_come_follows_from_their_pace():
    ten_test_members = config(control={"enabled": True})
    assert ten_test_members.test_members == 10
    assert seconds_to_come(ten_test_members, "test", 5.0, 0.5) == pytest.approx(5.0 + 2 * 40.0)  # a second a member
    nobody_knows = config(control={"enabled": True}, budget={"members": None, "wall_minutes": 5.0})
    assert seconds_to_come(nobody_knows, "test", 5.0, 0.5) is None
