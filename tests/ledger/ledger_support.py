from __future__ import annotations

import numpy as np

from alearn.events import MemberLaunched, MemberQueued, MemberRunning
from alearn.ledger import Ledger
from alearn.types import Field, Sample, Schema

SCHEMA = Schema((Field("y"), Field("u", (4, 3), "float32", "m/s"), Field("count", (), "int32")))


def make_sample(member: str, step: int, attempt: int = 1) -> Sample:
    """A sample whose values follow from its identity, so that any mix-up shows."""
    key = int(member[1:]) * 1000 + step
    values = {
        "y": np.asarray(key + 0.5),
        "u": np.arange(12, dtype=np.float32).reshape(4, 3) + key,
        "count": np.asarray(key, np.int32),
    }
    return Sample(member, attempt, step, step / 10, {"a": int(member[1:]) / 7, "b": "red"}, values)


def launch(ledger: Ledger, member: str, attempt: int = 1, *, queue: bool = True) -> None:
    events = []
    if queue:
        events.append(MemberQueued(at=1.0, member=member, parameters={"a": int(member[1:]) / 7, "b": "red"}, x=(0.5,), origin="design"))
    ledger.append([*events, MemberLaunched(at=2.0, member=member, attempt=attempt), MemberRunning(at=3.0, member=member, attempt=attempt)])


def same_sample(a: Sample, b: Sample) -> bool:
    return (
        a.key == b.key
        and a.t == b.t
        and dict(a.parameters) == dict(b.parameters)
        and all(np.array_equal(a.values[k], b.values[k]) and a.values[k].dtype == b.values[k].dtype for k in SCHEMA.names)
    )
