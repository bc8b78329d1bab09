"""Members through a real Parsl: the conformance suite on its local provider, and blocks on a real Slurm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alearn.errors import ConfigError, LaunchError, UnknownName
from alearn.launcher import Job
from alearn.launcher.proctree import children, descendants, parent
from alearn.testing.launcher import LauncherConformance, alive, collect, eventually, with_variable
from alearn.types import ExitCause

pytest.importorskip("parsl", reason="skipped, because Parsl is not installed: pip install 'alearn[parsl]'")

from alearn.launcher.parsl import ParslLauncher  # behind the check that it can be imported

SLEEPER = (sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(120)")


def up(directory):
    log = directory / "stdout.log"
    eventually(lambda: log.exists() and log.read_text(), f"{directory.name} to be up", 60)


@pytest.mark.slow
class TestParslLauncher(LauncherConformance):
    def make_launcher(self, slots):
        return ParslLauncher(workers=slots)

    @pytest.fixture(scope="class")
    @classmethod
    def launcher(cls):
        """One for all: Parsl takes seconds to start."""
        launcher = ParslLauncher(workers=4)
        yield launcher
        launcher.close()

    def test_kill_nine_of_a_worker_loses_its_member_and_nothing_survives(self, launcher, tmp_path):
        launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a", {"FAMILY": str(tmp_path)}))
        up(tmp_path / "a")
        (member,) = with_variable("FAMILY", str(tmp_path))
        worker = parent(parent(parent(member)))
        os.kill(worker, signal.SIGKILL)
        gone = collect(launcher, 1, 60)["a"]
        assert gone.cause is ExitCause.NODE_LOST
        assert "Parsl worker" in gone.detail
        assert not with_variable("FAMILY", str(tmp_path))

    def test_a_member_that_is_too_large_for_a_worker_is_refused(self, launcher, tmp_path):
        with pytest.raises(LaunchError, match=r"asks for 2 cores.*launcher\.cores=1"):
            launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a", cores=2))
        with pytest.raises(LaunchError, match="GPU"):
            launcher.submit(Job("a", 1, SLEEPER, tmp_path / "a", gpus=1))


@pytest.mark.slow
def test_kill_nine_of_the_controller_ends_members_and_parsl(tmp_path):
    code = f"""
import os, sys, time
from pathlib import Path
from alearn.launcher import Job
from alearn.launcher.parsl import ParslLauncher
launcher = ParslLauncher(workers=1)
launcher.submit(Job("m", 1, {SLEEPER!r}, Path({str(tmp_path / "m")!r}), {{"FAMILY": {str(tmp_path)!r}}}))
while not (Path({str(tmp_path / "m")!r}) / "stdout.log").exists(): launcher.wait(0.1)
print("ready", flush=True)
time.sleep(60)
"""
    controller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert controller.stdout.readline() == b"ready\n"
        family = descendants(controller.pid)
        assert len(family) > 4
    finally:
        controller.kill()
        controller.wait()
        controller.stdout.close()
    eventually(lambda: not any(map(alive, family)), "Parsl's processes and the member's to be gone")
    assert not with_variable("FAMILY", str(tmp_path))


@pytest.mark.slow
@pytest.mark.needs("slurm")
def test_blocks_on_a_real_slurm(slurm_conf, tmp_path):
    """Parsl's block is a Slurm job; a running member is cancelled, and the block is given back at the end."""
    options = {"partition": "debug", "exclusive": False, "cores_per_node": 1, "walltime": "00:05:00", "launcher": "SimpleLauncher"}
    with ParslLauncher("slurm", options, workers=1, address="127.0.0.1", grace_s=0.5) as launcher:
        launcher.submit(Job("a", 1, (sys.executable, "-S", "-c", "import os; print(os.environ['SLURM_JOB_ID'])"), tmp_path / "a"))
        assert collect(launcher, 1, 90)["a"].cause is ExitCause.DONE
        block = (tmp_path / "a" / "stdout.log").read_text().strip()
        assert block.isdigit()
        launcher.submit(Job("b", 1, SLEEPER, tmp_path / "b", {"FAMILY": str(tmp_path)}))
        up(tmp_path / "b")
        launcher.cancel("b", 1)
        assert collect(launcher, 1, 60)["b"].cause is ExitCause.CANCELLED
        assert not with_variable("FAMILY", str(tmp_path))
        launcher.submit(Job("c", 1, SLEEPER, tmp_path / "c", {"FAMILY": str(tmp_path)}))
        up(tmp_path / "c")
        subprocess.run(["scancel", block], check=True, timeout=20)
        assert collect(launcher, 1, 90)["c"].cause in (ExitCause.NODE_LOST, ExitCause.PREEMPTED)
        eventually(lambda: not with_variable("FAMILY", str(tmp_path)), "the member of the lost block to be gone")


@pytest.mark.slow
@pytest.mark.needs("slurm")
def test_a_node_on_which_nothing_runs_is_avoided(slurm_conf, tmp_path):
    """Two blocks on two nodes of a real Slurm; on one of them the program cannot be started."""
    options = {"partition": "debug", "exclusive": True, "walltime": "00:05:00", "launcher": "SimpleLauncher"}
    code = "import os, time; node = os.environ['SLURMD_NODENAME']; print(node, flush=True); time.sleep(0.3); os._exit(127 * (node == 'n1'))"
    with ParslLauncher("slurm", options, blocks=2, workers=1, address="127.0.0.1", avoid_after=1) as launcher:
        places: list[str] = []

        def run(n):
            names = [f"m{len(places) + i}" for i in range(n)]
            for name in names:
                launcher.submit(Job(name, 1, (sys.executable, "-S", "-c", code), tmp_path / name))
            ended = collect(launcher, n, 90)
            places.extend((tmp_path / name / "stdout.log").read_text().strip() for name in names)
            return [ended[name].code for name in names]

        deadline = time.monotonic() + 120
        while not {"n1"} < set(places):  # both nodes are up, and have had their turn
            assert time.monotonic() < deadline, places
            run(2)
        assert [run(1) for _ in range(4)] == [[0]] * 4
        assert "n1" not in places[-4:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"provider": "slrum"}, "Did you mean 'slurm'"),
        ({"workers": 0}, r"launcher\.workers is 0"),
        ({"abandon_s": 1}, r"launcher\.abandon_s is 1"),
        ({"provider": "slurm", "provider_options": {"particion": "x"}}, "Did you mean 'partition'"),
        ({"provider_options": {"max_blocks": 3}}, r"set launcher\.blocks"),
        ({"provider_options": {"launcher": "SrunLuncher"}}, "Did you mean 'SrunLauncher'"),
        ({"provider": "pbspro", "carrier": {"name": "socket", "kind": "unix"}}, "under launcher=parsl set transport=socket"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ConfigError, match=said) as raised:
        ParslLauncher(**options)
    assert isinstance(raised.value, (UnknownName, ConfigError))


def test_parsl_that_cannot_start_says_why(tmp_path):
    before = set(children(os.getpid()))
    (tmp_path / "parsl").write_text("a file where Parsl's directory should be")
    launcher = ParslLauncher(workers=1)
    try:
        with pytest.raises(LaunchError):
            launcher.submit(Job("a", 1, ("true",), Path(tmp_path) / "a"))
    finally:
        launcher.close()
    assert set(children(os.getpid())) <= before
