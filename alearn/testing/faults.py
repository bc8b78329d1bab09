"""Studies that suffer: a study on real processes, started by the command line, and a seeded nemesis that injects faults from outside.

``scripts/soak`` runs this by the hour, ``tests/faults`` a sample of it. The verdict is that of ``alearn.testing.checker``: the
study must end with exactly the samples, byte for byte, of the same study without faults.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alearn.errors import DeadlineExceeded
from alearn.testing.checker import Verdict, check, differences

SIMULATION = '''"""A decaying wave, slow enough to be hit half-way."""

import math
import os
import time


def wave(a: float, b: float):
    for step in range(20):
        time.sleep(float(os.environ.get("WAVE_SLEEP", "0.02")))
        yield {"t": 0.1 * step, "y": math.sin(6 * a) * math.exp(-0.1 * b * step), "u": [a, b, float(step)]}
'''
SETTLE_S = 60.0
"""Seconds that a controller is given to take the study before a fault that waits for it comes anyway."""
BOUNDARIES = (
    "before_write", "write", "before_sync", "after_sync", "before_commit", "after_commit", "seal_written", "seal_before_commit",
    "seal_committed",
)  # fmt: skip


@dataclass
class Ordeal:
    """One study in a folder of its own.

    Args:
        folder: made if it is not there; the study is ``study`` in it.
        members: how many.
        slots: members at a time.
        sleep_s: seconds a simulation takes for a step.
        simulation: what is simulated, as overrides of ``alearn run``.
        words: further overrides of ``alearn run``.

    Attributes:
        log: what was done to it, a line each.
        starts: how many controllers it has had.
        clock: what is preloaded so that its time of day can be set (``set_clock``); None without a C compiler.
    """

    folder: Path
    members: int = 12
    slots: int = 2
    sleep_s: float = 0.02
    simulation: Sequence[str] = ("simulation=python", "simulation.target=my_file.py:wave", "space={a: [0, 1], b: [0, 1]}")
    words: Sequence[str] = ()
    log: list[str] = field(default_factory=list)
    starts: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "my_file.py").write_text(SIMULATION)
        self.clock = _compiled(Path(__file__).with_name("clock.c"), self.folder / "clock.so")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def study(self) -> Path:
        """The study's directory."""
        return self.folder / "study"

    @property
    def output(self) -> str:
        """What all controllers have printed."""
        path = self.folder / "output.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, failpoint: str = "") -> None:
        """Start the study, or take it up where it was left."""
        first = [
            "run", *self.simulation, f"budget.members={self.members}", f"launcher.slots={self.slots}", "launcher.oversubscribe=true",
            "acquisition=sobol", "kill=never", "design.holdout=0", "failure.attempts=1000", "surrogate.max_updates=200",
            "surrogate.estimators=2", "view=plain", "hydra.run.dir=study", *self.words,
        ]  # fmt: skip
        there = (self.study / "ledger.sqlite").exists() and (self.study / "config.yaml").exists()
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "WAVE_SLEEP": str(self.sleep_s),
            **({"LD_PRELOAD": str(self.clock), "CLOCK_OFFSET": str(self.folder / "offset")} if self.clock else {}),
            "ALEARN_FAILPOINT": failpoint,
        }
        with open(self.folder / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "alearn.cli", *(["resume", "study"] if there else first)],
                cwd=self.folder, env=env, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.starts += 1

    def set_clock(self, offset_s: int) -> None:
        """Set the time of day of the controller and of all its members, in seconds off the true one."""
        fresh = self.folder / "offset.new"
        fresh.write_text(str(offset_s))
        fresh.replace(self.folder / "offset")

    def run(self, deadline_s: float = 300.0) -> Verdict:
        """Run the study without any fault.

        Raises:
            DeadlineExceeded: it does not end.
        """
        self.start()
        self.wait(deadline_s)
        return check(self.study)

    def wait(self, deadline_s: float) -> int:
        """Wait for the controller's end; its exit code.

        Raises:
            DeadlineExceeded: it still runs.
        """
        assert self.process is not None
        try:
            return self.process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(f"The study in {self.folder} has not ended within {deadline_s:g} s.") from error

    def reigns(self) -> bool:
        """Whether the present controller has taken the study, so that a fault finds it at work and not among its imports."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return bool(json.loads((self.study / "ledger.lock").read_bytes()).get("pid") == self.process.pid)  # type: ignore[union-attr]
        return False

    def _settled_in(self) -> None:
        until = time.monotonic() + SETTLE_S
        while not self.reigns() and self._next_end(0.1) is None and time.monotonic() < until:
            continue

    def suffer(self, nemesis: Nemesis, deadline_s: float = 1800.0) -> Verdict:
        """Run the study to its end while the nemesis does its worst. Most of its pauses begin when a controller has taken the study.

        Raises:
            DeadlineExceeded: it does not end.
        """
        until = time.monotonic() + deadline_s
        try:
            self.start()
            while True:
                if nemesis.patient:
                    self._settled_in()
                code = self._next_end(nemesis.pause())
                if code == 0:
                    return check(self.study)
                if time.monotonic() > until:
                    raise DeadlineExceeded(
                        f"The study in {self.folder} has not ended within {deadline_s:g} s, after {len(self.log)} faults."
                    )
                if code is None:
                    if not nemesis.tired:
                        self.log.append(nemesis.strike(self))
                else:
                    self.log.append(f"the controller ended with {code}; resumed")
                    self.start(nemesis.failpoint())
        finally:
            self.end()

    def _next_end(self, seconds: float) -> int | None:
        assert self.process is not None
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def tree(self) -> list[int]:
        """The controller and everything below it, and whatever carries this study's tag."""
        found = [] if self.process is None or self.process.poll() is not None else [self.process.pid]
        children: dict[int, list[int]] = {}
        for pid, parent in _parents():
            children.setdefault(parent, []).append(pid)
        for pid in found:
            found += children.get(pid, [])
        return list(dict.fromkeys([*found, *self.tagged()]))

    def tagged(self) -> list[int]:
        """Processes of this study's members, by their environment."""
        mark = str(self.folder).encode()
        out = []
        for pid, _ in _parents():
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                if mark in environment and b"ALEARN_MEMBER=" in environment:
                    out.append(pid)
        return out

    def end(self) -> None:
        """Kill what is left of it."""
        for pid in self.tree():
            _signal(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(timeout=60)


class Nemesis:
    """A random fault every few seconds, by a seed.

    Args:
        seed: of the faults and their moments.
        every_s: mean pause between faults.
        faults: names out of ``FAULTS``; all if empty.
        count: how many there are; then the study is left in peace.
        for_s: likewise, after so many seconds.
    """

    def __init__(
        self, seed: int, every_s: float = 2.0, faults: Sequence[str] = (), *, count: float = math.inf, for_s: float = math.inf
    ) -> None:
        self.rng = random.Random(seed)
        self.every_s = every_s
        self.faults = tuple(faults) or tuple(FAULTS)
        self.left = count
        self._until = time.monotonic() + for_s

    @property
    def tired(self) -> bool:
        """Whether it has done all it was to do."""
        return self.left <= 0 or time.monotonic() > self._until

    @property
    def patient(self) -> bool:
        """Whether it lets a controller start first: nine times out of ten if it has a number of faults to do, else never."""
        return math.isfinite(self.left) and not self.tired and self.rng.random() < 0.9

    def pause(self) -> float:
        """Seconds until the next fault."""
        return 10.0 if self.tired else self.rng.uniform(0.0, 2.0 * self.every_s)

    def failpoint(self) -> str:
        """What the next controller is armed with: mostly nothing, else a crash or a full disk at a durability boundary."""
        if self.tired or "failpoint" not in self.faults or self.rng.random() < 0.7:
            return ""
        name = self.rng.choice(BOUNDARIES)
        action = "torn" if name == "write" else self.rng.choice(("kill", "enospc"))
        return f"ledger.{name}:{action}@{self.rng.randint(1, 20)}"

    def strike(self, ordeal: Ordeal) -> str:
        """Do one fault; what was done, in words."""
        self.left -= 1
        name = self.rng.choice([f for f in self.faults if f != "failpoint"])
        return f"{name}: {FAULTS[name](ordeal, self.rng)}"


def kill_controller(ordeal: Ordeal, rng: random.Random) -> str:
    """SIGKILL to the controller alone."""
    assert ordeal.process is not None
    _signal(ordeal.process.pid, signal.SIGKILL)
    ordeal.process.wait(timeout=60)
    return f"process {ordeal.process.pid}"


def kill_tree(ordeal: Ordeal, rng: random.Random) -> str:
    """SIGKILL to the controller and all its members at once."""
    pids = ordeal.tree()
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    assert ordeal.process is not None
    ordeal.process.wait(timeout=60)
    return f"{len(pids)} processes"


def stop_controller(ordeal: Ordeal, rng: random.Random) -> str:
    """SIGSTOP to the controller, and SIGCONT after a while."""
    assert ordeal.process is not None
    return _stop([ordeal.process.pid], rng)


def stop_member(ordeal: Ordeal, rng: random.Random) -> str:
    """SIGSTOP to a member, and SIGCONT after a while."""
    return _stop(_one(ordeal.tagged(), rng), rng)


def kill_supervisor(ordeal: Ordeal, rng: random.Random) -> str:
    """SIGKILL to a process between the controller and a member."""
    assert ordeal.process is not None
    members = set(ordeal.tagged())
    chosen = _one([p for p in ordeal.tree() if p not in members and p != ordeal.process.pid], rng)
    for pid in chosen:
        _signal(pid, signal.SIGKILL)
    return f"process {chosen}"


def corrupt_snapshot(ordeal: Ordeal, rng: random.Random) -> str:
    """Flip a bit of the newest snapshot if an older one is there."""
    snapshots = sorted((ordeal.study / "snapshots").glob("snapshot-*.pt"))
    if len(snapshots) < 2:
        return "there are none yet"
    data = bytearray(snapshots[-1].read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    snapshots[-1].write_bytes(data)
    return snapshots[-1].name


def litter(ordeal: Ordeal, rng: random.Random) -> str:
    """Remove status.json, and drop garbage where commands are read."""
    with contextlib.suppress(OSError):
        (ordeal.study / "status.json").unlink()
    folder = ordeal.study / "commands"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        (folder / f"{rng.randrange(1000)}.json").write_bytes(rng.randbytes(64))
        (folder / "../../escape.json").write_text('{"command": "stop", "member": "../../etc"}')
    return "status.json is gone, garbage is in commands/"


def step_clock(ordeal: Ordeal, rng: random.Random) -> str:
    """Set the clock of controller and simulations back or forward."""
    if ordeal.clock is None:
        return "not done: there is no C compiler (cc)"
    offset = rng.choice((-86400, -60, 60, 86400))
    ordeal.set_clock(offset)
    return f"{offset:+d} s off"


FAULTS: Mapping[str, Callable[[Ordeal, random.Random], str]] = {
    "kill controller": kill_controller,
    "kill tree": kill_tree,
    "stop controller": stop_controller,
    "stop member": stop_member,
    "kill supervisor": kill_supervisor,
    "corrupt snapshot": corrupt_snapshot,
    "litter": litter,
    "step clock": step_clock,
    "failpoint": lambda ordeal, rng: "",
}
"""What a nemesis can do. "failpoint" arms the next controller with a crash or a full disk at a durability boundary."""


def problems(verdict: Verdict, without_faults: Verdict) -> list[str]:
    """What is wrong with a study that suffered: the checker's findings, and where its samples differ; none is well."""
    return [*verdict.problems, *differences(verdict, without_faults)]


def _stop(pids: Sequence[int], rng: random.Random) -> str:
    seconds = rng.uniform(0.5, 2.5)
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        _signal(pid, signal.SIGCONT)
    return f"process {list(pids)} for {seconds:.1f} s"


def _one(pids: Sequence[int], rng: random.Random) -> list[int]:
    return [rng.choice(sorted(pids))] if pids else []


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _compiled(source: Path, library: Path) -> Path | None:
    """The shared library made of a C file; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def _parents() -> Iterator[tuple[int, int]]:
    """Every process and its parent."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
