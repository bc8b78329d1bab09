"""MPI members: ``python -m alearn.simulation.mpi RANKS MPIEXEC -- ARGV…`` becomes the site's mpiexec on the member's node.

MPIEXEC names the program that starts ranks; empty finds it. Each MPI starts its ranks in its own way, and none of the defaults
fits several small members on one machine: Open MPI binds every job to the first cores and spins while it waits, refuses root
and more ranks than cores; MPICH asks a batch system that it finds in the environment for nodes of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

RANKS = "ALEARN_RANKS"
_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
VERSION_S = 20.0
NOT_FOUND = 127


def wrapped(ranks: int, mpiexec: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The command of a member whose ``argv`` runs as ``ranks`` MPI ranks; ``argv`` itself for a single one without mpiexec."""
    if ranks == 1 and not mpiexec:
        return tuple(argv)
    return (sys.executable, "-P", "-m", "alearn.simulation.mpi", str(ranks), mpiexec, "--", *argv)


def rank(environ: Mapping[str, str] | None = None) -> int:
    """This process's rank among those that ``alearn.simulation.mpi`` started; 0 outside of MPI."""
    env = os.environ if environ is None else environ
    if RANKS not in env:
        return 0
    return next((int(env[name]) for name in _RANK_VARIABLES if env.get(name, "").isdigit()), 0)


def find(mpiexec: str, python: bool) -> str:
    """The program that starts ranks.

    Args:
        mpiexec: its name or path; empty is the mpiexec of this Python's environment or of PATH.
        python: the ranks are this Python, whose mpi4py uses the MPI that is installed beside it; a compiled program was linked
            with the site's, so PATH comes first for it.

    Raises:
        FileNotFoundError: there is none.
    """
    beside, path = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)
    order = os.pathsep.join([beside, path] if python else [path, beside])
    found = shutil.which(mpiexec or "mpiexec", path=order)
    if found is None:
        raise FileNotFoundError(
            f"There is no '{mpiexec or 'mpiexec'}' in PATH or beside {sys.executable} to start MPI ranks; load the site's MPI, or: "
            "pip install mpich."
        )
    return found


def options_of(program: str, version: str, environ: Mapping[str, str], root: bool) -> list[str]:
    """The options by which several jobs of this MPI share one node in peace.

    Args:
        program: the path of mpiexec.
        version: what it answers to ``--version``.
        environ: the environment; under Slurm, Hydra starts ranks by srun if the job has tasks for them.
        root: whether the ranks run as root.
    """
    name = os.path.basename(program)
    if name == "srun":
        return ["--overlap", "--cpu-bind=none"]
    if "open mpi" in version.lower() or "openrte" in version.lower() or "prrte" in version.lower():
        old = not any(f" {major}." in version for major in range(5, 20))
        idle = ["--mca", "mpi_yield_when_idle", "1"]
        return [*(["--allow-run-as-root"] if root else []), "--oversubscribe", "--bind-to", "none", *(["--quiet"] if old else []), *idle]
    if "hydra" in version.lower():
        alone = int(environ.get("SLURM_NTASKS", "1") or 1) == 1
        return ["-bind-to", "none", *(["-launcher", "fork", "-hosts", "localhost"] if alone else [])]
    return []


def main(arguments: list[str]) -> int:
    """Become mpiexec; returns, with an exit code, only if that fails."""
    if len(arguments) < 4 or arguments[2] != "--" or not arguments[0].isdigit():
        print("usage: python -m alearn.simulation.mpi RANKS MPIEXEC -- ARGV…", file=sys.stderr)
        return 2
    ranks, argv = arguments[0], arguments[3:]
    try:
        program = find(arguments[1], python=os.path.realpath(argv[0]) == os.path.realpath(sys.executable))
        said = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return NOT_FOUND
    options = options_of(program, said.stdout + said.stderr, os.environ, os.geteuid() == 0)
    os.environ[RANKS] = ranks
    try:
        os.execv(program, [program, *options, "-n", ranks, *argv])
    except OSError as error:
        print(f"{program} cannot be started: {error}", file=sys.stderr)
    return NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
