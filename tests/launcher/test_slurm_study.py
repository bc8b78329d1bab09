"""A whole study on a real Slurm whose controller is killed: its jobs run on, and the next controller takes them up."""

import subprocess
import sys
import textwrap

import pytest

from alearn.cli import main
from alearn.ledger import Ledger
from alearn.testing.launcher import eventually

pytestmark = pytest.mark.needs("slurm")

SIMULATION = """
import time

def run(a):
    for step in range(30):
        time.sleep(0.1)
        yield {"t": float(step), "y": a * step}
"""


@pytest.mark.slow
def test_no_member_runs_twice_when_the_controller_is_killed(slurm_conf, tmp_path):
    (tmp_path / "sim.py").write_text(textwrap.dedent(SIMULATION))
    (tmp_path / "sock").mkdir(mode=0o700)
    study = tmp_path / "study"
    overrides = [
        f"simulation.target={tmp_path}/sim.py:run", "space={a: [0, 1]}", "budget.members=2", "design.initial=2", "kill=never",
        "launcher=slurm", "launcher.slots=2", "launcher.poll_s=0.1", f"transport.path={tmp_path}/sock/s", "surrogate=gp", "view=quiet",
    ]  # fmt: skip
    command = [sys.executable, "-m", "alearn.cli", "run", f"hydra.run.dir={study}", *overrides]

    def stored():
        if not (study / "ledger.sqlite").exists():
            return [0]
        with Ledger.open(study, readonly=True) as ledger:
            return [ledger.stored_steps(member) for member in ("m0000", "m0001")]

    controller = subprocess.Popen(command)
    try:
        eventually(lambda: min(stored()) >= 2, "both members to stream", 60)
    finally:
        controller.kill()
        controller.wait()
    assert max(stored()) < 30
    subprocess.run([*command[:3], "resume", str(study)], check=True, timeout=120)
    with Ledger.open(study, readonly=True) as ledger:
        happened = [(type(e).__name__, getattr(e, "member", ""), getattr(e, "attempt", 0)) for _, e in ledger.events()]
    assert stored() == [30, 30]
    for member in ("m0000", "m0001"):
        assert happened.count(("MemberLaunched", member, 1)) == 1
        assert happened.count(("MemberEnded", member, 1)) == 1
        assert ("MemberLaunched", member, 2) not in happened


def test_submit_prints_its_script_and_checks_first(slurm_conf, tmp_path, capsys):
    study = tmp_path / "study"
    assert main(["submit", str(study), "experiment=gray_scott", "--time", "60", "--cores", "2", "--sbatch=--nice=5", "--dry"]) == 0
    script = capsys.readouterr().out
    for line in ("#SBATCH --time=60", "#SBATCH --cpus-per-task=2", "#SBATCH --nice=5", "#SBATCH --signal=B:TERM@120"):
        assert line in script.splitlines()
    assert not study.exists()
    assert main(["submit", str(study), "experiment=gray_scot"]) == 2
    assert "gray_scott" in capsys.readouterr().err
    assert main(["submit", str(study), "experiment=gray_scott", "--nodes", "0"]) == 2
    assert "nodes is 0" in capsys.readouterr().err
