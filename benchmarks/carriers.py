"""The carriers that benchmarks/transport.py compares: for each a writer, and a reader that gets its steps.

A writer is called with the reader's address, the steps to send (an iterable of one and the same array), how many there are, and its
number; it says ``ready()`` when it is connected. A reader yields an address, waits until the writers are ``connected``, and takes
``steps`` from each of them, every one handed to ``see`` as something with the buffer protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from multiprocessing import connection as pipes
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

try:
    import zmq
except ImportError:
    zmq = None
try:
    import redis
except ImportError:
    redis = None

WINDOW = 32 << 20
COUNT = struct.Struct("<q")
SLOTS = 8
"""Steps that a shared-memory ring holds."""
Steps = Iterable[Any]
See = Callable[[Any], None]


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


# -- ours --------------------------------------------------------------------------------------------------


class AlearnReader:
    """Every step acknowledged after it is in the reader's hands (the archive is not part of this)."""

    options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, folder: str, size: int) -> None:
        from alearn.transport import SocketReader

        self.reader = SocketReader(**self.options)

    def address(self, writers: int) -> str:
        for n in range(writers):
            address = dict(self.reader.address(f"m{n:04d}", 1))
        return json.dumps(address)

    def connected(self, writers: int) -> None:
        seen = 0
        while seen < writers:
            for hello in self.reader.poll(1.0):
                self.reader.acknowledge(hello.member, hello.attempt, 0)
                seen += 1

    def take(self, writers: int, steps: int, see: See) -> None:
        from alearn.types import Sample

        missing = writers * steps
        while missing:
            last: dict[str, int] = {}
            for message in self.reader.poll(1.0):
                if isinstance(message, Sample):
                    see(message.values["u"])
                    last[message.member] = message.step + 1
                    missing -= 1
            for member, count in last.items():
                self.reader.acknowledge(member, 1, count)

    def close(self) -> None:
        self.reader.close()


class PlainReader(AlearnReader):
    """The bytes of large steps go through the socket, as those of clients that share no memory do."""

    def address(self, writers: int) -> str:
        return json.dumps({k: v for k, v in json.loads(super().address(writers)).items() if k != "ALEARN_MEMORY"})


class TlsReader(AlearnReader):
    options = MappingProxyType({"kind": "tcp"})


class SealedReader(AlearnReader):
    options = MappingProxyType({"kind": "tcp", "encrypt": False})


def write_alearn(address: str, steps: Steps, count: int, number: int) -> None:
    from alearn.client import connect

    environ = {**json.loads(address), "ALEARN_MEMBER": f"m{number:04d}"}
    with connect(environ=environ) as run:
        run.announce(u=next(iter(steps)))
        ready()
        for n, u in enumerate(steps):
            run.put(t=n, u=u)


# -- sockets, pipes, memory and files ------------------------------------------------------------------------


class RawReader:
    """Bytes through a Unix socket: no frames, no promise."""

    def __init__(self, folder: str, size: int) -> None:
        self.path, self.size = f"{folder}/raw", size
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.peers: list[socket.socket] = []

    def address(self, writers: int) -> str:
        return self.path

    def connected(self, writers: int) -> None:
        self.peers = [self.listener.accept()[0] for _ in range(writers)]

    def take(self, writers: int, steps: int, see: See) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self.peers:
                peer.setblocking(False)
                selector.register(peer, selectors.EVENT_READ, [np.empty(self.size, np.uint8).data, 0])
            missing = writers * steps
            while missing:
                for key, _ in selector.select(1.0):
                    with contextlib.suppress(BlockingIOError):
                        key.data[1] += key.fileobj.recv_into(key.data[0][key.data[1] :])
                        if key.data[1] == self.size:
                            see(key.data[0])
                            missing -= 1
                            key.data[:] = [np.empty(self.size, np.uint8).data, 0]

    def close(self) -> None:
        for sock in [*self.peers, self.listener]:
            sock.close()


def write_raw(address: str, steps: Steps, count: int, number: int) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        ready()
        for u in steps:
            sock.sendall(u)


class PipeReader:
    def __init__(self, folder: str, size: int) -> None:
        self.listener = pipes.Listener(f"{folder}/pipe", "AF_UNIX", backlog=64)
        self.peers: list[Any] = []

    def address(self, writers: int) -> str:
        return str(self.listener.address)

    def connected(self, writers: int) -> None:
        self.peers = [self.listener.accept() for _ in range(writers)]

    def take(self, writers: int, steps: int, see: See) -> None:
        missing = dict.fromkeys(self.peers, steps)
        while missing:
            for peer in pipes.wait(list(missing), 1.0):
                see(peer.recv_bytes())
                missing[peer] -= 1
                if not missing[peer]:
                    del missing[peer]

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.listener.close()


def write_pipe(address: str, steps: Steps, count: int, number: int) -> None:
    with pipes.Client(address, "AF_UNIX") as pipe:
        ready()
        for u in steps:
            pipe.send_bytes(u)


class MemoryReader:
    """A ring of slots in shared memory for each writer, with two counters that both sides look at now and then."""

    def __init__(self, folder: str, size: int) -> None:
        self.size = size
        self.rings: list[shared_memory.SharedMemory] = []
        self.taken: list[int] = []
        self.taken: list[int] = []

    def address(self, writers: int) -> str:
        self.rings = [shared_memory.SharedMemory(create=True, size=16 + SLOTS * self.size) for _ in range(writers)]
        self.taken = [0] * writers
        return json.dumps([self.size, *[ring.name for ring in self.rings]])

    def connected(self, writers: int) -> None:
        pass

    def take(self, writers: int, steps: int, see: See) -> None:
        taken = self.taken  # the counters run on from burst to burst
        left = {n: ring.buf for n, ring in enumerate(self.rings)}
        end = taken[0] + steps
        while left:
            idle = True
            for n, memory in list(left.items()):
                if COUNT.unpack_from(memory, 0)[0] > taken[n]:
                    idle = False
                    at = 16 + taken[n] % SLOTS * self.size
                    see(bytes(memory[at : at + self.size]))  # the slot is written again
                    taken[n] += 1
                    COUNT.pack_into(memory, 8, taken[n])
                    if taken[n] == end:
                        del left[n]
            if idle:
                time.sleep(0.00005)

    def close(self) -> None:
        for ring in self.rings:
            ring.close()
            ring.unlink()


def write_memory(address: str, steps: Steps, count: int, number: int) -> None:
    size, *names = json.loads(address)
    ring = shared_memory.SharedMemory(names[number])
    resource_tracker.unregister(f"/{ring.name}", "shared_memory")  # the reader removes it
    ready()
    for n, u in enumerate(steps):
        while n - COUNT.unpack_from(ring.buf, 8)[0] >= SLOTS:
            time.sleep(0.00005)
        at = 16 + n % SLOTS * size
        ring.buf[at : at + size] = u.data
        COUNT.pack_into(ring.buf, 0, n + 1)
    ring.close()


class NpyReader:
    def __init__(self, folder: str, size: int) -> None:
        self.folder = Path(folder)
        self.taken = 0

    def address(self, writers: int) -> str:
        return str(self.folder)

    def connected(self, writers: int) -> None:
        pass

    def take(self, writers: int, steps: int, see: See) -> None:
        following = dict.fromkeys(range(writers), self.taken)
        self.taken += steps
        while following:
            idle = True
            for number, n in list(following.items()):
                path = self.folder / str(number) / f"{n}.npy"
                if path.exists():
                    idle = False
                    see(np.load(path))
                    path.unlink()
                    following[number] += 1
                    if n + 1 == self.taken:
                        del following[number]
            if idle:
                time.sleep(0.0002)

    def close(self) -> None:
        pass


def write_npy(address: str, steps: Steps, count: int, number: int) -> None:
    folder = Path(address) / str(number)
    folder.mkdir()
    ready()
    for n, u in enumerate(steps):
        np.save(folder / f"{n}.tmp.npy", u)
        (folder / f"{n}.tmp.npy").rename(folder / f"{n}.npy")


# -- ZeroMQ --------------------------------------------------------------------------------------------------


class ZmqReader:
    kind = "PULL"

    def __init__(self, folder: str, size: int) -> None:
        self.context = zmq.Context()
        self.sock = self.context.socket(getattr(zmq, self.kind))
        self.sock.set_hwm(0 if self.kind == "ROUTER" else 1000)
        self.path = f"ipc://{folder}/zmq"
        self.sock.bind(self.path)

    def address(self, writers: int) -> str:
        return self.path

    def connected(self, writers: int) -> None:
        pass

    def take(self, writers: int, steps: int, see: See) -> None:
        for _ in range(writers * steps):
            see(self.sock.recv(copy=False).buffer)

    def close(self) -> None:
        self.sock.close(linger=0)
        self.context.term()


class ZmqAckedReader(ZmqReader):
    kind = "ROUTER"

    def take(self, writers: int, steps: int, see: See) -> None:
        missing = writers * steps
        while missing:
            last: dict[bytes, bytes] = {}
            for _ in range(256):  # as many as one poll of ours takes at most
                who, step, body = self.sock.recv_multipart(copy=False)
                see(body.buffer)
                last[who.bytes] = (int.from_bytes(step.bytes, "little") + 1).to_bytes(8, "little")
                missing -= 1
                if not missing or not self.sock.poll(0):
                    break
            for who, count in last.items():
                self.sock.send_multipart([who, count])


def write_zmq(address: str, steps: Steps, count: int, number: int) -> None:
    context = zmq.Context()
    sock = context.socket(zmq.PUSH)
    sock.connect(address)
    ready()
    for u in steps:
        sock.send(u.copy(), copy=False)
    sock.close(linger=-1)
    sys.stdin.readline()  # stays until the reader has all: PUSH may lose its tail at exit
    context.term()


def write_zmq_acked(address: str, steps: Steps, count: int, number: int) -> None:
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.set_hwm(0)
    sock.connect(address)
    ready()
    acknowledged, kept = 0, {}
    for n, u in enumerate(steps):
        while kept and ((n - acknowledged + 1) * u.nbytes > WINDOW or sock.poll(0)):
            acknowledged = int.from_bytes(sock.recv(), "little")
            for old in [k for k in kept if k < acknowledged]:
                del kept[old]
        kept[n] = u.copy()
        sock.send_multipart([n.to_bytes(8, "little"), kept[n]], copy=False)
    while acknowledged < count:
        acknowledged = int.from_bytes(sock.recv(), "little")
    sock.close()
    context.term()


# -- Redis ---------------------------------------------------------------------------------------------------


class RedisReader:
    """A list for each writer, on a server of our own."""

    def __init__(self, folder: str, size: int) -> None:
        self.path = f"{folder}/redis"
        options = ["--port", "0", "--unixsocket", self.path, "--save", "", "--dir", folder, "--daemonize", "no"]
        self.server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not os.path.exists(self.path):
            if time.monotonic() > until or self.server.poll() is not None:
                raise RuntimeError("redis-server did not start in 20 s")
            time.sleep(0.01)
        self.client = redis.Redis(unix_socket_path=self.path)

    def address(self, writers: int) -> str:
        return self.path

    def connected(self, writers: int) -> None:
        pass

    def take(self, writers: int, steps: int, see: See) -> None:
        names = [str(n) for n in range(writers)]
        for _ in range(writers * steps):
            see(self.client.blpop(names)[1])

    def close(self) -> None:
        self.client.close()
        self.server.kill()
        self.server.wait()


def write_redis(address: str, steps: Steps, count: int, number: int) -> None:
    with redis.Redis(unix_socket_path=address) as client:
        ready()
        for n, u in enumerate(steps):
            client.rpush(str(number), u.data)
            while n % 16 == 15 and client.llen(str(number)) > 32:  # or the server's memory would be the limit
                time.sleep(0.0005)


# -- ADIOS2 as it comes: one writer --------------------------------------------------------------------------


class AdiosReader:
    engine = "SST"

    def __init__(self, folder: str, size: int) -> None:
        from alearn.transport.adios.library import load_bindings

        self.b, self.size = load_bindings(), size
        self.path = f"{folder}/steps"
        self.adios = self.b.ADIOS()
        self.io = self.adios.DeclareIO("steps")
        self.io.SetEngine(self.engine)
        self.io.SetParameters({"OpenTimeoutSecs": "60"})

    def address(self, writers: int) -> str:
        return json.dumps([self.engine, self.path])

    def connected(self, writers: int) -> None:
        self.open = self.io.Open(self.path, self.b.Mode.Read)

    def take(self, writers: int, steps: int, see: See) -> None:
        for _ in range(steps):
            while self.open.BeginStep(self.b.StepMode.Read, -1.0 if self.engine == "SST" else 0.0) != self.b.StepStatus.OK:
                time.sleep(0.0002)
            u = np.empty(self.size, np.uint8)
            self.open.Get(self.io.InquireVariable("u"), u, self.b.Mode.Sync)
            self.open.EndStep()
            see(u)

    def close(self) -> None:
        self.open.Close()


class Bp5Reader(AdiosReader):
    engine = "BP5"


def write_adios(address: str, steps: Steps, count: int, number: int) -> None:
    from alearn.transport.adios.library import load_bindings

    engine, path = json.loads(address)
    b = load_bindings()
    adios = b.ADIOS()
    io = adios.DeclareIO("steps")
    io.SetEngine(engine)
    u = next(iter(steps))
    variable = io.DefineVariable("u", u, [u.size], [0], [u.size], True)
    out = io.Open(path, b.Mode.Write)
    ready()
    for u in steps:
        out.BeginStep(b.StepMode.Append, -1.0)
        out.Put(variable, u, b.Mode.Sync)
        out.EndStep()
    out.Close()


CARRIERS: dict[str, tuple[type[Any], Callable[..., None]]] = {
    "alearn": (AlearnReader, write_alearn),
    "raw Unix socket": (RawReader, write_raw),
    "pipe": (PipeReader, write_pipe),
    "shared memory": (MemoryReader, write_memory),
    ".npy files": (NpyReader, write_npy),
    "alearn by socket": (PlainReader, write_alearn),
    "alearn TLS": (TlsReader, write_alearn),
    "alearn sealed": (SealedReader, write_alearn),
}
if zmq is not None:
    CARRIERS |= {"pyzmq acked": (ZmqAckedReader, write_zmq_acked), "pyzmq PUSH/PULL": (ZmqReader, write_zmq)}
if redis is not None and shutil.which("redis-server"):
    CARRIERS["Redis list"] = (RedisReader, write_redis)
if find_spec("adios2") is not None:
    CARRIERS |= {"adios2 SST": (AdiosReader, write_adios), "adios2 BP5": (Bp5Reader, write_adios)}
ALONE = ("adios2 SST", "adios2 BP5")
"""Measured with one writer only."""
