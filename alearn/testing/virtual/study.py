"""A study in virtual time: the real controller, driven as the study's loop drives it, on a virtual cluster.

``StudyState``, ``apply``, ``Policy.decide``, ``Retry.classify`` and the monitors are the real ones. The loop around
them keeps the order of ``alearn.arm``: take in, record, fold, decide, carry out; a crash or a full disk may come at
each commit.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from statistics import NormalDist
from zlib import crc32

import numpy as np

from alearn import events as ev
from alearn.controller import MonitorPanel, NeverKill, NonFinite, Policy, Retry, Stall, StudyState, apply, fold
from alearn.controller import decisions as do
from alearn.controller.member import Record
from alearn.controller.monitors import Factory
from alearn.errors import LaunchError, LedgerError
from alearn.launcher.virtual import END, GRACE_S, HELLO, Agenda, Cluster, CostModel, Faults, Word
from alearn.testing.virtual.ledger import ControllerDied, VirtualLedger
from alearn.testing.virtual.outcome import Outcome, line
from alearn.testing.virtual.witness import PromiseBroken, Witness
from alearn.types import Exit, ExitCause, MemberState, Sample, copied_member, copy_name, member_id

START = 1.7e9
"""When virtual studies begin, Unix s."""
TAIL_S = 1.0
ADOPT_S = 5.0
PERSON_S = 60.0
"""How long a paused study waits for a person."""
PERSON_TRIES = 5
TRACE_KEPT = 400
MONITORS: Mapping[str, Factory] = {"nonfinite": NonFinite, "stall": lambda: Stall(at_least_s=30.0, first_s=300.0)}
_NORMAL = NormalDist()
_NAN = {"u": np.array(math.nan)}
_FINE = {"u": np.array(0.0)}


class VirtualStudy:
    """One study on a virtual cluster.

    Args:
        policy: the real policy.
        costs: what members and learner cost.
        nodes, slots_per_node: the cluster.
        budget: limits as in ``StudyStarted``.
        faults: what goes wrong.
        seed: of everything that is drawn.
        turn_s: how long one turn of the loop takes, virtual s; what comes meanwhile waits for the next.
        heartbeat_s: the loop turns at least this often, virtual s.
        burst: time steps that travel together.
        check: whether a witness checks the promises after every event.
        keep: whether the ledger keeps the events (needed for crashes).
        monitors: by name, what makes a monitor; NaN and silence by default, none if empty.
        tell: called with every line of the trace.
    """

    def __init__(
        self, policy: Policy, costs: CostModel, *, nodes: int = 4, slots_per_node: int = 1, budget: Mapping[str, float],
        faults: Faults | None = None, seed: int = 0, turn_s: float = 0.0, heartbeat_s: float = 1.0, burst: int = 5, check: bool = True,
        keep: bool = True, monitors: Mapping[str, Factory] | None = None, tell: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.policy, self.costs, self.seed, self.budget = policy, costs, seed, dict(budget)
        self.faults = faults or Faults()
        self.turn_s, self.heartbeat_s = turn_s, heartbeat_s
        self.agenda = Agenda(START)
        self.cluster = Cluster(self.agenda, costs, nodes=nodes, slots_per_node=slots_per_node, faults=self.faults, seed=seed, burst=burst)
        self.ledger = VirtualLedger(self.faults, keep)
        self.witness = Witness(self.cluster, self.ledger) if check else None
        self.rng = Random(seed * 2)
        self.controllers = self.turns = 0
        self.state = StudyState()
        self.trace: deque[str] = deque(maxlen=TRACE_KEPT)
        self._tell = tell
        self._tracing = check or tell is not None
        self._makers = dict(MONITORS if monitors is None else monitors)
        self._judging = not isinstance(policy.kill, NeverKill)
        retry = policy.failure
        assert isinstance(retry, Retry)
        self._retry = retry
        self._persons = 0
        self._capacity_s = self._unwatched_s = 0.0
        self._capacity_at = START
        self._capacity = self.cluster.slots
        self._fresh_controller()
        self.agenda.after(heartbeat_s, self._beat, idle=True)

    def _fresh_controller(self) -> None:
        """Nothing in memory but what the ledger has."""
        self.controllers += 1
        self.panel = MonitorPanel(self._makers)
        self.alarms: dict[str, ev.MonitorAlarm] = {}
        self._exits: dict[tuple[str, int], tuple[Exit, float]] = {}
        self._open: dict[tuple[str, int], bool] = {}
        self._asked: set[str] = set()
        self._answers: list[Callable[[], None]] = []
        self._learner_free = 0.0
        self._unjudged: dict[str, None] = {}
        self._checked_at = self._decide_after = self.agenda.now

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self, horizon_s: float = math.inf) -> Outcome:
        """Run until the study ends; whatever goes wrong, as a user would see it go.

        Args:
            horizon_s: virtual seconds after which it counts as hanging.

        Raises:
            PromiseBroken: a promise does not hold; the message ends with the last lines of the trace.
        """
        try:
            return self._run(horizon_s)
        except (AssertionError, LookupError, ValueError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> PromiseBroken:
        tail = "\n  ".join(list(self.trace)[-30:])
        return PromiseBroken(
            f"seed {self.seed}, at {self.agenda.now - START:.3f} s: {error}\nfaults: {self.faults.told()}\nlast:\n  {tail}"
        )

    def _run(self, horizon_s: float) -> Outcome:
        while True:
            try:
                self._begin()
                stuck = self._loop(horizon_s)
            except ControllerDied as died:
                self._note(str(died))
                silence = self.agenda.now - self.state.at if self.state.started else 0.0
                self._unwatched_s += silence + died.crash.down_s * died.crash.adopt
                self.cluster.deserted(died.crash.adopt)
                self._return(died.crash.down_s, died.crash.adopt)
                continue
            except LedgerError as error:
                self._note(str(error))
                self.cluster.deserted(adopt=False)  # the loop's ``finally``: whatever happens, no member is left behind
                if self.faults.disk_freed_s >= 0 and self.ledger.full:
                    self.ledger.full = False
                    self._return(self.faults.disk_freed_s, adopt=False)
                    continue
                self._require(not self.cluster.live, "members run on although the ledger takes no writes")
                self._count_capacity()
                return self._outcome("failed", str(error), self.agenda.now)
            return self._close(stuck)

    def _return(self, down_s: float, adopt: bool) -> None:
        """Time passes without a controller; then a new one reads the ledger."""
        self.agenda.run_until(self.agenda.now + down_s)
        self._fresh_controller()
        if not adopt:
            self.cluster.sweep()
        self.cluster.attended()
        if adopt:
            self._decide_after = self.agenda.now + ADOPT_S

    def _begin(self) -> None:
        self.state = StudyState()
        for number, event in enumerate(self.ledger.events):
            apply(self.state, event)
            if self.witness and number >= self.witness.seen:  # the commit reached the disk, and its controller died of it
                self._note(f"{line(event)} (found in the ledger)")
                self.witness.event(event, self.state)
        at = self.agenda.now
        if not self.state.started:
            self._record(ev.StudyStarted(at=at, study="virtual", arm="active", seed=self.seed, budget=self.budget))
        else:
            self._record(ev.StudyResumed(at=at))
            if self._decide_after <= at:
                for r in self.state.adoptable:
                    if r.kill:
                        how = "failed" if r.kill_fault else "killed"
                        self._record(
                            ev.MemberEnded(at=at, member=r.id, attempt=r.attempt, state=how, reason=r.kill, cause=r.kill_cause or how)
                        )
            if self.state.paused:
                self.agenda.after(PERSON_S, self._person, self.controllers)
            for r in self.state.adoptable:  # a batch system knows which of them it still has
                if (r.id, r.attempt) in self.cluster.live:
                    self._adopt(r)
            for m, attempt in list(self.cluster.live):
                if copied_member(m) is not None:  # that of the controller before
                    self.cluster.cancel(m, attempt)
        self._acted = True

    def _loop(self, horizon_s: float) -> str:
        idle = 0
        patience = (6000 if self.faults.hang else 400) + math.ceil(min(self.budget.get("wall_s", 0.0), 1e6) / self.heartbeat_s)
        next_turn = self.agenda.now
        while not self.state.ended:
            before = self.state.events
            self.agenda.run_until(max(self.agenda.next(), next_turn))
            self._turn()
            next_turn = self.agenda.now + self.turn_s
            idle = idle + 1 if self.state.events == before and not self.agenda.pending else 0
            if idle > patience:
                return self._explain_standstill()
            if self.agenda.now - START > horizon_s:
                self._require(False, f"the study has not ended after {horizon_s:g} virtual seconds")
        return ""

    def _explain_standstill(self) -> str:
        """Why nothing happens any more; only a fault is an excuse."""
        if self.cluster.slots == 0:
            return "no node is left"
        if self.state.active and self.faults.hang and "stall" not in self._makers:
            return "members hang, and nothing watches for silence"
        self._require(False, f"nothing happens any more: {dict(self.state.counts)}, paused {self.state.paused!r}, asked {self._asked}")
        return ""

    def _turn(self) -> None:
        self.turns += 1
        if self.cluster.slots != self.state.slots:
            self._capacity_changed()
        self._receive()
        self._collect()
        self._watch()
        if self.agenda.now >= self._decide_after and not self.state.ended:
            if self.witness:
                self.witness.overrun(self.state, self.agenda.now, self.heartbeat_s + 2 * self.turn_s + GRACE_S + ADOPT_S)
                if self.turns % 8 == 0:
                    self.witness.compare(self.state)
                    self.witness.slots(self.state, set(self._exits))
            for decision in self.policy.decide(self.state, self.agenda.now):
                self._act(decision)
            self._judge()

    def _close(self, stuck: str) -> Outcome:
        """As the loop's ``_close``: end what runs, keep what it streamed, write down how it ended."""
        self._count_capacity()
        over_at = self.agenda.now
        for key in list(self.cluster.live):
            self.cluster.cancel(*key)
        self.agenda.run_until(self.agenda.now + 60.0)
        while self.cluster.delayed:
            self.agenda.run_until(self.agenda.next())
        try:
            self._receive()
            self._collect(final=True)
        except (ControllerDied, LedgerError) as error:
            return self._outcome(self.state.end_state or "stuck", f"{self.state.ended or stuck} ({error})", over_at)
        if self.witness:
            left = self.state.lost.below(self._retry.max_attempts)
            early = bool(left) and self.state.end_state == "done" and self.state.ended.endswith(("members is spent", "another member"))
            self._require(not early, f"the study ended although {left} could be tried again")
            each = self.heartbeat_s + 2 * self.turn_s + GRACE_S + ADOPT_S
            self.witness.end(self.state, self.cluster.nodes * self.cluster.slots_per_node * (self.controllers * each + self._unwatched_s))
            if not stuck:
                again = fold(self.ledger.events)
                self._require(
                    again.counts == self.state.counts and again.steps == self.state.steps, "the events tell another story than the state"
                )
        return self._outcome(self.state.end_state or "stuck", self.state.ended or stuck, over_at)

    def _outcome(self, how: str, reason: str, over_at: float) -> Outcome:
        s = self.state
        return Outcome(
            how, reason, over_at - START, self.cluster.busy_s, self.cluster.core_s,
            self.cluster.busy_s / self._capacity_s if self._capacity_s else 0.0,
            {k.value: n for k, n in s.counts.items()}, s.launched_total, s.steps, s.saved_steps, s.events, self.turns, self.controllers,
            s.rounds, s.refits, dict(s.evaluations[-1].error) if s.evaluations else {},
        )  # fmt: skip

    # --- facts --------------------------------------------------------------------------------------------------

    def _require(self, true: bool, what: str) -> None:
        if not true:
            raise PromiseBroken(what)

    def _note(self, line: str) -> None:
        if self._tracing:
            line = f"{self.agenda.now - START:12.3f}  {line}"
            self.trace.append(line)
            if self._tell:
                self._tell(line)

    def _record(self, *happened: ev.Event) -> None:
        """Make facts durable, then fold them."""
        self.ledger.append(happened)
        self._fold(*happened)

    def _fold(self, *happened: ev.Event) -> None:
        for event in happened:
            if self._tracing:
                self._note(line(event))
            apply(self.state, event)
            if self.witness:
                self.witness.event(event, self.state)

    def _count_capacity(self) -> None:
        now = self.agenda.now
        self._capacity_s += self._capacity * (now - self._capacity_at)
        self._capacity_at, self._capacity = now, self.cluster.slots

    def _capacity_changed(self) -> None:
        self._count_capacity()
        self._record(ev.CapacityChanged(at=self.agenda.now, slots=self.cluster.slots))

    def _beat(self) -> None:
        self.agenda.after(self.heartbeat_s, self._beat, idle=True)

    def _receive(self) -> None:
        words, self.cluster.inbox = self.cluster.inbox, []
        batch = []
        heard: dict[tuple[str, int], int] = {}
        for word in words:
            of = copied_member(word.member)
            if word.kind == HELLO:
                self._welcome(word)
            elif word.kind == END:
                self._open[word.member, word.attempt] = False
            elif self._sound(word):
                heard[word.member, word.attempt] = word.first + word.n
                batch.append(word if of is None else dataclasses.replace(word, member=of))
        if batch:
            self._fold(*self.ledger.store(batch, self.agenda.now))
            for (m, attempt), upto in heard.items():
                self._acknowledge(m, attempt, upto)
                if self._judging:
                    self._unjudged[copied_member(m) or m] = None

    def _copies(self, of: str, attempt: int) -> bool:
        """Whether the copy of this attempt runs and is wanted."""
        copy, r = self.state.copies.get(of), self.state.active.get(of)
        return copy is not None and copy.attempt == attempt and not copy.cut and r is not None and r.attempt == attempt

    def _acknowledge(self, member: str, attempt: int, upto: float = math.inf) -> None:
        steps = int(min(upto, self.ledger.stored.get(copied_member(member) or member, 0)))
        if self.witness:
            self.witness.acknowledged(member, steps)
        self.cluster.acknowledge(member, attempt, steps)

    def _welcome(self, word: Word) -> None:
        at, key = self.agenda.now, (word.member, word.attempt)
        self._open[key] = True
        if self._makers:
            self.panel.started(*key, at)
        of = copied_member(word.member)
        r = self.state.records.get(of or word.member)
        total = self.costs.draw(self.seed, of or word.member).steps if self.costs.announced else 0
        mine = r is not None and r.attempt == word.attempt and r.state.active and (of is None or self._copies(of, word.attempt))
        if r is not None and mine and (r.state is MemberState.STARTING or (total and not r.steps_total)):
            self._record(ev.MemberRunning(at=at, member=r.id, attempt=word.attempt, steps_total=total))
        elif not mine:
            self.cluster.cancel(*key)  # a late writer of an attempt that was given up
        self._acknowledge(*key)

    def _adopt(self, r: Record) -> None:
        self._record(ev.MemberRunning(at=self.agenda.now, member=r.id, attempt=r.attempt))
        if r.kill:  # the order to end it may have died with the controller
            self.cluster.cancel(r.id, r.attempt)

    def _sound(self, word: Word) -> bool:
        of = copied_member(word.member)
        if (of or word.member) in self.alarms or (of is not None and not self._copies(of, word.attempt)):
            return False
        if not self._makers:
            return True
        sample = Sample(word.member, word.attempt, word.first + word.n - 1, 0.0, {}, _NAN if word.poison else _FINE)
        alarm = self.panel.see(sample, self.agenda.now)
        if alarm is None:
            return True
        if of is not None:
            self._cut(of, word.attempt, alarm.reason)
        else:
            self._alarm(alarm)
        return False

    def _alarm(self, alarm: ev.MonitorAlarm) -> None:
        if alarm.member not in self.alarms:
            self.alarms[alarm.member] = alarm
            self._record(alarm)

    def _watch(self) -> None:
        now = self.agenda.now
        if now - self._checked_at < self.heartbeat_s or "stall" not in self._makers:
            return
        self._checked_at = now
        for alarm in self.panel.check(now):
            of = copied_member(alarm.member)
            if of is not None and of in self.state.copies:
                self._cut(of, self.state.copies[of].attempt, alarm.reason)
            elif of is None and not ((r := self.state.active.get(alarm.member)) and (r.won or self._copies(r.id, r.attempt))):
                self._alarm(alarm)

    def _collect(self, final: bool = False) -> None:
        now = self.agenda.now
        for gone in self.cluster.exits:
            self._exits[gone.member, gone.attempt] = (gone, now)
        self.cluster.exits = []
        for key, (gone, since) in list(self._exits.items()):
            if self._open.get(key, False) and not final and now - since < TAIL_S:
                self.agenda.after(TAIL_S - (now - since), _wake)
                continue
            if (of := copied_member(gone.member)) is not None:
                del self._exits[key]
                self._copy_ended(of, gone)
                continue
            how, reason, cause = self._verdict(gone)
            r = self.state.active.get(gone.member)
            if how in ("lost", "failed") and r is not None and not r.kill and not final and self._copies(*key):
                self.agenda.after(TAIL_S, _wake)  # its copy may yet be done
                continue
            del self._exits[key]
            self._open.pop(key, None)
            self._ended(gone.member, gone.attempt, how, reason, cause, gone.core_s, gone.wall_s)
        answers, self._answers = self._answers, []
        if not self.state.ended:
            for answer in answers:
                answer()

    def _ended(self, m: str, attempt: int, how: str, reason: str, cause: str, core_s: float = 0.0, wall_s: float = 0.0) -> None:
        self.panel.forget(m, attempt)
        self._unjudged.pop(m, None)
        at = self.agenda.now
        self._record(ev.MemberEnded(at=at, member=m, attempt=attempt, state=how, reason=reason, cause=cause, core_s=core_s, wall_s=wall_s))
        self.cluster.confirm(m, attempt)

    def _cut(self, m: str, attempt: int, why: str) -> None:
        if self._copies(m, attempt) or not self.state.copies[m].cut:
            self._record(ev.CopyCut(at=self.agenda.now, member=m, attempt=attempt, reason=why))
            self.cluster.cancel(copy_name(m), attempt)

    def _copy_ended(self, m: str, gone: Exit) -> None:
        """A copy is over; what it streamed is stored before that, so that one which is done makes its member done."""
        key = (gone.member, gone.attempt)
        self.panel.forget(*key)
        self._open.pop(key, None)
        how = "done" if gone.cause is ExitCause.DONE and self._copies(m, gone.attempt) else "lost"
        copy = self.state.copies.get(m)
        if copy is not None and copy.attempt == gone.attempt:
            end = ev.CopyEnded(at=self.agenda.now, member=m, attempt=gone.attempt, state=how, core_s=gone.core_s, wall_s=gone.wall_s)
            self._record(end)
        self.cluster.confirm(*key)

    def _verdict(self, gone: Exit) -> tuple[str, str, str]:
        r = self.state.records.get(gone.member)
        alarm = self.alarms.get(gone.member)
        if r is None or r.attempt != gone.attempt:
            return "lost", "its attempt was over before", gone.cause.value
        if alarm is not None and not r.won:
            return ("failed" if alarm.fault else "killed"), alarm.reason, alarm.monitor
        if gone.cause is ExitCause.CANCELLED and self.state.ended and not r.kill:
            return "lost", f"the study ended while it ran ({self.state.ended})", gone.cause.value
        state, reason, cause = self._retry.classify(gone, r)
        return state.value, reason, cause

    # --- decisions ----------------------------------------------------------------------------------------------

    def _act(self, d: do.Decision) -> None:
        at, s = self.agenda.now, self.state
        match d:
            case do.Launch(member=m):
                self._launch(m)
            case do.Kill():
                self._record(
                    ev.KillRequested(
                        at=at, member=d.member, attempt=d.attempt, reason=d.reason, saved_steps=d.saved_steps, fault=d.fault, cause=d.cause
                    )
                )
                self.cluster.cancel(d.member, d.attempt)
            case do.Duplicate(member=m, reason=why):
                attempt = s.active[m].attempt
                self._record(ev.CopyLaunched(at=at, member=m, attempt=attempt, reason=why))
                try:
                    self.cluster.submit(copy_name(m), attempt)
                except LaunchError as error:
                    self._record(ev.CopyEnded(at=at, member=m, attempt=attempt, state="failed", reason=str(error)))
            case do.Cut(member=m, attempt=attempt, reason=why):
                self._cut(m, attempt, why)
            case do.Spare(member=m, reason=why):
                self._record(ev.GhostSpared(at=at, member=m, step=s.active[m].steps, reason=why))
            case do.Requeue(member=m, reason=why):
                self._record(ev.MemberRequeued(at=at, member=m, attempt=s.records[m].attempt, reason=why))
            case do.Withdraw(member=m, reason=why):
                self._record(ev.MemberRescored(at=at, member=m, score=0.0, withdrawn=True, why=why))
            case do.Acquire():
                self._acquire(d)
            case do.Refit() | do.Evaluate():
                final = isinstance(d, do.Refit) and d.last
                seconds = self.costs.learner.final_s if final else self.costs.learner.refit_s
                self._ask("measure", seconds, self._measured, s.steps, s.with_data, final)
            case do.Checkpoint():
                self._ask("save", self.costs.learner.snapshot_s, self._saved)
            case do.Pause(reason=why):
                self._record(ev.StudyPaused(at=at, reason=why))
                self.agenda.after(PERSON_S, self._person, self.controllers)
            case do.Stop(state=how, reason=why):
                self._record(ev.StudyEnded(at=at, state=how, reason=why))

    def _launch(self, m: str) -> None:
        attempt = self.state.records[m].attempt + 1
        self.alarms.pop(m, None)
        self._record(ev.MemberLaunched(at=self.agenda.now, member=m, attempt=attempt))
        try:
            self.cluster.submit(m, attempt)
        except LaunchError as error:
            self._ended(m, attempt, "failed", str(error), "launch")

    def _person(self, controller: int) -> None:
        """Somebody looks at a paused study: lets it go on a few times, then stops it."""
        if controller != self.controllers or not self.state.paused:
            return
        self._persons += 1
        go_on = self._persons <= PERSON_TRIES
        self._answers.append(lambda: self._decided(go_on))

    def _decided(self, go_on: bool) -> None:
        at = self.agenda.now
        self._record(
            ev.StudyContinued(at=at) if go_on else ev.StudyEnded(at=at, state="stopped", reason="stopped by the user: it stays broken")
        )

    # --- the learner --------------------------------------------------------------------------------------------

    def _ask(self, kind: str, seconds: float, answer: Callable[..., None], *args: object) -> None:
        """One question of a kind at a time, one after the other, as the learner's thread does."""
        if kind in self._asked:
            return
        self._asked.add(kind)
        now = self.agenda.now
        self._learner_free = max(now, self._learner_free) + seconds
        self.agenda.after(self._learner_free - now, self._answered, self.controllers, kind, answer, args)

    def _answered(self, controller: int, kind: str, answer: Callable[..., None], args: tuple[object, ...]) -> None:
        if controller != self.controllers:
            return  # that learner died with its controller

        def take() -> None:
            self._asked.discard(kind)
            answer(*args)

        self._answers.append(take)

    def _measured(self, steps: int, members: int, final: bool) -> None:
        at, error = self.agenda.now, self.costs.learner.error(steps)
        self._record(
            ev.Refitted(at=at, updates=self.state.updates + 100, samples=steps, seconds=self.costs.learner.refit_s, last=final),
            ev.Evaluated(at=at, simulated_steps=steps, members=members, error=error, prequential=error),
        )

    def _saved(self) -> None:
        self._record(ev.SnapshotWritten(at=self.agenda.now, name="virtual", updates=self.state.updates))

    def _acquire(self, wish: do.Acquire) -> None:
        if wish.origin == "design" or not self.state.steps:
            self._queue(0, wish.q, wish.q, "design")
        else:
            q = wish.q - wish.holdout
            self._ask("propose", self.costs.learner.acquire_s * q, self._chosen, self.state.rounds + 1, wish.q, wish.holdout)

    def _chosen(self, number: int, q: int, holdout: int) -> None:
        self._queue(number, q, holdout, "holdout")

    def _queue(self, number: int, q: int, first_n: int, origin: str) -> None:
        at, first = self.agenda.now, self.state.queued_total
        queued: list[ev.Event] = []
        for i in range(q):
            chosen = i >= first_n
            score = self.rng.random() if chosen else math.nan
            how = "acquisition" if chosen else origin
            queued.append(ev.MemberQueued(at=at, member=member_id(first + i), parameters={}, x=(), origin=how, score=score, round=number))
        self._record(ev.RoundDecided(at=at, round=number, q=q, acquisition="virtual", seconds=self.costs.learner.acquire_s * q), *queued)

    def _judge(self) -> None:
        """Score the running members that made new steps since they were scored last."""
        if not self._unjudged or not self.state.updates or "judge" in self._asked or self.state.ended:
            return
        active = self.state.active
        asked = [
            (m, r.steps, self.state.length(r))
            for m in self._unjudged
            if (r := active.get(m)) and r.state is MemberState.RUNNING and r.steps
        ]
        self._unjudged = {}
        if asked:
            self._ask("judge", self.costs.learner.judge_s * len(asked), self._judged, asked)

    def _judged(self, asked: list[tuple[str, int, float]]) -> None:
        at, value, active = self.agenda.now, self.costs.value, self.state.active
        scores: list[ev.Event] = []
        for m, steps, length in asked:
            if m in active:
                z = _NORMAL.inv_cdf((crc32(f"{self.seed}:value:{m}".encode()) + 0.5) / 2**32)
                ratio = value.ratio(min(1.0, steps / max(1.0, length)), z, self.rng.gauss(0.0, 1.0))
                left = max(0, round(length) - steps)
                scores.append(ev.MemberScored(at=at, member=m, step=steps - 1, remaining_value=ratio, best_value=1.0, remaining_steps=left))
        if scores:
            self._record(*scores)


def _wake() -> None:
    """The loop turns because time has passed."""
