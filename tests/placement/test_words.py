"""Messages between controller and learner processes come out as they went in, however they were cut."""

import math
from pathlib import Path

import numpy as np
import pytest

from alearn import events as ev
from alearn.acquisition.base import Selection
from alearn.errors import TransportError
from alearn.learner import Gone, Hold, Judge, Measure, Measured, Propose, Rescore, RunningMember, Save, Stored, Vitals
from alearn.placement.words import Broke, Close, Contribute, Learned, Opening, Said, Told, Unpacker, Weighed, asked, pack

POINT = (0.1, 1 / 3)
MESSAGES = [
    Opening({"seed": 1, "space": {"a": [0, 1]}}, "/study", True, ("/a", "/b"), "/study/.ranks", (5, 6)),
    asked(1, Propose(3, 2, {"m0": (POINT, 0.5)}, {"m1": POINT}, (POINT,), 7, ((POINT, 2.5),))),
    asked(2, Judge({"m0": RunningMember(POINT, 4, 0.4, 10)}, 0.1, 2.0)),
    asked(3, Measure(10, 2, True, (POINT,), ())),
    asked(4, Rescore({"m0": (POINT, 1.0)})),
    asked(5, Save(Path("/study/snapshots"), 12)),
    Told(3, 0.5, "Measure", Measured({"rmse": 0.1}, {}, {"coverage95": 0.9}, 5, 6, 0.25, {"q50": 1.0}, "gp leads", 1.5)),
    Told(4, 0.5, "Rescore", {"m0": 0.5}),
    Told(5, 0.5, "Save", Path("/study/snapshots")),
    Stored(17),
    Gone("m0", True),
    Hold("m1"),
    Vitals(1, 2, 3, 0.5, "training", 17.0),
    Said(30, "ein Satz – with dashes"),
    Broke("training", "it broke", again=True),
    Close(),
    Contribute(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: f"{type(m).__name__} {getattr(m, 'of', '')}")
def test_a_message_comes_out_as_it_went_in(message):
    assert list(Unpacker().feed(pack(message))) == [message]


def test_arrays_and_events_come_out_too():
    x = np.random.default_rng(0).random((3, 2)).T
    (told,) = Unpacker().feed(pack(Told(1, 0.1, "Propose", Selection(x, np.array([math.nan, 1.0]), ["far", "unsure"]))))
    np.testing.assert_array_equal(told.result.x, x)
    np.testing.assert_array_equal(told.result.scores, [math.nan, 1.0])
    assert list(told.result.reasons) == ["far", "unsure"]
    told.result.x[0, 0] = 5.0  # it is the receiver's own
    score = ev.MemberScored(at=1.0, member="m0", step=3, remaining_value=np.float64(0.5), best_value=0.25, remaining_steps=4)
    (judged,) = Unpacker().feed(pack(Told(2, 0.1, "Judge", [score])))
    assert ev.encode(judged.result[0]) == ev.encode(score)
    (learned,) = Unpacker().feed(pack(Learned({"m0": 4}, np.array([4, 4]), np.array([0, 1]))))
    assert (learned.numbers, learned.group.tolist(), learned.step.tolist()) == ({"m0": 4}, [4, 4], [0, 1])
    (weighed,) = Unpacker().feed(pack(Weighed({"steps": np.ones(2), "members": np.zeros(0)})))
    assert weighed.tables["steps"].tolist() == [1.0, 1.0]
    assert weighed.tables["members"].shape == (0,)


def test_bytes_may_arrive_in_any_pieces():
    whole, unpacker, found = b"".join(map(pack, MESSAGES)), Unpacker(), []
    for i in range(0, len(whole), 7):
        found += unpacker.feed(whole[i : i + 7])
    assert found == MESSAGES


@pytest.mark.parametrize(
    "text", [b"{}", b"[1]", b'{"kind":"Popen"}', b'{"kind":"Stored"}', b'{"kind":"Asked","number":1,"of":"Popen","question":{}}']
)
def test_what_is_no_message_is_refused(text):
    with pytest.raises(TransportError, match="no message of ours"):
        list(Unpacker().feed(len(text).to_bytes(4, "little") + bytes(4) + text))
