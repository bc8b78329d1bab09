"""Nodes on which members cannot run are avoided."""

import subprocess

import pytest

from alearn.launcher import Job
from alearn.launcher.hosts import Hosts
from alearn.launcher.slurm import SlurmLauncher
from alearn.testing.launcher import collect
from alearn.types import Exit, ExitCause

LOST = Exit("m", 1, ExitCause.NODE_LOST)
DONE = Exit("m", 1, ExitCause.DONE)
NO_PROGRAM = Exit("m", 1, ExitCause.EXIT_CODE, code=127)
FAILED = Exit("m", 1, ExitCause.EXIT_CODE, code=1)


def after(*ends):
    hosts = Hosts(2)
    for host, gone in ends:
        hosts.note(host, gone)
    return hosts.avoided


def test_misfortunes_in_a_row():
    assert after(("a", DONE), ("b", LOST)) == []
    assert after(("a", DONE), ("b", LOST), ("b", NO_PROGRAM)) == ["b"]
    assert after(("a", DONE), ("b", LOST), ("b", FAILED), ("b", LOST)) == []
    assert after(("a", DONE), ("b[1-2]", LOST), ("b[1-2]", LOST), ("", LOST), ("", LOST)) == []


def test_if_all_fail_no_host_is_to_blame():
    assert after(("a", LOST), ("a", LOST), ("b", LOST), ("b", LOST)) == []
    assert after(("a", LOST), ("a", LOST), ("b", DONE)) == ["a"]
    assert after(("b", DONE), ("b", LOST), ("b", LOST)) == []


def test_zero_avoids_none():
    hosts = Hosts(0)
    hosts.note("a", DONE)
    hosts.note("b", LOST)
    assert hosts.avoided == []


@pytest.mark.slow
@pytest.mark.needs("slurm")
def test_a_node_without_the_program_is_avoided(slurm_conf, tmp_path):
    picky = ("sh", "-c", "echo $SLURMD_NODENAME; sleep 0.5; test $SLURMD_NODENAME != n1 || exit 127")
    asked = subprocess.run(["sinfo", "--noheader", "--format=%c"], capture_output=True, text=True, timeout=20, check=True)
    with SlurmLauncher(slots=3, cores=int(asked.stdout.split()[0]), poll_s=0.1, queue_s=0.2, avoid_after=1) as launcher:

        def nodes(prefix):
            for n in range(3):
                launcher.submit(Job(f"{prefix}{n}", 1, picky, tmp_path / f"{prefix}{n}"))
            collect(launcher, 3, 60)
            return sorted((tmp_path / f"{prefix}{n}" / "stdout.log").read_text().strip() for n in range(3))

        assert "n1" in nodes("a")
        assert "n1" not in nodes("b")
