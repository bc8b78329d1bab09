"""A real study whose learner is a process: killed in the middle, stopped, and resumed."""

import logging
import os
import signal
import threading
from pathlib import Path

from alearn import Study
from alearn.launcher import proctree
from alearn.steering import request
from alearn.testing.checker import check

from .conftest import alive, until

WAVE = """
import math, time

def wave(a: float, b: float):
    for step in range(12):
        time.sleep(0.05)
        yield {"t": 0.1 * step, "y": math.sin(5 * a + b * step)}
"""


def learner_process():
    """The learner's process of a study that this process runs."""
    for pid in proctree.children(os.getpid()):
        if b"child.py" in Path(f"/proc/{pid}/cmdline").read_bytes() and alive(pid):
            return pid
    return None


def test_a_study_bears_the_death_of_its_learner_and_is_resumed(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "alearn")
    (tmp_path / "sim.py").write_text(WAVE)
    study = Study(
        {"a": (0, 1), "b": (0, 1)},
        f"{tmp_path}/sim.py:wave",
        surrogate={"name": "ensemble", "estimators": 2, "width": 16, "depth": 1, "max_updates": 500},
        acquisition={"name": "std_distance", "pool": 64, "refine": 0},
        budget=12,
        directory=tmp_path / "study",
        trainer={"name": "inline", "placement": "process", "refit_updates": 20},
        launcher={"name": "local", "slots": 2, "oversubscribe": True},
        view="quiet",
    )
    killed = []

    def trouble():
        until(lambda: (study.directory / "status.json").exists() and study.status().updates)
        killed.append(learner_process())
        os.kill(killed[0], signal.SIGKILL)
        until(lambda: learner_process() not in (None, killed[0]))
        request(study.directory, "stop")

    thread = threading.Thread(target=trouble)
    thread.start()
    study.run()
    thread.join(90)
    assert study.status().state in ("stopped", "done")
    assert "killed by SIGKILL" in caplog.text
    assert learner_process() is None
    resumed = Study.resume(study.directory).run()
    assert resumed.status().state == "done"
    assert resumed.status().members.done + resumed.status().members.killed >= 12
    assert resumed.status().idle.learner is not None
    assert check(study.directory).problems == ()
    assert learner_process() is None
