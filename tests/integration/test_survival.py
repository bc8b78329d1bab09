"""Killed at any moment, stopped by hand, steered: nothing acknowledged is lost, nothing counted twice, nobody left."""

import os
import random
import signal
import time

import pytest

from alearn.testing.checker import check


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_of_the_whole_tree_then_resume(world, seed):
    rng = random.Random(seed)
    process = world.start(*world.run_words("wave", 10, "kill=never"), WAVE_SLEEP="0.03")
    for _ in range(2):
        before = world.stored()
        world.wait_for(lambda before=before, process=process: world.stored() > before or process.poll() is not None)
        time.sleep(rng.uniform(0, 0.8))
        if process.poll() is None:
            world.kill_group(process)
        assert world.wait_for(lambda: not world.processes(), 10)
        assert check(world.folder / "study", over=False).problems == ()
        process = world.start("resume", "study", WAVE_SLEEP="0.03")
    assert process.wait(timeout=200) == 0, (world.folder / "log.txt").read_text()
    status = world.status()
    assert status["state"] == "done"
    assert status["members"]["done"] == 10
    assert status["samples"]["stored"] == 100
    assert check(world.folder / "study").problems == ()


def test_kill_9_of_the_controller_alone_leaves_no_member(world):
    process = world.start(*world.run_words("wave", 8), WAVE_SLEEP="0.2")
    world.wait_for(world.processes)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert world.wait_for(lambda: not world.processes(), 10)


def test_ctrl_c_stops_cleanly_and_says_how_to_resume(world):
    process = world.start(*world.run_words("wave", 8), WAVE_SLEEP="0.1")
    world.wait_for(lambda: world.stored() > 5)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - began < 30  # a deadline against hanging, not a speed test
    log = (world.folder / "log.txt").read_text()
    assert "alearn resume" in log
    assert "Traceback" not in log
    assert not world.processes()
    assert world.status()["state"] == "stopped"
    done = world.alearn("resume", "study")
    assert done.returncode == 0, done.stdout + done.stderr
    status = world.status()
    assert status["state"] == "done"
    assert status["members"]["done"] + status["members"]["killed"] == 8
    assert check(world.folder / "study").problems == ()
    again = world.alearn("resume", "study")
    assert again.returncode == 0
    assert world.status()["samples"] == status["samples"]


def test_steering_reaches_the_control_arm_and_nothing_old_is_obeyed(world):
    words = world.run_words("wave", 4, "control.enabled=true", "launcher.slots=1")
    process = world.start(*words, WAVE_SLEEP="0.1")
    control = world.folder / "study" / "control" / "status.json"
    world.wait_for(control.exists)
    assert world.alearn("stop", "study").returncode == 0
    assert process.wait(timeout=60) == 130
    late = world.alearn("stop", "study")
    assert late.returncode == 2
    assert "Nobody runs the study" in late.stderr
    (world.folder / "study" / "commands" / "0.json").write_text('{"command": "stop"}')
    done = world.alearn("resume", "study")
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.status()["state"] == "done"
    assert world.status()["control"]["members"]["done"] == 4


def test_steering_by_files(world):
    process = world.start(*world.run_words("wave", 6, "launcher.slots=1"), WAVE_SLEEP="0.3")
    member = world.wait_for(lambda: world.processes() and "m0000")
    assert "no member 'm0099'" in world.alearn("kill", "study", "m0099").stderr
    assert world.alearn("kill", "study", member).returncode == 0
    world.wait_for(lambda: world.folder.joinpath("study/status.json").exists() and world.status()["members"]["killed"] == 1)
    assert world.alearn("stop", "study").returncode == 0
    assert process.wait(timeout=60) == 130
    assert not world.processes()


def test_two_controllers_on_one_study(world):
    process = world.start(*world.run_words("wave", 8, "kill=never"), WAVE_SLEEP="1.5")
    world.wait_for(lambda: world.stored() > 0)
    second = world.alearn("resume", "study")
    assert second.returncode != 0
    assert "is being run by process" in second.stderr
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert check(world.folder / "study").problems == ()
