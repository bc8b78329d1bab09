"""MPI members: ``python -m alearn.simulation.mpi RANKS MPIEXEC [OPTION…] -- ARGV…`` becomes the site's mpiexec on the member's node.

MPIEXEC names the program that starts ranks; empty finds it; the options are passed on to it. Each MPI starts its ranks in
its own way, and none of the defaults fits several small members on one machine: Open MPI binds every job to the first cores
and spins while it waits, refuses root and more ranks than cores; MPICH asks a batch system that it finds in the environment
for nodes of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from alearn.errors import ConfigError

RANKS = "ALEARN_RANKS"
_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
VERSION_S = 20.0
NOT_FOUND = 127
_BINDING = ("bind-to", "cpu-bind")


def wrapped(ranks: int, mpiexec: str, argv: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
    """The command of a member whose ``argv`` runs as ``ranks`` MPI ranks; ``argv`` itself for a single one without mpiexec."""
    if ranks == 1 and not mpiexec:
        return tuple(argv)
    return (sys.executable, "-P", "-m", "alearn.simulation.mpi", str(ranks), mpiexec, *options, "--", *argv)


def check(ranks: int, mpiexec: str, options: Sequence[str]) -> None:
    """See that a simulation's MPI options make sense.

    Raises:
        ConfigError: they do not.
    """
    if ranks < 1:
        raise ConfigError(f"simulation.ranks={ranks} is no number of MPI ranks; give 1 for a simulation without MPI.")
    for option in options:
        if not isinstance(option, str) or not option or option == "--" or "\0" in option:
            raise ConfigError(f"simulation.mpi_options holds {option!r}; each entry is one word for mpiexec, as in [--map-by, socket].")
    if options and ranks == 1 and not mpiexec:
        raise ConfigError(f"simulation.mpi_options={list(options)} is for mpiexec, which one rank does not need; set simulation.ranks.")


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
    if _is_open_mpi(version):
        old = not any(f" {major}." in version for major in range(5, 20))
        idle = ["--mca", "mpi_yield_when_idle", "1"]
        return [*(["--allow-run-as-root"] if root else []), "--oversubscribe", "--bind-to", "none", *(["--quiet"] if old else []), *idle]
    if "hydra" in version.lower():
        alone = int(environ.get("SLURM_NTASKS", "1") or 1) == 1
        return ["-bind-to", "none", *(["-launcher", "fork", "-hosts", "localhost"] if alone else [])]
    return []


def placed(ours: Sequence[str], given: Sequence[str]) -> list[str]:
    """Our options and the user's, whose binding of ranks to cores takes the place of ours."""
    kept = list(ours)
    if any(option.lstrip("-").startswith(_BINDING) for option in given):
        for at, option in enumerate(ours):
            if option.lstrip("-").startswith(_BINDING):
                del kept[at : at + (1 if "=" in option else 2)]
                break
    return [*kept, *given]


def _is_open_mpi(version: str) -> bool:
    return any(name in version.lower() for name in ("open mpi", "openrte", "prrte"))


def main(arguments: list[str]) -> int:
    """Become mpiexec; returns, with an exit code, only if that fails."""
    if len(arguments) < 4 or "--" not in arguments[2:-1] or not arguments[0].isdigit():
        print("usage: python -m alearn.simulation.mpi RANKS MPIEXEC [OPTION…] -- ARGV…", file=sys.stderr)
        return 2
    end = arguments.index("--", 2)
    ranks, given, argv = arguments[0], arguments[2:end], arguments[end + 1 :]
    try:
        program = find(arguments[1], python=os.path.realpath(argv[0]) == os.path.realpath(sys.executable))
        said = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return NOT_FOUND
    version = said.stdout + said.stderr
    options = placed(options_of(program, version, os.environ, os.geteuid() == 0), given)
    os.environ[RANKS] = ranks
    if _is_open_mpi(version):
        os.environ.setdefault("MPI4PY_MPIABI", "openmpi")  # a wheel of mpi4py goes with either; else it takes the one beside it
    try:
        os.execv(program, [program, *options, "-n", ranks, *argv])
    except OSError as error:
        print(f"{program} cannot be started: {error}", file=sys.stderr)
    return NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
