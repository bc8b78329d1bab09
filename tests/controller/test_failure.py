import pytest

from alearn import events as ev
from alearn.controller import Pause, Record, Requeue, Retry
from alearn.errors import ConfigError
from alearn.types import Exit, ExitCause, MemberState


def active(story, attempt=1) -> tuple:
    s = story()
    s.queue()
    for n in range(1, attempt):
        s.launch("m0000", n)
        s.end("m0000", "lost", n)
        s.tell(ev.MemberRequeued, member="m0000", attempt=n)
    s.launch("m0000", attempt)
    record = s.state.look("m0000")
    assert isinstance(record, Record)
    return s, record


@pytest.mark.parametrize(
    ("exit", "state", "reason", "cause"),
    [
        (Exit("m0000", 1, ExitCause.DONE), "done", "", "done"),
        (Exit("m0000", 1, ExitCause.EXCEPTION, detail="ValueError: no"), "failed", "exception: ValueError: no", "exception"),
        (Exit("m0000", 1, ExitCause.EXIT_CODE, code=3), "failed", "exit code 3", "exit code"),
        (Exit("m0000", 1, ExitCause.SIGNAL, signal=11, detail="core"), "failed", "ended by signal 11: core", "signal"),
        (Exit("m0000", 1, ExitCause.OUT_OF_MEMORY), "failed", "out of memory", "out of memory"),
        (Exit("m0000", 1, ExitCause.PREEMPTED), "lost", "preempted", "preempted"),
        (Exit("m0000", 1, ExitCause.WALL_TIME), "lost", "wall time", "wall time"),
        (Exit("m0000", 1, ExitCause.CANCELLED), "lost", "cancelled from outside", "cancelled"),
    ],
)
def test_how_an_end_counts(story, exit, state, reason, cause):
    _, record = active(story)
    assert Retry().classify(exit, record) == (MemberState(state), reason, cause)


def test_bad_luck_has_an_end_but_nodes_are_never_the_members_fault(story):
    _, record = active(story, attempt=3)
    assert Retry().classify(Exit("m0000", 3, ExitCause.WALL_TIME), record)[0] is MemberState.FAILED
    assert Retry().classify(Exit("m0000", 3, ExitCause.NODE_LOST), record)[0] is MemberState.LOST


def test_causes_can_be_made_worth_a_retry(story):
    _, record = active(story)
    assert Retry(retry=["exit code"]).classify(Exit("m0000", 1, ExitCause.EXIT_CODE, code=1), record)[0] is MemberState.LOST


def test_a_killed_member_keeps_its_reason_and_a_faulty_one_failed(story):
    s, record = active(story)
    s.tell(ev.KillRequested, member="m0000", attempt=1, reason="nothing left to teach", saved_steps=4)
    gone = Exit("m0000", 1, ExitCause.CANCELLED)
    assert Retry().classify(gone, record) == (MemberState.KILLED, "nothing left to teach", "killed")
    assert Retry().classify(Exit("m0000", 1, ExitCause.DONE), record)[0] is MemberState.KILLED
    s, record = active(story)
    s.tell(ev.KillRequested, member="m0000", attempt=1, reason="divergence: u runs away", fault=True, cause="divergence")
    assert Retry().classify(gone, record) == (MemberState.FAILED, "divergence: u runs away", "divergence")


def test_a_member_that_finished_before_the_kill_reached_it_is_done(story):
    s, record = active(story)
    s.tell(ev.MemberRunning, member="m0000", attempt=1, steps_total=4)
    s.steps("m0000", 4)
    s.tell(ev.KillRequested, member="m0000", attempt=1, reason="too late")
    assert Retry().classify(Exit("m0000", 1, ExitCause.DONE), record)[0] is MemberState.DONE


def test_the_lost_are_queued_again_up_to_a_number_of_attempts(story):
    s, _ = active(story, attempt=2)
    s.end("m0000", "lost", 2)
    assert Retry(max_attempts=3).decide(s.state, 0.0) == [Requeue("m0000", "lost in attempt 2 of at most 3; tried again")]
    assert Retry(max_attempts=2).decide(s.state, 0.0) == []


def test_a_machine_that_loses_everything_pauses_the_study(story, make_policy):
    s = story()
    s.queue(6)
    for n in range(5):
        s.launch(f"m{n:04d}")
        s.end(f"m{n:04d}", "lost", reason="node lost")
    (pause,) = Retry(pause_after=5).decide(s.state, 0.0)
    assert isinstance(pause, Pause)
    assert "the last 5 attempts were all lost" in pause.reason
    s.tell(ev.StudyPaused, reason=pause.reason)
    assert make_policy(failure=Retry(pause_after=5)).decide(s.state, s.now) == []
    s.tell(ev.StudyContinued)
    assert len(Retry(pause_after=5).decide(s.state, 0.0)) == 5


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="no cause of a failure 'bad mood'"):
        Retry(retry=["bad mood"])
    with pytest.raises(ConfigError, match="at least 1"):
        Retry(max_attempts=0)


def test_attempts_that_died_with_the_controller_are_not_held_against_a_member(story):
    s, record = active(story)
    for n in (1, 2, 3, 4):
        s.tell(ev.StudyResumed)
        assert Retry(max_attempts=3).decide(s.state, 0.0) == [Requeue("m0000", f"lost in attempt {n} of at most {n + 3}; tried again")]
        s.tell(ev.MemberRequeued, member="m0000", attempt=n)
        s.launch("m0000", n + 1)
    assert Retry(max_attempts=3).classify(Exit("m0000", 5, ExitCause.WALL_TIME), record)[0] is MemberState.LOST
    s.tell(ev.StudyResumed)
    s.tell(ev.MemberRunning, member="m0000", attempt=5)  # adopted: it did not die after all
    s.end("m0000", "lost", 5)
    assert record.tries == 1
    for n in (6, 7):
        s.tell(ev.MemberRequeued, member="m0000", attempt=n - 1)
        s.launch("m0000", n)
        s.end("m0000", "lost", n)
    assert record.tries == 3
    assert Retry(max_attempts=3).decide(s.state, 0.0) == []


def test_a_pause_for_a_broken_machine_keeps_the_lost_for_later(story, make_policy):
    """A spent budget of members must not end the study while a person is asked to look at the machine."""
    s = story(members=2)
    policy = make_policy(failure=Retry(pause_after=2))
    for m in s.queue(2):
        s.launch(m)
    for m in ("m0000", "m0001"):
        s.end(m, "lost")
    assert [type(d) for d in policy.decide(s.state, s.now)] == [Pause]
    s.tell(ev.StudyPaused, reason="look")
    assert policy.decide(s.state, s.now) == []
    s.tell(ev.StudyContinued)
    assert [type(d) for d in policy.decide(s.state, s.now)] == [Requeue, Requeue]
