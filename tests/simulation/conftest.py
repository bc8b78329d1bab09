import time
from types import SimpleNamespace

import pytest

from alearn.launcher import Job, LocalLauncher
from alearn.testing.transport import Owner
from alearn.transport import SocketReader


class Bench:
    """One real member at a time: launcher, supervisor, driver, socket."""

    def __init__(self, root):
        self.root = root
        self.launcher = LocalLauncher(slots=1, grace_s=5.0)
        self.owner = Owner(SocketReader())

    def start(self, simulation, parameters, attempt=1):
        command = simulation.command(parameters)
        env = {**command.env, "ALEARN_MEMBER": "m0001", "ALEARN_ATTEMPT": str(attempt), **self.owner.reader.address("m0001", attempt)}
        self.directory = self.root / "m0001" / str(attempt)
        self.launcher.submit(Job("m0001", attempt, command.argv, self.directory, env))

    def end(self, patience_s=30.0):
        until = time.monotonic() + patience_s
        while not (exits := self.launcher.poll()):
            assert time.monotonic() < until, "the member does not end"
            self.owner.turn(0.02)
        quiet = 0
        while quiet < 3:  # what is still in the socket
            before = (len(self.owner.arrived), len(self.owner.ends))
            self.owner.turn(0.02)
            quiet = quiet + 1 if (len(self.owner.arrived), len(self.owner.ends)) == before else 0
        samples = [self.owner.kept["m0001", step] for step in range(self.owner.steps("m0001"))]
        return SimpleNamespace(
            exit=exits[0],
            samples=samples,
            ends=self.owner.ends,
            hellos=self.owner.hellos,
            stdout=(self.directory / "stdout.log").read_text(),
            stderr=(self.directory / "stderr.log").read_text(),
        )

    def run(self, simulation, parameters):
        self.start(simulation, parameters)
        return self.end()

    def close(self):
        self.launcher.close()
        self.owner.reader.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path / "bench")
    yield bench
    bench.close()
