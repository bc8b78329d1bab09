"""The conformance suite of carriers that writers in other processes can reach: ``alearn.testing.transport`` and more."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

from alearn.testing.streams import PATIENCE_S, Owner
from alearn.testing.transport import TransportConformance
from alearn.transport.base import Following, Reader

WRITER = """
import sys, time
from alearn.client import connect
steps, size, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with connect() as run:
    for n in range(steps):
        run.put(t=n, u=[run.parameters["number"] * 1000.0 + n] * size)
        time.sleep(pause)
"""
HALF_STEP = """
import os, signal, struct
from alearn import client
run = client.connect()
for n in range(3):
    run.put(t=n, u=[1.0] * 50_000)
while run.acknowledged < 3:
    assert not run.stopped
run._queue(client.frame(client.STEP, client.STEP_HEAD.pack(3, 3.0) + bytes(4 * (run._address.scheme == "tcp")), 400_000,
                        run._address.scheme == "tcp"), bytes(200_000))
while run._link.out:
    run._turn(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


class ProcessTransportConformance(TransportConformance):
    """The same, and with writers that are processes of their own."""

    @contextlib.contextmanager
    def process(self, code: str, env: Mapping[str, str], *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """A writer process; killed when the block is left."""
        argv = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(argv, env={**os.environ, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def test_processes_stream_at_the_same_time(self, reader: Reader) -> None:
        with contextlib.ExitStack() as stack:
            writers = []
            for number in range(6):
                env = self.environment(reader, f"m{number:04d}", 1, number=number)
                writers.append(stack.enter_context(self.process(WRITER, env, 100, 64, 0)))
            owner = Owner(reader)
            owner.until(lambda o: len(o.ends) == 6, "all ends")
            for writer in writers:
                assert writer.wait(PATIENCE_S) == 0
        for number in range(6):
            assert owner.steps(f"m{number:04d}") == 100
            assert owner.kept[f"m{number:04d}", 99].values["u"][0] == number * 1000.0 + 99

    def test_a_writer_killed_within_a_step_costs_that_step(self, reader: Reader) -> None:
        env = self.environment(reader, "m0001", 1)
        with self.process(HALF_STEP, env) as writer:
            owner = Owner(reader)
            owner.until(lambda o: writer.poll() is not None, "the writer's death")
            assert writer.wait(PATIENCE_S) == -signal.SIGKILL
            if isinstance(reader, Following):  # it may not see the death by itself; a launcher does
                reader.ended("m0001", 1)
            owner.until(lambda o: bool(o.broken), "the break")
        assert owner.steps("m0001") == 3
        assert [(b.member, b.attempt) for b in owner.broken] == [("m0001", 1)]
        assert not owner.ends
        with self.process(WRITER, self.environment(reader, "m0001", 2, number=1), 6, 50_000, 0) as writer:
            owner.until(lambda o: bool(o.ends), "the end of the second attempt")
            assert writer.wait(PATIENCE_S) == 0
        assert owner.steps("m0001") == 6
        assert [(a, s) for _, a, s in owner.arrived][3:] == [(2, 3), (2, 4), (2, 5)]

    def test_a_writer_ends_when_the_reader_is_gone(self) -> None:
        with self.opened(reconnect_s=0.5) as reader:
            env = self.environment(reader, "m0001", 1, number=1)
            with self.process(WRITER, env, 1_000_000, 8, 0.01) as writer:
                Owner(reader).until(lambda o: len(o.kept) > 3, "some steps")
                reader.close()
                _, stderr = writer.communicate(timeout=PATIENCE_S)
                assert writer.returncode == 1
        assert "No reader has opened member m0001's stream" in stderr
