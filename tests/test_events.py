"""Events survive their text."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alearn.errors import LedgerCorrupt
from alearn.events import KINDS, Event, MemberQueued, decode, encode

SAMPLE = {
    "str": "x",
    "int": 3,
    "float": 0.25,
    "bool": True,
    "bool | None": False,
    "Numbers": {"a": 1.0},
    "Mapping[str, Any]": {"k": "v"},
    "tuple[float, ...]": (0.5,),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_round_trips(kind):
    cls = KINDS[kind]
    event = cls(**{f.name: SAMPLE[f.type] for f in dataclasses.fields(cls)})
    assert decode(encode(event)) == event
    assert "\n" not in encode(event)


def test_every_event_class_is_registered():
    assert {c.__name__ for c in Event.__subclasses__()} == set(KINDS)


@given(st.floats(allow_infinity=False))
def test_scores_round_trip(score):
    event = MemberQueued(
        at=1.0, member="m0000", parameters={"a": score if math.isfinite(score) else 0.0}, x=(0.5,), origin="design", score=score
    )
    back = decode(encode(event))
    assert isinstance(back, MemberQueued)
    assert back.score == score or (math.isnan(back.score) and math.isnan(score))


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "Nothing"}', '{"kind": "StudyStarted"}', "[1]"])
def test_texts_that_are_no_event(text):
    with pytest.raises(LedgerCorrupt):
        decode(text)
