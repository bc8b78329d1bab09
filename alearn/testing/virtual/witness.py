"""The promises of the controller, checked after every event of a virtual study, by book-keeping of its own."""

from __future__ import annotations

import math
from collections import Counter

from alearn import events as ev
from alearn.controller import StudyState
from alearn.launcher.virtual import Cluster
from alearn.testing.virtual.ledger import VirtualLedger
from alearn.types import MemberState, copied_member, copy_name

LIVE = ("starting", "running")


class PromiseBroken(AssertionError):
    """A virtual study did what a study must never do."""


class Witness:
    """Follows a study's events and compares.

    Args:
        cluster: the world, which knows what really runs.
        ledger: what is durable.
    """

    def __init__(self, cluster: Cluster, ledger: VirtualLedger) -> None:
        self.cluster, self.ledger = cluster, ledger
        self.lives: dict[str, str] = {}
        self.tally: Counter[str] = Counter()
        self.acked: dict[str, int] = {}
        self.kills: dict[tuple[str, int], str] = {}
        self.launched: set[str] = set()
        self.copied: set[tuple[str, int]] = set()
        self.budget: dict[str, float] = {}
        self.spent_at = math.nan
        self.spent_with = 0
        self.seen = self.steps = 0

    def require(self, true: bool, what: str) -> None:
        """Raise if a promise does not hold.

        Raises:
            PromiseBroken: it does not.
        """
        if not true:
            raise PromiseBroken(what)

    def acknowledged(self, member: str, steps: int) -> None:
        """The writer was told that these steps are safe."""
        member = copied_member(member) or member
        self.require(
            steps <= self.ledger.stored.get(member, 0),
            f"{steps} steps of {member} were acknowledged, {self.ledger.stored.get(member, 0)} are stored",
        )
        self.acked[member] = max(steps, self.acked.get(member, 0))

    def event(self, e: ev.Event, state: StudyState) -> None:
        """Look at the state right after an event."""
        self.seen += 1
        self._follow(e, state)
        counts = {s.value: n for s, n in state.counts.items() if n}
        mine = {s: n for s, n in self.tally.items() if n}
        self.require(counts == mine, f"the counts are {counts}, the events say {mine}")
        self.require(sum(state.counts.values()) == state.queued_total, "the counts do not add up to the members that were queued")
        active = state.counts[MemberState.STARTING] + state.counts[MemberState.RUNNING]
        self.require(len(state.active) == active, f"{len(state.active)} members are active, {active} are counted")
        self.require(len(state.queue) == state.counts[MemberState.QUEUED], "the queue and the count of the queued differ")
        self.require(len(state.lost) == state.counts[MemberState.LOST], "the lost and their count differ")
        self.require(state.steps == self.steps, f"{state.steps} time steps are counted, the commits have {self.steps}")
        self._budget(e, state)

    def _move(self, member: str, to: str) -> None:
        was = self.lives.get(member)
        if was is not None:
            self.tally[was] -= 1
        self.lives[member] = to
        self.tally[to] += 1

    def _follow(self, e: ev.Event, state: StudyState) -> None:
        match e:
            case ev.StudyStarted() | ev.BudgetChanged():
                self.budget.update(e.budget)
                self.spent_at = math.nan
            case ev.StudyResumed():
                self.spent_at = math.nan  # nobody could act on it until now
                for m, life in list(self.lives.items()):
                    if life in LIVE:
                        self._move(m, "lost")
            case ev.MemberQueued():
                self.require(e.member not in self.lives, f"{e.member} was queued twice")
                self._move(e.member, "queued")
            case ev.MemberRescored(withdrawn=True):
                self._move(e.member, "killed")
            case ev.MemberRequeued():
                self._move(e.member, "queued")
            case ev.MemberLaunched():
                self.require(self.lives[e.member] == "queued", f"{e.member} was launched while {self.lives[e.member]}")
                self.require(
                    state.slots is None or state.busy <= state.slots,
                    f"{state.busy} members and copies were launched into {state.slots} slots",
                )
                self.launched.add(e.member)
                self._move(e.member, "starting")
            case ev.MemberRunning():
                record = state.records.get(e.member)
                if record is not None and record.attempt == e.attempt and record.state is MemberState.RUNNING:
                    self._move(e.member, "running")
            case ev.KillRequested():
                self.require(bool(e.reason), f"{e.member} is to be killed without a reason")
                self.require((e.member, e.attempt) not in self.kills, f"the kill of {e.member} was asked for twice")
                self.kills[e.member, e.attempt] = e.reason
            case ev.MemberEnded():
                look = state.look(e.member)
                if look.attempt == e.attempt and look.state.value == e.state and self.lives[e.member] != e.state:
                    self.require(e.state != "killed" or bool(e.reason), f"{e.member} was killed and nobody says why")
                    self._move(e.member, e.state)
                    self.cluster.confirm(e.member, e.attempt)
            case ev.CopyLaunched():
                self.require(self.lives[e.member] in LIVE, f"{e.member} was copied while {self.lives[e.member]}")
                self.require(state.slots is None or state.busy <= state.slots, f"{e.member} was copied although no slot was free")
                self.require((e.member, e.attempt) not in self.copied, f"attempt {e.attempt} of {e.member} was copied twice")
                self.copied.add((e.member, e.attempt))
            case ev.CopyEnded():
                self.cluster.confirm(copy_name(e.member), e.attempt)
            case ev.SamplesStored():
                self.steps += e.steps
                have = state.look(e.member).steps
                self.require(
                    have == self.ledger.stored[e.member], f"{e.member} has {have} steps, {self.ledger.stored[e.member]} are stored"
                )

    def _budget(self, e: ev.Event, state: StudyState) -> None:
        members = self.budget.get("members", math.inf)
        self.require(len(self.launched) <= members, f"{len(self.launched)} members were launched, the budget is {members:g}")
        if not self._spent(state, e.at):
            self.spent_at = math.nan  # an estimate of core-seconds may come down again when members end
        elif math.isnan(self.spent_at):
            self.spent_at, self.spent_with = e.at, state.steps
        elif isinstance(e, ev.MemberLaunched):
            self.require(e.at <= self.spent_at, f"{e.member} was launched {e.at - self.spent_at:.3g} s after the budget was spent")

    def _spent(self, state: StudyState, now: float) -> bool:
        """Whether a hard limit is reached."""
        limits = self.budget
        return (
            state.steps >= limits.get("steps", math.inf)
            or state.core_seconds(now) >= limits.get("core_s", math.inf)
            or state.wall_clock(now) >= limits.get("wall_s", math.inf)
        )

    def overrun(self, state: StudyState, now: float, allowed_s: float) -> None:
        """Nothing runs on when a hard limit was reached ``allowed_s`` ago: a turn of the loop, and the grace of the deaf."""
        if not self._spent(state, now):
            self.spent_at = math.nan
            return
        if math.isnan(self.spent_at):
            self.spent_at, self.spent_with = now, state.steps
        elif now > self.spent_at + allowed_s + 1e-6:
            running = sorted(self.cluster.live)
            self.require(not running, f"{running} still run {now - self.spent_at:.3g} s after the budget was spent")

    def compare(self, state: StudyState) -> None:
        """Everything against everything: state, ledger and cluster."""
        cluster = self.cluster
        self.require(not (wrong := cluster.audit()), f"the cluster's slots do not add up: {wrong}")
        total = 0
        for member, steps in self.ledger.stored.items():
            self.require(state.look(member).steps == steps, f"{member} has {state.look(member).steps} steps, {steps} are stored")
            self.require(
                steps >= self.acked.get(member, 0), f"{member} lost acknowledged steps: {self.acked.get(member, 0)} against {steps}"
            )
            total += steps
        self.require(total == state.steps == self.ledger.total, f"{state.steps} time steps are counted, the members have {total}")
        for member, life in self.lives.items():
            self.require(state.look(member).state.value == life, f"{member} is {state.look(member).state}, the events say {life}")

    def slots(self, state: StudyState, on_its_way: set[tuple[str, int]]) -> None:
        """No slot is held by something that will never end, and nothing runs behind the controller's back.

        Args:
            state: between two turns of the loop.
            on_its_way: attempts whose end was heard of and is about to be recorded.
        """
        cluster = self.cluster
        for r in state.active.values():
            key = (r.id, r.attempt)
            self.require(cluster.knows(*key) or key in on_its_way, f"attempt {r.attempt} of {r.id} holds a slot and will never end")
        for m, copy in state.copies.items():
            key = (copy_name(m), copy.attempt)
            self.require(
                cluster.knows(*key) or key in on_its_way, f"the copy of attempt {copy.attempt} of {m} holds a slot and will never end"
            )
        for (m, attempt), a in cluster.live.items():
            of = copied_member(m)
            look = state.look(of or m)
            mine = m in state.active and look.attempt == attempt
            if of is not None:
                mine = of in state.copies and state.copies[of].attempt == attempt
            self.require(mine or a.cancelled, f"attempt {attempt} of {m} runs, and the controller thinks that it is {look.state}")

    def end(self, state: StudyState, allowed_core_s: float) -> None:
        """The study is over, and what it really used is within its budget and what may be used before a kill bites."""
        used, limit = self.cluster.core_s, self.budget.get("core_s", math.inf)
        self.require(used <= limit + allowed_core_s, f"{used:.4g} core-seconds were used, the budget is {limit:.4g}")
        self.compare(state)
        self.require(not self.cluster.live, f"{len(self.cluster.live)} members run on after the end")
        for member, life in self.lives.items():
            self.require(life not in LIVE, f"{member} is still {life} after the end")
