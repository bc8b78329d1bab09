"""``alearn doctor``: what this machine has and lacks, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from alearn.finding import Finding

REQUIRED = ("torch", "gpytorch", "botorch", "numpy", "scipy", "hydra-core", "adios2", "rich", "matplotlib", "xarray")


def doctor(more: Sequence[Callable[[], list[Finding]]] = ()) -> int:
    """Print every finding, those of ``more`` checks too; 0 if nothing that every study needs is missing."""
    findings = [finding for check in (*CHECKS, *more) for finding in check()]
    width = max(len(f.what) for f in findings)
    for f in findings:
        mend = f"  ->  {f.mend}" if f.mend else ""
        print(f"{f.verdict:<9} {f.what:<{width}}  {f.detail}{mend}")
    broken = [f.what for f in findings if f.verdict == "missing"]
    print(f"missing: {', '.join(broken)}" if broken else "everything that every study needs is here")
    return 1 if broken else 0


def _python() -> list[Finding]:
    version = sys.version.split()[0]
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return [Finding("python", "ok" if good else "missing", version, "" if good else "install Python 3.11, 3.12 or 3.13")]


def _packages() -> list[Finding]:
    findings = []
    for name in REQUIRED:
        try:
            findings.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, "missing", "not installed", f"pip install -c constraints.txt {name}"))
    return findings


def _gpu() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if torch.cuda.is_available():
        return [Finding("gpu", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")]
    return [Finding("gpu", "optional", f"none seen by torch {torch.__version__}; training runs on the CPU")]


def _mpi() -> list[Finding]:
    probe = [sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0])"]
    try:
        # In a process of its own: an MPI library that cannot start may abort the whole process.
        done = subprocess.run(probe, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return [Finding("mpi", "optional", "MPI did not start within 20 s", "check the site's MPI, or pip install mpich")]
    if done.returncode == 0:
        return [Finding("mpi", "ok", done.stdout.strip())]
    return [Finding("mpi", "optional", "no MPI library; only MPI-parallel members need one", "pip install mpich")]


def _scheduler() -> list[Finding]:
    if (program := shutil.which("sinfo")) is not None:
        done = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=20)
        return [Finding("slurm", "ok", done.stdout.strip() or f"{program}, which is told of no Slurm")]
    return [Finding("slurm", "optional", "no sinfo on the path; members start on this machine")]


def _optional() -> list[Finding]:
    findings = []
    for what, names, extra in (("export-archive", ("zarr", "h5netcdf", "h5py"), "archive"), ("transport=redis", ("redis",), "redis")):
        lacking = [name for name in names if importlib.util.find_spec(name) is None]
        mend = f"pip install 'alearn[{extra}]'" if lacking else ""
        findings.append(
            Finding(what, "optional" if lacking else "ok", f"without {', '.join(lacking)}" if lacking else ", ".join(names), mend)
        )
    return findings


def _scratch() -> list[Finding]:
    findings = []
    for what, folder in (("working folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / 2**30
        writable = os.access(folder, os.W_OK)
        verdict = "ok" if writable and free > 1 else "missing"
        mend = "" if verdict == "ok" else "choose another with hydra.run.dir=... or TMPDIR=..., or free some space"
        findings.append(Finding(what, verdict, f"{folder}: {free:.0f} GiB free, {'writable' if writable else 'NOT writable'}", mend))
    return findings


def _cores() -> list[Finding]:
    cores = len(os.sched_getaffinity(0))
    return [Finding("cores", "ok", f"{cores} usable")]


def _sockets() -> list[Finding]:
    try:
        with tempfile.TemporaryDirectory(prefix="alearn-") as folder, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(f"{folder}/s")
        with socket.socket() as tcp:
            tcp.bind(("127.0.0.1", 0))
    except OSError as error:
        return [Finding("sockets", "missing", f"cannot be opened: {error}", "set TMPDIR to a local folder with a short path")]
    return [Finding("sockets", "ok", "Unix and loopback TCP")]


def _sqlite() -> list[Finding]:
    return [Finding("sqlite", "ok", sqlite3.sqlite_version)]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _python,
    _packages,
    _optional,
    _sqlite,
    _gpu,
    _mpi,
    _scheduler,
    _cores,
    _scratch,
    _sockets,
)
