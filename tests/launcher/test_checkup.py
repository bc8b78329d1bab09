"""The doctor's trials: what works is seen to work, and what does not is named with the command that mends it."""

import shutil
import sys

import pytest

from alearn.launcher import checkup


def only(findings):
    (finding,) = findings
    return finding


def test_what_this_machine_can_do():
    assert only(checkup.launcher()).verdict == "ok"
    assert [(f.what, f.verdict) for f in checkup.transport()] == [("transport unix", "ok"), ("transport tcp", "ok")]
    assert only(checkup.adios()).verdict == "ok"


def test_ranks_find_each_other():
    finding = only(checkup.mpi())
    if finding.detail.startswith("none;"):
        pytest.skip("skipped, because there is no mpiexec: pip install mpich")
    assert finding.verdict == "ok"
    assert "two ranks of" in finding.detail


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho no route to host >&2\nexit 1\n", "no route to host"),
        ("#!/bin/sh\n[ $1 = --version ] || for n in 1 2; do echo 1 MPICH 0; done\n", "each rank is alone"),
    ],
)
def test_an_mpiexec_that_does_not_work(tmp_path, monkeypatch, script, said):
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "mpiexec").write_text(script)
    (bin / "mpiexec").chmod(0o755)
    (bin / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(bin / "python"))
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p))
    finding = only(checkup.mpi())
    assert finding.verdict == "optional"
    assert said in finding.detail
    assert "pip install" in finding.mend


def test_a_slurm_that_does_not_answer(tmp_path, monkeypatch):
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert shutil.which("sinfo") == str(tmp_path / "sinfo")
    finding = checkup.scheduler()[0]
    assert (finding.verdict, finding.detail) == ("optional", "Unable to contact slurm controller")
    assert "scripts/slurm start" in finding.mend


def test_a_driver_whose_gpus_torch_does_not_see(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nfor n in 0 1 2 3 4 5 6 7 8; do echo $n, H200; done\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    finding = only(checkup.gpu())
    assert finding.verdict == "optional"
    assert "the driver shows 9" in finding.detail
    assert "pip install torch" in finding.mend


def test_a_host_name_that_is_loopback(monkeypatch):
    monkeypatch.setattr("socket.gethostbyname", lambda name: "127.0.1.1")
    finding = only(checkup.ports())
    assert finding.verdict == "optional"
    assert "transport.advertise" in finding.mend
