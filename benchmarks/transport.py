"""How fast do steps travel? The framed socket with acknowledgements against carriers that promise less.

    python benchmarks/transport.py [--quick] [--json FILE]

Writers are processes. A case is (carrier, bytes a step, writers); the carriers of a case run in turn within each
round, so that a busy spell of the machine meets all of them. Time runs from the start signal, given when every
writer has connected, until the last step is in the reader's hands as an array. pyzmq is a peer where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection as pipes
from pathlib import Path
from typing import Any

import numpy as np

try:
    import zmq
except ImportError:
    zmq = None

WINDOW = 32 << 20
SIZES = {4096: 3000, 65536: 1500, 1 << 20: 200}
"""bytes a step -> steps of all writers together."""
QUICK = [(4096, 1), (65536, 1), (65536, 8), (1 << 20, 1)]
OURS = "alearn socket, acked"
WAIT_S = 120.0


# -- writers: each is called with (address, data, steps, number) and waits for the signal through ready() ----


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def write_alearn(address: str, u: Any, steps: int, number: int) -> None:
    from alearn.client import connect

    environ = {**json.loads(address), "ALEARN_MEMBER": f"m{number:04d}"}
    with connect(environ=environ) as run:
        run.announce(u=u)
        ready()
        for n in range(steps):
            run.put(t=n, u=u)


def write_raw(address: str, u: Any, steps: int, number: int) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        ready()
        data = memoryview(u).cast("B")
        for _ in range(steps):
            sock.sendall(data)


def write_pipe(address: str, u: Any, steps: int, number: int) -> None:
    with pipes.Client(address, "AF_UNIX") as pipe:
        ready()
        for _ in range(steps):
            pipe.send_bytes(u)


def write_npy(address: str, u: Any, steps: int, number: int) -> None:
    folder = Path(address) / str(number)
    folder.mkdir()
    ready()
    for n in range(steps):
        np.save(folder / f"{n}.tmp.npy", u)
        (folder / f"{n}.tmp.npy").rename(folder / f"{n}.npy")


def write_zmq(address: str, u: Any, steps: int, number: int) -> None:
    context = zmq.Context()
    sock = context.socket(zmq.PUSH)
    sock.connect(address)
    ready()
    for _ in range(steps):
        sock.send(u.copy(), copy=False)
    sock.close(linger=-1)
    sys.stdin.readline()  # stays until the reader has all: PUSH may lose its tail at exit
    context.term()


def write_zmq_acked(address: str, u: Any, steps: int, number: int) -> None:
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.set_hwm(0)
    sock.connect(address)
    ready()
    acknowledged, kept = 0, {}
    for n in range(steps):
        while kept and ((n - acknowledged + 1) * u.nbytes > WINDOW or sock.poll(0)):
            acknowledged = int.from_bytes(sock.recv(), "little")
            for old in [k for k in kept if k < acknowledged]:
                del kept[old]
        kept[n] = u.copy()
        sock.send_multipart([n.to_bytes(8, "little"), kept[n]], copy=False)
    while acknowledged < steps:
        acknowledged = int.from_bytes(sock.recv(), "little")
    sock.close()
    context.term()


# -- readers: each yields an address, then takes `steps` from each of `writers` ------------------------------


class AlearnReader:
    def __init__(self, folder: str) -> None:
        from alearn.transport import SocketReader

        self.reader = SocketReader()

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

    def take(self, writers: int, size: int, steps: int) -> None:
        from alearn.types import Sample

        missing = writers * steps
        while missing:
            last: dict[str, int] = {}
            for message in self.reader.poll(1.0):
                if isinstance(message, Sample):
                    assert message.values["u"].nbytes == size
                    last[message.member] = message.step + 1
                    missing -= 1
            for member, count in last.items():
                self.reader.acknowledge(member, 1, count)

    def close(self) -> None:
        self.reader.close()


class RawReader:
    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/raw"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.peers: list[socket.socket] = []

    def address(self, writers: int) -> str:
        return self.path

    def connected(self, writers: int) -> None:
        self.peers = [self.listener.accept()[0] for _ in range(writers)]

    def take(self, writers: int, size: int, steps: int) -> None:
        selector = selectors.DefaultSelector()
        for peer in self.peers:
            peer.setblocking(False)
            selector.register(peer, selectors.EVENT_READ, [np.empty(size, np.uint8).data, 0])
        missing = writers * steps * size
        while missing:
            for key, _ in selector.select(1.0):
                with contextlib.suppress(BlockingIOError):
                    got = key.fileobj.recv_into(key.data[0][key.data[1] :])
                    missing -= got
                    key.data[1] += got
                    if key.data[1] == size:
                        key.data[:] = [np.empty(size, np.uint8).data, 0]
        selector.close()

    def close(self) -> None:
        for sock in [*self.peers, self.listener]:
            sock.close()


class PipeReader:
    def __init__(self, folder: str) -> None:
        self.listener = pipes.Listener(f"{folder}/pipe", "AF_UNIX", backlog=64)
        self.peers: list[Any] = []

    def address(self, writers: int) -> str:
        return str(self.listener.address)

    def connected(self, writers: int) -> None:
        self.peers = [self.listener.accept() for _ in range(writers)]

    def take(self, writers: int, size: int, steps: int) -> None:
        missing = dict.fromkeys(self.peers, steps)
        while missing:
            for peer in pipes.wait(list(missing), 1.0):
                assert len(np.frombuffer(peer.recv_bytes(), np.uint8)) == size
                missing[peer] -= 1
                if not missing[peer]:
                    del missing[peer]

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.listener.close()


class NpyReader:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def address(self, writers: int) -> str:
        return str(self.folder)

    def connected(self, writers: int) -> None:
        pass

    def take(self, writers: int, size: int, steps: int) -> None:
        following = dict.fromkeys(range(writers), 0)
        while following:
            idle = True
            for number, n in list(following.items()):
                path = self.folder / str(number) / f"{n}.npy"
                if path.exists():
                    idle = False
                    assert np.load(path).nbytes == size
                    path.unlink()
                    following[number] += 1
                    if n + 1 == steps:
                        del following[number]
            if idle:
                time.sleep(0.0002)

    def close(self) -> None:
        pass


class ZmqReader:
    kind = "PULL"

    def __init__(self, folder: str) -> None:
        self.context = zmq.Context()
        self.sock = self.context.socket(getattr(zmq, self.kind))
        self.sock.set_hwm(0 if self.kind == "ROUTER" else 1000)
        self.path = f"ipc://{folder}/zmq"
        self.sock.bind(self.path)

    def address(self, writers: int) -> str:
        return self.path

    def connected(self, writers: int) -> None:
        pass

    def take(self, writers: int, size: int, steps: int) -> None:
        for _ in range(writers * steps):
            assert len(np.frombuffer(self.sock.recv(copy=False).buffer, np.uint8)) == size

    def close(self) -> None:
        self.sock.close(linger=0)
        self.context.term()


class ZmqAckedReader(ZmqReader):
    kind = "ROUTER"

    def take(self, writers: int, size: int, steps: int) -> None:
        missing = writers * steps
        while missing:
            last: dict[bytes, bytes] = {}
            for _ in range(256):  # as many as one poll of ours takes at most
                who, step, body = self.sock.recv_multipart(copy=False)
                assert len(np.frombuffer(body.buffer, np.uint8)) == size
                last[who.bytes] = (int.from_bytes(step.bytes, "little") + 1).to_bytes(8, "little")
                missing -= 1
                if not missing or not self.sock.poll(0):
                    break
            for who, count in last.items():
                self.sock.send_multipart([who, count])


CARRIERS: dict[str, tuple[Callable[[str], Any], Callable[..., None]]] = {
    OURS: (AlearnReader, write_alearn),
    "raw Unix socket": (RawReader, write_raw),
    "multiprocessing pipe": (PipeReader, write_pipe),
    ".npy files": (NpyReader, write_npy),
}
if zmq is not None:
    CARRIERS |= {"pyzmq acked": (ZmqAckedReader, write_zmq_acked), "pyzmq PUSH/PULL": (ZmqReader, write_zmq)}


@contextlib.contextmanager
def started(carrier: str, address: str, size: int, steps: int, writers: int) -> Iterator[list[subprocess.Popen[str]]]:
    argv = [sys.executable, __file__, "--writer", carrier, address, str(size), str(steps)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*argv, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for n in range(writers)
    ]
    try:
        yield processes
        for process in processes:
            process.communicate("done\n", timeout=WAIT_S)
            if process.returncode:
                raise RuntimeError(f"a writer of {carrier} ended with {process.returncode}")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(carrier: str, size: int, writers: int) -> float:
    """MB/s of one run."""
    steps = max(1, SIZES[size] // writers)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        reader = CARRIERS[carrier][0](folder)
        with started(carrier, reader.address(writers), size, steps, writers) as processes:
            reader.connected(writers)
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            began = time.perf_counter()
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            reader.take(writers, size, steps)
            took = time.perf_counter() - began
        reader.close()
    return size * steps * writers / took / 1e6


Case = tuple[int, int, str]
"""bytes a step, writers, carrier"""


def run_rounds(cases: list[Case], rounds: int, budget_s: float) -> dict[Case, list[float]]:
    """MB/s of every case in every round; no round begins, and after the first one no case, when the time is up."""
    figures: dict[Case, list[float]] = {case: [] for case in cases}
    until = time.monotonic() + budget_s
    for number in range(rounds):
        for size, writers, carrier in cases:
            if number and time.monotonic() > until:
                return figures
            figures[size, writers, carrier].append(measure(carrier, size, writers))
        print(f"round {number + 1} of {rounds} is done", file=sys.stderr, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, at most 3 rounds, within two minutes")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--writer", nargs=5, metavar=("CARRIER", "ADDRESS", "SIZE", "STEPS", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        carrier, address, size, steps, number = options.writer
        CARRIERS[carrier][1](address, np.zeros(int(size), np.uint8), int(steps), int(number))
        return
    loads = QUICK if options.quick else [(size, writers) for size in SIZES for writers in (1, 8)]
    figures = run_rounds([(*load, c) for load in loads for c in CARRIERS], *((3, 80.0) if options.quick else (9, 1500.0)))
    cases = []
    for (size, writers, carrier), runs in figures.items():
        ours = figures[size, writers, OURS]
        ratio = statistics.median(a / b for a, b in zip(ours, runs, strict=False))
        case = {"carrier": carrier, "bytes": size, "writers": writers, "median_mb_s": statistics.median(runs), "runs_mb_s": runs}
        cases.append({**case, "alearn_over_it": ratio})
        spread = f"{min(runs):7.0f} - {max(runs):5.0f}"
        print(
            f"{size >> 10:5d} KB x {writers}  {carrier:22s} {statistics.median(runs):7.0f} MB/s ({spread})  ours / it {ratio:5.2f}",
            flush=True,
        )
    rounds = min(map(len, figures.values()))
    if options.json:
        about = {"python": platform.python_version(), "cores": os.cpu_count(), "rounds": rounds, "pyzmq": zmq is not None}
        Path(options.json).write_text(json.dumps({"about": about, "cases": cases}, indent=1))
    peer = "pyzmq acked" if zmq is not None else "multiprocessing pipe"
    said = [
        f"{c['alearn_over_it']:.2f} x {c['carrier']} at {c['bytes'] >> 10} KB with {c['writers']} writer{'s' * (c['writers'] > 1)}"
        for c in cases
        if c["carrier"] == peer or (c["carrier"] == "raw Unix socket" and c["bytes"] == 1 << 20)
    ]
    print(f"The framed socket with acknowledgements reaches {', '.join(said)} (medians of {rounds} interleaved rounds).")


if __name__ == "__main__":
    main()
