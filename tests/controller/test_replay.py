import pytest

from alearn import events as ev
from alearn.controller import Launch, NeverKill, Policy, Rounds, ValueOfContinuing, differences, replay
from alearn.errors import IllegalEvent


def recorded(story):
    """Two members, launched as the policy would, the first with less and less to teach."""
    s = story(members=2)
    s.tell(ev.RoundDecided, round=0, q=2, acquisition="design")
    s.queue(2, origin="acquisition")
    for m in ("m0000", "m0001"):
        s.launch(m, steps_total=40)
    for _ in range(4):
        s.steps("m0000", 4)
        s.score("m0000", 0.01)
    s.steps("m0000", 24)
    s.end("m0000")
    return s


def eager() -> ValueOfContinuing:
    return ValueOfContinuing(ghosts=0.0, replace=False)


def test_the_same_policy_agrees_with_what_was_done(story, make_policy):
    policy = make_policy(acquire=Rounds(design=2))
    steps = list(replay(recorded(story).events, policy))
    launches = [s for s in steps if isinstance(s.event, ev.MemberLaunched)]
    assert [s.agrees for s in launches] == [True, True]
    assert any(isinstance(d, Launch) for d in launches[0].decisions)
    assert differences(recorded(story).events, policy) == []


def test_another_policy_says_where_it_would_have_killed(story, make_policy):
    policy: Policy = make_policy(acquire=Rounds(design=2), kill=eager())
    (found,) = differences(recorded(story).events, policy)
    assert "m0000 would have been killed here (nothing left to teach" in found.what
    assert found.what.endswith("it went on and ended done")


def test_a_recorded_kill_that_the_policy_does_not_want_is_named(story, make_policy):
    s = recorded(story)
    s.steps("m0001", 4)
    s.tell(ev.KillRequested, member="m0001", attempt=1, reason="by hand")
    (found,) = differences(s.events, make_policy(acquire=Rounds(design=2), kill=NeverKill()))
    assert found.what == "KillRequested of m0001 (by hand); the policy decides nothing"


def test_other_decisions_are_compared_too(story, make_policy):
    s = story(members=9)
    s.tell(ev.RoundDecided, round=0, q=5, acquisition="design")
    s.queue(1, origin="design")
    s.launch("m0000")
    s.end("m0000", "lost")
    s.tell(ev.MemberRequeued, member="m0000", attempt=1)
    s.tell(ev.StudyEnded, state="done", reason="enough")
    found = differences(s.events, make_policy(acquire=Rounds(design=3)))
    assert [d.what.split(";")[0] for d in found] == ["RoundDecided", "StudyEnded (enough)"]


def test_events_that_do_not_follow_are_refused(story, make_policy):
    events = recorded(story).events
    with pytest.raises(IllegalEvent, match="never queued"):
        list(replay(events[:2] + events[4:], make_policy()))
