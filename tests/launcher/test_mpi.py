"""MPI members with a real MPI: two ranks start, stream, and are all gone when the member is ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alearn.errors import ConfigError
from alearn.launcher import Job, LocalLauncher
from alearn.launcher.supervisor import EXIT_FILE
from alearn.simulation import CommandSimulation, PythonSimulation
from alearn.simulation.mpi import find, options_of, placed, rank, wrapped
from alearn.study import Study
from alearn.testing.launcher import alive, collect, eventually, with_variable
from alearn.types import ExitCause

OPEN_MPI = Path(__file__).parents[2] / "scripts" / "openmpi"


def has_mpi():
    try:
        return bool(find("", python=True))
    except FileNotFoundError:
        return False


@pytest.fixture(params=["", "Open MPI"], ids=["MPICH", "Open MPI"])
def mpiexec(request):
    """The mpiexec beside this Python, or that of an Open MPI which is installed if it has to be."""
    if not request.param:
        if not has_mpi():
            pytest.skip("skipped, because there is no mpiexec: pip install mpich")
        return ""
    made = subprocess.run([str(OPEN_MPI)], capture_output=True, text=True, timeout=420, check=False)
    if made.returncode != 0:
        said = made.stderr.strip().splitlines()[-1:]
        if os.environ.get("CI") == "true":
            pytest.fail(f"In CI Open MPI is needed: {said}")
        pytest.skip(f"skipped, because there is no Open MPI: {said}")
    return made.stdout.strip()


needs_mpi = pytest.mark.skipif(not has_mpi(), reason="skipped, because there is no mpiexec: pip install mpich")

STUBBORN = """
import os, signal, time
from mpi4py import MPI
signal.signal(signal.SIGTERM, signal.SIG_IGN)
comm = MPI.COMM_WORLD
comm.Barrier()
open(f"rank{comm.rank}", "w").write(str(os.getpid()))
time.sleep(120)
"""


@pytest.fixture
def launcher():
    with LocalLauncher(slots=1, ranks=2, oversubscribe=True, grace_s=0.3) as launcher:
        yield launcher


def two_ranks(launcher, tmp_path, code=STUBBORN, mpiexec=""):
    argv = wrapped(2, mpiexec, [sys.executable, "-c", code])
    launcher.submit(Job("a", 1, argv, tmp_path / "a", {"FAMILY": str(tmp_path)}))
    files = [tmp_path / "a" / f"rank{n}" for n in range(2)]
    eventually(lambda: all(f.exists() and f.read_text() for f in files) or (tmp_path / "a" / EXIT_FILE).exists(), "both ranks", 60)
    return [int(f.read_text()) for f in files]


def test_all_ranks_are_gone_after_a_cancel(launcher, tmp_path, mpiexec):
    """Ranks ignore SIGTERM here; MPICH's are in sessions of their own, Open MPI's in process groups of their own."""
    ranks = two_ranks(launcher, tmp_path, mpiexec=mpiexec)
    main = launcher.pids()["a", 1]
    assert all(os.getsid(pid) != os.getsid(main) or os.getpgid(pid) != os.getpgid(main) for pid in ranks)
    launcher.cancel("a", 1)
    assert collect(launcher, 1)["a"].cause is ExitCause.CANCELLED
    assert not any(map(alive, ranks))
    assert not with_variable("FAMILY", str(tmp_path))


@needs_mpi
def test_a_rank_that_crashes_ends_the_member(launcher, tmp_path):
    code = STUBBORN.replace("time.sleep(120)", "os.kill(os.getpid(), 11) if comm.rank else time.sleep(120)")
    ranks = two_ranks(launcher, tmp_path, code)
    gone = collect(launcher, 1, 60)["a"]
    assert gone.cause in (ExitCause.EXIT_CODE, ExitCause.SIGNAL)
    assert not any(map(alive, ranks))


def test_a_study_of_mpi_members(tmp_path, mpiexec):
    """The ranks talk to each other; the first one's steps are streamed, each once."""
    (tmp_path / "sim.py").write_text(
        "from mpi4py import MPI\n"
        "def run(a):\n"
        "    comm = MPI.COMM_WORLD\n"
        "    for step in range(3):\n"
        "        yield {'t': float(step), 'ranks': comm.allreduce(1), 'y': a * comm.allreduce(float(comm.rank + 1))}\n"
    )
    study = Study(
        {"a": (0.0, 1.0)}, {"name": "python", "target": f"{tmp_path}/sim.py:run", "ranks": 2, "mpiexec": mpiexec}, surrogate="gp", budget=3,
        directory=tmp_path / "study", launcher={"name": "local", "slots": 1, "oversubscribe": True}, design={"initial": 3},
        kill="never", view="quiet",
    )  # fmt: skip
    study.run()
    data = study.archive()
    assert study.status().state == "done"
    assert (data["ranks"].values == 2).all()
    assert data["ranks"].shape == (3, 3)
    assert data["y"].values == pytest.approx(3 * data["a"].values[:, None] * [1, 1, 1])


def test_a_single_rank_needs_no_mpiexec():
    assert wrapped(1, "", ["./solver"]) == ("./solver",)
    assert CommandSimulation([sys.executable, "{a}"], format="client").command({"a": 1.0}).argv[0] == sys.executable


@pytest.mark.parametrize("make", [lambda **o: CommandSimulation(["true"], **o), lambda **o: PythonSimulation("f.py:g", **o)])
def test_ranks_are_checked(make):
    with pytest.raises(ConfigError, match=r"simulation\.ranks=0"):
        make(ranks=0)


def test_an_mpi_member_is_never_warm():
    assert PythonSimulation("f.py:g").command({}).warm
    assert not PythonSimulation("f.py:g", ranks=2).command({}).warm


def test_ranks_count_as_cores():
    have = len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match=f"{have} slots of 2 ranks with 1 core"):
        LocalLauncher(slots=have, ranks=2)


def test_rank_is_known_only_to_ranks():
    assert rank({"PMI_RANK": "3"}) == 0
    assert rank({"ALEARN_RANKS": "4", "PMI_RANK": "3"}) == 3
    assert rank({"ALEARN_RANKS": "4", "OMPI_COMM_WORLD_RANK": "2"}) == 2


@pytest.mark.parametrize(
    ("version", "environ", "root", "has", "has_not"),
    [
        ("mpiexec (Open MPI) 5.0.3", {}, True, ["--oversubscribe", "--bind-to", "--allow-run-as-root"], []),
        ("mpirun (Open MPI) 4.1.4", {}, False, ["--oversubscribe"], ["--allow-run-as-root"]),
        ("HYDRA build details:\n Version: 5.0.2", {}, True, ["-launcher", "fork"], ["--oversubscribe"]),
        ("HYDRA build details:", {"SLURM_NTASKS": "8"}, True, ["-bind-to"], ["fork"]),
        ("Another MPI 1.0", {}, True, [], ["-bind-to", "--bind-to"]),
    ],
)
def test_options_of_each_mpi(version, environ, root, has, has_not):
    options = options_of("/usr/bin/mpiexec", version, environ, root)
    assert not set(has) - set(options)
    assert not set(has_not) & set(options)


@pytest.mark.parametrize(
    ("ours", "given", "becomes"),
    [
        (["--oversubscribe", "--bind-to", "none", "--quiet"], [], ["--oversubscribe", "--bind-to", "none", "--quiet"]),
        (["--oversubscribe", "--bind-to", "none", "--quiet"], ["--bind-to", "core"], ["--oversubscribe", "--quiet", "--bind-to", "core"]),
        (["-bind-to", "none"], ["-ppn", "2"], ["-bind-to", "none", "-ppn", "2"]),
        (["--overlap", "--cpu-bind=none"], ["--cpu-bind=cores"], ["--overlap", "--cpu-bind=cores"]),
    ],
)
def test_a_binding_of_the_users_takes_the_place_of_ours(ours, given, becomes):
    assert placed(ours, given) == becomes


def test_ranks_are_bound_as_asked(launcher, tmp_path, mpiexec):
    """Each rank on one core of its own, where ours would let it run anywhere."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("skipped, because two ranks need two cores to be bound to")
    code = "import os; from mpi4py import MPI; open(f'rank{MPI.COMM_WORLD.rank}', 'w').write(str(len(os.sched_getaffinity(0))))"
    argv = wrapped(2, mpiexec, [sys.executable, "-c", code], ["--bind-to", "core"])
    launcher.submit(Job("a", 1, argv, tmp_path / "a"))
    assert collect(launcher, 1, 60)["a"].cause is ExitCause.DONE
    assert [(tmp_path / "a" / f"rank{n}").read_text() for n in range(2)] == ["1", "1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranks": 2, "mpi_options": ["--"]}, "holds '--'"),
        ({"ranks": 2, "mpi_options": [3]}, "holds 3"),
        ({"mpi_options": ["--map-by", "core"]}, r"set simulation\.ranks"),
    ],
)
def test_options_for_mpiexec_are_checked(options, said):
    with pytest.raises(ConfigError, match=said):
        PythonSimulation("f.py:g", **options)


def test_no_mpiexec_is_said(tmp_path):
    with LocalLauncher(slots=1) as launcher:
        launcher.submit(Job("a", 1, wrapped(2, "no-such-mpiexec", ["true"]), tmp_path / "a"))
        gone = collect(launcher, 1)["a"]
    assert (gone.cause, gone.code) == (ExitCause.EXIT_CODE, 127)
    assert "no-such-mpiexec" in gone.detail
    assert "pip install mpich" in gone.detail
