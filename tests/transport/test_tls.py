"""TLS: what somebody on the network sees and can do, and what hostile bytes cost."""

import contextlib
import random
import socket
import ssl
import threading
import time

import pytest

from alearn import client
from alearn.testing.streams import PATIENCE_S, Background, Owner
from alearn.transport import Broken, SocketReader
from alearn.transport.certificate import make_certificate, server_context


@pytest.fixture
def reader():
    reader = SocketReader(kind="tcp", hello_s=0.5)
    yield reader
    reader.close()


def target(env):
    return ("127.0.0.1", int(env["ALEARN_STREAM"].rpartition(":")[2]))


class Middle:
    """Listens between a writer and a reader; ``serve`` is called with each pair of sockets, near and far."""

    def __init__(self, reader, serve):
        env = dict(reader.address("m0001", 1))
        self.far = target(env)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.env = {**env, "ALEARN_STREAM": f"tls:127.0.0.1:{self.listener.getsockname()[1]}", "ALEARN_PARAMETERS": '{"secret": 1}'}
        self.serve = serve
        self.thread = Background(self.accept)

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            with near, socket.create_connection(self.far) as far, contextlib.suppress(OSError):
                self.serve(near, far)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


def carry(source, sink, see=lambda data: data):
    """Hand on what one says to the other until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(see(data))
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def both_ways(near, far, see=lambda data: data):
    back = threading.Thread(target=carry, args=(far, near, see))
    back.start()
    carry(near, far, see)
    back.join()


def test_nothing_of_a_stream_can_be_read_on_the_way(reader):
    seen = bytearray()

    def see(data):
        seen.extend(data)
        return data

    middle = Middle(reader, lambda near, far: both_ways(near, far, see))
    run, owner = client.connect(environ=middle.env), Owner(reader)
    writer = Background(lambda: (run.put(t=0.0, u=[float(n) for n in range(2000)]), run.close()))
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    middle.close()
    assert owner.hellos[0].parameters == {"secret": 1}
    assert len(seen) > 16_000
    for word in (b"m0001", b"secret", b"ALRN", owner.kept["m0001", 0].values["u"][100:110].tobytes()):
        assert word not in seen


def test_whoever_sits_between_with_another_certificate_is_found_out(reader):
    ours, _ = server_context()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
    heard = bytearray()

    def see(data):
        heard.extend(data)
        return data

    def decrypt(near, far):
        with ours.wrap_socket(near, server_side=True) as near, theirs.wrap_socket(far) as far:
            near.sendall(far.recv(1 << 16))
            far.sendall(see(near.recv(1 << 16)))
            near.sendall(far.recv(1 << 16))
            while data := near.recv(1 << 16):
                heard.extend(data)

    middle = Middle(reader, decrypt)
    run = client.connect(environ=middle.env)
    with pytest.raises(client.Refused, match="does not hold this study's key"):
        run.put(t=0.0, y=1.0)
    run._drop("")
    owner = Owner(reader)
    owner.until(lambda o: bool(o.broken), "the refusal")
    middle.close()
    assert "does not hold this study's key" in owner.broken[0].reason
    assert not owner.hellos
    assert len(heard) == client.HEADER_BYTES + 64, "the proof, and nothing of the member"


def test_changed_bytes_cost_a_connection(reader):
    done = []

    def change(data):
        if done or len(data) < 30_000:
            return data
        done.append(True)
        return data[:10_000] + bytes([data[10_000] ^ 1]) + data[10_001:]

    middle = Middle(reader, lambda near, far: both_ways(near, far, change))
    run, owner = client.connect(environ=middle.env), Owner(reader)
    writer = Background(lambda: ([run.put(t=n, u=[float(n)] * 20_000) for n in range(5)], run.close()))
    owner.until(lambda o: bool(o.ends), "the end")
    writer.join()
    middle.close()
    assert done
    assert len(owner.hellos) == 2
    assert all((owner.kept["m0001", n].values["u"] == n).all() for n in range(5))


def hostile(env, data, handshake):
    """A stranger's connection after it has said this; what the reader answers is read to the end."""
    sock = socket.create_connection(target(env))
    sock.settimeout(PATIENCE_S)
    with contextlib.suppress(OSError):
        if handshake:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        sock.sendall(data)
        while sock.recv(1 << 16):
            pass
    sock.close()


HEADER = client.HEADER.pack(client.MAGIC, client.PROOF, 0, 0, 0xFFFFFFFF, 1 << 60) + bytes(4)


@pytest.mark.parametrize("handshake", [False, True])
@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(4096), b"\x16\x03\x01\xff\xff", HEADER, client.frame(client.HELLO, b"{}"), b"",
     client.frame(client.PROOF, bytes(64)), random.Random(3).randbytes(100_000)],
    ids=["http", "zeros", "half a hello", "huge", "no proof", "silence", "wrong proof", "random"],
)  # fmt: skip
def test_hostile_bytes_cost_their_connection_only(reader, data, handshake):
    good = client.connect(environ=reader.address("m0002", 1))
    good.put(t=0.0, y=1.0)
    env = reader.address("m0001", 1)
    stranger = Background(lambda: hostile(env, data, handshake))
    owner = Owner(reader)
    owner.until(lambda o: bool(o.broken), "the refusal")
    stranger.join()
    assert owner.broken[0] == Broken("", 0, owner.broken[0].reason)
    writer = Background(lambda: (good.put(t=1.0, y=2.0), good.close()))
    owner.until(lambda o: bool(o.ends), "the end of the good stream")
    writer.join()
    assert owner.steps("m0002") == 2


def test_a_handshake_that_drips_is_closed(reader):
    """Slow loris: a byte now and then does not hold a place longer than a hello may take."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    data = outgoing.read()
    sock = socket.create_connection(target(reader.address("m0001", 1)))
    sent, until = 0, time.monotonic() + PATIENCE_S
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            sock.sendall(data[sent : sent + 1])
            sent += 1
            time.sleep(0.02)
    sock.close()
    assert 2 < sent < len(data)


def test_a_reader_without_tls_is_not_trusted_with_a_byte():
    heard = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen():
        with listener.accept()[0] as peer:
            peer.sendall(client.frame(client.CHALLENGE, bytes(32), flags=client.SEALED))
            heard.append(peer.recv(1 << 16))

    thread = Background(listen)
    env = {
        "ALEARN_STREAM": f"tls:127.0.0.1:{listener.getsockname()[1]}",
        "ALEARN_MEMBER": "m0001",
        "ALEARN_KEY": "11" * 32,
        "ALEARN_RECONNECT_S": "0.05",
    }
    with pytest.raises(client.DeadlineExceeded, match="No reader has opened member m0001's stream"):
        client.connect(environ=env).put(t=0.0, y=1.0)
    thread.join()
    listener.close()
    assert b"m0001" not in heard[0]


def test_the_proofs_cover_the_certificate_that_is_shown_and_openssl_verifies_it():
    server, digest = server_context()

    def serve(sock):
        with server.wrap_socket(sock, server_side=True) as sock, contextlib.suppress(OSError):  # the client may have gone already
            sock.sendall(b"welcome")
            sock.recv(1)

    shown = b""
    for trusted in (False, True):
        ours, theirs = socket.socketpair()
        thread = Background(lambda ours=ours: serve(ours))
        if trusted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(shown))
            with context.wrap_socket(theirs) as sock:
                assert sock.recv(7) == b"welcome"
        else:
            link = client._Link(client._encrypted(theirs), True)
            assert link._sock.version() == "TLSv1.3"
            assert link.certificate() == digest
            shown = link._sock.getpeercert(binary_form=True)
            link.close()
        thread.join()
    assert make_certificate()[0] != shown
