"""What controller and learner processes say to each other: typed JSON with raw arrays behind it, nothing pickled.

A frame is two lengths (four bytes each: of the JSON, of the bytes behind it), a JSON object, and the bytes of the arrays
that occur in it. The object's "kind" names one of ``KINDS``, whose annotations say what becomes of each value.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from alearn import events as ev
from alearn.acquisition.base import Selection
from alearn.errors import TransportError
from alearn.learner import Gone, Hold, Judge, Measure, Measured, Propose, Question, Rescore, Save, Stored, Vitals

_HEAD = struct.Struct("<II")
_ARRAY = "array"

RESULTS: Mapping[type, Any] = {
    Propose: Selection,
    Judge: list[ev.MemberScored],
    Measure: Measured,
    Rescore: dict[str, float],
    Save: Path,
}
"""What the answer to each question carries."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a learner process is to be made from; the rest it reads in the study's directory.

    Args:
        config: the arm's configuration, as ``Config.to_mapping`` gives it.
        directory: the arm's.
        fresh: do not take up a snapshot.
        path: where the controller's Python looks for modules.
        meeting: with several ranks, the file by which they find each other.
        followers: and the descriptors of rank 0's connections to the others.
    """

    config: Mapping[str, Any]
    directory: str
    fresh: bool = False
    path: Sequence[str] = ()
    meeting: str = ""
    followers: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its number."""

    number: int
    question: Any
    of: str


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to a question."""

    number: int
    seconds: float
    of: str
    result: Any


@dataclass(frozen=True, slots=True)
class Close:
    """End after what is being done."""


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the learner's log."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Broke:
    """The learner failed, and would again; or, if ``again``, something it needs was lost, and another may succeed."""

    doing: str
    text: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Learned:
    """Steps that rank 0 learns, for who shares them: with the number that rank 0 gives each member, by its id."""

    numbers: Mapping[str, int]
    group: np.ndarray[Any, Any]
    step: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Weighed:
    """The tables of the importance weights have changed."""

    tables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Framed:
    """What the loss depends on besides the parameters has changed: normalisation, fixed networks."""

    state: Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Contribute:
    """Compute one mini-batch's gradients for an update."""


Message = (
    Opening | Asked | Told | Close | Said | Broke | Learned | Weighed | Framed | Contribute | Stored | Gone | Hold | Vitals
)  # fmt: skip
KINDS: Mapping[str, type] = {
    cls.__name__: cls
    for cls in (Opening, Asked, Told, Close, Said, Broke, Learned, Weighed, Framed, Contribute, Stored, Gone, Hold, Vitals)
}
_QUESTIONS: Mapping[str, type] = {cls.__name__: cls for cls in RESULTS}


def asked(number: int, question: Question) -> Asked:
    """The question as it is sent."""
    return Asked(number, question, type(question).__name__)


def pack(message: Message) -> bytes:
    """One frame."""
    arrays: list[bytes] = []
    raw = {"kind": type(message).__name__, **_plain(message, arrays)}
    text, blob = json.dumps(raw, separators=(",", ":")).encode(), b"".join(arrays)
    return _HEAD.pack(len(text), len(blob)) + text + blob


@dataclass(slots=True)
class Unpacker:
    """Turns received bytes into messages, however they were cut."""

    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are whole now.

        Raises:
            TransportError: this is no frame.
        """
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            text, blob = _HEAD.unpack_from(self._buffer)
            end = _HEAD.size + text + blob
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            yield _message(frame[:text], frame[text:])


def _message(text: bytes, blob: bytes) -> Message:
    try:
        raw = json.loads(text)
        cls = KINDS[raw.pop("kind")]
        if cls is Asked:
            raw["question"] = _typed(_QUESTIONS[raw["of"]], raw["question"], blob)
        elif cls is Told:
            raw["result"] = _typed(RESULTS[_QUESTIONS[raw["of"]]], raw["result"], blob)
        message: Message = _typed(cls, raw, blob)
        return message
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError(f"A learner process sent what is no message of ours: {text[:80]!r} ({error}).") from error


def _plain(value: Any, arrays: list[bytes]) -> Any:
    """The value as JSON has it; arrays go behind."""
    if isinstance(value, np.ndarray):
        at = sum(map(len, arrays))
        arrays.append(np.ascontiguousarray(value).tobytes())
        return {_ARRAY: [value.dtype.str, list(value.shape), at]}
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, arrays) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _typed(hint: Any, value: Any, blob: bytes) -> Any:
    """Inverse of ``_plain``, by an annotation."""
    if isinstance(value, dict) and set(value) == {_ARRAY}:
        dtype, shape, at = value[_ARRAY]
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(blob, np.dtype(dtype), count, at).reshape(shape).copy()
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _typed(next(h for h in inner if h is not type(None)), value, blob)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = _hints(hint)
        return hint(**{name: _typed(hints[name], inside, blob) for name, inside in value.items()})
    if isinstance(value, dict):
        kind = inner[1] if len(inner) == 2 else Any
        return {k: _typed(kind, v, blob) for k, v in value.items()}
    if isinstance(value, list):
        if origin is tuple and inner[-1] is not Ellipsis:
            return tuple(_typed(h, v, blob) for h, v in zip(inner, value, strict=True))
        items = [_typed(inner[0] if inner else Any, v, blob) for v in value]
        return items if origin is list or hint is Any else tuple(items)
    if hint is Path:
        return Path(value)
    return float(value) if hint is float and value is not None else value


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)
