"""The learner in a process of its own: the same answers, and what becomes of it when somebody dies."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alearn.errors import StudyFailed
from alearn.events import encode
from alearn.learner import Judge, Measure, Propose, Rescore, RunningMember, Save
from alearn.placement import wait

from .conftest import alive, idle, until

DEADLINE_S = 90.0


def converse(stage, learner):
    """Everything that can be asked, in one order."""
    taken = idle(learner)
    observed = stage.observed
    measured = wait(learner, Measure(160, 16, observed=tuple(observed.values())), DEADLINE_S)
    idle(learner)  # the held-out members that were released have been learned
    chosen = wait(learner, Propose(1, 3, {}, observed, created=16), DEADLINE_S)
    points = {"m0016": (tuple(chosen.x[0].tolist()), float(chosen.scores[0]))}
    judged = wait(learner, Judge({"m0000": RunningMember(observed["m0000"], 4, 0.4, 10)}, 0.1, 0.5), DEADLINE_S)
    rescored = wait(learner, Rescore(points), DEADLINE_S)
    return taken, measured, chosen, judged, rescored


def test_a_process_gives_the_same_answers_as_a_thread_and_knows_the_users_files(stage):
    stage.change(
        surrogate={**stage.config.to_mapping()["surrogate"], "body": f"{stage.own}:Net"},
        acquisition={"name": "python", "target": f"{stage.own}:corner", "pool": 64},
    )
    with stage.learner() as inline:
        here = converse(stage, inline)
        wait(inline, Save(stage.directory / "inline", 160), DEADLINE_S)
    with stage.learner(placement="process") as process:
        there = converse(stage, process)
        wait(process, Save(stage.directory / "snapshots", 160), DEADLINE_S)
        (pid,) = process.pids
        with pytest.raises(StudyFailed, match="while choosing points: The acquisition returned no point"):
            wait(process, Propose(2, 0, {}, stage.observed), DEADLINE_S)
    assert not alive(pid)
    assert (here[0].updates, here[0].samples, here[0].buffer) == (there[0].updates, there[0].samples, there[0].buffer)
    assert dataclasses.replace(here[1], busy_s=0.0) == dataclasses.replace(there[1], busy_s=0.0)
    assert here[1].error["n_test"] == 16
    np.testing.assert_array_equal(here[2].x, there[2].x)
    np.testing.assert_array_equal(here[2].scores, there[2].scores)
    assert list(here[2].reasons) == list(there[2].reasons)
    assert [encode(dataclasses.replace(s, at=0.0)) for s in here[3]] == [encode(dataclasses.replace(s, at=0.0)) for s in there[3]]
    assert here[4] == there[4]
    a, b = (torch.load(stage.directory / f / "surrogate.pt", weights_only=True)["state"] for f in ("inline", "snapshots"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_learner_starts_again_from_its_snapshot_until_it_dies_too_often(stage, caplog):
    caplog.set_level(logging.WARNING, "alearn")
    with stage.learner(placement="process", restarts=1, refit_updates=20) as learner:
        first = wait(learner, Measure(160, 16), DEADLINE_S)
        wait(learner, Save(stage.directory / "snapshots", 160), DEADLINE_S)
        stage.store(1)
        os.kill(learner.pids[0], signal.SIGKILL)
        again = wait(learner, Measure(170, 17), DEADLINE_S)  # asked while nobody is there
        assert again.samples == 160
        assert again.updates > first.updates
        (said,) = [r.getMessage() for r in caplog.records]
        assert "was killed by SIGKILL" in said
        assert "restart 1 of 1" in said
        pid = learner.pids[0]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StudyFailed, match=r"killed by SIGKILL.*started again 1 times"):
            until(learner.answers)
    assert not alive(pid)


CONTROLLER = """
import sys, time
from pathlib import Path
from alearn.config import Config
from alearn.placement.process import ProcessLearner
from alearn.placement.words import Opening
from alearn.learner import Stored
from alearn.trainer.placing import Placing

directory = sys.argv[1]
learner = ProcessLearner(Opening(Config.load(Path(sys.argv[2])).to_mapping(), directory), Placing("process"))
learner.tell(Stored(160))
print(*learner.pids, flush=True)
time.sleep(600)
"""


def test_no_learner_outlives_a_killed_controller(stage):
    stage.config.save(stage.directory / "config.yaml")
    words = [sys.executable, "-c", CONTROLLER, str(stage.directory), str(stage.directory / "config.yaml")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as controller:
        pid = int(controller.stdout.readline())
        until(lambda: "torch" in Path(f"/proc/{pid}/maps").read_text(), 60)  # it imports: nothing of it runs yet
        assert alive(pid)
        controller.kill()
        controller.wait(30)
        until(lambda: not alive(pid), 30)
