"""Hosts on which members fail for no fault of their own, one after another."""

from __future__ import annotations

from collections import Counter

from alearn.types import Exit, ExitCause

NO_PROGRAM = (126, 127)
"""Exit codes of a program that cannot be started, as on a host that lacks a file system or a library."""


class Hosts:
    """Counts misfortunes in a row on each host, and names those to avoid.

    A node lost and a program that cannot be started count against a host, any other end clears it. Nothing is avoided before some
    other host has proved good: if all fail, the hosts are not to blame.

    Args:
        after: misfortunes in a row after which a host is avoided; 0 avoids none.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self._bad: Counter[str] = Counter()
        self._good: set[str] = set()

    def note(self, host: str, gone: Exit) -> None:
        """Take in how an attempt on this host ended; an empty name, or that of several hosts, is not counted."""
        if not host or any(c in host for c in ",["):
            return
        if gone.cause is ExitCause.NODE_LOST or (gone.cause is ExitCause.EXIT_CODE and gone.code in NO_PROGRAM):
            self._bad[host] += 1
            self._good.discard(host)
        elif gone.cause not in (ExitCause.CANCELLED, ExitCause.PREEMPTED):
            self._bad.pop(host, None)
            self._good.add(host)

    @property
    def avoided(self) -> list[str]:
        """The hosts to start nothing on."""
        if not self.after or not self._good:
            return []
        return sorted(host for host, n in self._bad.items() if n >= self.after)
