"""Batch jobs on a real Slurm: three virtual nodes on this machine, started by scripts/slurm."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alearn.errors import LaunchError
from alearn.launcher import Adopting, Job, past_exit
from alearn.launcher.batch import read_lease
from alearn.launcher.slurm import SlurmLauncher, check_carrier
from alearn.launcher.slurm_batch import BatchJobs, Request, only_this_host
from alearn.registry import build
from alearn.testing.launcher import SLEEP, STUBBORN, TREE, LauncherConformance, alive, collect, eventually
from alearn.transport.base import End
from alearn.transport.socket import SocketReader
from alearn.types import ExitCause, Sample

pytestmark = pytest.mark.needs("slurm")
QUICK = {"poll_s": 0.05, "queue_s": 1.0}
SLEEPER = (sys.executable, "-S", "-c", "print('up', flush=True)\nimport time\ntime.sleep(120)")


@pytest.fixture(scope="module")
def limited(slurm_conf, tmp_path_factory):
    """A job whose time limit is reached; Slurm looks for such jobs twice a minute, so the other tests run meanwhile."""
    tmp_path = tmp_path_factory.mktemp("limited")
    with SlurmLauncher(**QUICK) as launcher:
        launcher.submit(job(tmp_path))
        up(tmp_path / "a")
        scontrol("update", f"jobid={launcher.jobs()['a', 1]}", "EndTime=now")
        yield launcher


@pytest.fixture(scope="module")
def launcher(slurm_conf, limited):
    with SlurmLauncher(slots=8, grace_s=0.5, **QUICK) as launcher:
        yield launcher


def job(tmp_path, member="a", argv=SLEEPER, **options):
    return Job(member, 1, argv, tmp_path / member, **options)


def up(directory):
    log = directory / "stdout.log"
    eventually(lambda: log.exists() and log.read_text(), f"the member in {directory} to be up")


def scontrol(*words):
    return subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=20, check=True).stdout


class TestBatchJobs:
    """The parts of the conformance suite that say something about this launcher (each job takes Slurm most of a second)."""

    make_launcher = lambda self, slots: SlurmLauncher(slots=slots, grace_s=0.3, **QUICK)  # noqa: E731
    launcher = pytest.fixture(lambda self, launcher: launcher)
    python = LauncherConformance.python
    tree = LauncherConformance.tree
    test_directory_and_environment = LauncherConformance.test_directory_and_environment
    test_nothing_goes_through_a_shell = LauncherConformance.test_nothing_goes_through_a_shell
    test_memory = LauncherConformance.test_memory
    test_unknown_program = LauncherConformance.test_unknown_program
    test_cancel = LauncherConformance.test_cancel
    test_no_slot = LauncherConformance.test_no_slot
    test_close_leaves_nothing = LauncherConformance.test_close_leaves_nothing
    test_ids_that_are_no_names = LauncherConformance.test_ids_that_are_no_names


def test_causes(launcher, tmp_path):
    """Those of the conformance suite, side by side."""
    cases = {f"c{n}": case for n, case in enumerate(LauncherConformance.test_causes.pytestmark[0].args[1])}
    for member, (code, *_) in cases.items():
        launcher.submit(job(tmp_path, member, (sys.executable, "-S", "-c", code)))
    exits = collect(launcher, len(cases))
    for member, (_, cause, expected) in cases.items():
        gone = exits[member]
        assert gone.cause is cause
        assert expected.get("detail", "") in gone.detail
        assert all(getattr(gone, name) == value for name, value in expected.items() if name != "detail")


def test_cancel_of_a_job_that_ignores_sigterm_with_a_child(launcher, tmp_path):
    child = "import signal, time; signal.signal(15, 1); time.sleep(120)"
    popen = f"subprocess.Popen([sys.executable, '-S', '-c', {child!r}], start_new_session=True)"
    code = f"{TREE}{STUBBORN}note({popen}.pid)\nprint('up', flush=True)\n{SLEEP}"
    launcher.submit(job(tmp_path, argv=(sys.executable, "-S", "-c", code)))
    up(tmp_path / "a")
    pids = [int(pid) for pid in (tmp_path / "a" / "pids").read_text().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    id = launcher.jobs()["a", 1]
    launcher.cancel("a", 1, grace_s=0.3)
    gone = collect(launcher, 1)["a"]
    assert (gone.cause, gone.detail) == (ExitCause.CANCELLED, "cancelled by the controller")
    assert gone.wall_s >= 0.3
    assert not any(map(alive, pids))
    eventually(lambda: f"JobId={id}" in scontrol("show", "job", id) and "RUNNING" not in scontrol("show", "job", id), "the job to be over")


def test_cancel_of_a_job_that_waits_in_the_queue(launcher, tmp_path, caplog):
    launcher.submit(job(tmp_path))
    launcher.cancel("a", 1)  # it may have started or not
    assert collect(launcher, 1)["a"].cause is ExitCause.CANCELLED
    with SlurmLauncher(extra=["--hold"], **QUICK) as other, caplog.at_level(logging.WARNING):
        other.submit(job(tmp_path, "held"))
        eventually(lambda: not other.poll() and "Slurm says why: JobHeldUser" in caplog.text, "the reason to be told")
        other.cancel("held", 1)
        assert collect(other, 1)["held"].cause is ExitCause.CANCELLED
    assert not (tmp_path / "held" / "stdout.log").exists()


def test_cancelled_from_outside(launcher, tmp_path):
    launcher.submit(job(tmp_path))
    up(tmp_path / "a")
    subprocess.run(["scancel", launcher.jobs()["a", 1]], check=True, timeout=20)
    gone = collect(launcher, 1)["a"]
    assert (gone.cause, gone.detail) == (ExitCause.CANCELLED, "its Slurm job was cancelled from outside")


def test_a_killed_supervisor_leaves_nothing(launcher, tmp_path):
    code = f"{TREE}print('up', flush=True)\n{STUBBORN}{SLEEP}"
    launcher.submit(job(tmp_path, argv=(sys.executable, "-S", "-c", code)))
    up(tmp_path / "a")
    id = launcher.jobs()["a", 1]
    pid = int((tmp_path / "a" / "pids").read_text())
    subprocess.run(["scancel", "--signal=KILL", "--full", id], check=True, timeout=20)
    eventually(lambda: not alive(pid), "the member to be gone")
    launcher._engine._running["a", 1].over_at = -1e9  # do not wait for a record that cannot come
    gone = collect(launcher, 1)["a"]
    assert gone.cause in (ExitCause.NODE_LOST, ExitCause.CANCELLED)
    assert "exit record" in gone.detail or "cancelled" in gone.detail


def test_what_slurm_refuses_is_said(slurm_conf, tmp_path):
    with (
        SlurmLauncher(partition="nowhere", **QUICK) as launcher,
        pytest.raises(LaunchError, match=r"Slurm does not take member a: sbatch failed: .*invalid partition"),
    ):
        launcher.submit(job(tmp_path))


def test_what_is_asked_of_slurm(launcher, tmp_path):
    launcher.submit(job(tmp_path, cores=2, memory_mb=200, wall_s=90))
    said = scontrol("show", "job", launcher.jobs()["a", 1])
    assert "CPUs/Task=2" in said
    assert "MinMemoryNode=264M" in said
    assert "TimeLimit=00:03:00" in said
    assert "JobName=alearn-a" in said
    assert f"Comment={tmp_path / 'a'}" in said
    assert "Requeue=0" in said
    assert os.stat(tmp_path / "a" / "spec.json").st_mode & 0o077 == 0  # the study's key may be in it
    launcher.cancel("a", 1)
    collect(launcher, 1)


def test_slurm_that_does_not_answer_costs_nothing(launcher, tmp_path, monkeypatch, caplog):
    """The exit record is the truth; squeue is only asked for what it cannot say."""
    with caplog.at_level(logging.WARNING):
        launcher.submit(job(tmp_path, argv=(sys.executable, "-S", "-c", "print('up', flush=True)\nimport time; time.sleep(1.2)")))
        up(tmp_path / "a")
        (tmp_path / "slurm.conf").write_text("Nonsense=1\n")
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        assert collect(launcher, 1)["a"].cause is ExitCause.DONE
    assert "squeue does not answer" in caplog.text


def test_a_member_that_no_controller_comes_back_for(slurm_conf, tmp_path):
    jobs = BatchJobs(Request(), slots=2, grace_s=0.5, abandon_s=1.0, poll_s=0.05, queue_s=1.0)
    jobs.submit(job(tmp_path))
    up(tmp_path / "a")
    until = time.monotonic() + 1.5
    while time.monotonic() < until:  # the lease is kept
        assert not jobs.poll()
        time.sleep(0.02)
    assert int(read_lease(str(tmp_path / "a" / "lease"))[0]) > 2
    jobs.leave()
    eventually(lambda: past_exit(tmp_path / "a"), "the member to end by itself")
    gone = past_exit(tmp_path / "a")
    assert (gone.cause, gone.detail) == (ExitCause.CANCELLED, "no controller came back for 1 s")


def test_adoption_after_kill_nine_of_the_controller(slurm_conf, tmp_path):
    """Two jobs outlive their controller: one goes on streaming to the next one, the other is cancelled by it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = Path(__file__).with_name("slurm_controller_child.py")
    controller = subprocess.Popen([sys.executable, str(child), str(tmp_path), str(port)], stdout=subprocess.PIPE, text=True)
    try:
        word, stored = (controller.stdout.readline() or "nothing 0").split()
        assert word == "ready"
    finally:
        controller.kill()
        controller.wait()
        controller.stdout.close()
    streaming, stubborn = (tmp_path / "members" / member / "1" for member in ("m0000", "m0001"))
    pid = int((stubborn / "pids").read_text())
    assert alive(pid)
    with SlurmLauncher(**QUICK) as other:
        assert other.adopt(tmp_path / "elsewhere") == []
    with SlurmLauncher(**QUICK) as launcher:
        assert launcher.adopt(tmp_path) == [("m0000", 1), ("m0001", 1)]
        assert launcher.adopt(tmp_path) == []
        with pytest.raises(LaunchError, match="already running"):
            launcher.submit(Job("m0000", 1, SLEEPER, streaming))
        reader = SocketReader(kind="tcp", port=port, key_file=str(tmp_path / "key"))
        reader.address("m0000", 1)
        steps, ends = [], []

        def received():
            for message in reader.poll(0.02):
                if isinstance(message, Sample):
                    steps.append(message.step)
                    if len(steps) == 5:
                        (streaming / "enough").touch()
                ends.extend([message] if isinstance(message, End) else [])
                reader.acknowledge(message.member, message.attempt, steps[-1] + 1 if steps else int(stored))
            return ends

        eventually(received, "the member's stream to go on and to end")
        launcher.cancel("m0001", 1, grace_s=0.2)
        exits = collect(launcher, 2)
        reader.close()
    assert steps[0] <= int(stored) + 2
    assert steps == list(range(steps[0], steps[-1] + 1))
    assert ends[0].steps == steps[-1] + 1
    assert exits["m0000"].cause is ExitCause.DONE
    assert exits["m0001"].cause is ExitCause.CANCELLED
    assert exits["m0001"].signal == signal.SIGKILL
    assert not alive(pid)


def test_adoption_takes_the_newest_attempt_and_what_was_cancelled_stays_so(slurm_conf, tmp_path):
    first = SlurmLauncher(grace_s=0.2, **QUICK)
    for member, attempt in (("m1", 1), ("m1", 2), ("m2", 1)):
        first.submit(Job(member, attempt, SLEEPER, tmp_path / "members" / member / str(attempt)))
    for directory in ("m1/1", "m1/2", "m2/1"):
        up(tmp_path / "members" / directory)
    first.leave()
    (tmp_path / "members" / "m2" / "1" / "lease").write_text("9 cancel 30\n")
    with SlurmLauncher(grace_s=0.2, **QUICK) as second:
        assert second.adopt(tmp_path) == [("m1", 2), ("m2", 1)]
        assert collect(second, 1)["m2"].cause is ExitCause.CANCELLED
        eventually(lambda: past_exit(tmp_path / "members" / "m1" / "1"), "the older attempt to be ended")
    assert [(gone.member, gone.attempt, gone.cause) for gone in second.poll()] == [("m1", 2, ExitCause.CANCELLED)]


def test_a_slurm_on_one_machine_may_use_any_socket(slurm_conf):
    assert only_this_host()
    check_carrier({"name": "socket", "kind": "unix"})
    SlurmLauncher(carrier={"name": "socket", "kind": "unix"}).close()


def test_built_by_name(slurm_conf):
    launcher = build("launcher", "slurm", {"slots": 3, "extra": ["--nice=5"]})
    assert launcher.slots == 3
    assert isinstance(launcher, Adopting)
    launcher.close()


def test_the_script_is_idempotent(slurm_directory, slurm_conf):
    script = Path(__file__).parents[2] / "scripts" / "slurm"
    before = {file.name: file.read_text() for file in slurm_directory.glob("*.pid")}
    again = subprocess.run([str(script), "start", str(slurm_directory)], capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout == f"export SLURM_CONF={slurm_conf}\n"
    assert {file.name: file.read_text() for file in slurm_directory.glob("*.pid")} == before
    status = subprocess.run([str(script), "status", str(slurm_directory)], capture_output=True, text=True, timeout=60, check=True)
    assert "n3" in status.stdout


def test_a_job_record_replaces_a_lost_comment(slurm_conf, tmp_path):
    """Some sites write their own comments."""
    first = SlurmLauncher(grace_s=0.2, **QUICK)
    first.submit(Job("m1", 1, SLEEPER, tmp_path / "members" / "m1" / "1"))
    id = first.jobs()["m1", 1]
    scontrol("update", f"jobid={id}", "comment=ours")
    first.leave()
    assert json.loads((tmp_path / "members" / "m1" / "1" / "job.json").read_text())["job"] == id
    with SlurmLauncher(grace_s=0.2, **QUICK) as second:
        assert second.adopt(tmp_path) == [("m1", 1)]


def test_the_time_limit_of_slurm(limited):
    gone = collect(limited, 1, 60)["a"]
    assert (gone.cause, gone.detail) == (ExitCause.WALL_TIME, "the time limit of its Slurm job is reached (launcher.time)")


def test_a_node_that_fails(launcher, tmp_path):
    launcher.submit(job(tmp_path))
    up(tmp_path / "a")
    node = re.search(r" NodeList=(\S+)", scontrol("show", "job", launcher.jobs()["a", 1]))[1]
    scontrol("update", f"nodename={node}", "state=down", "reason=test")
    try:
        gone = collect(launcher, 1)["a"]
        assert (gone.cause, gone.detail) == (ExitCause.NODE_LOST, "its node failed")
    finally:
        eventually(lambda: node_is_back(node), f"{node} to be up again")


def node_is_back(node):
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], capture_output=True, timeout=20, check=False)
    return "State=IDLE" in scontrol("show", "node", node)


def test_preemption(launcher, tmp_path):
    launcher.submit(job(tmp_path))
    up(tmp_path / "a")
    urgent = subprocess.Popen(["srun", "--quiet", "--partition=urgent", "--nodes=3", "--exclusive", "true"])
    gone = collect(launcher, 1)["a"]
    assert (gone.cause, gone.detail) == (ExitCause.PREEMPTED, "its Slurm job was preempted")
    assert urgent.wait(30) == 0
