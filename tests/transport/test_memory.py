"""Large steps through memory that writer and reader share: the same promise, hostile memory, nothing left behind."""

import fcntl
import json
import os
import socket
import sys
import time

import numpy as np
import pytest

from alearn import client as wire
from alearn.testing.streams import Background, Owner, abandon
from alearn.transport import SocketReader
from alearn.types import Field, Schema

N = 32_768
"""Numbers of a step: 256 KiB."""
SCHEMA = Schema((Field("u", (N,), "float64"),))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")


@pytest.fixture
def reader():
    reader = SocketReader(window_mb=2)
    yield reader
    reader.close()


def environment(reader, member="m0001"):
    return dict(reader.address(member, 1))


def step(n):
    return np.arange(N, dtype=np.float64) + 1000 * n


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_steps_come_whole_and_in_order_and_the_window_holds(reader):
    run = wire.connect(environ=environment(reader))
    owner = Owner(reader)
    writer = Background(lambda: ([run.put(t=n, u=step(n)[::-1]) for n in range(40)], run.close()))
    seen = []
    owner.until(lambda o: seen.append(run._memory is not None) or bool(o.ends), "the end")
    writer.join()
    assert any(seen)
    assert run.acknowledged == 40
    for n in range(40):
        assert np.array_equal(owner.kept["m0001", n].values["u"], step(n)[::-1])


def test_a_sample_stays_what_it_was_when_its_place_is_written_again(reader):
    run, owner = wire.connect(environ=environment(reader)), Owner(reader)
    for n in range(30):  # the window has room for 8
        run.put(t=n, u=step(n))
        owner.until(lambda o, n=n: ("m0001", n) in o.kept, f"step {n}")
    for n in range(30):
        u = owner.kept["m0001", n].values["u"]
        assert np.array_equal(u, step(n))
        assert not u.flags.writeable
    abandon(run)


def test_after_a_reconnection_what_was_not_acknowledged_comes_again(reader):
    owner = Owner(reader)
    owner.durable = False
    run = wire.connect(environ=environment(reader))
    for n in range(4):
        run.put(t=n, u=step(n))
    owner.until(lambda o: len(o.kept) == 4, "four steps")
    owner.kept.clear()
    run._drop("for the test")
    owner.durable = True
    writer = Background(lambda: (run.put(t=4, u=step(4)), run.close()))
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    assert [key[1] for key in owner.kept] == list(range(5))
    assert all(np.array_equal(owner.kept["m0001", n].values["u"], step(n)) for n in range(5))


def test_what_was_put_arrives_while_the_simulation_computes(reader):
    """No byte of a large step waits in the writer for its next put, however late the reader is."""
    run = wire.connect(environ=environment(reader))
    for n in range(7):
        run.put(t=n, u=step(n))
    owner = Owner(reader)
    owner.until(lambda o: len(o.kept) == 7, "seven steps of a writer that does nothing more")
    abandon(run)


def test_small_steps_and_other_carriers_go_as_ever(reader):
    run = wire.connect(environ=environment(reader))
    run.put(t=0.0, u=np.zeros(16))
    assert run._memory is None
    abandon(run)
    env = environment(reader, "m0002")
    del env["ALEARN_MEMORY"]  # a learner that does not offer it
    run = wire.connect(environ=env)
    run.put(t=0.0, u=step(0))
    assert run._memory is None
    abandon(run)


def test_where_the_system_gives_no_memory_the_socket_takes_them(reader, monkeypatch):
    def refuse(name, flags):
        raise OSError("not here")

    monkeypatch.setattr(os, "memfd_create", refuse)
    run, owner = wire.connect(environ=environment(reader)), Owner(reader)
    writer = Background(lambda: (run.put(t=0.0, u=step(3)), run.close()))
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    assert np.array_equal(owner.kept["m0001", 0].values["u"], step(3))


def hello(descriptor, reader, member="m0001"):
    """A connection that has said hello and enclosed a file."""
    env = environment(reader, member)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(env["ALEARN_STREAM"].removeprefix("unix:"))
    said = {
        "protocol": 1, "member": member, "attempt": 1, "session": "a", "schema": json.loads(SCHEMA.to_json()), "steps_total": 0,
        "parameters": {}, "provenance": {},
    }  # fmt: skip
    socket.send_fds(sock, [wire.frame(wire.HELLO, json.dumps(said).encode())], [] if descriptor is None else [descriptor])
    return sock


def memory(size, seals):
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def placed(place, number=0):
    return wire.frame(wire.STEP, wire.PLACED_HEAD.pack(number, 0.0, place), flags=wire.IN_MEMORY)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no seal", "sealed against that"),
        ("a file", "no memory that can be seen here"),
        ("empty", "no memory that can be seen here"),
        ("outside", "ends behind them"),
        ("far outside", "ends behind them"),
        ("none", "has not shared"),
    ],
)
def test_hostile_memory_costs_its_connection_only(reader, tmp_path, what, reason):
    before = descriptors()
    if what == "a file":
        (tmp_path / "file").write_bytes(bytes(8 * N))
        descriptor = os.open(tmp_path / "file", os.O_RDWR)
    else:
        descriptor = memory(0 if what == "empty" else 8 * N, 0 if what == "no seal" else fcntl.F_SEAL_SHRINK)
    with hello(None if what == "none" else descriptor, reader) as sock:
        os.close(descriptor)
        sock.sendall(placed({"outside": 8, "far outside": 1 << 63}.get(what, 0)))
        owner = Owner(reader)
        owner.until(lambda o: bool(o.broken), "the refusal")
        assert reason in owner.broken[0].reason
    good = wire.connect(environ=environment(reader, "m0002"))
    writer = Background(lambda: (good.put(t=0.0, u=step(1)), good.close()))
    owner.until(lambda o: bool(o.ends), "another member's end")
    writer.join()
    until = time.monotonic() + 20
    while descriptors() > before:
        assert time.monotonic() < until, "descriptors are left"
        owner.turn()


def test_more_files_than_one_are_let_go(reader):
    before = descriptors()
    files = [memory(8 * N, fcntl.F_SEAL_SHRINK) for _ in range(4)]
    env = environment(reader)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(env["ALEARN_STREAM"].removeprefix("unix:"))
        for byte in b"ALRN":
            socket.send_fds(sock, [bytes([byte])], files)
        for one in files:
            os.close(one)
    owner = Owner(reader)
    owner.until(lambda o: bool(o.broken), "the stranger's end")
    until = time.monotonic() + 20
    while descriptors() > before:
        assert time.monotonic() < until, "descriptors are left"
        owner.turn()
