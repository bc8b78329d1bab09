"""How steps travel from simulations to the learner: one sample protocol, several carriers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.transport.base import Broken, End, Hello, Message, Reader, Steered, Steering, Writer
    from alearn.transport.inprocess import InProcessReader, connect_inprocess
    from alearn.transport.redis import RedisReader
    from alearn.transport.socket import SocketReader

_LAZY = {
    "Broken": "base",
    "End": "base",
    "Hello": "base",
    "Message": "base",
    "Reader": "base",
    "Steered": "base",
    "Steering": "base",
    "Writer": "base",
    "InProcessReader": "inprocess",
    "connect_inprocess": "inprocess",
    "RedisReader": "redis",
    "SocketReader": "socket",
}

__all__ = [
    "Broken", "End", "Hello", "InProcessReader", "Message", "Reader", "RedisReader", "SocketReader", "Steered", "Steering", "Writer",
    "connect_inprocess",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'alearn.transport' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"alearn.transport.{_LAZY[name]}"), name)
