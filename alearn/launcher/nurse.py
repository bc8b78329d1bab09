"""The nurse: a parent that forks one member supervisor for each specification, which saves an interpreter's start each.

Runs as a plain file, like the supervisor: ``python -S -I nurse.py FD`` with the launcher's control socket.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

if TYPE_CHECKING or __package__:
    from alearn.launcher import proctree, supervisor
else:  # behind the standard library, so that no neighbour of this file can stand in for one of its modules
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import proctree
    import supervisor


def nurse(control_fd: int, serve: Callable[[dict[str, Any], int | None], None]) -> None:
    """Fork a supervisor for every specification that comes in, until the launcher closes the control socket or dies.

    A message is four bytes of length and a JSON specification, with the member's channel as its one file descriptor. If a
    supervisor dies, its orphans come here (this process is a subreaper too) and are killed.

    Args:
        control_fd: the control socket.
        serve: what a forked supervisor does with its specification and the pidfd of the controller.
    """
    controller_pid = os.getppid()
    controller: int | None = proctree.watch(controller_pid)
    if controller == -1 or os.getppid() != controller_pid:
        return
    proctree.become_subreaper()
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the launcher's word ends this process, or the launcher's death
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    poller = select.poll()
    for handle in (control.fileno(), wake, controller):
        if handle is not None:
            poller.register(handle, select.POLLIN)
    supervisors: set[int] = set()
    open_for_work, me, bereaved = True, os.getpid(), False

    def orphans() -> list[int]:
        strays = [pid for pid in proctree.children(me) if pid not in supervisors]
        return [pid for stray in strays for pid in (stray, *proctree.descendants(stray))]

    def stray(pid: int) -> bool:
        return pid not in supervisors and proctree.descends(pid, me) and not any(proctree.descends(pid, s) for s in supervisors)

    while open_for_work or supervisors or bereaved:
        for handle, _ in poller.poll(5 if bereaved else 5000):
            if handle == wake:
                os.read(wake, 512)
            elif handle == controller or not open_for_work:
                open_for_work = False
                poller.unregister(handle)
            else:
                header, handles, _flags, _address = socket.recv_fds(control, 4, 1)
                if not header:
                    open_for_work = False
                    poller.unregister(handle)
                    continue
                size, body = int.from_bytes(header, "big"), bytearray()
                while len(body) < size:
                    piece = control.recv(size - len(body))
                    if not piece:
                        return
                    body += piece
                spec = json.loads(body.decode())
                spec["channel"] = handles[0]
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    control.close()
                    os.close(wake)
                    os.close(wake_in)
                    _leave_after(serve, spec, controller)
                supervisors.add(pid)
                os.close(handles[0])
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                bereaved = False
                break
            if pid == 0:
                break
            if pid in supervisors:
                supervisors.discard(pid)
                bereaved = bereaved or status != 0
        if bereaved:
            proctree.slay(orphans, stray)
            bereaved = bool(orphans())


def supervise(spec: dict[str, Any], controller: int | None) -> None:
    """Run one member."""
    supervisor.Supervisor(spec, controller).run()


def _leave_after(serve: Callable[[dict[str, Any], int | None], None], spec: dict[str, Any], controller: int | None) -> None:
    """Serve in this forked process and leave it; the launcher notices a failure by the silent channel."""
    code = 1
    try:
        serve(spec, controller)
        code = 0
    except BaseException as error:
        os.write(2, f"The supervisor of {spec.get('member', 'a warm process')} failed: {error!r}\n".encode())
    finally:
        os._exit(code)


if __name__ == "__main__":
    nurse(int(sys.argv[1]), supervise)
