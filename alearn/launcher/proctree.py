"""Finding and signalling processes: a tree by its parents or by the tag in its environment, each looked at again before a signal.

Standard library only, like the supervisor, which may stand beside this file without alearn being importable.
"""

# ruff: noqa: SIM105 - contextlib costs a millisecond that every start would pay

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterable

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make what daemonises below this process its child again."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; leaves at once if the parent is dead already."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(127)


def watch(pid: int | None) -> int | None:
    """A pidfd that becomes readable when the process ends; None if the kernel has none, -1 if it is already gone."""
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        return None if error.errno == errno.ENOSYS else -1


def children(pid: int) -> list[int]:
    """The direct children of a process (of all its threads); empty if it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:  # gone meanwhile
        pass
    return found


def parent(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def descendants(root: int) -> list[int]:
    """All living processes below ``root``, parents before children."""
    if os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        step: Callable[[int], list[int]] = children
    else:  # a kernel without CONFIG_PROC_CHILDREN
        below: dict[int, list[int]] = {}
        for pid in processes():
            below.setdefault(parent(pid), []).append(pid)
        step = lambda pid: below.get(pid, [])  # noqa: E731
    found: list[int] = []
    todo = [root]
    while todo:
        new = step(todo.pop())
        found += new
        todo += new
    return found


def processes() -> list[int]:
    """The ids of all processes of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def carries(pid: int, marks: Iterable[bytes]) -> bool:
    """True if the environment that the process was started with has a variable that begins with one of ``marks``."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = b"\0" + file.read()
    except OSError:
        return False
    return any(b"\0" + mark in environ for mark in marks)


def descends(pid: int, root: int) -> bool:
    """True if ``root`` is above ``pid``."""
    for _ in range(1000):
        pid = parent(pid)
        if pid in (root, 0):
            break
    return pid == root


def send(pid: int, number: int, ours: Callable[[int], bool]) -> None:
    """Signal a process, but only if it still is the one that is meant: its id may have been given to another."""
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS and ours(pid):
            try:
                os.kill(pid, number)
            except OSError:
                pass
        return
    try:
        if ours(pid):
            signal.pidfd_send_signal(handle, number)
    except OSError:  # gone meanwhile, or another user's
        pass
    finally:
        os.close(handle)


def terminate(find: Callable[[], list[int]], ours: Callable[[int], bool]) -> None:
    """Ask every process to end (and wake those that are stopped, so that they hear it)."""
    for pid in find():
        send(pid, signal.SIGTERM, ours)
        send(pid, signal.SIGCONT, ours)


def slay(find: Callable[[], list[int]], ours: Callable[[int], bool]) -> None:
    """Kill every process: stop them until no new one appears, then SIGKILL all, so that a fork bomb cannot outrun us."""
    stopped: dict[int, None] = {}
    for _ in range(200):
        new = [pid for pid in find() if pid not in stopped]
        if not new:
            break
        for pid in new:
            send(pid, signal.SIGSTOP, ours)
            stopped[pid] = None
    for pid in stopped:
        send(pid, signal.SIGKILL, ours)


def resident(pids: Iterable[int]) -> int:
    """Bytes of memory of a process tree: what each has for itself, and the largest shared part once."""
    private = shared = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                _, pages, common = map(int, file.read().split()[:3])
        except (OSError, ValueError):
            continue
        private += pages - common
        shared = max(shared, common)
    return (private + shared) * resource.getpagesize()


def usage() -> tuple[float, int]:
    """CPU seconds, and the largest resident size in bytes, of this process's children that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime, spent.ru_maxrss * 1024
