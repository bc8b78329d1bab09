import contextlib
import json
import random
import signal
import socket
import struct
import subprocess
import threading

import numpy as np
import pytest

from alearn import client
from alearn.testing.streams import PATIENCE_S, Owner, finished, started
from alearn.transport import SocketReader


@pytest.fixture(params=["unix", "sealed", "tls"])
def kind(request):
    return request.param


@pytest.fixture
def reader(kind):
    reader = SocketReader(kind="unix" if kind == "unix" else "tcp", encrypt=kind == "tls")
    yield reader
    reader.close()


@pytest.fixture
def c_writer(request, kind):
    return request.getfixturevalue("c_tls_writer" if kind == "tls" else "c_plain_writer")


def env_of(reader, member="m0001", attempt=1, **parameters):
    return {**reader.address(member, attempt), "ALEARN_PARAMETERS": json.dumps(parameters)}


def test_steps_arrive_exactly(c_writer, reader):
    with started(c_writer, "stream", 50, 1000, 0, env=env_of(reader, number=7)) as writer:
        owner = Owner(reader)
        owner.until(lambda o: bool(o.ends), "the end")
        assert finished(writer) == ("computed 50, result 0\n", "")
    (hello,) = owner.hellos
    assert (hello.member, hello.attempt, hello.parameters, hello.steps_total) == ("m0001", 1, {"number": 7}, 50)
    assert (hello.provenance["client"], hello.provenance["pid"]) == ("c", writer.pid)
    assert [(f.name, f.shape, f.dtype, f.unit) for f in hello.schema.fields] == [("u", (1000,), "float64", "m/s"), ("n", (), "int32", "")]
    assert [(a, s) for _, a, s in owner.arrived] == [(1, n) for n in range(50)]
    for n in range(50):
        sample = owner.kept["m0001", n]
        assert (sample.t, sample.values["n"]) == (0.5 * n, n)
        assert np.array_equal(sample.values["u"], np.full(1000, 7000.0 + n))
    assert [(e.steps, e.status, e.reason) for e in owner.ends] == [(50, "done", "")]


def test_all_dtypes(c_writer, reader):
    with started(c_writer, "dtypes", env=env_of(reader)) as writer:
        owner = Owner(reader)
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    got = owner.kept["m0001", 0].values
    expected = {
        "f8": np.array([[0.1, -1e300, np.nan], [np.inf, 0, -0.0]]),
        "f4": np.array([1.5], np.float32),
        "f2": np.array([1, -2], np.float16),
        "i8": np.array([-(2**63)]),
        "i4": np.array([-7], np.int32),
        "i2": np.array([-8], np.int16),
        "i1": np.array([-9], np.int8),
        "u8": np.array([2**64 - 1], np.uint64),
        "u4": np.array([2**32 - 1], np.uint32),
        "u2": np.array([65535], np.uint16),
        "u1": np.array([255], np.uint8),
        "b": np.array([True, False]),
        "none": np.empty((0, 3)),
        "größe": np.array(0.1),
    }
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert (got[name].dtype, got[name].shape, got[name].tobytes()) == (value.dtype, value.shape, value.tobytes()), name
    assert owner.hellos[0].schema.fields[0].unit == '"\\\n'


@pytest.mark.parametrize("length", [32, 64, 100])
def test_seals_agree_for_every_length(c_plain_writer, tmp_path, length):
    path = tmp_path / "key"
    path.write_text(bytes(range(length)).hex() + "\n")
    path.chmod(0o600)
    reader = SocketReader(kind="tcp", encrypt=False, key_file=str(path))
    sizes = [0, 1, 9, 10, 11, 25, 26, 27, 4000] if length == 32 else [10]
    with contextlib.ExitStack() as stack:
        owner = Owner(reader)
        for size in sizes:
            stack.enter_context(started(c_plain_writer, "stream", 3, size, 0, env=env_of(reader, f"m{size:04d}", number=1)))
        owner.until(lambda o: len(o.ends) == len(sizes), "all ends")
    assert not owner.broken
    assert all(owner.steps(f"m{size:04d}") == 3 for size in sizes)
    reader.close()


def test_a_killed_writer_costs_its_step_and_a_restart_skips(c_writer, reader):
    owner = Owner(reader)
    with started(c_writer, "half", env=env_of(reader)) as writer:
        owner.until(lambda o: bool(o.broken), "the break")
        assert writer.wait(PATIENCE_S) == -signal.SIGKILL
    assert owner.steps("m0001") == 3
    assert not owner.ends
    again = env_of(reader, attempt=2, number=1)
    assert again["ALEARN_ACKNOWLEDGED"] == "3"
    with started(c_writer, "stream", 6, 100, 0, env=again) as writer:
        owner.until(lambda o: bool(o.ends), "the end")
        assert finished(writer) == ("computed 6, result 0\n", "")
    assert [(a, s) for _, a, s in owner.arrived] == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4), (2, 5)]
    assert owner.ends[0].steps == 6


def test_a_broken_connection_is_mended(c_writer, reader):
    with started(c_writer, "breaks", env=env_of(reader)) as writer:
        owner = Owner(reader)
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    assert len(owner.hellos) == 4
    assert [owner.kept["m0001", n].values["u"][-1] for n in range(60)] == list(range(60))


def test_stop(c_writer, reader):
    with started(c_writer, "stream", 100_000, 10, 0.001, env=env_of(reader, number=1)) as writer:
        owner = Owner(reader)
        owner.until(lambda o: len(o.kept) > 5, "some steps")
        reader.stop("m0001", 1)
        owner.until(lambda o: bool(o.ends), "the end")
        out, _ = finished(writer)
    assert owner.ends[0].status == "stopped"
    assert out.startswith(f"computed {owner.steps('m0001')},")
    assert owner.ends[0].steps == owner.steps("m0001")


def test_a_full_window_holds_the_writer(c_plain_writer):
    reader = SocketReader(window_mb=4.5 * 8004 / (1 << 20))
    with started(c_plain_writer, "stream", 12, 1000, 0, env=env_of(reader, number=1)) as writer:
        owner = Owner(reader, durable=False)
        owner.until(lambda o: len(o.kept) == 4, "a full window")
        for _ in range(4):
            owner.turn()
        assert len(owner.kept) == 4
        reader.acknowledge("m0001", 1, 3)
        owner.until(lambda o: len(o.kept) == 7, "three more")
        owner.durable = True
        reader.acknowledge("m0001", 1, 7)
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    reader.close()


def test_failures_are_told(c_writer, reader):
    owner = Owner(reader)
    with started(c_writer, "stream", 2, 1, 0, 'CFL "3"\n', env=env_of(reader, number=1)) as writer:
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    assert (owner.ends[0].status, owner.ends[0].reason) == ("failed", 'CFL "3"\n')
    with started(c_writer, "changed", env=env_of(reader, "m0002")) as writer:
        owner.until(lambda o: bool(o.broken), "the break")
        _, error = finished(writer, 1)
    assert "Step 1 carries" in error
    assert "the first step announced" in error
    assert error.count("\n") == 1


def test_alone(c_plain_writer):
    with started(c_plain_writer, "stream", 3, 10, 0, env={}) as writer:
        assert finished(writer) == ("computed 3, result 0\n", "")
    with started(c_plain_writer, "parameters", "x", env={}) as writer:
        assert finished(writer) == ("-1\n", "")


def test_parameters(c_writer, reader, tmp_path):
    given = {
        "a": 0.1,
        "größe": 2,
        "𝛼": -3e-5,
        'q"\\': 1e300,
        "flag": True,
        "nested": {"a": [1, {"b": "}"}], "c": ""},
        "last": 5,
        "kind": "hot",
    }
    names = ["last", "a", "größe", "𝛼", 'q"\\', "flag"]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(given, indent=1, ensure_ascii=False))
    for more in ({"ALEARN_PARAMETERS": json.dumps(given)}, {"ALEARN_PARAMETERS_FILE": str(path)}):
        member = f"m{len(more)}{'FILE' in next(iter(more))}"
        owner = Owner(reader)
        with started(c_writer, "parameters", *names, env={**env_of(reader, member), **more}) as writer:
            owner.until(lambda o: bool(o.ends), "the end")
            out, _ = finished(writer)
        assert [float(line) for line in out.split()] == [5, 0.1, 2, -3e-5, 1e300, 1]
        assert owner.hellos[0].parameters == given
        assert owner.hellos[0].schema.fields == ()
    for name, says in (("b", "There is no parameter 'b'; this member has: a, größe"), ("kind", "'kind' is no number")):
        with started(c_writer, "parameters", name, env={**env_of(reader), "ALEARN_PARAMETERS": json.dumps(given)}) as writer:
            out, error = finished(writer, 1)
        assert out == "nan\n"
        assert says in error


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"ALEARN_MEMBER": ""}, "ALEARN_MEMBER is not"),
        ({"ALEARN_STREAM": "carrier pigeon"}, "unix:PATH, tls:HOST:PORT or tcp:HOST:PORT"),
        ({"ALEARN_STREAM": "tcp:host"}, "unix:PATH, tls:HOST:PORT or tcp:HOST:PORT"),
        ({"ALEARN_STREAM": "tcp:host:1"}, "needs the study's key"),
        ({"ALEARN_STREAM": "tcp:host:1", "ALEARN_KEY": "abc"}, "cannot be read from ALEARN_KEY"),
        ({"ALEARN_STREAM": "tcp:host:1", "ALEARN_KEY_FILE": "/none"}, "cannot be read from /none"),
        ({"ALEARN_PARAMETERS": '{"a": '}, "parameters in ALEARN_PARAMETERS cannot"),
        ({"ALEARN_PARAMETERS": "[1]"}, "one JSON object is needed"),
        ({"ALEARN_PARAMETERS_FILE": "/none"}, "parameters in /none cannot"),
        ({"ALEARN_WINDOW_MB": "big"}, "ALEARN_WINDOW_MB is 'big'"),
        ({"ALEARN_DEADLINE_S": "nan"}, ">= 0"),
        ({}, r"No reader has opened member m0012's stream at unix:/none/x in 0"),
    ],
)
def test_a_wrong_environment_is_a_sentence(c_plain_writer, environ, says):
    env = {
        "ALEARN_STREAM": "unix:/none/x",
        "ALEARN_MEMBER": "m0012",
        "ALEARN_RECONNECT_S": "0.1",
        "ALEARN_PARAMETERS": '{"number": 1}',
    } | environ
    with started(c_plain_writer, "stream", 1, 1, 0, env=env) as writer:
        _, error = finished(writer, 1)
    assert error.startswith("alearn: ")
    assert error.count("\n") == 1
    assert says in error


def test_every_wait_has_its_deadline(c_plain_writer):
    reader = SocketReader(window_mb=0.0001, deadline_s=0.3)
    with started(c_plain_writer, "stream", 2, 100, 0, env=env_of(reader, number=1)) as writer:
        _, error = finished(writer, 1)
    assert "Member m0001 waited 0.3 s for step 0 to be acknowledged; the learner has given no sign of life" in error
    env = {**env_of(reader, "m0002"), "ALEARN_MEMBER": "m0666", "ALEARN_RECONNECT_S": "0.1"}
    with started(c_plain_writer, "stream", 1, 1, 0, env={**env, "ALEARN_PARAMETERS": '{"number": 1}'}) as writer:
        _, error = finished(writer, 1)
    assert "attempt 1 of member m0666 was not announced" in error
    reader.close()


def test_fenced_and_wrong_key(c_plain_writer):
    reader = SocketReader(kind="tcp", encrypt=False)
    old = env_of(reader, number=1)
    env_of(reader, attempt=2)
    with started(c_plain_writer, "stream", 1, 1, 0, env=old) as writer:
        assert "replaced by attempt 2" in finished(writer, 1)[1]
    with started(c_plain_writer, "stream", 1, 1, 0, env={**old, "ALEARN_KEY": "00" * 32}) as writer:
        assert "it does not hold this study's key" in finished(writer, 1)[1]
    reader.close()


class Impostor:
    """Somebody else who listens; ``speak`` is called with each connection."""

    def __init__(self, speak):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.speak = speak
        self.served = 0
        self.env = {
            "ALEARN_STREAM": f"tcp:127.0.0.1:{self.listener.getsockname()[1]}",
            "ALEARN_KEY": "11" * 32,
            "ALEARN_MEMBER": "m0001",
            "ALEARN_PARAMETERS": '{"number": 1}',
            "ALEARN_RECONNECT_S": "0.3",
            "ALEARN_DEADLINE_S": "0.3",
        }
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            try:
                peer = self.listener.accept()[0]
            except OSError:
                return
            peer.settimeout(5)
            with peer, contextlib.suppress(OSError):
                self.served += 1
                self.speak(peer)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


def authenticated(peer):
    """Be the true reader up to the proofs; returns the reader's seal."""
    key, ours = bytes.fromhex("11" * 32), bytes(32)
    peer.sendall(client.frame(client.CHALLENGE, ours, flags=client.SEALED))
    theirs = peer.recv(4096)[client.HEADER_BYTES :][:32]
    peer.sendall(client.frame(client.PROOF, client.proof(key, "reader", ours, theirs)))
    return client.Seal(key, "reader", ours, theirs)


def test_a_reader_without_key_or_seals_learns_nothing(c_plain_writer):
    heard = []

    def speak(peer):
        peer.sendall(client.frame(client.CHALLENGE, bytes(32), flags=len(heard) == 0))
        heard.append(peer.recv(4096))
        peer.sendall(client.frame(client.PROOF, bytes(32)))
        heard.append(peer.recv(4096))

    impostor = Impostor(speak)
    with started(c_plain_writer, "stream", 1, 1, 0, env=impostor.env) as writer:
        assert "does not hold this study's key" in finished(writer, 1)[1]
    with started(c_plain_writer, "stream", 1, 1, 0, env=impostor.env) as writer:
        assert "without seals" in finished(writer, 1)[1]
    impostor.close()
    assert [len(h) for h in heard] == [client.HEADER_BYTES + 64, 0, 0, 0][: len(heard)]


def test_a_hostile_reader_harms_nothing_but_the_connection(c_plain_writer):
    dice = random.Random(5)
    ack = client.frame(client.ACK, client.ACK_HEAD.pack(1, 0))

    def speak(peer):
        seal = authenticated(peer) if dice.random() < 0.7 else (lambda frame: bytes(16))
        bad = [
            dice.randbytes(dice.randrange(1, 200)),
            ack + bytes(16),
            client.frame(client.ACK, b"short"),
            client.frame(client.ERROR, b'{"reason": "\\ud800\\u12', 0),
            client.frame(client.ERROR, b'{"reason": 7, "final": false}'),
            client.frame(client.WELCOME, client.ACK_HEAD.pack(2**64 - 1, 0)),
            client.HEADER.pack(client.MAGIC, client.ACK, 0, 0, 2**32 - 1, 2**64 - 1) + bytes(4),
            client.frame(99, bytes(65536)),
        ]
        frame = bytearray(dice.choice(bad))
        if dice.random() < 0.3:
            frame[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
        data = bytes(frame) + seal(bytes(frame))
        peer.sendall(data[: dice.randrange(len(data) + 1)] if dice.random() < 0.3 else data)
        if dice.random() < 0.5:
            peer.recv(1 << 16)

    impostor = Impostor(speak)
    for _ in range(8):
        with started(c_plain_writer, "stream", 3, 100, 0, env=impostor.env) as writer:
            _, error = writer.communicate(timeout=PATIENCE_S)
            assert writer.returncode in (0, 1), error
            assert "Sanitizer" not in error
            assert "runtime error" not in error
    assert impostor.served > 20
    impostor.close()


def test_a_forged_acknowledgement_frees_nothing(c_plain_writer):
    forged = []

    def speak(peer):
        authenticated(peer)
        peer.recv(1 << 16)
        peer.sendall(client.frame(client.WELCOME, client.ACK_HEAD.pack(3, client.ACK_END)) + struct.pack("<2Q", 1, 2))
        forged.append(peer.recv(1 << 16))

    impostor = Impostor(speak)
    with started(c_plain_writer, "stream", 3, 10, 0, env=impostor.env) as writer:
        assert "seal does not match" in finished(writer, 1)[1]
    impostor.close()
    assert forged


def test_the_header_is_cplusplus_too(cplusplus_program):
    assert subprocess.run([cplusplus_program], timeout=PATIENCE_S).returncode == 0


def test_a_program_without_tls_says_what_to_do(c_plain_writer):
    reader = SocketReader(kind="tcp")
    with started(c_plain_writer, "stream", 1, 1, 0, env=env_of(reader, number=1)) as writer:
        _, error = finished(writer, 1)
    assert "was built without TLS; build it with -DALEARN_TLS and -lssl -lcrypto, or set transport.encrypt=false" in error
    assert error.count("\n") == 1
    reader.close()


def test_a_reader_with_another_key_or_without_tls_learns_nothing(c_tls_writer):
    reader = SocketReader(kind="tcp")
    env = {**env_of(reader, number=1), "ALEARN_KEY": "11" * 32}
    with started(c_tls_writer, "stream", 1, 1, 0, env=env) as writer:
        assert "does not hold this study's key" in finished(writer, 1)[1]
    reader.close()
    heard = []

    def speak(peer):
        peer.sendall(client.frame(client.CHALLENGE, bytes(32), flags=client.SEALED))
        heard.append(peer.recv(4096))

    impostor = Impostor(speak)
    env = {**impostor.env, "ALEARN_STREAM": impostor.env["ALEARN_STREAM"].replace("tcp:", "tls:")}
    with started(c_tls_writer, "stream", 1, 1, 0, env=env) as writer:
        assert "the TLS handshake failed" in finished(writer, 1)[1]
    impostor.close()
    assert not any(b"m0001" in h for h in heard)


def test_large_steps_pass_a_slow_reader(c_writer, reader):
    with started(c_writer, "stream", 6, 700_000, 0, env=env_of(reader, number=1)) as writer:
        owner = Owner(reader)
        owner.until(lambda o: bool(o.ends), "the end")
        finished(writer)
    assert all((owner.kept["m0001", n].values["u"] == 1000.0 + n).all() for n in range(6))


def test_steered(c_writer, reader):
    owner = Owner(reader)
    with started(c_writer, "steered", env=env_of(reader, number=1)) as writer:
        owner.until(lambda o: len(o.kept) > 3, "some steps")
        reader.steer("m0001", 1, {"dt": 0.25, "label": "x"})
        owner.until(lambda o: len(o.steered) == 1, "the first to be taken")
        reader.steer("m0001", 1, {"dt": 0.5})
        owner.until(lambda o: bool(o.ends), "the end")
        _, error = finished(writer)
    assert "'label' was steered to" in error
    first, second = owner.steered
    assert (first.values, second.values) == ({"dt": 0.25, "label": "x"}, {"dt": 0.5})
    dts = [float(owner.kept["m0001", n].values["dt"]) for n in range(owner.steps("m0001"))]
    assert dts == [0.1] * first.step + [0.25] * (second.step - first.step) + [0.5] * (len(dts) - second.step)
    assert len(dts) > second.step > first.step
