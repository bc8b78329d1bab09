import os
import subprocess
import time
from pathlib import Path

import pytest

from alearn.testing.launcher import alive, with_variable

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm"


def slurm(action, directory):
    return subprocess.run([str(SCRIPT), action, str(directory)], capture_output=True, text=True, timeout=420, check=False)


@pytest.fixture(scope="session")
def slurm_directory(tmp_path_factory):
    """A real Slurm with three virtual nodes on this machine; at the end nothing of it is left."""
    if os.geteuid() != 0:
        pytest.skip("skipped, because only root can start a Slurm with virtual nodes")
    directory = tmp_path_factory.mktemp("slurm")
    begun = slurm("start", directory)
    if begun.returncode != 0:
        said = begun.stderr.strip().splitlines()[-1:]
        if os.environ.get("CI") == "true":
            pytest.fail(f"In CI a real Slurm is needed: {said}")
        pytest.skip(f"skipped, because there is no Slurm: {said}")
    yield directory
    daemons = [int(file.read_text()) for file in directory.glob("*.pid")]
    assert len(daemons) == 5
    ended = slurm("stop", directory)
    assert ended.returncode == 0, ended.stderr
    assert not any(map(alive, daemons))


@pytest.fixture(scope="session")
def slurm_conf(slurm_directory):
    """SLURM_CONF of the real Slurm; at the end no job and no member is left."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", str(slurm_directory / "slurm.conf"))
    patch.setenv("FROM_SLURM_TESTS", str(slurm_directory))
    yield slurm_directory / "slurm.conf"
    until = time.monotonic() + 10
    while (left := squeue()) and time.monotonic() < until:
        time.sleep(0.1)
    patch.undo()
    assert left == ""
    assert not [pid for pid in with_variable("FROM_SLURM_TESTS", str(slurm_directory)) if pid != os.getpid()]


def squeue(*options, format="%i %T %j"):
    command = ["squeue", "--noheader", f"--format={format}", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
