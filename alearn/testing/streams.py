"""A learner and writers for tests of streams."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from alearn import client
from alearn.transport.base import Broken, End, Hello, Reader, Steered
from alearn.types import Array, Sample

PATIENCE_S = 30.0


class Owner:
    """A learner for tests: keeps every sample once, and acknowledges what it has kept.

    Args:
        reader: the carrier under test.
        durable: acknowledge steps as they are kept.
    """

    def __init__(self, reader: Reader, *, durable: bool = True) -> None:
        self.reader = reader
        self.durable = durable
        self.hellos: list[Hello] = []
        self.ends: list[End] = []
        self.broken: list[Broken] = []
        self.steered: list[Steered] = []
        self.kept: dict[tuple[str, int], Sample] = {}
        self.arrived: list[tuple[str, int, int]] = []
        """(member, attempt, step) of everything that came, doubles included."""

    def steps(self, member: str) -> int:
        """How many steps of a member are kept, from 0 on without a gap."""
        n = 0
        while (member, n) in self.kept:
            n += 1
        return n

    def turn(self, timeout_s: float = 0.05) -> None:
        """One poll, and the acknowledgements that follow from it."""
        touched: dict[tuple[str, int], None] = {}
        for message in self.reader.poll(timeout_s):
            if isinstance(message, Hello):
                self.hellos.append(message)
                touched[message.member, message.attempt] = None
            elif isinstance(message, Sample):
                self.arrived.append((message.member, message.attempt, message.step))
                if message.key not in self.kept:
                    assert message.step == self.steps(message.member), f"a step of {message.member} is missing"
                    self.kept[message.key] = message
                touched[message.member, message.attempt] = None
            elif isinstance(message, End):
                self.ends.append(message)
            elif isinstance(message, Steered):
                self.steered.append(message)
            else:
                self.broken.append(message)
        if self.durable:
            for member, attempt in touched:
                self.reader.acknowledge(member, attempt, self.steps(member))

    def until(self, done: Callable[[Owner], bool], what: str) -> None:
        """Take turns until ``done``, at most half a minute."""
        until = time.monotonic() + PATIENCE_S
        while not done(self):
            assert time.monotonic() < until, f"waited {PATIENCE_S:g} s for {what}"
            self.turn()


class Background:
    """A writer's code in a thread; ``join`` raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - handed to the test by join()
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the writer did not end"
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def started(program: object, *arguments: object, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A program that streams, with these variables besides ours; killed when the block is left."""
    argv = [str(program), *map(str, arguments)]
    process = subprocess.Popen(argv, env={**os.environ, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for a program that was ``started``; returns what it said on its two outputs."""
    out, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, f"exit code {process.returncode} instead of {code}: {error}"
    return out, error


def field_of(member: int, step: int, n: int = 16) -> Array:
    """A field that shows whose it is: ``n`` numbers."""
    return np.arange(n, dtype=np.float64) + 1000.0 * member + step


def abandon(run: client.Run) -> None:
    """Close a run's socket as the death of its process would: without a word."""
    cast(Any, run)._drop("")
