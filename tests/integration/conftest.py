"""A small user's world: a folder outside the repository, a simulation in a file, and the real command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MY_FILE = '''
import math
import os
import time


def wave(a: float, b: float):
    """Ten time steps of a decaying wave."""
    for step in range(10):
        t = 0.1 * step
        time.sleep(float(os.environ.get("WAVE_SLEEP", "0.005")))
        yield {"t": t, "y": math.sin(6 * a) * math.exp(-b * t), "energy": b * t}


def fragile(a: float, b: float):
    """Raises for large a, gives NaN for large b."""
    for step in range(10):
        if a > 0.8 and step == 3:
            raise RuntimeError("the solver blew up")
        yield {"t": 0.1 * step, "y": float("nan") if b > 0.8 and step == 5 else a + b * step}


def broken(a: float, b: float):
    raise ValueError("always wrong")
    yield {}


def once(a: float, b: float):
    return {"y": a * b}


def my_score(surrogate, X, context):
    """My own acquisition: the corner first."""
    return X.sum(-1)
'''


class World:
    """The folder and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "my_file.py").write_text(MY_FILE)
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "alearn.cli", *words]

    def alearn(self, *words: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.argv(*words), cwd=self.folder, env={**self.env, **env}, capture_output=True, text=True, timeout=240)

    def start(self, *words: str, **env: str) -> subprocess.Popen:
        with open(self.folder / "log.txt", "w") as log:
            return subprocess.Popen(
                self.argv(*words), cwd=self.folder, env={**self.env, **env}, stdout=log, stderr=log, text=True, start_new_session=True
            )

    def run_words(self, target: str = "wave", members: int = 8, *more: str) -> list[str]:
        return [
            "run",
            "simulation=python",
            f"simulation.target=my_file.py:{target}",
            "space={a: [0, 1], b: [0, 1]}",
            f"budget.members={members}",
            "hydra.run.dir=study",
            *more,
        ]

    def status(self, directory: str = "study") -> dict:
        done = self.alearn("status", directory, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def processes(self) -> list[int]:
        """Processes that belong to this world's studies, by their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if (
                        str(self.folder).encode() in (entry / "environ").read_bytes()
                        and b"ALEARN_MEMBER=" in (entry / "environ").read_bytes()
                    ):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def wait_for(self, what, deadline_s: float = 60.0):
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            value = what()
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError(f"nothing within {deadline_s} s; the log says:\n{(self.folder / 'log.txt').read_text()}")

    def stored(self, directory: str = "study") -> int:
        path = self.folder / directory / "status.json"
        try:
            return json.loads(path.read_text())["samples"]["stored"]
        except (OSError, ValueError, KeyError):
            return 0

    def kill_group(self, process: subprocess.Popen) -> None:
        """SIGKILL to the controller and everything it started."""
        victims = [process.pid, *self.processes()]
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(timeout=30)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)
