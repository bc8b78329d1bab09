import pytest

from alearn import events as ev
from alearn.controller import (
    Acquire,
    Checkpoint,
    Evaluate,
    KeepSlotsFull,
    Kill,
    Launch,
    Learn,
    Refit,
    Requeue,
    Rounds,
    Stop,
    StudyState,
    Withdraw,
    room,
)
from alearn.errors import ConfigError


def test_nothing_is_decided_before_the_start_and_after_the_end(story, make_policy):
    assert make_policy().decide(StudyState(), 0.0) == []
    s = story()
    s.tell(ev.StudyEnded, state="stopped", reason="by the user")
    assert make_policy().decide(s.state, 9.0) == []


def test_first_comes_the_design_and_within_the_budget(story, make_policy):
    (design,) = make_policy(acquire=Rounds(design=10)).decide(story(members=6).state, 1.0)
    assert isinstance(design, Acquire)
    assert (design.q, design.origin) == (6, "design")


def test_slots_are_kept_full_and_the_launcher_may_change_them(story, make_policy):
    s = story()
    ids = s.queue(5, origin="design")
    assert [d.member for d in make_policy().decide(s.state, 1.0)] == ids[:2]
    s.tell(ev.CapacityChanged, slots=4)
    s.launch(ids[0])
    launches = make_policy().decide(s.state, 1.0)
    assert [d.member for d in launches if isinstance(d, Launch)] == ids[1:4]
    assert all(isinstance(d, Launch) and "slot is free" in d.reason for d in launches)
    s.tell(ev.CapacityChanged, slots=0)
    assert make_policy().decide(s.state, 1.0) == []


def test_no_launch_and_no_round_beyond_the_members_budget(story, make_policy):
    s = story(members=2)
    s.queue(4, origin="user")
    launches = make_policy(launch=KeepSlotsFull(slots=4)).decide(s.state, 1.0)
    assert [d.member for d in launches] == ["m0000", "m0001"]
    s.launch("m0000")
    s.launch("m0001")
    assert make_policy(launch=KeepSlotsFull(slots=4)).decide(s.state, 1.0) == []


def test_a_round_waits_for_what_the_surrogate_learned(story, make_policy):
    s = story(members=20)
    s.tell(ev.RoundDecided, round=0, q=1, acquisition="design")
    s.whole(origin="design")
    policy = make_policy(learn=Learn(members=4), acquire=Rounds(design=1, q=3))
    (refit,) = policy.decide(s.state, s.now)
    assert isinstance(refit, Refit)
    assert "waits for the surrogate" in refit.reason
    s.refit()
    kinds = [type(d) for d in policy.decide(s.state, s.now)]
    assert kinds == [Evaluate, Acquire]
    s.evaluate(mean=1.0)
    (acquire,) = policy.decide(s.state, s.now)
    assert isinstance(acquire, Acquire)
    assert (acquire.q, acquire.origin) == (3, "acquisition")
    assert acquire.reason.startswith("round 1:")


def test_the_hold_out_gets_its_share_exactly(story, make_policy):
    s = story()
    s.whole(origin="design")
    held = total = 0
    policy = make_policy(acquire=Rounds(design=1, q=4, holdout=0.1))
    for number in range(1, 31):
        s.refit()
        s.evaluate(mean=1.0)
        (d,) = [d for d in policy.decide(s.state, s.now) if isinstance(d, Acquire)]
        held, total = held + d.holdout, total + d.q
        s.tell(ev.RoundDecided, round=number, q=d.q, acquisition="x")
        for origin in ["acquisition"] * (d.q - d.holdout) + ["holdout"] * d.holdout:
            s.whole(origin=origin)
    assert total == 120
    assert held == 12


def test_a_design_that_all_failed_is_followed_by_another(story, make_policy):
    s = story(members=50)
    for _ in range(4):
        s.whole(origin="design", steps=0, state="failed", reason="no luck")
    (d,) = make_policy().decide(s.state, s.now)
    assert isinstance(d, Acquire)
    assert d.origin == "design"
    assert "no member has given any data" in d.reason


def test_one_lonely_step_does_not_block_the_study(story, make_policy):
    s = story(members=50)
    s.whole(origin="design", steps=1, state="failed", reason="no luck")
    assert any(isinstance(d, Acquire) for d in make_policy().decide(s.state, s.now))


def test_training_measuring_and_snapshots_follow_the_data(story, make_policy):
    s = story()
    for _ in range(3):
        s.whole()
    learn = Learn(members=3, snapshot_s=30.0)
    assert isinstance(learn.decide(s.state, s.now)[0], Refit)
    s.refit()
    assert isinstance(learn.decide(s.state, s.now)[0], Evaluate)
    s.evaluate(mean=0.1)
    assert learn.decide(s.state, s.state.started_at + 29.0) == []
    assert isinstance(learn.decide(s.state, s.state.started_at + 30.0)[0], Checkpoint)
    by_steps = Learn(members=0, steps=5)
    (m,) = s.queue()
    s.launch(m)
    s.steps(m, 4)
    assert by_steps.decide(s.state, s.state.started_at) == []
    s.steps(m, 1)
    assert "5 time steps" in by_steps.decide(s.state, s.state.started_at)[0].reason


def test_a_paused_study_finishes_what_runs_and_starts_nothing(story, make_policy):
    s = story()
    s.queue(3, origin="design")
    s.launch("m0000")
    s.steps("m0000", 3)
    s.tell(ev.StudyPaused, reason="by the user")
    assert make_policy().decide(s.state, s.now) == []
    s.tell(ev.MonitorAlarm, member="m0000", monitor="nonfinite", reason="NaN")
    (kill,) = make_policy().decide(s.state, s.now)
    assert isinstance(kill, Kill)
    s.tell(ev.StudyContinued)
    assert any(isinstance(d, Launch) for d in make_policy().decide(s.state, s.now))


def test_what_faded_is_withdrawn_and_not_launched(story, make_policy):
    s = story()
    faded, good = s.queue(2, score=10.0)
    s.tell(ev.MemberRescored, member=faded, score=0.5)
    out = make_policy(launch=KeepSlotsFull(withdraw_below=0.1)).decide(s.state, s.now)
    assert [d.member for d in out if isinstance(d, Withdraw)] == [faded]
    assert [d.member for d in out if isinstance(d, Launch)] == [good]
    assert "from 10 to 0.5" in next(d for d in out if isinstance(d, Withdraw)).reason


def test_the_end_trains_measures_saves_and_stops(story, make_policy):
    s = story(members=1)
    s.whole(origin="design")
    policy = make_policy()
    seen = []
    for _ in range(4):
        (d,) = policy.decide(s.state, s.now)
        seen.append(type(d))
        if isinstance(d, Refit):
            assert d.last
            s.refit()
        elif isinstance(d, Evaluate):
            s.evaluate(mean=0.1)
        elif isinstance(d, Checkpoint):
            s.tell(ev.SnapshotWritten, name="n", updates=s.state.updates)
    assert seen == [Refit, Evaluate, Checkpoint, Stop]
    assert isinstance(d, Stop)
    assert (d.state, d.reason) == ("done", "the budget of 1 members is spent")


def test_the_end_trains_to_convergence_even_if_a_burst_had_seen_every_sample(story, make_policy):
    s = story(members=1)
    s.whole(origin="design")
    s.refit(last=False)
    s.evaluate(mean=0.1)
    policy = make_policy()
    (d,) = policy.decide(s.state, s.now)
    assert isinstance(d, Refit)
    assert d.last
    s.refit(last=True)
    s.evaluate(mean=0.1)
    (d,) = policy.decide(s.state, s.now)
    assert not isinstance(d, Refit)


def test_the_last_lost_member_is_tried_again_before_the_end(story, make_policy):
    s = story(members=1)
    s.queue(origin="design")
    s.launch("m0000")
    s.end("m0000", "lost", reason="node lost")
    (again,) = make_policy().decide(s.state, s.now)
    assert again == Requeue("m0000", "lost in attempt 1 of at most 3; tried again")
    s.tell(ev.MemberRequeued, member="m0000", attempt=1)
    s.queue(3)
    (launch,) = make_policy().decide(s.state, s.now)
    assert isinstance(launch, Launch)
    assert launch.member == "m0000"
    assert "attempt 2" in launch.reason


def test_a_member_that_cannot_finish_in_the_wall_time_left_is_not_started(story, make_policy):
    s = story(wall_s=100.0)
    s.whole(steps=20)  # about two seconds a member
    s.queue(2)
    assert room(s.state, s.now)[0] == float("inf")
    late = s.state.started_at + 100.0 - 0.5 * s.state.member_wall_s
    assert room(s.state, late) == (0.0, "wall_s")
    assert not any(isinstance(d, Launch) for d in make_policy().decide(s.state, late))


def test_the_steps_that_running_members_will_make_are_budgeted(story):
    s = story(steps=35)
    s.whole(steps=10)
    assert room(s.state, s.now) == (2.0, "steps")
    s.queue(1)
    s.launch("m0001")
    assert room(s.state, s.now) == (1.0, "steps")


def test_core_seconds_bind_too(story):
    s = story(core_s=10.0)
    s.whole(core_s=4.0, wall_s=4.0)
    assert room(s.state, s.now) == (1.0, "core_s")


@pytest.mark.parametrize(
    "make",
    [lambda: KeepSlotsFull(slots=0), lambda: KeepSlotsFull(withdraw_below=1.5), lambda: Rounds(q=0), lambda: Rounds(holdout=2.0)],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ConfigError, match="must"):
        make()


def test_a_member_far_off_the_prediction_asks_for_a_training(story, make_policy):
    s = story()
    s.whole()
    s.refit()
    s.evaluate(mean=1.0)
    s.queue(2)
    for m in ("m0001", "m0002"):
        s.launch(m)
        s.steps(m, 8)
    learn = Learn(members=9)
    s.tell(ev.MemberScored, member="m0001", step=7, remaining_value=1.0, best_value=1.0, surprise=1.0)
    assert learn.decide(s.state, s.now) == []
    s.tell(ev.MemberScored, member="m0002", step=7, remaining_value=1.0, best_value=1.0, surprise=7.0)
    assert learn.decide(s.state, s.now) == [Refit("m0002 runs 7.0 predicted standard deviations off what the surrogate expects")]
    assert Learn(members=9, surprise=0.0).decide(s.state, s.now) == []
    assert Learn(members=9, surprise_steps=17).decide(s.state, s.now) == []
    s.refit()
    assert not any(isinstance(d, Refit) for d in learn.decide(s.state, s.now))
    s.steps("m0001", 16)
    s.tell(ev.MemberScored, member="m0002", step=7, remaining_value=1.0, best_value=1.0, surprise=6.0)
    s.end("m0002", "done")
    assert not any(isinstance(d, Refit) for d in learn.decide(s.state, s.now))  # gone: nothing can be learned in time
