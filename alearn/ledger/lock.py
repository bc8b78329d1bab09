"""One writer a study: a lock that a dead writer cannot keep and a live one is named by."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from alearn.errors import LedgerError, LedgerLocked

NAME = "ledger.lock"
_FOREIGN_SILENCE_S = 30.0
_ATTEMPTS = 8
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class WriterLock:
    """An ``flock`` with the owner written inside.

    The kernel drops the lock when its owner dies, so a dead writer needs no clean-up. What is written inside
    serves the error message and the two cases that ``flock`` alone gets wrong: a forked child of the dead
    writer that still holds the descriptor, and shared file systems where locks do not reach other hosts.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            LedgerLocked: another live controller owns the study; the message names it.
            LedgerError: the lock file cannot be written.
        """
        self.path = directory / NAME
        self._beat = 0.0
        try:
            self._fd = self._acquire()
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(_identity()).encode(), 0)
        except OSError as error:
            raise LedgerError(
                f"The study's lock {self.path} cannot be written: {error.strerror}; check the directory's permissions."
            ) from error

    def beat(self) -> None:
        """A sign of life for hosts that cannot see this lock; at most one system call a second."""
        now = time.monotonic()
        if now - self._beat > 1.0:
            self._beat = now
            with contextlib.suppress(OSError):
                os.utime(self._fd)

    def release(self) -> None:
        """Give the study free."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def _acquire(self) -> int:
        for attempt in range(_ATTEMPTS):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = _read(fd)
                os.close(fd)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    if not owner and attempt < _ATTEMPTS - 1:  # its owner has not signed yet, or somebody only looked
                        time.sleep(0.05)
                        continue
                    if not _dead_here(owner):
                        raise LedgerLocked(_sentence(self.path.parent, owner)) from None
                    self._replace()
                    continue
                if error.errno in _UNSUPPORTED:
                    raise LedgerError(
                        f"The file system of {self.path.parent} has no file locks ({error.strerror}); put the study on one that has."
                    ) from error
                raise
            if not _same_file(fd, self.path):  # replaced by somebody between open and lock
                os.close(fd)
                continue
            owner, silent_s = _read(fd), time.time() - os.fstat(fd).st_mtime
            if owner and owner.get("host") != platform.node() and silent_s < _FOREIGN_SILENCE_S:
                os.close(fd)
                raise LedgerLocked(
                    _sentence(self.path.parent, owner) + f" Its last sign of life was {max(silent_s, 0):.0f} s ago; after "
                    f"{_FOREIGN_SILENCE_S:.0f} s of silence it counts as dead."
                )
            return fd
        raise LedgerLocked(f"The lock {self.path} changed hands while it was being taken; try again.")

    def _replace(self) -> None:
        """Put a new lock file where a dead owner's descriptor survives in a child process; one taker at a time."""
        guard = os.open(self.path.with_suffix(".takeover"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            owner = _read(fd)
            os.close(fd)
            if _dead_here(owner):
                fresh = self.path.with_suffix(".new")
                fresh.write_bytes(b"")
                os.replace(fresh, self.path)
        except FileNotFoundError:
            pass
        finally:
            os.close(guard)


def has_writer(directory: Path) -> bool:
    """True while a live writer holds the study's lock (this process included)."""
    try:
        fd = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES) and not _dead_here(_read(fd))
    finally:
        os.close(fd)
    return False


def _identity() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node(), "started": _started(os.getpid()), "space": _space()}


def _space() -> str:
    """What makes process ids comparable: the boot and the pid namespace."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """The process's start in clock ticks since boot; None if there is no such process (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _dead_here(owner: dict[str, Any]) -> bool:
    """True only if the owner certainly ran in our own process space and is gone."""
    if not owner or not _space() or owner.get("space") != _space():
        return False
    return _started(int(owner["pid"])) != owner.get("started")


def _read(fd: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(fd, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _sentence(directory: Path, owner: dict[str, Any]) -> str:
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    return f"The study in {directory} is being run by {who}; stop that one first, or look at it read-only (alearn status)."
