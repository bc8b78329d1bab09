"""What a batch job of a member runs: the member supervisor, with a lease on a shared file instead of a life line.

Runs as a plain file, like the supervisor: ``python -S -E -s batch.py DIRECTORY [PARENT]`` with the attempt's directory, which
holds ``spec.json`` and ``lease``, and the id of a process without which the member shall not go on. No connection to the
controller is needed, so the job outlives it; the controller keeps the lease by writing a new number into it, and gives its
word there: ``NUMBER keep`` or ``NUMBER cancel SECONDS``. A signal only makes this process look at the lease at once.
"""

# ruff: noqa: SIM105 - contextlib costs a millisecond that every start would pay

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from alearn.launcher import supervisor
else:  # behind the standard library, so that no neighbour of this file can stand in for one of its modules
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import supervisor

SPEC_FILE = "spec.json"
LEASE_FILE = "lease"
LEASE_BYTES = 64
LOOK_S = 1.0
"""How often the lease is looked at when no signal comes, if the specification does not say (``look_s``)."""


def write_lease(path: str, number: int, word: str = "keep") -> None:
    """Write the lease in place and in one piece, so that a reader never finds half of it and no stale name is cached."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(handle, f"{number} {word}".ljust(LEASE_BYTES - 1).encode() + b"\n", 0)
    finally:
        os.close(handle)


def read_lease(path: str) -> tuple[str, list[str]]:
    """The lease's number and its words; empty if it cannot be read now."""
    try:
        with open(path, "rb") as file:
            number, *words = file.read(LEASE_BYTES).decode().split()
    except (OSError, ValueError):
        return "", []
    return number, words


def main(arguments: list[str]) -> int:
    """Run one member; returns its exit code, or 128 plus the signal that ended it."""
    if len(arguments) not in (1, 2):
        print("usage: batch.py DIRECTORY [PARENT]", file=sys.stderr)
        return 2
    with open(os.path.join(arguments[0], SPEC_FILE), encoding="utf-8") as file:
        spec: dict[str, Any] = json.load(file)
    spec["controller"] = int(arguments[1]) if len(arguments) == 2 else None
    lease = os.path.join(arguments[0], LEASE_FILE)
    wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    for number in supervisor.SIGNALS:
        signal.signal(number, lambda *_: None)
    channel, channel_in = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for handle in (wake, wake_in, channel_in):
                os.close(handle)
            record = supervisor.Supervisor({**spec, "channel": channel, "report": None}).run()
            code = int(record["code"] if record["code"] is not None else 128 + (record["signal"] or 0))
        except BaseException as error:
            os.write(2, f"The supervisor of member {spec.get('member')} failed: {error!r}\n".encode())
        finally:
            os._exit(code)
    os.close(channel)
    return _watch(pid, lease, float(spec["abandon_s"]), float(spec.get("look_s", LOOK_S)), wake, channel_in)


def _watch(pid: int, lease: str, abandon_s: float, look_s: float, wake: int, channel: int) -> int:
    """Pass on what the lease and the signals say until the supervisor has ended."""
    last, since, told = "", time.monotonic(), ""
    patience = 0.0  # a job that was cancelled while it started hears it at once
    while True:
        heard = b""
        if select.select([wake], [], [], patience)[0]:
            heard = os.read(wake, 512)
        patience = look_s
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        number, words = read_lease(lease)
        now = time.monotonic()
        if number and number != last:
            last, since = number, now
        asked = any(n in heard for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        word = ""
        if words[:1] == ["cancel"] and len(words) == 2:
            word = f"cancel {words[1]}"
        elif now - since > abandon_s:
            word = f"cancel 2 no controller came back for {abandon_s:g} s"
        if word and word != told:
            told = word
            try:
                os.write(channel, word.encode() + b"\n")
            except OSError:  # it has just ended
                pass
        elif asked and not told:  # the scheduler wants this job to end
            os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
