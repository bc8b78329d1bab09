"""What ``alearn doctor`` tries out rather than looks up: each engine really starts something, and says what came of it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from alearn.errors import AlearnError
from alearn.finding import Finding
from alearn.launcher.base import Job
from alearn.launcher.local import LocalLauncher
from alearn.simulation.mpi import find, wrapped
from alearn.transport.base import Hello
from alearn.types import Exit, Sample

PATIENCE_S = 30.0
MPI_S = 60.0
SLURM_S = 20.0
STREAM = "from alearn.client import connect\nwith connect() as run:\n    run.put(t=0.0, y=1.0)\n"
RANKS = "from mpi4py import MPI; MPI.COMM_WORLD.rank or print(MPI.COMM_WORLD.size, MPI.Get_library_version().splitlines()[0], flush=True)"
ADIOS2 = """
import sys
sys.modules["torch"] = None
import adios2, numpy
with adios2.Stream("x.bp", "w") as file:
    file.write("a", numpy.arange(3.0), [3], [0], [3])
with adios2.Stream("x.bp", "r") as file:
    assert sum(1 for step in file.steps() if step.read("a").sum() == 3.0) == 1
print(adios2.__version__)
"""
"""torch is kept out of adios2's way: it would be imported for seconds."""


def launcher() -> list[Finding]:
    """A member with a child is started and cancelled, and both must be gone."""
    try:
        with tempfile.TemporaryDirectory(prefix="alearn-doctor-") as folder, LocalLauncher(slots=1) as local:
            begun = time.monotonic()
            local.submit(Job("doctor", 1, ("sh", "-c", "sleep 60 & wait"), Path(folder) / "m"))
            while not local.pids() and time.monotonic() - begun < PATIENCE_S:
                local.wait(0.001)
            running = time.monotonic()
            local.cancel("doctor", 1)
            gone = _first(local)
            ended = time.monotonic()
    except (AlearnError, OSError) as error:
        return [Finding("launcher", "missing", f"no member can be started: {error}", "look at the limits of processes: ulimit -u")]
    if gone is None:
        return [Finding("launcher", "missing", f"a cancelled member is not gone after {PATIENCE_S:g} s", "report it, with `uname -a`")]
    waits = [f"{1000 * seconds:.0f} ms after" for seconds in (running - begun, ended - running)]
    how = f"a member ran {waits[0]} submit (the first one), its tree was gone {waits[1]} cancel"
    pidfd = hasattr(os, "pidfd_open") and Path("/proc/self/task").exists()
    return [Finding("launcher", "ok" if pidfd else "optional", how, "" if pidfd else "a Linux kernel ≥ 5.3 with /proc is needed")]


def transport() -> list[Finding]:
    """A member streams one time step, over each kind of socket."""
    from alearn.transport.socket import SocketReader

    findings = []
    for kind in ("unix", "tcp"):
        begun = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="alearn-doctor-") as folder, LocalLauncher(slots=1) as local:
                reader = SocketReader(kind=kind)
                try:
                    env = {"ALEARN_MEMBER": "doctor", "ALEARN_ATTEMPT": "1", "ALEARN_PARAMETERS": "{}", **reader.address("doctor", 1)}
                    local.submit(Job("doctor", 1, (sys.executable, "-P", "-c", STREAM), Path(folder) / "m", env))
                    arrived, gone = False, None
                    while gone is None and time.monotonic() - begun < PATIENCE_S:
                        for message in reader.poll(0.02):
                            if isinstance(message, (Hello, Sample)):
                                arrived |= isinstance(message, Sample)
                                reader.acknowledge("doctor", 1, int(arrived))
                        gone = next(iter(local.poll()), None)
                finally:
                    reader.close()
        except (AlearnError, OSError) as error:
            findings.append(Finding(f"transport {kind}", "missing", str(error), "set TMPDIR to a local folder with a short path"))
            continue
        good = arrived and gone is not None and gone.cause == "done"
        why = f"no step arrived within {PATIENCE_S:g} s" if gone is None else f"the member ended: {gone.detail or gone.cause}"
        mend = "" if good else "allow connections to 127.0.0.1" if kind == "tcp" else "set TMPDIR to a local folder with a short path"
        findings.append(
            Finding(f"transport {kind}", "ok" if good else "missing", "a step was streamed and acknowledged" if good else why, mend)
        )
    return findings


def mpi() -> list[Finding]:
    """Two ranks are started, and must find each other."""
    try:
        program = find("", python=True)
    except FileNotFoundError:
        return [Finding("mpiexec", "optional", "none; only MPI-parallel members need one", "pip install mpich")]
    command = [*wrapped(2, "", [sys.executable, "-c", RANKS])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MPI_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return [
            Finding(
                "mpiexec", "optional", f"{program}: two ranks did not end within {MPI_S:g} s", "load the site's MPI, or pip install mpich"
            )
        ]
    said = done.stdout.strip().splitlines()
    if done.returncode == 0 and len(said) == 1 and said[0].startswith("2 "):
        return [Finding("mpiexec", "ok", f"{program}: two ranks of {said[0][2:]}")]
    if done.returncode == 0:
        why, mend = (
            "each rank is alone: it is of another MPI than mpi4py's",
            "pip install mpich, or build mpi4py with this MPI: pip install --no-binary mpi4py mpi4py",
        )
    else:
        why, mend = (done.stderr.strip().splitlines() or ["it failed"])[-1][:160], "load the site's MPI, or pip install mpich"
    return [Finding("mpiexec", "optional", f"{program}: {why}", mend)]


def adios() -> list[Finding]:
    """A BP5 file is written and read again."""
    if importlib.util.find_spec("adios2") is None:
        return []  # among the packages
    with tempfile.TemporaryDirectory(prefix="alearn-doctor-") as folder:
        try:
            done = subprocess.run([sys.executable, "-c", ADIOS2], capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder)
        except subprocess.TimeoutExpired:
            return [Finding("adios2 files", "missing", f"not written within {PATIENCE_S:g} s", "set TMPDIR to a local folder")]
    if done.returncode == 0:
        return [Finding("adios2 files", "ok", "BP5 written and read again")]
    why = (done.stderr.strip().splitlines() or ["it failed"])[-1][:160]
    return [Finding("adios2 files", "missing", why, "pip install --force-reinstall --no-deps -c constraints.txt adios2")]


def gpu() -> list[Finding]:
    """Whether the GPUs that the driver shows are what torch can use."""
    if shutil.which("nvidia-smi") is None:
        return []
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
        names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        if done.returncode == 0 and names:
            probe = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
            seen = subprocess.run(probe, capture_output=True, text=True, timeout=MPI_S).stdout.strip()
            if seen == str(len(names)):
                slots = ", ".join(name.partition(",")[0] for name in names)
                return [Finding("gpu slots", "ok", f"members may use launcher.gpus=[{slots}]")]
            mend = "pip install torch --index-url https://download.pytorch.org/whl/cu126"
            return [Finding("gpu slots", "optional", f"the driver shows {len(names)}, torch sees {seen or 'none'}", mend)]
    return [Finding("gpu slots", "optional", "nvidia-smi shows none", "look at the driver: nvidia-smi")]


def scheduler() -> list[Finding]:
    """Whether Slurm answers, and whether Parsl is here."""
    findings = []
    if shutil.which("sinfo"):
        try:
            done = subprocess.run(["sinfo", "--noheader", "--format=%P %D %t"], capture_output=True, text=True, timeout=SLURM_S)
            lines = done.stdout.strip().splitlines()
            if done.returncode == 0 and lines:
                findings.append(Finding("slurm answers", "ok", "; ".join(lines[:4])))
            else:
                why = (done.stderr.strip().splitlines() or ["no partition"])[-1][:160]
                findings.append(
                    Finding("slurm answers", "optional", why, "set SLURM_CONF, or start a Slurm of your own: scripts/slurm start DIR")
                )
        except subprocess.TimeoutExpired:
            findings.append(Finding("slurm answers", "optional", f"no answer within {SLURM_S:g} s", "look at slurmctld: scontrol ping"))
    try:
        findings.append(Finding("parsl", "ok", importlib.metadata.version("parsl")))
    except importlib.metadata.PackageNotFoundError:
        findings.append(Finding("parsl", "optional", "not installed; only launcher=parsl needs it", "pip install 'alearn[parsl]'"))
    return findings


def ports() -> list[Finding]:
    """Whether members on other hosts could reach a port here, as far as this host can tell."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
        with socket.socket() as tcp:
            tcp.bind(("0.0.0.0", 0))
            tcp.listen()
    except OSError as error:
        return [
            Finding("ports", "optional", f"{name}: {error}; members on other hosts cannot stream here", "set transport.advertise=ADDRESS")
        ]
    if address.startswith("127."):
        mend = "set transport.advertise=ADDRESS for members on other hosts"
        return [Finding("ports", "optional", f"{name} is {address} here, which on another host is that host itself", mend)]
    return [Finding("ports", "ok", f"can be opened; {name} is {address}")]


def _first(local: LocalLauncher) -> Exit | None:
    """The next attempt that ended, or None if none did in time."""
    return local.poll()[0] if local.wait(PATIENCE_S) else None


CHECKS: tuple[Callable[[], list[Finding]], ...] = (launcher, transport, mpi, adios, gpu, scheduler, ports)
