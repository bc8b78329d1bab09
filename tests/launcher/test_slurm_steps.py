"""Members inside an allocation of a real Slurm, one agent on each of its two nodes."""

import re
import signal
import subprocess
import sys

import pytest

from alearn.errors import ConfigError, LaunchError
from alearn.launcher import Job
from alearn.launcher.proctree import children
from alearn.launcher.slurm import SlurmLauncher
from alearn.testing.launcher import LauncherConformance, alive, collect, eventually, with_variable
from alearn.types import ExitCause

pytestmark = pytest.mark.needs("slurm")
SLEEPER = (sys.executable, "-S", "-c", "print('up', flush=True)\nimport time\ntime.sleep(120)")


@pytest.fixture(scope="module")
def allocation(slurm_conf):
    """What sbatch and salloc put into the environment of a process inside an allocation: two nodes with three CPUs each."""
    granted = subprocess.run(
        ["salloc", "--no-shell", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=3"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    id = re.search(r"allocation (\d+)", granted.stderr)[1]
    shown = subprocess.run(["squeue", "--noheader", f"--jobs={id}", "--format=%N"], capture_output=True, text=True, timeout=20, check=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_JOB_ID", id)
    patch.setenv("SLURM_JOB_NODELIST", shown.stdout.strip())
    patch.setenv("SLURM_JOB_CPUS_PER_NODE", "3(x2)")
    yield id
    patch.undo()
    subprocess.run(["scancel", id], check=True, timeout=20)


@pytest.fixture(scope="module")
def launcher(allocation):
    with SlurmLauncher(mode="step", grace_s=0.5) as launcher:
        yield launcher


def up(directory):
    log = directory / "stdout.log"
    eventually(lambda: log.exists() and log.read_text(), f"the member in {directory} to be up")


class TestNodeAgents:
    make_launcher = lambda self, slots: SlurmLauncher(mode="step", slots=slots, grace_s=0.3)  # noqa: E731
    launcher = pytest.fixture(lambda self, launcher: launcher)
    python = LauncherConformance.python
    tree = LauncherConformance.tree
    test_done = LauncherConformance.test_done
    test_directory_and_environment = LauncherConformance.test_directory_and_environment
    test_nothing_goes_through_a_shell = LauncherConformance.test_nothing_goes_through_a_shell
    test_causes = LauncherConformance.test_causes
    test_wall_time = LauncherConformance.test_wall_time
    test_memory = LauncherConformance.test_memory
    test_unknown_program = LauncherConformance.test_unknown_program
    test_cancel = LauncherConformance.test_cancel
    test_cancel_of_one_that_ignores_it = LauncherConformance.test_cancel_of_one_that_ignores_it
    test_cancel_of_a_tree = LauncherConformance.test_cancel_of_a_tree
    test_cancel_of_nothing = LauncherConformance.test_cancel_of_nothing
    test_many_quick_members = LauncherConformance.test_many_quick_members
    test_no_slot = LauncherConformance.test_no_slot
    test_attempts_follow_each_other = LauncherConformance.test_attempts_follow_each_other
    test_close_leaves_nothing = LauncherConformance.test_close_leaves_nothing
    test_ids_that_are_no_names = LauncherConformance.test_ids_that_are_no_names


def test_slots_follow_the_allocation(launcher, tmp_path):
    """Two nodes of three cores, one of them kept for the controller; members are spread over both nodes."""
    assert launcher.slots == 5
    for n in range(5):
        launcher.submit(Job(f"m{n}", 1, SLEEPER, tmp_path / f"m{n}"))
    with pytest.raises(LaunchError, match="All 5 slots are taken"):
        launcher.submit(Job("m5", 1, SLEEPER, tmp_path / "m5"))
    nodes = sorted(launcher.jobs().values())
    assert len(set(nodes)) == 2
    assert sorted(nodes.count(node) for node in set(nodes)) == [2, 3]
    assert launcher.adopt(tmp_path) == []
    for n in range(5):
        launcher.cancel(f"m{n}", 1)
    assert {gone.cause for gone in collect(launcher, 5).values()} == {ExitCause.CANCELLED}
    with pytest.raises(LaunchError, match="asks for 4 cores on one node; the freest has 3"):
        launcher.submit(Job("wide", 1, SLEEPER, tmp_path / "wide", cores=4))


def test_an_agent_that_is_killed_costs_its_node_only(allocation, tmp_path):
    with SlurmLauncher(mode="step", grace_s=0.5) as launcher:
        for member in ("a", "b"):
            launcher.submit(Job(member, 1, SLEEPER, tmp_path / member, {"FAMILY": str(tmp_path)}))
        up(tmp_path / "a")
        up(tmp_path / "b")
        nodes = {member: node for (member, _), node in launcher.jobs().items()}
        assert nodes["a"] != nodes["b"]
        lost = next(node for node in launcher._engine._nodes if node.name == nodes["a"])
        lost.agent.kill()  # srun, and with it its step
        gone = collect(launcher, 1)["a"]
        assert gone.cause is ExitCause.NODE_LOST
        assert f"the agent on node {nodes['a']} ended" in gone.detail
        eventually(lambda: len(with_variable("FAMILY", str(tmp_path))) == 1, "the lost member to be gone")
        assert list(launcher.jobs()) == [("b", 1)]
        launcher.submit(Job("c", 1, SLEEPER, tmp_path / "c"))  # on the node that was lost: its agent is started again
        assert launcher.jobs()["c", 1] == nodes["a"]
        up(tmp_path / "c")


def test_kill_nine_of_the_controller_ends_every_member(allocation, tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from alearn.launcher import Job
from alearn.launcher.slurm import SlurmLauncher
launcher = SlurmLauncher(mode="step")
for n in range(2):
    launcher.submit(Job(f"m{{n}}", 1, {SLEEPER!r}, Path({str(tmp_path)!r}) / f"m{{n}}", {{"FAMILY": {str(tmp_path)!r}}}))
time.sleep(120)
"""
    controller = subprocess.Popen([sys.executable, "-c", code])
    try:
        for member in ("m0", "m1"):
            up(tmp_path / member)
        agents = children(controller.pid)
        assert len(with_variable("FAMILY", str(tmp_path))) == 2
        assert len(agents) == 2
    finally:
        controller.send_signal(signal.SIGKILL)
        controller.wait()
    eventually(lambda: not with_variable("FAMILY", str(tmp_path)), "the members to be gone")
    eventually(lambda: not any(map(alive, agents)), "the agents to be gone")


def test_an_allocation_that_is_too_small(allocation):
    with pytest.raises(ConfigError, match=r"6 slots of 1 core\(s\) do not fit: allocation \d+ has room for 5 beside the 1 core"):
        SlurmLauncher(mode="step", slots=6)
    with SlurmLauncher(mode="step", reserve=0, cores=3) as launcher:
        assert launcher.slots == 2


def test_outside_an_allocation(slurm_conf, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="inside the allocation that alearn itself runs in, but there is none"):
        SlurmLauncher(mode="step")


def test_an_environment_that_makes_no_sense(allocation, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "3")
    with pytest.raises(ConfigError, match="does not fit the allocation's nodes"):
        SlurmLauncher(mode="step")


def test_the_allocation_ends(slurm_conf, tmp_path, monkeypatch):
    """scancel of the whole allocation ends members too, and says what happened."""
    granted = subprocess.run(["salloc", "--no-shell", "--nodes=1"], capture_output=True, text=True, timeout=60, check=True)
    id = re.search(r"allocation (\d+)", granted.stderr)[1]
    shown = subprocess.run(["squeue", "--noheader", f"--jobs={id}", "--format=%N"], capture_output=True, text=True, timeout=20, check=True)
    for name, value in (("JOB_ID", id), ("JOB_NODELIST", shown.stdout.strip()), ("JOB_CPUS_PER_NODE", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    with SlurmLauncher(mode="step", reserve=0, grace_s=0.5) as launcher:
        launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a", {"FAMILY": str(tmp_path)}))
        up(tmp_path / "a")
        subprocess.run(["scancel", id], check=True, timeout=20)
        gone = collect(launcher, 1)["a"]
        assert gone.cause in (ExitCause.PREEMPTED, ExitCause.NODE_LOST, ExitCause.SIGNAL)
        assert not with_variable("FAMILY", str(tmp_path))
