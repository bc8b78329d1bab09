"""The study's own job: its script, and a real study that is drained and goes on in the next job."""

import re
import shlex
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from alearn.cli import main
from alearn.errors import ConfigError, LaunchError
from alearn.launcher.submit import LOG, SCRIPT, SubmitOptions, submission, submit
from alearn.ledger import Ledger
from alearn.testing.launcher import eventually


def test_the_script(tmp_path):
    options = SubmitOptions(time="12:00:00", partition="long", cores=4, memory_mb=8000, gpus=1, drain_s=300, extra=("--nice=5",))
    script = submission(tmp_path / "my study", ["experiment=gray_scott", "space={a: [0, 1]}"], options)
    lines = script.splitlines()
    header = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[0] == "#!/bin/bash"
    assert lines[1 : 1 + len(header)] == header  # sbatch reads no option behind the first command
    for line in ("--time=12:00:00", "--partition=long", "--cpus-per-task=4", "--mem=8000M", "--gpus-per-node=1", "--nice=5"):
        assert f"#SBATCH {line}" in header
    assert "#SBATCH --signal=B:TERM@300" in header
    assert "#SBATCH --dependency=singleton" in header
    assert not [line for line in header if "account" in line or "qos" in line]
    begin = next(shlex.split(line) for line in lines if "alearn.cli run" in line)
    assert begin[:3] == [sys.executable, "-m", "alearn.cli"]
    assert begin[3:] == ["run", f"hydra.run.dir='{tmp_path}/my study'", "experiment=gray_scott", "space={a: [0, 1]}", "&"]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert not (tmp_path / "my study").exists()


def test_two_studies_have_two_names(tmp_path):
    names = {re.search("--job-name=(.*)", submission(tmp_path / where / "study", []))[1] for where in ("a", "b")}
    assert len(names) == 2
    assert not [name for name in names if name.startswith("alearn-")]  # these are members


@pytest.mark.parametrize(
    "options", [{"nodes": 0}, {"cores": 0}, {"drain_s": 1}, {"resubmits": -1}, {"extra": ("nice",)}, {"time": "1\n#SBATCH --x"}]
)
def test_bad_options(options):
    with pytest.raises(ConfigError):
        SubmitOptions(**options)


def test_bad_directory(tmp_path):
    with pytest.raises(ConfigError, match="line break"):
        submission(tmp_path / "a\nb", [])


@pytest.mark.needs("slurm")
def test_what_slurm_refuses_is_said(slurm_conf, tmp_path):
    with pytest.raises(LaunchError, match="invalid partition"):
        submit(tmp_path, submission(tmp_path, [], SubmitOptions(partition="nowhere")))


@pytest.mark.parametrize(
    ("done", "code", "said"),
    [
        (0, 130, "this was job 3, the last allowed one; go on by: alearn resume"),
        (5, 130, "the next job could not be submitted; go on by: sbatch"),
    ],
)
def test_when_no_next_job_can_follow(tmp_path, done, code, said):
    """The shell's part alone; a process that heeds SIGTERM stands in for the study, and no Slurm answers."""
    script = submission(tmp_path, [], SubmitOptions(resubmits=2 + done))
    script = re.sub(r"^ .*alearn\.cli.*$", "    study &", script, flags=re.M)
    stands_in = "study() { trap 'exit 130' TERM; echo up; while :; do sleep 0.05; done; }\n"
    job = subprocess.Popen(
        ["bash", "-c", stands_in + script],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PATH": "/nowhere:/bin", "ALEARN_SUBMISSION": "2"},
    )  # fmt: skip
    assert job.stdout.readline() == "up\n"
    time.sleep(1.0)  # the shell notes its child's number only after that child has said that it is up
    job.terminate()
    out, _ = job.communicate(timeout=60)
    assert said in out
    assert job.returncode == code


@pytest.mark.slow
@pytest.mark.needs("slurm")
def test_a_study_that_is_drained_goes_on_in_the_next_job(slurm_conf, tmp_path):
    """SIGTERM to the batch shell is what Slurm sends ahead of the time limit (--signal=B:TERM@…)."""
    (tmp_path / "sim.py").write_text(
        textwrap.dedent(
            """
            import time

            def run(a):
                for step in range(4):
                    time.sleep(0.05)
                    yield {"t": float(step), "y": a * step}
            """
        )
    )
    study = tmp_path / "my study"
    overrides = [
        f"simulation.target='{tmp_path}/sim.py:run'", "space={a: [0, 1]}", "budget.members=4", "design.initial=4", "launcher.slots=1",
        "surrogate=gp", "view=plain",
    ]  # fmt: skip
    id = submit(study, submission(study, overrides, SubmitOptions(cores=2)))

    def state():
        return subprocess.run(["squeue", "--noheader", "--states=all", "--format=%i %T"], capture_output=True, text=True, check=True).stdout

    def members():
        if not (study / "ledger.sqlite").exists():
            return 0
        with Ledger.open(study, readonly=True) as ledger:
            return sum(type(event).__name__ == "MemberEnded" for _, event in ledger.events())

    eventually(lambda: members() >= 1, "a first member to end", 60)
    subprocess.run(["scancel", "--batch", "--signal=TERM", id], check=True, timeout=20)
    log = study / LOG
    eventually(lambda: "goes on in job" in log.read_text(), "the next job to be submitted", 60)
    next_id = re.search(r"the wall time is near; the study was stopped and goes on in job (\d+)\.", log.read_text())[1]
    assert next_id != id
    eventually(lambda: f"{next_id} COMPLETED" in state(), "the study to be done", 90)
    assert f"{id} COMPLETED" in state()
    with Ledger.open(study, readonly=True) as ledger:
        kinds = [type(event).__name__ for _, event in ledger.events()]
        assert ledger.meta()["finished"]
    assert kinds.count("StudyResumed") == 1
    assert "goes on in job" not in log.read_text().partition("goes on in job")[2]  # done is done
    assert Path(study / SCRIPT).stat().st_mode & 0o100


def test_a_forgotten_directory_is_told(capsys):
    assert main(["submit", "--dry", "space={a: [0, 1]}", "budget.members=3"]) == 2
    assert "takes the study's directory first, and 'space={a: [0, 1]}' is an override" in capsys.readouterr().err
