"""What hostile peers, many connections and killed readers do to the engine."""

import contextlib
import gc
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest

from alearn import client
from alearn.errors import TransportError
from alearn.testing.processes import WRITER
from alearn.testing.streams import PATIENCE_S, Background, Owner
from alearn.transport import Broken, SocketReader
from alearn.transport.streams import StreamEngine, StreamLimits
from alearn.types import Sample


@pytest.fixture
def unix():
    reader = SocketReader(hello_s=0.5)
    yield reader
    reader.close()


def raw_connection(reader):
    """A connection of a stranger who knows the address."""
    address = client.Address.parse(reader.address("m0001", 1)["ALEARN_STREAM"], bytes(32))
    sock = address.dial(5.0)
    sock.settimeout(PATIENCE_S)
    return sock


def everything(sock):
    """All bytes until the reader closes."""
    out = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            out += chunk
    return out


def hello(**changes):
    said = {
        "protocol": 1, "member": "m0001", "attempt": 1, "session": "s", "steps_total": 0, "parameters": {}, "provenance": {},
        "schema": [{"name": "y", "shape": [2], "dtype": "float64", "unit": ""}],
    }  # fmt: skip
    return client.frame(client.HELLO, json.dumps({**said, **changes}).encode())


def step(number, body=bytes(16), t=0.0):
    return client.frame(client.STEP, client.STEP_HEAD.pack(number, t), len(body)) + body


def header(kind, head_bytes, body_bytes):
    first = client.HEADER.pack(client.MAGIC, kind, 0, 0, head_bytes, body_bytes)
    return first + bytes(4)


def damaged(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


BAD = {
    "text": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not frames"),
    "zeros": (bytes(4096), "not frames"),
    "huge head": (header(client.HELLO, 0xFFFFFFFF, 0), "at most 1048576"),
    "huge body": (header(client.HELLO, 10, 1 << 62), "at most"),
    "no hello": (step(0), "kind 3 where kind 1 was due"),
    "unknown kind": (header(200, 0, 0), "kind 200"),
    "damaged header": (damaged(hello(), 9), ""),
    "damaged head": (damaged(hello(), 60), "damaged"),
    "no json": (client.frame(client.HELLO, b"{nonsense"), "cannot be read"),
    "no object": (client.frame(client.HELLO, b"[1, 2]"), "cannot be read"),
    "deep json": (client.frame(client.HELLO, b"[" * 500_000), "cannot be read"),
    "other protocol": (hello(protocol=99), "protocol 99"),
    "bool attempt": (hello(attempt=True), "not a int"),
    "huge schema": (hello(schema=[{"name": "y", "shape": [1 << 40, 1 << 40], "dtype": "float64"}]), "bytes"),
    "negative shape": (hello(schema=[{"name": "y", "shape": [-1], "dtype": "float64"}]), "cannot be read"),
    "object dtype": (hello(schema=[{"name": "y", "shape": [], "dtype": "object"}]), "cannot be read"),
    "name twice": (hello(schema=[{"name": "y", "shape": [], "dtype": "int8"}] * 2), "name twice"),
    "wrong body": (hello() + step(0, bytes(8)), "its schema says 16"),
    "huge step": (hello() + header(client.STEP, 16, 1 << 60), "its schema says 16"),
    "wrong step head": (hello() + header(client.STEP, 12, 16), "12 bytes"),
    "gap at first": (hello() + step(3), "steps from 0 on are missing"),
    "gap": (hello() + step(0) + step(2), "step 2 where step 1 was due"),
    "double": (hello() + step(0) + step(0), "step 0 where step 1 was due"),
    "bad body crc": (
        hello() + client.frame(client.STEP, client.STEP_HEAD.pack(0, 0.0) + bytes(4), 16, client.BODY_CRC) + b"x" * 16,
        "damaged",
    ),
    "end without json": (hello() + client.frame(client.END, b"?"), "end cannot be read"),
    "end of an unknown kind": (hello() + client.frame(client.END, b'{"steps": 0, "status": "fine", "reason": ""}'), "'fine'"),
    "second hello": (hello() + hello(), "kind 1 where a step"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_bytes_cost_their_connection_only(unix, what):
    data, reason = BAD[what]
    good = client.connect(environ=unix.address("m0002", 1))
    good.put(t=0.0, y=1.0)
    sock = raw_connection(unix)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)
    said = everything(sock)
    sock.close()
    owner = Owner(unix)
    owner.until(lambda o: bool(o.broken), "the refusal")
    assert reason in owner.broken[0].reason
    if what != "damaged header":
        assert (b'"final": false' if reason == "damaged" else b'"final": true') in said
        assert reason.encode() in said
    with closing_in_background(good) as writer:
        owner.until(lambda o: bool(o.ends), "the end of the good stream")
        writer.join()
    assert owner.steps("m0002") == 1


def test_a_writer_may_skip_what_is_acknowledged(unix):
    """As the copy of a straggler does, whose first steps the straggler has streamed."""
    sock = raw_connection(unix)
    unix.acknowledge("m0001", 1, 3)
    sock.sendall(hello() + step(0) + step(3) + step(4) + step(6))
    said = []
    until = time.monotonic() + PATIENCE_S
    while not any(isinstance(m, Broken) for m in said):
        assert time.monotonic() < until
        said += unix.poll(0.05)
    sock.close()
    assert [m.step for m in said if isinstance(m, Sample)] == [0, 3, 4]
    assert "step 6 where step 5 was due" in said[-1].reason


@contextlib.contextmanager
def closing_in_background(run):
    yield Background(run.close)


def test_random_bytes_never_hurt(unix):
    dice = random.Random(7)
    valid = hello() + step(0) + step(1)
    for _ in range(150):
        data = bytearray(valid if dice.random() < 0.7 else dice.randbytes(dice.randrange(1, 3000)))
        for _ in range(dice.randrange(0, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        sock = raw_connection(unix)
        with contextlib.suppress(OSError):
            sock.sendall(data[: dice.randrange(len(data) + 1)])
        sock.close()
    run = client.connect(environ=unix.address("m0002", 1))
    run.put(t=0.0, y=1.0)
    owner = Owner(unix, durable=False)
    until = time.monotonic() + PATIENCE_S
    while ("m0002", 0) not in owner.kept:
        assert time.monotonic() < until
        for message in unix.poll(0.05):
            if getattr(message, "member", "") == "m0002" and hasattr(message, "values"):
                owner.kept[message.key] = message
    unix.acknowledge("m0002", 1, 1)
    run.close()


def test_a_silent_peer_is_closed_after_its_deadline(unix):
    sock = raw_connection(unix)
    sock.sendall(hello()[:30])
    began = time.monotonic()
    assert b"did not introduce itself within 0.5 s" in everything(sock)
    assert time.monotonic() - began > 0.3
    sock.close()


def test_a_peer_that_drips_its_hello_is_closed_too(unix):
    sock = raw_connection(unix)
    data, sent = hello(), 0
    until = time.monotonic() + PATIENCE_S
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            sock.sendall(data[sent % len(data) : sent % len(data) + 1])
            sent += 1
            time.sleep(0.05)
    assert 5 < sent < 100
    sock.close()


def test_strangers_cannot_fill_the_memory(unix):
    for _ in range(200):
        sock = raw_connection(unix)
        sock.sendall(b"x" * 100)
        everything(sock)
        sock.close()
    assert len(unix.poll(0.0, 10_000)) <= 64


def test_more_connections_than_allowed_wait_their_turn():
    reader = SocketReader(connections=3, hello_s=0.3)
    idle = [raw_connection(reader) for _ in range(8)]
    run = client.connect(environ=reader.address("m0002", 1))
    run.put(t=0.0, y=1.0)
    owner = Owner(reader)
    owner.until(lambda o: ("m0002", 0) in o.kept, "the step behind the idle peers")
    run._drop("")
    for sock in idle:
        sock.close()
    reader.close()


def test_the_queue_is_bounded():
    reader = SocketReader(queue_mb=1.0, window_mb=64.0)
    run = client.connect(environ=reader.address("m0001", 1))
    for n in range(40):
        run.put(t=n, u=[float(n)] * 16_384)
    time.sleep(0.2)
    assert reader._engine._queues["m0001"].bytes < 3 << 20
    owner = Owner(reader)
    with closing_in_background(run) as writer:
        owner.until(lambda o: bool(o.ends), "the end")
        writer.join()
    assert owner.steps("m0001") == 40
    reader.close()


def test_descriptors_threads_and_memory_stay_flat():
    reader = SocketReader()
    owner = Owner(reader)

    def visits(first, count):
        for number in range(first, first + count):
            member = f"m{number:05d}"
            run = client.connect(environ=reader.address(member, 1))
            run.put(t=0.0, u=[1.0] * 1000)
            if number % 3 == 0:
                run._drop("")
                owner.until(lambda o: bool(o.broken), "the break")
            else:
                with closing_in_background(run) as writer:
                    owner.until(lambda o: bool(o.ends), "the end")
                    writer.join()
            owner.hellos.clear()
            owner.ends.clear()
            owner.broken.clear()
            owner.kept.clear()
            owner.arrived.clear()

    visits(0, 50)
    gc.collect()
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    tracemalloc.start()
    visits(50, 20)
    before = tracemalloc.get_traced_memory()[0]
    visits(70, 300)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert threading.active_count() == threads
    assert grown < 300 * 4096
    reader.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_64_writers_that_come_and_go_leave_nothing_behind(kind):
    reader = SocketReader(kind=kind)
    owner = Owner(reader)

    def visits(first, count):
        for number in range(first, first + count):
            with client.connect(environ=reader.address(f"m{number:05d}", 1)) as run:
                for n in range(3):
                    run.put(t=n, u=[float(number)] * 5000)

    def crowd(first, each):
        writers = [Background(lambda n=n: visits(first + n * each, each)) for n in range(64)]
        owner.until(lambda o: len(o.ends) == 64 * each, "every end")
        for writer in writers:
            writer.join()
        assert all((sample.values["u"] == int(member[1:])).all() for (member, _), sample in owner.kept.items())
        assert len(owner.kept) == 3 * 64 * each
        for heard in (owner.hellos, owner.ends, owner.kept, owner.arrived):
            heard.clear()
        until = time.monotonic() + PATIENCE_S
        while reader._engine._connections:  # the last to go may be about to
            assert time.monotonic() < until
            time.sleep(0.01)
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = crowd(0, 1)
    assert crowd(64, 4) == before
    assert not owner.broken
    reader.close()


READER = """
import sys
from alearn.transport import SocketReader, Hello, End
from alearn.types import Sample
reader = SocketReader(path=sys.argv[1])
reader.address("m0001", 1)
stored = {int(line) for line in open(sys.argv[2])}
print("listening", flush=True)
file = open(sys.argv[2], "a")
while True:
    for message in reader.poll(1.0):
        if isinstance(message, Sample) and message.step not in stored:
            assert message.step == len(stored) and message.values["u"][0] == 1000.0 + message.step
            file.write(f"{message.step}\\n")
            file.flush()
            stored.add(message.step)
        if isinstance(message, End):
            sys.exit(0)
        reader.acknowledge("m0001", 1, len(stored))
"""


def test_a_killed_reader_is_found_again_at_its_address(tmp_path):
    path, store = tmp_path / "private" / "stream", tmp_path / "stored"
    store.touch()
    env = {
        **os.environ,
        "ALEARN_STREAM": f"unix:{path}",
        "ALEARN_MEMBER": "m0001",
        "ALEARN_ATTEMPT": "1",
        "ALEARN_PARAMETERS": '{"number": 1}',
    }
    writer = None
    try:
        for life in range(4):
            reader = subprocess.Popen([sys.executable, "-c", READER, path, store], stdout=subprocess.PIPE, text=True)
            try:
                assert reader.stdout.readline() == "listening\n"
                if writer is None:
                    writer = subprocess.Popen([sys.executable, "-c", WRITER, "300", "64", "0.002"], env=env)
                if life < 3:
                    until, goal = time.monotonic() + PATIENCE_S, 60 * (life + 1)
                    while len(store.read_text().splitlines()) < goal:
                        assert time.monotonic() < until, "the stream did not go on"
                        time.sleep(0.01)
                    reader.send_signal(signal.SIGKILL)
                assert reader.wait(PATIENCE_S) == (0 if life == 3 else -signal.SIGKILL)
            finally:
                reader.kill()
                reader.wait()
                reader.stdout.close()
        assert writer.wait(PATIENCE_S) == 0
    finally:
        if writer is not None:
            writer.kill()
            writer.wait()
    assert [int(line) for line in store.read_text().splitlines()] == list(range(300))


def test_a_failing_thread_is_told_by_poll():
    engine = StreamEngine(None, None, StreamLimits())
    engine._expire = None  # any bug in the thread
    engine._wake()
    with pytest.raises(TransportError, match="thread ended with TypeError"):
        engine.poll(PATIENCE_S, 1)
    engine.close()


def test_a_stranger_that_leaves_is_told(unix):
    raw_connection(unix).close()
    owner = Owner(unix)
    owner.until(lambda o: bool(o.broken), "the message")
    assert owner.broken == [Broken("", 0, owner.broken[0].reason)]
    assert "before it had introduced itself" in owner.broken[0].reason


def test_frames_may_come_in_any_pieces(unix):
    sock = raw_connection(unix)
    end = client.frame(client.END, b'{"steps": 3, "status": "done", "reason": ""}')
    data = hello() + b"".join(step(n, struct.pack("<2d", n, -n)) for n in range(3)) + end
    for at in range(0, len(data), 5):  # a byte at a time takes a busy machine longer than a hello may take
        sock.sendall(data[at : at + 5])
    owner = Owner(unix)
    owner.until(lambda o: bool(o.ends), "the end")
    assert [owner.kept["m0001", n].values["y"].tolist() for n in range(3)] == [[n, -n] for n in range(3)]
    sock.close()


@pytest.mark.parametrize("size", [4095, 4096, 8191, 8192, 20_000, 65_536 // 8, 300_000])
def test_steps_of_every_size_come_out_whole(unix, size):
    run = client.connect(environ=unix.address("m0001", 1))

    def write():
        with run:
            for n in range(5):
                run.put(t=n, a=float(n), u=[float(n + i) for i in (0, 1)] * (size // 2), z=-float(n))

    owner, writer = Owner(unix), Background(write)
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    for n in range(5):
        values = owner.kept["m0001", n].values
        assert (values["a"], values["z"]) == (n, -n)
        assert (values["u"][::2] == n).all()
        assert (values["u"][1::2] == n + 1).all()


def test_an_unread_acknowledgement_does_not_hold_the_owner(unix):
    sock = raw_connection(unix)
    sock.sendall(hello())
    owner = Owner(unix)
    owner.until(lambda o: bool(o.hellos), "the hello")
    for n in range(20_000):
        unix.acknowledge("m0001", 1, n)
    assert len(next(iter(unix._engine._connections)).out) < 4096
    sock.close()
