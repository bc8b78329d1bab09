"""A study's own test members: how they become a reference, and that a study with a control arm is judged by them."""

from __future__ import annotations

import numpy as np
import pytest

from alearn import Study
from alearn.config import Config
from alearn.errors import StudyFailed
from alearn.ledger import Ledger
from alearn.ledger.folders import arm_folders
from alearn.simulators.reference import Reference
from alearn.testset import TEST_FILE, write_test_set
from alearn.types import MemberState

MIXED = {"a": [0.0, 2.0], "kind": {"choices": ["soft", "hard"]}}


def spring(a, kind):
    """Steps of its own length: the stiff one takes smaller ones."""
    frames = 5 if kind == "soft" else 9
    for i in range(frames):
        t = i / (frames - 1)
        yield {"t": t, "y": a * t}


def plane(a, b):
    yield {"t": 0.0, "y": a + b}
    yield {"t": 1.0, "y": a * b}


def fails(a, kind):
    raise RuntimeError("no such spring")
    yield


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "study"
    study = Study(
        {"a": (0, 1), "b": (0, 1)}, plane, budget=6, directory=folder, control=True, surrogate="gp", view="quiet",
        launcher={"name": "local", "slots": 2},
    )  # fmt: skip
    return study.run()


def test_how_many_test_members():
    base = {"space": {"a": [0, 1]}, "simulation": "python"}
    assert Config.from_mapping(base).test_members == 0
    assert Config.from_mapping({**base, "control": True}).test_members == 15
    assert Config.from_mapping({**base, "control": True, "budget": 1000}).test_members == 32
    assert Config.from_mapping({**base, "control": True, "reference": None}).test_members == 0
    assert Config.from_mapping({**base, "control": True, "reference": "gray_scott"}).test_members == 0
    assert Config.from_mapping({**base, "reference": 5}).test_members == 5
    assert Config.from_mapping({**base, "reference": 5, "simulation": None}).test_members == 0


def test_a_study_with_a_control_arm_is_judged_by_its_own_test_members(judged):
    folder = judged.directory
    assert [a.name for a in arm_folders(folder)] == ["study", "test", "control"]
    reference = Reference.read(folder / TEST_FILE)
    assert len(reference) == 8
    assert reference.outputs == ("y",)
    np.testing.assert_allclose(reference.values[:, 1, 0], reference.points.prod(axis=1), rtol=1e-6)
    with Ledger.open(folder, readonly=True) as ledger:
        learned = {m.x for m in ledger.members()}
    with Ledger.open(folder / "test", readonly=True) as ledger:
        assert not learned & {m.x for m in ledger.members()}
    status = judged.status()
    assert status.error.mean is not None
    assert status.control is not None
    assert status.control.error.mean is not None
    assert "no comparison" not in (folder / "report.html").read_text()


def test_the_test_set_is_found_again(judged):
    assert Study.open(judged.directory).config.reference == str((judged.directory / TEST_FILE).resolve())


def test_members_with_other_times_and_labels_are_compared_on_common_times(tmp_path):
    study = Study(MIXED, spring, directory=tmp_path / "study", reference=6, budget=2, surrogate="gp", view="quiet")
    study.run()
    reference = Reference.read(tmp_path / "study" / TEST_FILE)
    assert {p["kind"] for p in reference.parameters} == {"soft", "hard"}
    assert len(reference.t) in range(5, 10)
    for point, truth in zip(reference.parameters, reference.values[:, :, 0], strict=True):
        np.testing.assert_allclose(truth, point["a"] * reference.t, atol=1e-5)


def test_too_few_test_members(tmp_path):
    with Ledger.create(tmp_path, study="s") as ledger:
        assert not [m for m in ledger.members() if m.state is MemberState.DONE]
        from alearn.space import Space

        with pytest.raises(StudyFailed, match="Only 0 of 0 test members"):
            write_test_set(ledger, Space.from_config({"a": [0, 1]}), tmp_path)


def test_a_simulation_that_fails_on_the_test_members_says_so(tmp_path):
    study = Study(MIXED, fails, directory=tmp_path / "study", reference=8, budget=2, surrogate="gp", view="quiet")
    with pytest.raises(StudyFailed, match="Only 0 of 8 test members"):
        study.run()
    assert study.exit_code == 1
