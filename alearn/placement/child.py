"""The learner's process: ``python -P child.py CHANNEL LIFE RANK RANKS``, as ``process.py`` starts it.

A plain file, so that it hangs by the controller's life before torch is imported, which takes seconds.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys


def hang_by(line: int) -> None:
    """Let the kernel kill this process when the other end of a pipe closes, to which nobody ever writes."""
    fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(line, fcntl.F_SETFL, fcntl.fcntl(line, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([line], [], [], 0)[0]:  # it was closed before
        os._exit(0)


if __name__ == "__main__":
    channel, life, rank, ranks = map(int, sys.argv[1:5])
    hang_by(life)
    from alearn.placement.host import serve

    code = serve(channel, rank, ranks)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to be told, and libraries' own clean-up of threads may hang
