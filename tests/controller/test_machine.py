"""Random legal, illegal, late and repeated events against a model; and whole studies in a small random world."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from alearn import events as ev
from alearn.controller import (
    Acquire,
    BudgetSpent,
    Checkpoint,
    Evaluate,
    FailureBudget,
    KeepSlotsFull,
    Kill,
    Launch,
    Learn,
    Pause,
    Policy,
    Refit,
    Requeue,
    Retry,
    Rounds,
    Spare,
    Stop,
    StudyState,
    ValueOfContinuing,
    Withdraw,
    apply,
    fold,
)
from alearn.errors import IllegalEvent
from alearn.types import MemberState, member_id

FINAL = ["done", "killed", "failed", "lost"]
BACK = st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1])
"""How many attempts behind the present one an event is; mostly none, or the walk never gets anywhere."""


class Life:
    """What the model knows of a member."""

    def __init__(self) -> None:
        self.state = "queued"
        self.attempt = 0
        self.steps = 0
        self.adoptable = False


class Members(RuleBasedStateMachine):
    """Every event is tried on the state; the model says what must come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.s = StudyState()
        self.now = 0.0
        self.model: dict[str, Life] = {}
        self.late = 0
        self.accepted: list[ev.Event] = []
        self.policy = standard_policy(members=30)

    def tell(self, event: ev.Event, legal: bool = True) -> None:
        if legal:
            apply(self.s, event)
            self.accepted.append(event)
        else:
            with pytest.raises(IllegalEvent):
                apply(self.s, event)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    @initialize()
    def start(self) -> None:
        self.tell(ev.StudyStarted(at=self.tick(), study="s", arm="a", seed=3, budget={"members": 30}))
        for number in (20, 21, 22):
            m = member_id(number)
            self.tell(ev.MemberQueued(at=self.tick(), member=m, parameters={}, x=(0.5,), origin="acquisition", score=0.5, round=1))
            self.model[m] = Life()

    @rule(number=st.integers(0, 5), origin=st.sampled_from(["design", "acquisition", "holdout"]), score=st.floats(0, 1))
    def queue(self, number: int, origin: str, score: float) -> None:
        m = member_id(number)
        event = ev.MemberQueued(at=self.tick(), member=m, parameters={}, x=(score,), origin=origin, score=score, round=1)
        self.tell(event, legal=m not in self.model)
        self.model.setdefault(m, Life())

    def pick(self, data: st.DataObject, *likely: str) -> tuple[str, Life]:
        """A member; mostly one of those for which the event is legal."""
        some = [m for m in sorted(self.model) if self.model[m].state in likely]
        m = data.draw(st.sampled_from(some if some and data.draw(st.integers(0, 4)) else sorted(self.model)))
        return m, self.model[m]

    @rule(data=st.data(), way=st.lists(st.sampled_from(["on", "on", "on", "alarm", *FINAL]), min_size=1, max_size=8))
    def live(self, data: st.DataObject, way: list[str]) -> None:
        """A member goes its natural way for a while; single odd events come from the other rules."""
        m = data.draw(st.sampled_from(sorted(self.model)))
        for then in way:
            life = self.model[m]
            if life.state == "queued":
                life.attempt += 1
                self.tell(ev.MemberLaunched(at=self.tick(), member=m, attempt=life.attempt))
                life.state = "starting"
            elif life.state == "lost":
                self.tell(ev.MemberRequeued(at=self.tick(), member=m, attempt=life.attempt))
                life.state, life.adoptable = "queued", False
            elif life.state not in ("starting", "running"):
                return
            elif then == "alarm":
                self.tell(ev.MonitorAlarm(at=self.tick(), member=m, monitor="nonfinite", reason="NaN"))
            elif then != "on":
                self.tell(ev.MemberEnded(at=self.tick(), member=m, attempt=life.attempt, state=then, reason="because"))
                life.state = then
            elif life.state == "starting":
                self.tell(ev.MemberRunning(at=self.tick(), member=m, attempt=life.attempt))
                life.state = "running"
            else:
                self.tell(ev.SamplesStored(at=self.tick(), member=m, attempt=life.attempt, steps=2, last=life.steps + 1, t=1.0))
                life.steps += 2

    @precondition(lambda self: self.model)
    @rule(data=st.data(), jump=st.sampled_from([1, 1, 1, 1, 0, 2]))
    def launch(self, data: st.DataObject, jump: int) -> None:
        m, life = self.pick(data, "queued")
        legal = life.state == "queued" and jump == 1
        self.tell(ev.MemberLaunched(at=self.tick(), member=m, attempt=life.attempt + jump), legal)
        if legal:
            life.state, life.attempt = "starting", life.attempt + 1

    @precondition(lambda self: self.model)
    @rule(data=st.data(), back=BACK, total=st.sampled_from([0, 20]))
    def run(self, data: st.DataObject, back: int, total: int) -> None:
        m, life = self.pick(data, "starting")
        attempt = life.attempt - back
        self.tell(ev.MemberRunning(at=self.tick(), member=m, attempt=attempt, steps_total=total), 1 <= attempt <= life.attempt)
        if attempt == life.attempt and attempt >= 1 and (life.state in ("starting", "running") or life.adoptable):
            life.state, life.adoptable = "running", False

    @precondition(lambda self: self.model)
    @rule(data=st.data(), back=BACK, n=st.integers(0, 4), shift=st.sampled_from([0, 0, 0, 0, -1, -2, 1]))
    def store(self, data: st.DataObject, back: int, n: int, shift: int) -> None:
        m, life = self.pick(data, "running")
        attempt, last = life.attempt - back, life.steps + n - 1 + shift
        known = 1 <= attempt <= life.attempt
        stale = attempt < life.attempt
        legal = known and (stale or (life.state != "starting" and shift <= 0))
        self.tell(ev.SamplesStored(at=self.tick(), member=m, attempt=attempt, steps=n, last=last, t=1.0), legal)
        if legal and not stale:
            life.steps = max(life.steps, last + 1)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), value=st.floats(0, 1), best=st.sampled_from([0.0, 1.0, math.nan]))
    def score(self, data: st.DataObject, value: float, best: float) -> None:
        m, life = self.pick(data, "running")
        self.tell(ev.MemberScored(at=self.tick(), member=m, step=life.steps - 1, remaining_value=value, best_value=best))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), fault=st.booleans())
    def alarm(self, data: st.DataObject, fault: bool) -> None:
        m, _ = self.pick(data, "starting", "running")
        self.tell(ev.MonitorAlarm(at=self.tick(), member=m, monitor="nonfinite", reason="NaN", fault=fault))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), back=BACK, why=st.sampled_from(["", "worthless"]))
    def kill(self, data: st.DataObject, back: int, why: str) -> None:
        m, life = self.pick(data, "starting", "running")
        attempt = life.attempt - back
        self.tell(ev.KillRequested(at=self.tick(), member=m, attempt=attempt, reason=why), bool(why) and 1 <= attempt <= life.attempt)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), back=BACK, state=st.sampled_from([*FINAL, "lost", "lost", "running", "asleep"]))
    def end(self, data: st.DataObject, back: int, state: str) -> None:
        m, life = self.pick(data, "starting", "running")
        attempt = life.attempt - back
        event = ev.MemberEnded(at=self.tick(), member=m, attempt=attempt, state=state, reason="because", core_s=1.0)
        self.tell(event, state in FINAL and 1 <= attempt <= life.attempt)
        if state in FINAL and attempt == life.attempt >= 1 and (life.state in ("starting", "running") or life.adoptable):
            life.state, life.adoptable = state, False

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        m, life = self.pick(data, "lost")
        self.tell(ev.MemberRequeued(at=self.tick(), member=m, attempt=life.attempt), life.state == "lost")
        if life.state == "lost":
            life.state, life.adoptable = "queued", False

    @precondition(lambda self: self.model)
    @rule(data=st.data(), score=st.floats(0, 1), withdrawn=st.booleans())
    def rescore(self, data: st.DataObject, score: float, withdrawn: bool) -> None:
        m, life = self.pick(data, "queued")
        self.tell(ev.MemberRescored(at=self.tick(), member=m, score=score, withdrawn=withdrawn), True)
        if withdrawn and life.state == "queued":
            life.state = "killed"

    @rule(really=st.integers(0, 5))
    def resume(self, really: int) -> None:
        if really:
            return
        self.tell(ev.StudyResumed(at=self.tick()))
        for life in self.model.values():
            if life.state in ("starting", "running"):
                life.state, life.adoptable = "lost", True

    @rule(slots=st.integers(0, 5))
    def capacity(self, slots: int) -> None:
        self.tell(ev.CapacityChanged(at=self.tick(), slots=slots))

    @invariant()
    def agrees_with_the_model(self) -> None:
        s = self.s
        assert {m: s.look(m).state.value for m in self.model} == {m: life.state for m, life in self.model.items()}
        assert {m: s.look(m).steps for m in self.model} == {m: life.steps for m, life in self.model.items()}
        assert {k.value: n for k, n in s.counts.items() if n} == dict(Counter(life.state for life in self.model.values()))
        assert sum(s.counts.values()) == s.queued_total
        assert set(s.active) == {m for m, life in self.model.items() if life.state in ("starting", "running")}
        assert set(s.queue) == {m for m, life in self.model.items() if life.state == "queued"}
        assert set(s.lost) == {m for m, life in self.model.items() if life.state == "lost"}
        assert set(s.faded) <= set(s.queue)
        assert {m for ranking in s.outbid.values() for m in ranking} | set(s.alarmed) <= set(s.active)
        assert s.steps == sum(life.steps for life in self.model.values())
        assert s._active_steps == sum(r.steps for r in s.active.values())
        assert abs(s._active_since - sum(r.launched_at for r in s.active.values())) < 1e-6
        assert s.with_data == sum(life.steps > 0 for life in self.model.values())

    @invariant()
    def decisions_are_legal_pure_and_have_reasons(self) -> None:
        before = (self.s.events, dict(self.s.counts))
        decisions = self.policy.decide(self.s, self.now)
        assert decisions == self.policy.decide(self.s, self.now)
        assert (self.s.events, dict(self.s.counts)) == before
        slots = 2 if self.s.slots is None else self.s.slots
        launches = [d for d in decisions if isinstance(d, Launch)]
        assert len(launches) <= max(0, slots - len(self.s.active))
        for d in decisions:
            assert d.reason  # type: ignore[attr-defined]
            if isinstance(d, Launch | Withdraw):
                assert d.member in self.s.queue
            if isinstance(d, Kill):
                assert self.s.active[d.member].attempt == d.attempt
                assert d.saved_steps >= 0
        members = [d.member for d in decisions if isinstance(d, Launch | Kill | Spare | Requeue | Withdraw)]
        assert len(members) == len(set(members))

    def teardown(self) -> None:
        if self.accepted:
            again = fold(self.accepted)
            assert again.counts == self.s.counts
            assert again.late == self.s.late


def standard_policy(members: int, slots: int = 2, ghosts: float = 0.2) -> Policy:
    return Policy(
        launch=KeepSlotsFull(slots=slots),
        kill=ValueOfContinuing(ghosts=ghosts, threshold=0.3, min_steps=1, spare=("design", "holdout")),
        acquire=Rounds(design=5, q=3),
        learn=Learn(members=2, snapshot_s=20.0),
        stop=[BudgetSpent(), FailureBudget(share=0.9, at_least=12)],
        failure=Retry(max_attempts=3, pause_after=30),
    )


TestMembers = Members.TestCase
TestMembers.settings = settings(max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))


class World:
    """A machine with luck: carries out decisions, and lets members run, fail, get lost, and be heard of late."""

    def __init__(self, seed: int, budget: dict[str, float], trouble: float, slots: int) -> None:
        self.rng = random.Random(seed)
        self.trouble = trouble
        self.now = 100.0
        self.events: list[ev.Event] = []
        self.state = StudyState()
        self.policy = standard_policy(members=int(budget.get("members", 0)), slots=slots)
        self.post: list[ev.Event] = []
        self.tell(ev.StudyStarted(at=self.now, study="w", arm="active", seed=seed, budget=budget))

    def tell(self, event: ev.Event) -> None:
        apply(self.state, event)
        self.events.append(event)

    def carry_out(self, d: object) -> None:
        now, s = self.now, self.state
        match d:
            case Launch(member=m):
                self.tell(ev.MemberLaunched(at=now, member=m, attempt=s.records[m].attempt + 1))
            case Kill():
                self.tell(ev.KillRequested(at=now, member=d.member, attempt=d.attempt, reason=d.reason, saved_steps=d.saved_steps))
            case Spare(member=m, reason=why):
                self.tell(ev.GhostSpared(at=now, member=m, step=s.active[m].steps, reason=why))
            case Requeue(member=m, reason=why):
                self.tell(ev.MemberRequeued(at=now, member=m, attempt=s.records[m].attempt, reason=why))
            case Withdraw(member=m, reason=why):
                self.tell(ev.MemberRescored(at=now, member=m, score=0.0, withdrawn=True, why=why))
            case Acquire():
                design = d.origin == "design"
                self.tell(ev.RoundDecided(at=now, round=0 if design else s.rounds + 1, q=d.q, acquisition="x"))
                for i in range(d.q):
                    origin = "design" if design else "holdout" if i < d.holdout else "acquisition"
                    m = member_id(s.queued_total)
                    score = self.rng.random()
                    self.tell(ev.MemberQueued(at=now, member=m, parameters={}, x=(), origin=origin, score=score, round=s.rounds))
            case Refit(last=last):
                self.tell(ev.Refitted(at=now, updates=s.updates + 5, samples=s.steps, last=last))
            case Evaluate():
                self.tell(ev.Evaluated(at=now, simulated_steps=s.steps, members=s.with_data, error={"mean": 1.0}))
            case Checkpoint():
                self.tell(ev.SnapshotWritten(at=now, name="n", updates=s.updates))
            case Pause():
                self.tell(ev.StudyPaused(at=now, reason=d.reason))
                self.tell(ev.StudyContinued(at=now))
            case Stop(state=state, reason=why):
                self.tell(ev.StudyEnded(at=now, state=state, reason=why))

    def luck(self) -> None:
        """One thing happens to one running member; now and then the post brings something late."""
        rng, s = self.rng, self.state
        self.now += rng.expovariate(1.0)
        if self.post and rng.random() < 0.3:
            self.tell(self.post.pop(rng.randrange(len(self.post))))
        if rng.random() < 0.01 * self.trouble:
            self.tell(ev.StudyResumed(at=self.now))
            return
        if not s.active:
            return
        r = rng.choice(list(s.active.values()))
        here = {"at": self.now, "member": r.id, "attempt": r.attempt}
        if r.state is MemberState.STARTING:
            if rng.random() < 0.8:
                self.tell(ev.MemberRunning(**here, steps_total=12))
            else:
                self.end(here, "failed" if rng.random() < 0.5 * self.trouble else "lost")
        elif r.kill:
            self.end(here, "killed", r.kill)
        elif rng.random() < 0.05 * self.trouble:
            self.end(here, rng.choice(["failed", "lost"]))
        elif r.steps >= 12:
            self.end(here, "done")
        else:
            n = min(rng.randint(1, 3), 12 - r.steps)
            event = ev.SamplesStored(**here, steps=n, last=r.steps + n - 1, t=1.0)
            self.tell(event)
            self.post.append(event)
            self.tell(
                ev.MemberScored(at=self.now, member=r.id, step=r.steps - 1, remaining_value=rng.random(), best_value=1.0, remaining_steps=5)
            )
            if rng.random() < 0.02 * self.trouble:
                self.tell(ev.MonitorAlarm(at=self.now, member=r.id, monitor="divergence", reason="runs away"))

    def end(self, here: dict[str, object], state: str, why: str = "bad luck") -> None:
        event = ev.MemberEnded(**here, state=state, reason=why, core_s=3.0, wall_s=3.0)  # type: ignore[arg-type]
        self.tell(event)
        self.post.append(event)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 30),
    steps=st.sampled_from([None, 40, 150]),
    wall_s=st.sampled_from([None, 60.0]),
    trouble=st.sampled_from([0.0, 1.0, 4.0]),
    slots=st.integers(1, 6),
)
def test_every_study_ends_within_its_budget(seed, members, steps, wall_s, trouble, slots):
    budget = {"members": members, "steps": steps, "wall_s": wall_s}
    world = World(seed, {k: float(v) for k, v in budget.items() if v is not None}, trouble, slots)
    s = world.state
    for _ in range(20_000):
        for d in world.policy.decide(s, world.now):
            world.carry_out(d)
            if s.ended:
                break
        assert len(s.active) <= slots
        assert s.launched_total <= members
        assert s.members <= members
        if s.ended:
            break
        world.luck()
    else:
        pytest.fail(f"no end after 20000 happenings: {s.counts}, {world.policy.decide(s, world.now)}")
    assert not s.active
    assert s.end_state in ("done", "failed")
    if s.end_state == "done" and steps is None and wall_s is None:
        assert s.launched_total == members
    if steps is not None:  # only what was under way when the limit was reached may come on top
        assert s.steps < steps + 3 * slots
    wanted = {e.member for e in world.events if isinstance(e, ev.KillRequested)}
    killed = {e.member for e in world.events if isinstance(e, ev.MemberEnded) and e.state == "killed"}
    assert killed <= wanted
    assert fold(world.events).counts == s.counts


def test_the_random_world_is_eventful():
    kinds: Counter[str] = Counter()
    late = retried = 0
    for seed in range(40):
        world = World(seed, {"members": 20.0}, 2.0, 3)
        while not world.state.ended:
            for d in world.policy.decide(world.state, world.now):
                world.carry_out(d)
            if not world.state.ended:
                world.luck()
        kinds.update(type(e).__name__ for e in world.events)
        late += world.state.late
        retried += world.state.attempts - world.state.launched_total
    assert min(kinds[k] for k in ("KillRequested", "GhostSpared", "MemberRequeued", "StudyResumed", "MonitorAlarm", "SnapshotWritten")) > 10
    assert late > 100
    assert retried > 50
