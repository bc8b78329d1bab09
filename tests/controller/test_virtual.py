"""The real controller on a virtual cluster: its promises under faults, and that broken promises are found."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alearn import events as ev
from alearn.controller import BudgetSpent, Kill, Launch, NeverKill, Retry, StudyState, fold
from alearn.controller.stragglers import COPY, Stragglers
from alearn.launcher.virtual import Agenda, Cluster, CostModel, Crash, Faults, Life, NodeLoss
from alearn.testing.virtual import HORIZON_S, PromiseBroken, VirtualStudy, scenario
from alearn.testing.virtual.__main__ import main

SHARE = st.sampled_from([0.0, 0.05, 0.3, 1.0])
SECONDS = st.sampled_from([0.0, 0.5, 5.0, 60.0])
FAULTS = st.builds(
    Faults,
    queue_s=SECONDS,
    stragglers=SHARE,
    preempt_s=st.sampled_from([0.0, 0.0, 20.0, 200.0]),
    wall_s=st.sampled_from([0.0, 0.0, 30.0]),
    hang=SHARE,
    poison=SHARE,
    deaf=SHARE,
    refused=SHARE,
    delay_s=SECONDS,
    exit_delay_s=SECONDS,
    break_=SHARE,
    ack_loss=st.sampled_from([0.0, 0.5, 0.9]),
    nodes=st.lists(
        st.builds(NodeLoss, at_s=st.floats(0, 200), node=st.integers(0, 4), repair_s=st.sampled_from([-1.0, 0.0, 30.0])), max_size=4
    ).map(tuple),
    crashes=st.lists(
        st.builds(Crash, commit=st.integers(0, 120), durable=st.booleans(), down_s=st.floats(0, 60), adopt=st.booleans()), max_size=4
    ).map(tuple),
    disk_full=st.sampled_from([-1, -1, 0, 3, 40]),
    disk_freed_s=st.sampled_from([-1.0, 60.0]),
)


def test_many_studies_keep_every_promise(capsys):
    assert main(["--seeds", "0", "150"]) == 0
    assert "150 of 150 studies kept every promise" in capsys.readouterr().out


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), faults=FAULTS)
def test_any_schedule_of_faults(seed, faults):
    outcome = scenario(seed, faults).run(HORIZON_S)
    assert outcome.state in ("done", "stopped", "failed", "stuck")
    assert outcome.state != "stuck" or faults.nodes


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), faults=FAULTS)
def test_copies_of_stragglers_under_any_schedule_of_faults(seed, faults):
    outcome = scenario(seed, dataclasses.replace(faults, stragglers=0.3), stragglers="duplicate").run(HORIZON_S)
    assert outcome.state in ("done", "stopped", "failed", "stuck")
    assert outcome.state != "stuck" or faults.nodes


def test_copies_win_and_shorten_a_study(make_policy):
    """A tenth of the attempts take ten times as long."""
    costs = CostModel.given(startup_s=1.0, step_s=1.0, steps=10, spread=0.1)
    outcomes = []
    for action in ("wait", "duplicate"):
        policy = dataclasses.replace(make_policy(), kill=Stragglers(NeverKill(), action=action, factor=2.0))
        study = VirtualStudy(
            policy, costs, nodes=4, budget={"members": 40.0}, faults=Faults(stragglers=0.1, straggle=10.0), monitors={}, seed=3
        )
        outcomes.append(study.run(HORIZON_S))
    waited, copied = outcomes
    assert copied.counts["done"] == waited.counts["done"] == 40
    assert copied.steps == waited.steps == 400
    assert sum(isinstance(e, ev.MemberEnded) and e.cause == COPY for e in study.ledger.events) >= 2
    assert copied.wall_s < waited.wall_s


def test_late_news_of_an_end_is_waited_for_at_the_close():
    """A member that queued for the last node is cancelled at the end; the news of it takes longer than the grace."""
    faults = Faults(queue_s=0.5, deaf=0.05, exit_delay_s=60.0, nodes=(NodeLoss(at_s=3.0, node=0, repair_s=-1.0),))
    assert scenario(707, faults).run(HORIZON_S).state == "stuck"


def test_a_seed_replays_exactly(capsys):
    first, second = [], []
    assert scenario(17, tell=first.append).run() == scenario(17, tell=second.append).run()
    assert first == second
    assert len(first) > 20
    assert main(["--seed", "17"]) == 0
    assert "\n".join(first) in capsys.readouterr().out


def test_without_faults_and_failures_everything_is_done(make_policy):
    costs = CostModel.given(startup_s=1.0, step_s=1.0, steps=10, spread=0.0)
    outcome = VirtualStudy(make_policy(), costs, nodes=2, slots_per_node=2, budget={"members": 20.0}).run()
    assert (outcome.state, outcome.members, outcome.steps) == ("done", 20, 200)
    assert outcome.counts["done"] == 20
    assert outcome.core_s == pytest.approx(20 * 11.0)
    assert outcome.wall_s >= 20 * 11.0 / 4
    assert 0.3 < outcome.utilisation <= 1.0


def test_a_crash_at_every_commit_is_survived(make_policy):
    """Whether or not that commit reached the disk, and whether or not the members live on."""
    costs = CostModel.given(startup_s=1.0, step_s=0.5, steps=6, spread=0.2)

    def run(*crashes: Crash) -> VirtualStudy:
        study = VirtualStudy(make_policy(), costs, nodes=2, budget={"members": 6.0}, faults=Faults(crashes=crashes), seed=1)
        outcome = study.run(HORIZON_S)
        assert (outcome.state, outcome.counts["done"], outcome.steps) == ("done", 6, 36)
        assert outcome.controllers == 1 + len(crashes)
        return study

    commits = run().ledger.commits
    assert commits > 30
    for commit in range(commits):
        for durable in (False, True):
            if commit == commits - 1 and durable:
                continue  # the end of the study was written down: nothing is left to resume
            for adopt in (False, True):
                run(Crash(commit, durable, 5.0, adopt))


def test_a_full_disk_stops_the_study_and_leaves_nobody_behind(make_policy):
    costs = CostModel.given(steps=10)
    for commit in (0, 1, 5, 20):
        study = VirtualStudy(make_policy(), costs, budget={"members": 8.0}, faults=Faults(disk_full=commit))
        outcome = study.run(HORIZON_S)
        assert outcome.state == "failed"
        assert "disk is full" in outcome.reason
        assert not study.cluster.live
        assert fold(study.ledger.events).steps == study.ledger.total if commit else not study.ledger.events
        again = VirtualStudy(make_policy(), costs, budget={"members": 8.0}, faults=Faults(disk_full=commit, disk_freed_s=60.0))
        assert again.run(HORIZON_S).counts["done"] == 8


def crashing(make_policy) -> VirtualStudy:
    costs = CostModel.given(startup_s=1.0, step_s=10.0, steps=200, spread=0.0)
    crashes = tuple(Crash(30 + 40 * n, True, 1.0) for n in range(9))
    return VirtualStudy(make_policy(), costs, nodes=5, budget={"core_s": 1500.0}, faults=Faults(crashes=crashes), burst=1)


def test_a_crash_does_not_make_the_core_budget_leak(make_policy):
    """Controllers die again and again, each with members that nobody reports the cost of."""
    study = crashing(make_policy)
    outcome = study.run(HORIZON_S)
    assert outcome.controllers > 3
    assert outcome.core_s < 1500.0 + 5 * 3.0 * outcome.controllers


# --- a rig that finds nothing is worth nothing: each of these mutants must be caught --------------------------------


def found(study: VirtualStudy) -> str:
    with pytest.raises(PromiseBroken) as broken:
        study.run(5_000.0)
    return str(broken.value)


def small(make_policy, faults: Faults | None = None) -> VirtualStudy:
    costs = CostModel.given(startup_s=1.0, step_s=1.0, steps=10, fail=0.2)
    return VirtualStudy(make_policy(), costs, nodes=3, budget={"members": 12.0}, faults=faults, seed=3)


def test_mutant_launches_into_slots_that_are_not_there(make_policy, monkeypatch):
    study = small(make_policy)

    class Greedy:
        def capacity(self, state: StudyState) -> int:
            return 99

        def decide(self, state: StudyState, now: float) -> list[Launch]:
            return [Launch(m, "greed") for m in state.queue.first(99)]

    study.policy.launch = Greedy()  # type: ignore[assignment]
    assert "slots" in found(study)


def test_mutant_never_queues_the_lost_again(make_policy, monkeypatch):
    monkeypatch.setattr(Retry, "decide", lambda self, state, now: [])
    study = small(make_policy, Faults(preempt_s=10.0))
    monkeypatch.setattr(BudgetSpent, "verdict", lambda self, state, now: None)
    assert "nothing happens any more" in found(study)


def test_mutant_kills_without_a_reason(make_policy):
    study = small(make_policy)

    class Moody(NeverKill):
        def decide(self, state: StudyState, now: float) -> list[Kill]:
            return [Kill(r.id, r.attempt, "") for r in state.active.values() if r.steps and not r.kill]

    study.policy.kill = Moody()
    with pytest.raises(Exception, match="reason"):
        study.run(5_000.0)


@pytest.mark.parametrize("budget", [{"core_s": 300.0}, {"wall_s": 100.0}, {"steps": 30.0}])
def test_mutant_ignores_the_budget(make_policy, monkeypatch, budget):
    monkeypatch.setattr(BudgetSpent, "verdict", lambda self, state, now: None)
    study = VirtualStudy(make_policy(), CostModel.given(startup_s=1.0, step_s=10.0, steps=200), nodes=5, budget=budget)
    assert "after the budget was spent" in found(study)


def test_mutant_does_not_charge_for_what_died_with_the_controller(make_policy, monkeypatch):
    def forget(self, record):
        self._retire(record)
        self._move(record, record.state.LOST)
        record.adoptable = True
        self.lost.set(record.id, record.attempt)

    monkeypatch.setattr(StudyState, "_abandon", forget)
    assert "core-seconds were used" in found(crashing(make_policy))


def test_mutant_ledger_loses_a_commit(make_policy, monkeypatch):
    study = small(make_policy)
    append = study.ledger.append

    def leaky(happened):
        append(happened)
        for event in happened:
            if isinstance(event, ev.SamplesStored) and event.member == "m0002":
                study.ledger.stored[event.member] -= 1

    monkeypatch.setattr(study.ledger, "append", leaky)
    assert "m0002 has" in found(study)


def test_mutant_forgets_an_end(make_policy, monkeypatch):
    study = small(make_policy)
    classify = study.cluster._report

    def deaf(gone):
        if gone.member != "m0003":
            classify(gone)
        else:
            study.cluster.confirm(gone.member, gone.attempt)

    monkeypatch.setattr(study.cluster, "_report", deaf)
    assert "holds a slot and will never end" in found(study)


def test_a_broken_promise_names_its_seed_and_shows_its_trace(make_policy, monkeypatch):
    monkeypatch.setattr(BudgetSpent, "verdict", lambda self, state, now: None)
    study = VirtualStudy(make_policy(), CostModel.given(step_s=10.0, steps=200), budget={"wall_s": 100.0}, seed=3)
    told = found(study)
    assert told.startswith("seed 3, at ")
    assert "faults: none" in told
    assert "MemberLaunched member=" in told


# --- the cluster itself ------------------------------------------------------------------------------------------


def test_the_agenda_keeps_the_order_of_its_appointments():
    agenda, seen = Agenda(), []
    agenda.after(2.0, seen.append, "late")
    agenda.after(1.0, seen.append, "first")
    agenda.after(1.0, seen.append, "second")
    agenda.after(1.5, lambda: agenda.after(0.1, seen.append, "made on the way"))
    assert agenda.next() == 1.0
    agenda.run_until(1.7)
    assert seen == ["first", "second", "made on the way"]
    assert (agenda.now, agenda.pending) == (1.7, 1)
    agenda.run_until(9.0)
    assert (seen[-1], agenda.next()) == ("late", math.inf)


def test_members_beyond_the_slots_wait_and_a_lost_node_gives_none():
    agenda = Agenda()
    one = CostModel((Life(1.0, 1.0, 4),))
    cluster = Cluster(agenda, one, nodes=2, faults=Faults(nodes=(NodeLoss(0.5, 0, 10.0),)))
    for m in ("m0", "m1", "m2"):
        cluster.submit(m, 1)
    assert (cluster.busy, cluster.slots, cluster.audit()) == (2, 2, "")
    agenda.run_until(0.6)
    assert (cluster.slots, len(cluster.live)) == (1, 2)
    agenda.run_until(6.0)
    assert {(e.member, e.cause.value) for e in cluster.exits} == {("m0", "node lost")}
    cluster.acknowledge("m1", 1, 4)
    agenda.run_until(6.1)
    assert {e.member for e in cluster.exits} == {"m0", "m1"}
    assert cluster.live["m2", 1].node == 1
    agenda.run_until(11.0)
    assert (cluster.slots, cluster.audit()) == (2, "")


def test_a_deaf_member_needs_the_grace_and_a_waiting_one_just_leaves():
    agenda = Agenda()
    cluster = Cluster(agenda, CostModel((Life(1.0, 1.0, 100),)), nodes=1, faults=Faults(deaf=1.0))
    cluster.submit("m0", 1)
    cluster.submit("m1", 1)
    cluster.cancel("m0", 1)
    cluster.cancel("m1", 1)
    agenda.run_until(1.0)
    assert [e.member for e in cluster.exits] == ["m1"]
    agenda.run_until(3.0)
    assert [e.member for e in cluster.exits] == ["m1", "m0"]
    assert (cluster.busy, cluster.audit()) == (0, "")


def test_a_member_waits_while_its_window_is_full():
    agenda = Agenda()
    cluster = Cluster(agenda, CostModel((Life(0.0, 1.0, 100),)), nodes=1, burst=5, window=10)
    cluster.submit("m0", 1)
    agenda.run_until(14.0)
    assert cluster.live["m0", 1].produced == 10
    cluster.acknowledge("m0", 1, 10)
    agenda.run_until(19.5)
    assert cluster.live["m0", 1].produced == 15
