import contextlib
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from alearn import client
from alearn.errors import ConfigError, TransportError
from alearn.registry import build
from alearn.testing.processes import ProcessTransportConformance
from alearn.testing.streams import PATIENCE_S, Background, Owner
from alearn.transport import SocketReader


class TestUnix(ProcessTransportConformance):
    def make_reader(self, **options):
        return SocketReader(kind="unix", **options)


class TestTls(ProcessTransportConformance):
    def make_reader(self, **options):
        return SocketReader(kind="tcp", **options)


class TestSealed(ProcessTransportConformance):
    def make_reader(self, **options):
        return SocketReader(kind="tcp", encrypt=False, **options)


def configured(name):
    options = yaml.safe_load((Path(__file__).parents[2] / "configs" / "transport" / f"{name}.yaml").read_text())
    assert options.pop("name") == name
    return options


@pytest.mark.parametrize("name", ["socket", "inprocess"])
def test_the_config_file_makes_a_reader(name):
    build("transport", name, configured(name)).close()


def socket_path(reader):
    return Path(reader.address("m0001", 1)["ALEARN_STREAM"].removeprefix("unix:"))


def test_the_socket_is_private_and_leaves_nothing():
    reader = SocketReader()
    path = socket_path(reader)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(os.fsencode(path)) < 108
    reader.close()
    assert not path.parent.exists()


def test_a_long_temporary_directory_does_not_matter(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    reader = SocketReader()
    assert len(os.fsencode(socket_path(reader))) < 108
    reader.close()
    assert list(deep.iterdir()) == []


def test_a_fixed_path(tmp_path):
    with pytest.raises(ConfigError, match="more than 107 bytes"):
        SocketReader(path=str(tmp_path / ("p" * 120)))
    open_directory = tmp_path / "open"
    open_directory.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="mode 0755"):
        SocketReader(path=str(open_directory / "stream"))
    path = tmp_path / "private" / "stream"
    reader = SocketReader(path=str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(TransportError, match="Another live reader"):
        SocketReader(path=str(path))
    reader.close()
    assert not path.exists()
    path.write_text("not a socket")
    with pytest.raises(TransportError, match="no socket"):
        SocketReader(path=str(path))
    assert path.read_text() == "not a socket"


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "private" / "stream"
    path.parent.mkdir(mode=0o700)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    SocketReader(path=str(path)).close()
    assert not path.exists()


def test_wrong_options_are_sentences():
    with pytest.raises(ConfigError, match="Did you mean 'tcp'"):
        SocketReader(kind="tpc")
    for wrong in ({"window_mb": 0}, {"connections": -1}, {"deadline_s": -1.0}, {"hello_s": True}):
        ((name, value),) = wrong.items()
        with pytest.raises(ConfigError, match=f"transport.{name} is {value}"):
            SocketReader(**wrong)
    with pytest.raises(TransportError, match="cannot be listened on"):
        SocketReader(kind="tcp", host="no such host.invalid")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TransportError, match="choose another port"):
            SocketReader(kind="tcp", port=taken.getsockname()[1])


def test_tcp_is_on_loopback_and_the_key_is_not_the_next_ones():
    first, second = SocketReader(kind="tcp"), SocketReader(kind="tcp")
    env = first.address("m0001", 1)
    assert env["ALEARN_STREAM"].startswith("tls:127.0.0.1:")
    assert len(bytes.fromhex(env["ALEARN_KEY"])) == 32
    assert env["ALEARN_KEY"] != second.address("m0001", 1)["ALEARN_KEY"]
    first.close()
    second.close()


@pytest.mark.parametrize("encrypt", [True, False])
def test_a_writer_with_a_wrong_key_is_refused(encrypt):
    reader = SocketReader(kind="tcp", encrypt=encrypt)
    env = {**reader.address("m0001", 1), "ALEARN_KEY": "00" * 32}
    run = client.connect(environ=env)
    with pytest.raises(client.Refused, match="does not hold this study's key"):
        run.put(t=0.0, y=1.0)
    run._drop("")
    owner = Owner(reader)
    owner.until(lambda o: bool(o.broken), "the refusal")
    assert not owner.hellos
    assert owner.broken[0].member == ""
    reader.close()


def test_a_reader_with_a_wrong_key_learns_nothing():
    impostor, heard = socket.create_server(("127.0.0.1", 0)), []

    def listen():
        peer = impostor.accept()[0]
        peer.sendall(client.frame(client.CHALLENGE, bytes(32), flags=client.SEALED))
        heard.append(peer.recv(65536))
        peer.sendall(client.frame(client.PROOF, bytes(32)))
        while chunk := peer.recv(65536):
            heard.append(chunk)
        peer.close()

    thread = Background(listen)
    env = {
        "ALEARN_STREAM": f"tcp:127.0.0.1:{impostor.getsockname()[1]}",
        "ALEARN_MEMBER": "m0001",
        "ALEARN_KEY": "11" * 32,
        "ALEARN_PARAMETERS": '{"secret": 1}',
    }
    run = client.connect(environ=env)
    with pytest.raises(client.Refused, match="does not hold this study's key"):
        run.put(t=0.0, y=1.0)
    run._drop("")
    thread.join()
    impostor.close()
    assert len(heard) == 1
    assert b"m0001" not in heard[0]
    assert b"secret" not in heard[0]


def test_a_proof_cannot_be_replayed():
    reader = SocketReader(kind="tcp", encrypt=False)
    env = reader.address("m0001", 1)
    key, address = bytes.fromhex(env["ALEARN_KEY"]), client.Address.parse(env["ALEARN_STREAM"], bytes(32))
    link = client._Link(address.dial(5.0))
    flags, challenge = link.expect(client.CHALLENGE, float("inf"))
    assert flags == client.SEALED
    answer = client.frame(client.PROOF, bytes(32) + client.proof(key, "writer", challenge, bytes(32)))
    link.out.append(memoryview(answer))
    assert link.expect(client.PROOF, float("inf"))[1] == client.proof(key, "reader", challenge, bytes(32))
    link.close()
    again = client._Link(address.dial(5.0))
    again.expect(client.CHALLENGE, float("inf"))
    again.out.append(memoryview(answer))
    with pytest.raises(client.Refused, match="key"):
        again.expect(client.PROOF, float("inf"))
    again.close()
    reader.close()


def test_a_challenge_without_seals_is_not_accepted():
    impostor = socket.create_server(("127.0.0.1", 0))
    env = {"ALEARN_STREAM": f"tcp:127.0.0.1:{impostor.getsockname()[1]}", "ALEARN_MEMBER": "m0001", "ALEARN_KEY": "11" * 32}

    def listen():
        with impostor.accept()[0] as peer:
            peer.sendall(client.frame(client.CHALLENGE, bytes(32)))
            assert peer.recv(1) == b""

    thread, run = Background(listen), client.connect(environ=env)
    with pytest.raises(client.Refused, match="without seals"):
        run.put(t=0.0, y=1.0)
    run._drop("")
    thread.join()
    impostor.close()


class Between:
    """Sits between a writer and a reader as somebody on the network would; ``change`` sees every chunk to the reader."""

    def __init__(self, reader, change, back=lambda data: data):
        env = dict(reader.address("m0001", 1))
        self.target = ("127.0.0.1", int(env["ALEARN_STREAM"].rpartition(":")[2]))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.env = {**env, "ALEARN_STREAM": f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"}
        self.changes = [back, change]
        self.connections = 0
        self.socks = [self.listener]
        self.threads = [Background(self.accept)]

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(self.target)
            self.connections += 1
            self.socks += [near, far]
            for source, sink, change in ((far, near, self.changes[0]), (near, far, self.changes[1])):
                self.threads.append(Background(lambda source=source, sink=sink, change=change: self.carry(source, sink, change)))

    def carry(self, source, sink, change):
        try:
            while data := source.recv(1 << 20):
                sink.sendall(change(data))
        except OSError:
            pass
        finally:
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for sock in self.socks:
            sock.close()


def step_frame(n, value):
    return client.frame(client.STEP, client.STEP_HEAD.pack(n, float(n)), 8) + struct.pack("<d", value)


@pytest.mark.parametrize("attack", ["forged step", "repeated step", "changed step", "left out step", "forged acknowledgement"])
def test_nothing_can_be_put_into_a_proven_connection(attack):
    reader, done = SocketReader(kind="tcp", encrypt=False), []

    def change(data):
        if done or not data.startswith(b"ALRN\x03"):
            return data
        done.append(attack)
        return {
            "forged step": step_frame(0, 666.0) + bytes(16) + data,
            "repeated step": data + data,
            "changed step": data.replace(struct.pack("<d", 1.0), struct.pack("<d", 1.5)),
            "left out step": b"",
        }[attack]

    def back(data):
        if done or not data.startswith(b"ALRN\x02"):
            return data
        done.append(attack)
        return data + client.frame(client.ACK, client.ACK_HEAD.pack(3, 0)) + bytes(16)

    forged = attack == "forged acknowledgement"
    between = Between(reader, (lambda data: data) if forged else change, back if forged else (lambda data: data))
    run = client.connect(environ=between.env)
    owner = Owner(reader)

    def write():
        run.announce(y=0.0)
        for n in range(3):
            run.put(t=n, y=n + 1.0)
            while not done:  # the attack is on the first step, alone on its way
                assert not run.stopped
                time.sleep(0.002)
        run.close()

    writer = Background(write)
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    assert done == [attack]
    assert between.connections == 2
    assert [owner.kept["m0001", n].values["y"] for n in range(3)] == [1.0, 2.0, 3.0]
    assert all(sample.values["y"] < 4 for sample in owner.kept.values())
    assert forged or any("seal does not match" in b.reason for b in owner.broken)
    reader.close()
    between.close()


def test_the_key_may_lie_in_a_file(tmp_path):
    path = tmp_path / "key"
    reader = SocketReader(kind="tcp", key_file=str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    env = reader.address("m0001", 1)
    assert "ALEARN_KEY" not in env
    run = client.connect(environ=env)
    owner, writer = Owner(reader), Background(lambda: (run.put(t=0.0, y=1.0), run.close()))
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    reader.close()
    SocketReader(kind="tcp", key_file=str(path)).close()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        SocketReader(kind="tcp", key_file=str(path))
    path.chmod(0o600)
    path.write_text("abcd")
    with pytest.raises(ConfigError, match="2 bytes"):
        SocketReader(kind="tcp", key_file=str(path))


def test_a_damaged_step_is_sent_again_over_tcp():
    reader = SocketReader(kind="tcp", encrypt=False)
    run = client.connect(environ=reader.address("m0001", 1))
    owner = Owner(reader)
    run.put(t=0.0, y=1.0)
    head = client.STEP_HEAD.pack(1, 1.0) + bytes(4)
    run._queue(client.frame(client.STEP, head, 8, client.BODY_CRC), b"damaged!")
    run._turn(0.0)
    owner.until(lambda o: bool(o.broken), "the refusal")
    assert "damaged on its way" in owner.broken[0].reason
    assert owner.steps("m0001") == 1
    writer = Background(lambda: (run.put(t=1.0, y=2.0), run.close()))
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    assert owner.kept["m0001", 1].values["y"] == 2.0
    reader.close()


def test_the_key_of_a_study_lies_in_its_directory(tmp_path):
    reader = SocketReader(kind="tcp", directory=tmp_path)
    assert reader.address("m0001", 1)["ALEARN_KEY_FILE"] == str(tmp_path / "stream.key")
    assert stat.S_IMODE((tmp_path / "stream.key").stat().st_mode) == 0o600
    reader.close()


def test_the_transport_imports_neither_torch_nor_hydra():
    code = "import sys, alearn.transport.socket, alearn.transport.inprocess; print({'torch', 'hydra'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S).stdout == "set()\n"
