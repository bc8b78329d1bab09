import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alearn.errors import ConfigError, LaunchError
from alearn.launcher import Job, LocalLauncher, past_exit, sweep
from alearn.launcher.proctree import children
from alearn.registry import build
from alearn.testing.launcher import alive, collect, eventually, with_variable
from alearn.types import ExitCause

SLEEPER = (sys.executable, "-S", "-c", "import time; time.sleep(120)")


@pytest.fixture
def launcher():
    with LocalLauncher(slots=4, oversubscribe=True, grace_s=0.5) as launcher:
        yield launcher


def started(launcher, n=1):
    eventually(lambda: len(launcher.pids()) >= n, f"{n} members to begin")
    return launcher.pids()


def test_built_by_name():
    launcher = build("launcher", "local", {"slots": 1, "grace_s": 1.0})
    assert launcher.slots == 1
    launcher.close()


def test_kill_nine_of_the_controller_ends_every_tree(tmp_path):
    controller = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("controller_child.py")), str(tmp_path), "3"], stdout=subprocess.PIPE
    )
    try:
        assert controller.stdout.readline() == b"ready\n"
        family = with_variable("FAMILY", str(tmp_path))
        assert len(family) == 12
        nurse = children(controller.pid)
        supervisors = [pid for parent in nurse for pid in children(parent)]
        assert len(supervisors) == 3
    finally:
        controller.kill()
        controller.wait()
        controller.stdout.close()
    eventually(lambda: not with_variable("FAMILY", str(tmp_path)), "the members' trees to be gone")
    eventually(lambda: not any(map(alive, [*nurse, *supervisors])), "the supervisors to be gone")
    for n in range(3):
        gone = past_exit(tmp_path / f"m{n}")
        assert gone.cause is ExitCause.CANCELLED
        assert gone.detail == "the controller is gone"


def test_a_forked_child_of_the_controller_does_not_keep_members_alive(tmp_path):
    """A copy of the life line in another process must not hide that the controller is dead."""
    code = f"""
import os, sys, time
from pathlib import Path
from alearn.launcher import Job, LocalLauncher
launcher = LocalLauncher(slots=1)
launcher.submit(Job("m", 1, {SLEEPER!r}, Path({str(tmp_path / "m")!r}), {{"FAMILY": {str(tmp_path)!r}}}))
while not launcher.pids(): time.sleep(0.01)
if os.fork() == 0:
    time.sleep(20)
    os._exit(0)
print("ready", flush=True)
os.kill(os.getpid(), 9)
"""
    controller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert controller.stdout.readline() == b"ready\n"
        controller.wait()
        eventually(lambda: not with_variable("FAMILY", str(tmp_path)), "the member to be gone", 10)
    finally:
        os.killpg(controller.pid, signal.SIGKILL)
        controller.stdout.close()


def test_kill_nine_of_a_supervisor_ends_its_tree_and_no_other(launcher, tmp_path):
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(120)'], env={}); print(1)"
    for member in ("a", "b"):
        launcher.submit(Job(member, 1, (sys.executable, "-S", "-u", "-c", code + "; time.sleep(120)"), tmp_path / member))
    eventually(lambda: all((tmp_path / m / "stdout.log").read_text() for m in launcher_members(launcher, 2)), "both to be up")
    pids = launcher.pids()
    family = {member: [pid, *children(pid)] for (member, _), pid in pids.items()}
    assert [len(f) for f in family.values()] == [2, 2]
    os.kill(parent_of(pids["a", 1]), signal.SIGKILL)
    gone = collect(launcher, 1)["a"]
    assert gone.cause is ExitCause.NODE_LOST
    assert "its supervisor was killed" in gone.detail
    eventually(lambda: not any(map(alive, family["a"])), "the orphans to be gone")
    assert all(map(alive, family["b"]))


def test_kill_nine_of_the_nurse_costs_nothing(launcher, tmp_path):
    launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a"))
    pid = started(launcher)["a", 1]
    os.kill(parent_of(parent_of(pid)), signal.SIGKILL)
    launcher.submit(Job("b", 1, ("true",), tmp_path / "b"))
    assert collect(launcher, 1)["b"].cause is ExitCause.DONE
    assert alive(pid)
    launcher.cancel("a", 1)
    assert collect(launcher, 1)["a"].cause is ExitCause.CANCELLED
    assert not alive(pid)


def test_sweep_finds_what_outlived_its_supervisor(launcher, tmp_path):
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(120)']); print(1)"
    launcher.submit(Job("a", 1, (sys.executable, "-S", "-u", "-c", code + "; import time; time.sleep(120)"), tmp_path / "s" / "a"))
    launcher.submit(Job("b", 1, SLEEPER, tmp_path / "other" / "b"))
    eventually(lambda: (tmp_path / "s" / "a" / "stdout.log").exists() and (tmp_path / "s" / "a" / "stdout.log").read_text(), "a to be up")
    pids = started(launcher, 2)
    family = [pids["a", 1], *children(pids["a", 1])]
    for pid in (parent_of(parent_of(family[0])), parent_of(family[0])):
        os.kill(pid, signal.SIGKILL)
    sweep(tmp_path / "s")
    assert not any(map(alive, family))
    assert alive(pids["b", 1])
    assert sweep(tmp_path / "s") == 0


def test_refuses_oversubscription():
    have = len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match=f"need {have + 1} cores, but this process may use {have}; set launcher.slots={have}"):
        LocalLauncher(slots=have + 1)
    with pytest.raises(ConfigError, match="core"):
        LocalLauncher(slots=1, cores=have + 1)
    with LocalLauncher(slots=have + 1, oversubscribe=True) as launcher:
        assert launcher.slots == have + 1
    with LocalLauncher(slots=None) as launcher:
        assert launcher.slots == have


@pytest.mark.parametrize("options", [{"slots": 0}, {"cores": 0}, {"grace_s": -1}, {"pin": True, "oversubscribe": True}])
def test_bad_options(options):
    with pytest.raises(ConfigError):
        LocalLauncher(**options)


def test_cores_of_a_job(tmp_path):
    have = len(os.sched_getaffinity(0))
    with LocalLauncher(slots=have, grace_s=0.1) as launcher:
        with pytest.raises(LaunchError, match=f"asks for {have + 1} cores"):
            launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a", cores=have + 1))
        launcher.submit(Job("b", 1, SLEEPER, tmp_path / "b", cores=have))
        if have > 1:
            with pytest.raises(LaunchError, match="0 are free"):
                launcher.submit(Job("c", 1, SLEEPER, tmp_path / "c"))


def test_pinned_members_have_cores_of_their_own(tmp_path):
    have = sorted(os.sched_getaffinity(0))
    code = "import os, time; print(sorted(os.sched_getaffinity(0)), flush=True); time.sleep(120)"
    with LocalLauncher(slots=len(have), pin=True, grace_s=0.1) as launcher:
        for n in range(len(have)):
            launcher.submit(Job(f"m{n}", 1, (sys.executable, "-S", "-c", code), tmp_path / f"m{n}"))
        logs = [tmp_path / f"m{n}" / "stdout.log" for n in range(len(have))]
        eventually(lambda: all(log.exists() and log.read_text() for log in logs), "all members to print")
        assert sorted(cpu for log in logs for cpu in json.loads(log.read_text())) == have


def test_gpus_are_dealt_out_and_come_back(tmp_path):
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    with LocalLauncher(slots=2, gpus=[3, 5], oversubscribe=True) as launcher:

        def run(member, gpus):
            launcher.submit(Job(member, 1, (sys.executable, "-S", "-c", code), tmp_path / member, gpus=gpus))
            collect(launcher, 1)
            return (tmp_path / member / "stdout.log").read_text().strip()

        assert run("a", 2) == "3,5"
        assert sorted(run("b", 2).split(",")) == ["3", "5"]
        assert run("c", 0) == ""
        with pytest.raises(LaunchError, match="asks for 3 GPU"):
            run("d", 3)


def test_threads_follow_cores_unless_the_job_says_otherwise(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    launcher.submit(Job("a", 1, (sys.executable, "-S", "-c", code), tmp_path / "a", {"MKL_NUM_THREADS": "7"}))
    collect(launcher, 1)
    assert (tmp_path / "a" / "stdout.log").read_text() == "1 7\n"


def test_wait_and_fileno(launcher, tmp_path):
    assert not launcher.wait(0.01)
    launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a"))
    started(launcher)
    assert not launcher.wait(0.05)
    assert not select.select([launcher], [], [], 0)[0]
    launcher.cancel("a", 1)
    assert select.select([launcher], [], [], 20)[0]
    assert launcher.wait(20)
    assert launcher.wait(20)  # still there until it is polled
    assert [gone.member for gone in launcher.poll()] == ["a"]


def test_past_exit(launcher, tmp_path):
    launcher.submit(Job("a", 3, ("sh", "-c", "echo no >&2; exit 4"), tmp_path / "a"))
    gone = collect(launcher, 1)["a"]
    assert past_exit(tmp_path / "a") == gone
    assert (gone.attempt, gone.code, gone.detail) == (3, 4, "exit code 4: no")
    assert past_exit(tmp_path / "b") is None
    (tmp_path / "a" / "exit.json").write_text('{"member": "a"')
    assert past_exit(tmp_path / "a") is None


def test_a_program_that_is_no_program(launcher, tmp_path):
    """Found only by exec: the file has the permission, but the kernel does not know what it is."""
    (tmp_path / "solver").write_bytes(b"\x00\x01garbage")
    (tmp_path / "solver").chmod(0o755)
    launcher.submit(Job("a", 1, (str(tmp_path / "solver"),), tmp_path / "a"))
    gone = collect(launcher, 1)["a"]
    assert gone.cause is ExitCause.EXIT_CODE
    assert "cannot be started" in gone.detail
    (tmp_path / "solver").chmod(0o644)
    with pytest.raises(LaunchError, match="not executable"):
        launcher.submit(Job("b", 1, (str(tmp_path / "solver"),), tmp_path / "b"))


def test_sigterm_of_a_supervisor_is_preemption(launcher, tmp_path):
    launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a"))
    os.kill(parent_of(started(launcher)["a", 1]), signal.SIGTERM)
    assert collect(launcher, 1)["a"].cause is ExitCause.PREEMPTED


def test_large_environment(launcher, tmp_path):
    big = {f"BIG_{n}": "x" * 100_000 for n in range(5)}
    launcher.submit(Job("a", 1, (sys.executable, "-S", "-c", "import os; print(len(os.environ['BIG_4']))"), tmp_path / "a", big))
    assert collect(launcher, 1)["a"].cause is ExitCause.DONE
    assert (tmp_path / "a" / "stdout.log").read_text() == "100000\n"


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def launcher_members(launcher, n):
    started(launcher, n)
    time.sleep(0.01)
    return [member for member, _ in launcher.pids()]
