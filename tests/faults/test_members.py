"""What members do wrong, all at once: one study of real processes in which every member has a fault of its own."""

import json
import os
import sys
from pathlib import Path

import pytest

from alearn.ledger import Ledger
from alearn.testing.checker import check
from alearn.testing.faults import Ordeal

SIMULATION = '''
import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np

GOOD = {"y": 1.0, "u": np.zeros(4)}


def misbehave(case: float, other: float):
    """Eight steps; from the third on, whatever the case is."""
    case = int(case)
    for step in range(8):
        values = dict(GOOD, y=other + step)
        if step == 3:
            if case in (2, 3, 14):
                time.sleep(1.0)  # dies without a word: what it has sent must be on its way, for nobody can send it again
            if case == 1:
                raise RuntimeError("the solver lost its mesh")
            if case == 2:
                os._exit(7)
            if case == 3:
                ctypes.string_at(0)
            if case == 4:
                values["y"] = float("nan")
            if case == 5:
                values["u"] = np.array([0.0, np.inf, 0.0, 0.0])
            if case == 6:
                values["u"] = np.zeros((2, 2))
            if case == 7:
                values["y"] = "a word"
            if case == 8:
                del values["u"]
            if case == 9:
                values["u"] = np.zeros(40)
            if case == 10:
                for _ in range(20):
                    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            if case == 11:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            if case == 12:
                hog = [bytearray(64 << 20) for _ in range(1000)]
            if case == 13:
                os.kill(os.getpid(), signal.SIGSTOP)
            if case == 14:
                os.kill(os.getpid(), signal.SIGKILL)
            if case == 15:
                sys.stderr.write("noise " * (1 << 20))
                print("{not json", flush=True)
        yield {"t": float(step), **values}
'''

EXPECTED = {
    0: ("done", 8, ""),
    1: ("failed", 3, "the solver lost its mesh"),
    2: ("failed", 3, "7"),
    3: ("failed", 3, "signal 11"),
    4: ("failed", 3, "NaN in field 'y' at step 3"),
    5: ("failed", 3, "infinity in field 'u' at step 3 in 1 of 4 values"),
    6: ("failed", 3, "u"),
    7: ("failed", 3, "y"),
    8: ("failed", 3, "u"),
    9: ("failed", 3, "u"),
    10: ("done", 8, ""),
    11: ("failed", 3, "no step for"),
    12: ("failed", 3, "memory"),
    13: ("failed", 3, "no step for"),
    14: ("failed", 3, "signal 9"),
    15: ("done", 8, ""),
}
"""For each case: the member's end, the steps that stay, and words of the reason."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    (folder / "misbehave.py").write_text(SIMULATION)
    ordeal = Ordeal(
        folder,
        members=16,
        slots=4,
        simulation=["simulation=python", "simulation.target=misbehave.py:misbehave", "space={case: [0, 16], other: [0, 1]}"],
        words=[
            "design.initial=16",
            "failure.budget=1",
            "failure.attempts=1",
            "launcher.memory_mb=400",
            "launcher.grace_s=0.3",
            "+monitors.stall.at_least_s=4",
        ],
    )
    try:
        verdict = ordeal.run(240.0)
        left = ordeal.tagged()
    finally:
        ordeal.end()
    assert verdict.problems == (), ordeal.output
    return ordeal, left


def test_every_case_is_there_once_and_the_study_is_done(study):
    ordeal, left = study
    with Ledger.open(ordeal.study, readonly=True) as ledger:
        assert sorted(int(m.parameters["case"]) for m in ledger.members()) == list(range(16))
    status = json.loads((ordeal.study / "status.json").read_text())
    assert status["state"] == "done", ordeal.output
    assert (status["members"]["done"], status["members"]["failed"]) == (3, 13)
    assert left == []
    assert "Traceback" not in ordeal.output


@pytest.mark.parametrize("case", EXPECTED)
def test_the_member_ends_with_a_reason_and_keeps_what_it_streamed(study, case):
    state, steps, words = EXPECTED[case]
    with Ledger.open(study[0].study, readonly=True) as ledger:
        (member,) = [m for m in ledger.members() if int(m.parameters["case"]) == case]
    assert (member.state.value, member.steps) == (state, steps), member.reason
    assert words in member.reason
    assert "\n" not in member.reason


HOSTILE = ["; touch pwned", "$(touch pwned)", "../../../etc/passwd", "a'b\"c `touch pwned`"]


def test_parameters_that_would_break_a_shell_arrive_as_they_are(tmp_path):
    echo = "import json, sys; print(json.dumps({'t': 0.0, 'y': float(len(sys.argv[1])), 'code': float(sum(sys.argv[1].encode()))}))"
    space = json.dumps({"word": {"choices": HOSTILE}, "a": [0, 1]})
    (tmp_path / "space.yaml").write_text(space)
    ordeal = Ordeal(
        tmp_path,
        members=8,
        simulation=[
            "simulation=command",
            f"simulation.argv={json.dumps([sys.executable, 'echo.py', '{word}', '{a}'])}",
            "space=space.yaml",
        ],
        words=["design.initial=8"],
    )
    (tmp_path / "echo.py").write_text(echo)
    try:
        verdict = ordeal.run(120.0)
    finally:
        ordeal.end()
    assert verdict.problems == (), ordeal.output
    assert not list(tmp_path.rglob("pwned"))
    with Ledger.open(ordeal.study, readonly=True) as ledger:
        samples = {s.parameters["word"]: float(s.values["code"]) for s in ledger.samples()}
    assert len(samples) > 1
    assert all(code == sum(word.encode()) for word, code in samples.items())


@pytest.mark.parametrize("name", ["../escape", "; rm -rf x", "a/b", "", ".hidden"])
def test_a_study_cannot_be_named_out_of_its_folder(tmp_path, name):
    from alearn.config import Config
    from alearn.errors import ConfigError

    with pytest.raises(ConfigError, match="letters, digits"):
        Config.from_mapping({"study": name, "space": {"a": [0, 1]}})


@pytest.mark.parametrize("member", ["../../etc", "m0000; rm -rf x", "m0099"])
def test_a_command_names_only_members_that_exist(tmp_path, member):
    from alearn import events as ev
    from alearn.errors import UnknownName
    from alearn.steering import revoke

    with Ledger.create(tmp_path / "s", study="s") as ledger:
        ledger.append([ev.MemberQueued(at=1.0, member="m0000", parameters={"a": 0.5}, x=(0.5,), origin="design")])
    with pytest.raises(UnknownName):
        revoke(tmp_path / "s", member)
    assert sorted(os.listdir(tmp_path)) == ["s"]
    assert check(tmp_path / "s", over=False).launched == 0 or Path(tmp_path / "s").is_dir()
