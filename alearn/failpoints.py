"""Failpoints: places where a test can kill the process or make a write fail, by name. stdlib only.

``ALEARN_FAILPOINT=ledger.after_commit:kill@3`` kills this process, as ``kill -9`` would, when it passes the
point ``ledger.after_commit`` for the third time. Several are separated by commas. Actions:

- ``kill``: SIGKILL to this process;
- ``raise``: a RuntimeError, as any unforeseen error would be;
- ``interrupt``: KeyboardInterrupt, as Ctrl-C would be;
- ``enospc``: OSError "no space left on device";
- ``torn``: at a point that guards a write, half of the bytes are written, then SIGKILL.

Without the variable a point costs one comparison.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass

from alearn.errors import ConfigError

ACTIONS = ("kill", "raise", "interrupt", "enospc", "torn")


@dataclass(slots=True)
class _Armed:
    action: str
    left: int


def parse(text: str) -> dict[str, _Armed]:
    """The failpoints that ``NAME:ACTION[@NTH],…`` arms.

    Raises:
        ConfigError: the text has another form.
    """
    armed = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, rest = part.partition(":")
        action, _, nth = rest.partition("@")
        if action not in ACTIONS or not (nth or "1").isdigit():
            raise ConfigError(f"ALEARN_FAILPOINT has {part!r}; write NAME:ACTION@NTH with an action out of {', '.join(ACTIONS)}.")
        armed[name] = _Armed(action, int(nth or 1))
    return armed


_armed = parse(os.environ.get("ALEARN_FAILPOINT", ""))


def arm(text: str) -> None:
    """Replace the armed failpoints of this process; an empty text disarms all."""
    _armed.clear()
    _armed.update(parse(text))


def hit(name: str) -> None:
    """Pass the failpoint ``name``.

    Raises:
        RuntimeError: armed with ``raise``.
        KeyboardInterrupt: armed with ``interrupt``.
        OSError: armed with ``enospc``.
    """
    if _armed and _due(name):
        _act(name, _armed[name].action)


def cut(name: str, size: int) -> int:
    """How many of the ``size`` bytes about to be written shall be written: all, or half when ``torn`` is due.

    A caller that got less than ``size`` writes that much and calls ``die``. Other actions act here.
    """
    if _armed and _due(name):
        if _armed[name].action == "torn":
            return size // 2
        _act(name, _armed[name].action)
    return size


def die() -> None:
    """End this process as ``kill -9`` would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _due(name: str) -> bool:
    point = _armed.get(name)
    if point is None or point.left <= 0:
        return False
    point.left -= 1
    return point.left == 0


def _act(name: str, action: str) -> None:
    if action in ("kill", "torn"):
        die()
    elif action == "interrupt":
        raise KeyboardInterrupt
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"failpoint {name}")
    else:
        raise RuntimeError(f"the failpoint {name} was armed with 'raise'")
