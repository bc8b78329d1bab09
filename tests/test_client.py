import array
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from alearn import client
from alearn.testing.streams import PATIENCE_S, Background, Owner
from alearn.transport import SocketReader
from alearn.types import Schema


def alone(**defaults):
    return client.connect(default=defaults, environ={})


def test_outside_a_study_a_simulation_runs_by_itself(capfd):
    with alone(kappa=0.1) as run:
        assert run.parameters == {"kappa": 0.1}
        assert (run.member, run.attempt, run.acknowledged, run.stopped) == ("", 0, 0, False)
        for n in range(3):
            run.put(t=n, u=np.zeros(4), e=n)
        with pytest.raises(client.SchemaError):
            run.put(t=3, u=np.zeros(5), e=1)
        assert run.step == 3
    with pytest.raises(client.StreamError, match="closed"):
        run.put(t=4, u=np.zeros(4), e=1)
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import sys
before = set(sys.modules)
from client import connect
assert "numpy" not in sys.modules
assert not any(name.split(".")[0] in ("alearn", "torch", "hydra", "numpy") for name in sys.modules)
with connect(default={"a": 1.0}) as run:
    for n in range(3):
        run.put(t=n, y=run.parameters["a"] * n, u=[[1, 2.5], [n, 4]])
assert "numpy" not in sys.modules
print("fine")
"""


def test_the_file_works_alone_without_numpy_and_without_alearn(tmp_path):
    shutil.copy(client.__file__, tmp_path / "client.py")
    (tmp_path / "simulation.py").write_text(SCRIPT)
    argv = [sys.executable, "-S", "-E", "simulation.py"]  # -S: no site-packages at all
    result = subprocess.run(argv, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)
    reader = SocketReader()
    env = {**reader.address("m0001", 1), "ALEARN_PARAMETERS": json.dumps({"a": 2.0})}
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as writer:
        try:
            owner = Owner(reader)
            owner.until(lambda o: bool(o.ends), "the end")
            assert writer.communicate(timeout=PATIENCE_S)[0] == "fine\n"
        finally:
            writer.kill()
    assert owner.kept["m0001", 2].values["y"] == 4.0
    assert owner.kept["m0001", 2].values["u"].tolist() == [[1, 2.5], [2, 4]]
    reader.close()


def test_importing_it_brings_no_heavy_package():
    code = "import sys, alearn.client; print(sorted({'torch', 'hydra', 'numpy', 'hmac', 'hashlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S).stdout == "[]\n"


def test_the_process_fails_when_there_is_no_reader(tmp_path):
    env = {**os.environ, "ALEARN_STREAM": f"unix:{tmp_path}/none", "ALEARN_MEMBER": "m0012", "ALEARN_RECONNECT_S": "0.2"}
    code = "from alearn.client import connect\nwith connect() as run: run.put(t=0, y=1)"
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 1
    assert "No reader has opened member m0012's stream at unix:" in result.stderr
    assert "the learner has given no sign of life" in result.stderr


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"ALEARN_STREAM": "unix:/x"}, "ALEARN_MEMBER is not"),
        ({"ALEARN_STREAM": "carrier pigeon", "ALEARN_MEMBER": "m"}, "unix:PATH, tls:HOST:PORT or tcp:HOST:PORT"),
        ({"ALEARN_STREAM": "tcp:host", "ALEARN_MEMBER": "m"}, "unix:PATH, tls:HOST:PORT or tcp:HOST:PORT"),
        ({"ALEARN_STREAM": "tcp:host:1", "ALEARN_MEMBER": "m"}, "needs the study's key"),
        ({"ALEARN_STREAM": "tcp:host:1", "ALEARN_MEMBER": "m", "ALEARN_KEY": "ab"}, "1 bytes; 32 are needed"),
        ({"ALEARN_STREAM": "tcp:host:1", "ALEARN_MEMBER": "m", "ALEARN_KEY": "key"}, "cannot be read from ALEARN_KEY"),
        ({"ALEARN_STREAM": "tcp:host:1", "ALEARN_MEMBER": "m", "ALEARN_KEY_FILE": "/none"}, "cannot be read from /none"),
        ({"ALEARN_STREAM": "unix:/x", "ALEARN_MEMBER": "m", "ALEARN_PARAMETERS": "{"}, "parameters in ALEARN_PARAMETERS cannot"),
        ({"ALEARN_STREAM": "unix:/x", "ALEARN_MEMBER": "m", "ALEARN_PARAMETERS": "[1]"}, "no JSON object"),
        ({"ALEARN_STREAM": "unix:/x", "ALEARN_MEMBER": "m", "ALEARN_PARAMETERS_FILE": "/none"}, "the file /none cannot"),
        ({"ALEARN_STREAM": "unix:/x", "ALEARN_MEMBER": "m", "ALEARN_WINDOW_MB": "big"}, "ALEARN_WINDOW_MB is 'big'"),
        ({"ALEARN_STREAM": "unix:/x", "ALEARN_MEMBER": "m", "ALEARN_DEADLINE_S": "-1"}, "≥ 0"),
        ({"ALEARN_STREAM": "unix:/x", "ALEARN_MEMBER": "m", "ALEARN_DEADLINE_S": "nan"}, "≥ 0"),
    ],
)
def test_a_wrong_environment_is_a_sentence(environ, says):
    with pytest.raises(client.StreamError, match=says):
        client.connect(environ=environ)


def test_the_environment_is_read(tmp_path):
    (tmp_path / "p.json").write_text('{"a": 1e-300, "kind": "x"}')
    environ = {
        "ALEARN_STREAM": "tcp:[::1]:77", "ALEARN_MEMBER": "m0003", "ALEARN_ATTEMPT": "4", "ALEARN_ACKNOWLEDGED": "9",
        "ALEARN_KEY": "aB" * 32,
        "ALEARN_PARAMETERS_FILE": str(tmp_path / "p.json"), "ALEARN_WINDOW_MB": "0.5", "ALEARN_DEADLINE_S": "7", "ALEARN_RECONNECT_S": "8",
    }  # fmt: skip
    run = client.connect(environ=environ)
    assert (run.member, run.attempt, run.acknowledged, run.parameters) == ("m0003", 4, 9, {"a": 1e-300, "kind": "x"})
    assert run._address.target == ("::1", 77)
    assert run._limits == client.Limits(1 << 19, 7.0, 8.0)
    assert client.connect(environ=environ, window_mb=2, deadline_s=1, reconnect_s=3)._limits == client.Limits(2 << 20, 1.0, 3.0)


VALUES = {
    "int": 3,
    "float": 0.1,
    "bool": True,
    "list": [1, 2, 3],
    "nested": ((1.0, 2), [3, 4.5]),
    "empty list": [],
    "array.array": array.array("f", [1, 2.5]),
    "memoryview": memoryview(array.array("h", [1, -2, 3])),
    "float64 scalar": np.float64(2.5),
    "float32 scalar": np.float32(2.5),
    "uint8 scalar": np.uint8(200),
    "bool scalar": np.bool_(True),
    "0-d": np.array(7, np.int16),
    "half": np.arange(5, dtype=np.float16),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "negative strides": np.arange(10)[::-3],
    "broadcast": np.broadcast_to(np.float32(2), (2, 5)),
    "unaligned": np.frombuffer(b"\0" + np.arange(3.0).tobytes(), np.uint8)[1:].view(np.float64),
    "big endian": np.arange(6, dtype=">i4").reshape(2, 3),
    "big endian fortran": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
    "zero size": np.empty((3, 0, 2), np.float32),
    "list of arrays": [np.zeros(2), np.ones(2)],
    "longlong": np.arange(3, dtype=np.longlong),
    "ulonglong": np.arange(3, dtype=np.ulonglong),
    "bools": np.array([True, False]),
}


@pytest.mark.parametrize("name", VALUES)
def test_packing_is_that_of_the_schema(name):
    value = VALUES[name]
    shape, dtype, data = client._raw("v", value)
    plain = isinstance(value, (list, tuple)) and not hasattr((value or [0])[0], "shape")
    expected = np.asarray(value, np.float64 if plain else None)
    schema = Schema.of({"v": expected if plain else value})
    field = schema.fields[0]
    assert (shape, dtype) == (field.shape, field.dtype)
    assert bytes(data) == schema.pack({"v": expected})
    assert np.array_equal(schema.unpack(bytes(data))["v"], np.asarray(value))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text", "dtype str"),
        (b"bytes", "dtype bytes"),
        (None, "dtype object"),
        (1j, "dtype complex128"),
        (np.zeros(2, complex), "dtype complex128"),
        (np.zeros(2, np.longdouble), "dtype (longdouble|float128)"),
        (np.zeros(2, "datetime64[s]"), "dtype datetime64"),
        (np.zeros(2, [("a", "f8")]), "dtype void"),
        (np.array([None, 1]), "dtype object"),
        ([1, "two"], "holds a str"),
        ([[1, 2], [3]], "ragged"),
        ({"a": 1}, "dtype object"),
        (10**400, "too large"),
    ],
)
def test_what_is_no_number_is_refused(value, says):
    with pytest.raises(client.SchemaError, match=says):
        alone().put(0.0, {"v": value})


def test_later_steps_follow_the_first():
    run = alone()
    run.put(0.0, n=np.int32(1), x=np.float32(0), u=np.zeros(2, np.float32))
    run.put(1.0, n=2, x=0.5, u=np.ones(2))  # plain numbers and wider floats fit
    assert b"".join(run._pack({"n": 2, "x": 0.5, "u": np.ones(2)})) == np.int32(2).tobytes() + np.float32([0.5, 1, 1]).tobytes()
    with pytest.raises(client.SchemaError, match="dtype complex128"):
        run.put(2.0, n=1, x=1j, u=np.zeros(2))
    with pytest.raises(client.SchemaError, match="announced with int32"):
        run.put(2.0, n=np.float32(0.5), x=0.5, u=np.zeros(2))
    with pytest.raises(client.SchemaError, match="carries no values"):
        alone().put(0.0)
    run = alone()
    run.put(0.0, values=np.zeros(3))
    assert run._schema[0].name == "values"


def test_the_value_may_change_after_put():
    reader = SocketReader()
    run = client.connect(environ=reader.address("m0001", 1))
    u = np.zeros(1000)
    for n in range(5):
        u[:] = n
        run.put(t=n, u=u)
    u[:] = -1
    owner = Owner(reader)
    owner.until(lambda o: len(o.kept) == 5, "five steps")
    assert [owner.kept["m0001", n].values["u"][-1] for n in range(5)] == [0, 1, 2, 3, 4]
    run._drop("")
    reader.close()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("negative\n  density"), "failed", "ValueError: negative density"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt: "),
        (SystemExit(3), "failed", "SystemExit: exit code 3"),
        (SystemExit(0), "done", ""),
        (RuntimeError("x" * 2000), "failed", ("RuntimeError: " + "x" * 2000)[:500]),
    ],
)
def test_how_the_block_ended_is_told(error, status, reason):
    reader = SocketReader()
    run = client.connect(environ=reader.address("m0001", 1))

    def write():
        with run:
            raise error

    owner, writer = Owner(reader), Background(write)
    owner.until(lambda o: bool(o.ends), "the end")
    with pytest.raises(type(error)):
        writer.join()
    assert (owner.ends[0].status, owner.ends[0].reason) == (status, reason)
    reader.close()


def test_a_fork_cannot_put():
    run = alone()
    run._pid = -1
    with pytest.raises(client.StreamError, match="a fork of it"):
        run.put(0.0, y=1)


def test_a_reader_that_talks_nonsense_is_named():
    ours, theirs = socket.socketpair()
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 3)
    link = client._Link(ours)
    with pytest.raises(client._Lost, match="not a frame"):
        link.receive()
    theirs.sendall(b"")
    link.close()
    theirs.close()


def test_damaged_frames_from_the_reader_are_found():
    ours, theirs = socket.socketpair()
    link, good = client._Link(ours), client.frame(client.ACK, client.ACK_HEAD.pack(5, 0))
    theirs.sendall(good[:20])
    assert link.receive() == []
    theirs.sendall(good[20:])
    assert link.receive() == [(client.ACK, 0, client.ACK_HEAD.pack(5, 0))]
    theirs.sendall(good[:-9] + b"\x07" + good[-8:])
    with pytest.raises(client._Lost, match="damaged"):
        link.receive()
    link.close()
    theirs.close()
