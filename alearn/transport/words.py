"""What the heads of frames say: JSON from a stranger in, checked words out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alearn import client as wire
from alearn.errors import SchemaError
from alearn.transport.base import End, Hello
from alearn.transport.connection import ProtocolError
from alearn.types import Schema


def read_hello(head: bytes, step_bytes: int) -> tuple[Hello, str]:
    """What a HELLO says, and the writer's session; its steps may have so many bytes.

    Raises:
        ProtocolError: it is not what docs/wire.md asks for.
    """
    try:
        said = json.loads(head)
        if said["protocol"] != wire.PROTOCOL:
            raise ProtocolError(f"it speaks protocol {said['protocol']!r}; this reader speaks {wire.PROTOCOL}")
        schema = Schema.from_json(json.dumps(said["schema"]))
        hello = Hello(
            member=_typed(said, "member", str),
            attempt=_typed(said, "attempt", int),
            parameters=_typed(said, "parameters", dict),
            schema=schema,
            steps_total=_typed(said, "steps_total", int),
            provenance=_typed(said, "provenance", dict),
        )
        session = _typed(said, "session", str)
    except (ValueError, TypeError, KeyError, RecursionError, SchemaError) as error:
        raise ProtocolError(f"its hello cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
    if len(set(schema.names)) != len(schema.names) or schema.nbytes > step_bytes:
        raise ProtocolError(f"its schema has a name twice, or steps of {schema.nbytes} bytes (at most {step_bytes} are allowed)")
    return hello, session


def read_end(member: str, attempt: int, head: bytes) -> End:
    """What an END says.

    Raises:
        ProtocolError: it is not what docs/wire.md asks for.
    """
    try:
        said: dict[str, Any] = json.loads(head)
        steps, status, reason = _typed(said, "steps", int), _typed(said, "status", str), _typed(said, "reason", str)
        if status not in ("done", "stopped", "failed") or steps < 0:
            raise ValueError(f"status {status!r}, steps {steps}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProtocolError(f"its end cannot be read: {str(error)[:200]}") from error
    return End(member, attempt, steps, status, reason)


def steer_head(number: int, values: Mapping[str, Any]) -> bytes:
    """The head of a STEER."""
    return json.dumps({"number": number, "values": values}).encode()


def read_steered(head: bytes) -> tuple[int, int]:
    """The number that a STEERED says to have taken, and the first step that it holds for.

    Raises:
        ProtocolError: it is not what docs/wire.md asks for.
    """
    try:
        said: dict[str, Any] = json.loads(head)
        number, step = _typed(said, "number", int), _typed(said, "step", int)
        if step < 0:
            raise ValueError(f"step {step}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProtocolError(f"what it says to have taken cannot be read: {str(error)[:200]}") from error
    return number, step


def _typed(said: dict[str, Any], name: str, kind: type) -> Any:
    value = said[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"'{name}' is {str(value)[:40]!r}, not a {kind.__name__}")
    return value
