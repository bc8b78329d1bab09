"""A nurse that has imported the user's simulation, and the warm processes that it forks.

``python -P -m alearn.launcher.warm FD TARGET REUSE`` with the launcher's control socket. A member then costs a fork instead
of an interpreter and its imports, or nothing at all while a warm process is used again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from alearn.launcher import nurse
from alearn.launcher.supervisor import TAG
from alearn.launcher.ward import Ward
from alearn.simulation.drive import drive_python


def work(function: Callable[..., Any], target: str, reuse: int, line: socket.socket) -> NoReturn:
    """Run members from a line until one leaves traces, ``reuse`` of them have run, or the line ends.

    Args:
        function: the user's simulation.
        target: its name, for messages.
        reuse: how many members this process may run.
        line: jobs come in as lines of JSON; each that does not end the process is answered.
    """
    _own_randomness()
    jobs = line.makefile("rb")
    inherited: dict[bytes, bytes] = dict(os.environb)
    threads = threading.active_count()
    before = _spent()
    for served in range(1, reuse + 1):
        job = jobs.readline()
        if not job:
            break
        code = _run(function, target, json.loads(job), inherited)
        traces = code != 0 or threading.active_count() > threads
        if traces or served == reuse:
            _leave(code)
        alone = _alone()
        after = _spent()
        answer = {"code": code, "core_s": after[0] - before[0], "max_rss": after[1], "alone": alone}
        line.sendall(json.dumps(answer).encode() + b"\n")
        before = after
    _leave(0)


def _run(function: Callable[..., Any], target: str, job: Mapping[str, Any], inherited: Mapping[bytes, bytes]) -> int:
    """Run one member as a process of its own would; returns its exit code."""
    given = {**job["env"], TAG: job["tag"]}
    wanted = {**inherited, **{os.fsencode(name): os.fsencode(value) for name, value in given.items()}}
    present = dict(os.environb)
    for name in present.keys() - wanted.keys():
        del os.environb[name]
    os.environb.update({name: value for name, value in wanted.items() if present.get(name) != value})
    os.chdir(job["directory"])
    arguments = job["warm"]
    sys.argv = [sys.argv[0], *arguments]
    try:
        return drive_python(target, json.loads(arguments[2]) if len(arguments) > 2 else {}, function)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 0xFF
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the user's code may have closed it
                stream.flush()


def _alone() -> bool:
    """Whether nothing that the member started lives on; what has ended and was not waited for is laid to rest."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _leave(code: int) -> NoReturn:
    """End this process as the interpreter ends: threads that are no daemons first, then what was registered for the exit."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _own_randomness() -> None:
    """Forks share the state of random generators; seed the global ones anew, as a process that has just started would."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _spent() -> tuple[float, int]:
    """CPU seconds of this process and its ended children, and the largest resident size of one of them in bytes."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(p.ru_utime + p.ru_stime for p in parts), max(p.ru_maxrss for p in parts) * 1024


def main(arguments: list[str]) -> int:
    """Import the simulation, then fork a ward with its warm process for every specification that comes in."""
    from alearn.registry import load_object

    control, target, reuse = int(arguments[0]), arguments[1], int(arguments[2])
    function = load_object(target)
    gc.collect()
    gc.freeze()  # what is shared with the forks shall stay so

    def serve(spec: Mapping[str, Any], controller: int | None) -> None:
        gc.freeze()
        Ward(spec["channel"], controller, functools.partial(work, function, target, reuse)).run()

    nurse.nurse(control, serve)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
