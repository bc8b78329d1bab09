"""MPI ranks with one stream, through a real mpiexec (the mpich wheel's, or the site's that mpi4py was built with)."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alearn.testing.transport import Owner
from alearn.transport import SocketReader

EXAMPLE = Path(__file__).parents[2] / "examples" / "09_mpi" / "rod.py"
BESIDE = Path(sys.executable).with_name("mpiexec")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def mpiexec():
    found = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("skipped, because there is no mpiexec: pip install 'alearn[mpi]'")
    return found


@pytest.fixture
def owner():
    owner = Owner(SocketReader())
    yield owner
    owner.reader.close()


@contextlib.contextmanager
def ranks(mpiexec, n, code, owner=None, folder="/tmp", **parameters):
    """Ranks that run the code; killed when the block is left."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if owner is not None:
        env |= {**owner.reader.address("m0001", 1), "ALEARN_PARAMETERS": json.dumps(parameters)}
    argv = [mpiexec, "-n", str(n), sys.executable, *([code] if str(code).endswith(".py") else ["-c", code])]
    with subprocess.Popen(argv, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def finished(process):
    out, error = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, error


def test_the_example_streams_whole_fields(mpiexec, owner):
    with ranks(mpiexec, 2, str(EXAMPLE), owner, kappa=0.3, centre=0.4) as process:
        owner.until(lambda o: bool(o.ends), "the end")
        assert finished(process)[0] == 0
    assert len(owner.hellos) == 1
    assert [(f.name, f.shape, f.unit) for f in owner.hellos[0].schema.fields] == [("u", (64,), "K"), ("hottest", (), "")]
    assert owner.steps("m0001") == 11
    x = (np.arange(64) + 0.5) / 64
    np.testing.assert_allclose(owner.kept["m0001", 0].values["u"], np.exp(-(((x - 0.4) / 0.1) ** 2)))
    for step in range(11):
        values = owner.kept["m0001", step].values
        assert values["u"].max() == values["hottest"]
    total = [owner.kept["m0001", step].values["u"].sum() for step in (0, 10)]
    assert total[0] == pytest.approx(total[1])  # the pieces exchange heat and lose none


def test_outside_a_study_it_runs_by_itself(mpiexec):
    with ranks(mpiexec, 3, str(EXAMPLE)) as process:
        code, _, error = finished(process)
    assert code == 0, error


TILES = """
import numpy as np
from mpi4py import MPI
from alearn.clients.mpi import Block, connect
with connect(MPI.COMM_WORLD) as run:
    r = run.rank
    tile = np.asfortranarray(np.full((2, 3), r, np.float32))
    for n in range(3):
        run.put(n, tiles=Block(tile + 10 * n, offset=(2 * (r // 2), 3 * (r % 2)), shape=(4, 6)),
                rows=Block(np.arange(r, dtype=np.int64)), scalar=r + 1.5)
    assert run.step == 3 and run.parameters == {"a": 0.5} and run.member == "m0001"
"""


def test_tiles_and_uneven_rows_come_together(mpiexec, owner):
    with ranks(mpiexec, 4, TILES, owner, a=0.5) as process:
        owner.until(lambda o: bool(o.ends), "the end")
        assert finished(process)[0] == 0
    for n in range(3):
        values = owner.kept["m0001", n].values
        np.testing.assert_array_equal(values["tiles"], np.kron(np.array([[0, 1], [2, 3]]), np.ones((2, 3))) + 10 * n)
        assert values["tiles"].dtype == np.float32
        np.testing.assert_array_equal(values["rows"], [0, 0, 1, 0, 1, 2])
        assert values["scalar"] == 1.5  # rank 0's


STOPPED = """
import itertools, os, time
from mpi4py import MPI
from alearn.clients.mpi import Stopped, connect
steps = 0
with connect(MPI.COMM_WORLD) as run:
    try:
        for n in itertools.count():
            run.put(n, y=1.0)
            steps = n + 1
            time.sleep(0.01)
    except Stopped:
        os.write(1, f"rank stopped at {steps}\\n".encode())  # in one piece: the ranks share the line to here
        raise
"""


def test_a_stop_reaches_every_rank_at_the_same_step(mpiexec, owner):
    with ranks(mpiexec, 2, STOPPED, owner) as process:
        owner.until(lambda o: o.steps("m0001") > 3, "steps")
        owner.reader.stop("m0001", 1)
        owner.until(lambda o: bool(o.ends), "the end")
        code, out, error = finished(process)
    assert code == 0, error
    assert owner.ends[0].status == "stopped"
    lines = [line for line in out.splitlines() if line.startswith("rank stopped at")]
    assert len(lines) == 2
    assert lines[0] == lines[1] == f"rank stopped at {owner.ends[0].steps}"


RAISES = """
from mpi4py import MPI
from alearn.clients.mpi import connect
with connect(MPI.COMM_WORLD) as run:
    for n in range(1000000):
        if run.rank == 1 and n == 3:
            raise ArithmeticError("the CFL number is 3.2")
        run.put(n, y=1.0)
"""


def test_an_exception_on_one_rank_ends_all(mpiexec, owner):
    with ranks(mpiexec, 2, RAISES, owner) as process:
        owner.until(lambda o: bool(o.broken), "the break")
        code, _, error = finished(process)
    assert code != 0
    assert "ArithmeticError: the CFL number is 3.2" in error
    assert "rank 1 of 2 failed" in error
    assert owner.steps("m0001") == 3


@pytest.mark.parametrize(
    ("put", "said"),
    [
        ("u=Block([1.0], offset=(0,), shape=(2,))", "do not make up the field 'u'"),
        ("u=Block([1.0], offset=(5,), shape=(2,))", "does not hold rank 0's part"),
        ("u=Block([1.0] * (1 + r), shape=None, offset=(r,))", "an offset but no global shape"),
        ("u=Block([[1.0] * (1 + r)])", "do not fit along the first axis"),
        ("**{'ab'[r]: 1.0}", "all ranks must put the same ones"),
        ("u=Block([1.0] if n + r < 2 else [1.0, 2.0])", "fields changed on rank 1"),
    ],
)
def test_what_does_not_fit_is_told_on_every_rank(mpiexec, put, said):
    code = f"""
from mpi4py import MPI
from alearn.clients.mpi import Block, SchemaError, connect
with connect(MPI.COMM_WORLD) as run:
    r = run.rank
    try:
        for n in range(2):
            run.put(0.0, {put})
    except SchemaError as error:
        print("told:", error, flush=True)
"""
    with ranks(mpiexec, 2, code) as process:
        code, out, error = finished(process)
    assert code == 0, error
    assert out.count("told:") == out.count(said) == 2, out
