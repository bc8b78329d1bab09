import json
import os
import signal
import subprocess
import sys

import pytest

from alearn.launcher import past_exit, supervisor
from alearn.launcher.proctree import slay, terminate
from alearn.launcher.supervisor import Output, last_words
from alearn.testing.launcher import alive, eventually
from alearn.types import ExitCause

COMMAND = [sys.executable, "-S", "-E", "-s", supervisor.__file__]


def spec(directory, argv, **more):
    return {"member": "m", "attempt": 1, "argv": list(argv), "directory": str(directory), "tag": f"test.{os.getpid()}", **more}


def test_from_a_file(tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(spec(tmp_path / "m", ["sh", "-c", "exit 5"])))
    assert subprocess.run([*COMMAND, str(tmp_path / "spec.json")], check=False).returncode == 5
    gone = past_exit(tmp_path / "m")
    assert (gone.cause, gone.code) == (ExitCause.EXIT_CODE, 5)


def test_from_stdin_with_pipes_for_control(tmp_path):
    life, life_in = os.pipe()
    report, report_in = os.pipe()
    process = subprocess.Popen([*COMMAND, "-"], stdin=subprocess.PIPE, pass_fds=[life, report_in])
    given = spec(tmp_path / "m", ["sleep", "120"], channel=life, report=report_in)
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    os.close(life)
    os.close(report_in)
    with os.fdopen(report) as facts:
        pid = json.loads(facts.readline())["started"]
        assert alive(pid)
        os.write(life_in, b"cancel 5\n")
        assert json.loads(facts.readline())["exit"]["cause"] == "cancelled"
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not alive(pid)
    os.close(life_in)


def test_the_end_of_the_life_line_ends_the_member(tmp_path):
    life, life_in = os.pipe()
    process = subprocess.Popen([*COMMAND, "-"], stdin=subprocess.PIPE, pass_fds=[life])
    process.stdin.write(json.dumps(spec(tmp_path / "m", ["sh", "-c", "trap '' TERM; echo up; sleep 120"], channel=life)).encode())
    process.stdin.close()
    os.close(life)
    log = tmp_path / "m" / "stdout.log"
    eventually(lambda: log.exists() and log.read_text() == "up\n", "the member to be up")
    os.close(life_in)
    process.wait(20)
    gone = past_exit(tmp_path / "m")
    assert (gone.cause, gone.detail) == (ExitCause.CANCELLED, "the controller is gone")


def test_a_controller_that_is_already_dead(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    text = json.dumps(spec(tmp_path / "m", ["sleep", "120"], controller=dead.pid))
    subprocess.run([*COMMAND, "-"], input=text.encode(), timeout=20, check=False)
    assert past_exit(tmp_path / "m").detail == "the controller is gone"


def test_usage():
    assert subprocess.run(COMMAND, check=False, capture_output=True).returncode == 2


def test_needs_nothing_of_alearn():
    code = f"import sys; sys.path.insert(0, {os.path.dirname(supervisor.__file__)!r}); import supervisor; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-S", "-E", "-s", "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"alearn", "numpy", "subprocess", "socket", "typing", "asyncio", "logging"} & set(loaded)


@pytest.mark.parametrize("size", [0, 5, 10, 11, 20, 21, 35, 1000])
@pytest.mark.parametrize("piece", [1, 3, 7, 64])
def test_output_keeps_head_and_tail(tmp_path, size, piece):
    data = bytes(32 + n % 90 for n in range(size))
    output = Output(str(tmp_path / "log"), 20, keep=8)
    for at in range(0, size, piece):
        os.write(output.sink, data[at : at + piece])
        assert output.drain()
    os.close(output.sink)
    assert not output.drain()
    output.close()
    kept = (tmp_path / "log").read_bytes()
    if size <= 20:
        assert kept == data
    else:
        marker = f"\n… {size - 20} bytes are not kept …\n".encode()
        assert kept == data[:10] + marker + data[-10:]
    assert output.end == data[-8:]


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("", (False, "")),
        ("warming up\nbad mesh\n\n", (False, "bad mesh")),
        ("x\nTraceback (most recent call last):\n  File ...\n    f()\nValueError: one\ntwo\n", (True, "ValueError: one")),
        (
            "Traceback (most recent call last):\n  a\nKeyError\n\n…\n\nTraceback (most recent call last):\n  b\nOSError\n",
            (True, "OSError"),
        ),
    ],
)
def test_last_words(stderr, expected):
    assert last_words(stderr.encode()) == expected


def test_a_process_that_is_not_ours_is_never_signalled():
    """Its id may have been given to another process between the finding and the signal."""
    bystander = subprocess.Popen(["sleep", "120"])
    try:
        found = [bystander.pid]
        terminate(lambda: found, lambda _: False)
        slay(lambda: found, lambda _: False)
        assert bystander.poll() is None
        slay(lambda: found, lambda pid: pid == bystander.pid)
        assert bystander.wait(20) == -signal.SIGKILL
    finally:
        bystander.kill()
        bystander.wait()
