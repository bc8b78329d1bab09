"""One arm of a study: the loop. This file is the picture of DESIGN's "way of the data" in code.

::

    simulation -> transport -> ledger -> learner          (receive)
    launcher, learner, user -> facts                      (collect, steer)
    facts -> state -> policy -> decisions -> the world    (decide, act)
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alearn import events as ev
from alearn.acquisition.base import Selection
from alearn.assembly import Rooms
from alearn.chronicle import Chronicle
from alearn.controller import StudyState
from alearn.controller import decisions as do
from alearn.controller.member import Record
from alearn.controller.turns import take_turns
from alearn.copies import Copies
from alearn.errors import DeadlineExceeded, LaunchError, SchemaError, StudyFailed
from alearn.launcher import Adopting, past_exit, sweep
from alearn.learner import Answer, Gone, Hold, Judge, Measure, Measured, Propose, Rescore, RunningMember, Save, Stored
from alearn.ledger import Ledger, SampleRefused
from alearn.placement import Learning, open_learner, wait
from alearn.slots import resize
from alearn.steering import commands
from alearn.transport.base import Broken, End, Hello, Steered, Steering
from alearn.types import Exit, MemberState, Sample, copied_member, member_id
from alearn.verdict import verdict

log = logging.getLogger(__name__)

Point = tuple[tuple[float, ...], str, float, str]
"""A chosen point: in the unit cube, its origin, its score, and why."""

JUDGE_EVERY_S = 0.05
STEER_EVERY_S = 0.5
SAVE_S = 20.0
CUT_S = 2.0
"""How long a member may take to end whose stream cannot be mended."""
STREAM_TAIL_S = 1.0
"""How long an ended member's last bytes are waited for."""


class Arm:
    """Runs one arm of a study in its directory until it ends.

    Args:
        rooms: everything the loop connects, made from the configuration.
        ledger: the arm's open ledger.
        directory: the arm's directory.
        root: the study's directory, where the user drops commands.
        show: called at every turn with this arm (the view and status.json live behind it).
        interrupted: tells that the user asked to stop.
    """

    def __init__(
        self,
        rooms: Rooms,
        ledger: Ledger,
        directory: Path,
        root: Path,
        show: Callable[[Arm], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rooms = rooms
        self.ledger = ledger
        self.directory = directory
        self._root = root
        self._chronicle = Chronicle(ledger)
        self._copies = Copies(rooms, self._chronicle, directory)
        self.learner: Learning | None = None
        self._show = show
        self._interrupted = interrupted
        self._asked: set[type] = set()
        self._exits: dict[tuple[str, int], tuple[Exit, float]] = {}
        self._streams: dict[tuple[str, int], End | Broken | None] = {}
        self._cut: dict[tuple[str, int], float] = {}
        self._faults: dict[str, ev.MonitorAlarm] = {}
        self._judged_at = self._steered_at = 0.0
        self._holdout = self._snapshotted = 0
        self.news: deque[tuple[str, str, str, int]] = deque(maxlen=32)
        self._sealing: threading.Thread | None = None

    @property
    def state(self) -> StudyState:
        """What the policy decides from."""
        return self._chronicle.state

    # --- the loop --------------------------------------------------------------------------------------------

    def run(self) -> StudyState:
        """Run until the study ends; whatever happens, no member is left behind."""
        try:
            self._begin()
            self._show(self)
            while not self.state.ended:
                self._receive()
                self._collect()
                self._steer()
                decided = self.rooms.policy.decide(self.state, self.ledger.now())
                if self.rooms.config.launcher.options.get("placement") == "time":
                    decided = take_turns(decided, running=bool(self.state.busy), training=Measure in self._asked)
                for decision in decided:
                    self._act(decision)
                self._judge()
                self._show(self)
        except StudyFailed as error:
            self._chronicle.record(ev.StudyEnded(at=self.ledger.now(), state="failed", reason=str(error)))
        finally:
            self._close()
        self._show(self)
        return self.state

    def _begin(self) -> None:
        """Start the study, or take it up where its ledger says it was left."""
        if not self.state.started:
            self.ledger.set_meta("parameter_units", self.rooms.space.units)
            self._chronicle.record(self.rooms.started(self.ledger.now()))
            taken_over = self.rooms.take_over(self.ledger, self._chronicle)
            if 0 < taken_over < self.rooms.config.initial:
                self._initial(self.rooms.config.initial - taken_over, 0)
        else:
            commands(self._root)  # what was asked of the controller before: nobody means it now
            self._chronicle.record(ev.StudyResumed(at=self.ledger.now()))
            self._take_up()
        if self.ledger.schema() is not None and self.rooms.learning:
            self._start_learner()

    def _take_up(self) -> None:
        """What became of the attempts of the last controller; those not settled here are lost, and the policy queues them again."""
        launcher, adopting = self.rooms.launcher, isinstance(self.rooms.launcher, Adopting)
        running = set(launcher.adopt(self.directory)) if isinstance(launcher, Adopting) else set()
        if not adopting:  # where members outlive a controller, they are adopted, or end by themselves
            sweep(self.directory)
        for record in self.state.adoptable:
            key = (record.id, record.attempt)
            gone = past_exit(self.directory / "members" / record.id / str(record.attempt)) if adopting else None
            if record.kill:
                how = "failed" if record.kill_fault else "killed"
                self._chronicle.record(self._ended(*key, how, record.kill, cause=record.kill_cause or how))
            elif key in running:
                running.discard(key)
                self.rooms.announce(*key, record.parameters, self._place(*key))  # its stream may open again
                self._chronicle.record(ev.MemberRunning(at=self.ledger.now(), member=record.id, attempt=record.attempt))
            elif gone is not None and (gone.member, gone.attempt) == key:  # it ended while there was no controller
                self._chronicle.record(ev.MemberRunning(at=self.ledger.now(), member=record.id, attempt=record.attempt))
                self.rooms.announce(*key, record.parameters, self._place(*key))
                self._gone(gone)
        for member, attempt in running:
            launcher.cancel(member, attempt)

    def _close(self) -> None:
        """End what still runs, keep what it streamed, and write down how it ended."""
        with contextlib.ExitStack() as last:  # in reverse order, and each even if another fails
            last.callback(self._dismiss_learner)
            last.callback(self.rooms.reader.close)
            last.callback(self._last_words)
            last.callback(self.rooms.launcher.close)

    def _last_words(self) -> None:
        deadline = time.monotonic() + STREAM_TAIL_S
        while self._receive() and time.monotonic() < deadline:
            continue
        for gone in self.rooms.launcher.poll():
            self._gone(gone)
        self._settle(final=True)

    def _dismiss_learner(self) -> None:
        if self.learner is None:
            return
        if self.state.end_state == "stopped" and self.state.updates > self.state.snapshot_updates:
            try:
                wait(self.learner, Save(self.directory / "snapshots"), SAVE_S)
                self._chronicle.record(ev.SnapshotWritten(at=self.ledger.now(), name="snapshots", updates=self.state.updates))
            except (StudyFailed, DeadlineExceeded) as error:
                log.warning("No snapshot of the learner was written: %s It will train anew from what is stored.", error)
        self.learner.close()
        if self._sealing is not None:
            self._sealing.join()

    def _start_learner(self) -> None:
        self.learner = open_learner(self.rooms, self.ledger, self.directory, fresh=bool(self.state.outdated))
        for member in self._chronicle.atlas.holdout:
            self.learner.tell(Hold(member))
        self.learner.tell(Stored(self.ledger.last_sample))
        for member, state in self._chronicle.atlas.over.items():
            self.learner.tell(Gone(member, killed=state == "killed"))

    # --- facts come in ---------------------------------------------------------------------------------------

    def _receive(self) -> int:
        """Simulation -> transport -> ledger -> learner; a sample is acknowledged after it is durable."""
        batch: list[Sample] = []
        heard: dict[tuple[str, int], int] = {}
        messages = self.rooms.reader.poll(0.02)
        for message in messages:
            match message:
                case Hello():
                    self._welcome(message)
                case Sample():
                    if (sound := self._sound(message)) is not None:
                        batch.append(sound)
                        heard[message.member, message.attempt] = message.step + 1
                case Broken(fault=True):
                    self._fault(self._misfit(message.member, message.reason))
                    self._streams[message.member, message.attempt] = message
                case Steered(member=member, attempt=attempt, step=step, values=values):
                    self._chronicle.record(ev.MemberSteered(at=self.ledger.now(), member=member, attempt=attempt, step=step, values=values))
                case End() | Broken():
                    self._streams[message.member, message.attempt] = message
                    if isinstance(message, Broken) and message.final:
                        self._cut[message.member, message.attempt] = time.monotonic()
        if batch:
            self._store(batch, heard)
        return len(messages)

    def _welcome(self, hello: Hello) -> None:
        first = self.ledger.schema() is None
        of = copied_member(hello.member)
        if of is not None and not self._copies.wanted(of, hello.attempt):
            self.rooms.reader.stop(hello.member, hello.attempt)
            return
        try:
            if hello.schema.fields:  # a member that ends without a step announces none
                self.ledger.set_schema(hello.schema)
                if first and self.rooms.learning:
                    self._start_learner()
        except SchemaError as error:
            self._fault(self._misfit(hello.member, error))
            return
        self._streams[hello.member, hello.attempt] = None
        self.rooms.monitors.started(hello.member, hello.attempt, self.ledger.now())
        record = self.state.active.get(of or hello.member)
        if record is not None and record.state is MemberState.STARTING:
            self._chronicle.record(
                ev.MemberRunning(at=self.ledger.now(), member=record.id, attempt=hello.attempt, steps_total=hello.steps_total)
            )
        self.rooms.reader.acknowledge(hello.member, hello.attempt, self.ledger.stored_steps(of or hello.member))

    def _sound(self, sample: Sample) -> Sample | None:
        """The step as it enters the archive; None for what must not. A monitor's alarm condemns its member."""
        of = copied_member(sample.member)
        if of is not None:
            return None if of in self._faults else self._copies.take(sample)
        record = self.state.active.get(sample.member)
        welcome = record is not None and record.state is MemberState.RUNNING and record.attempt == sample.attempt
        if not welcome or sample.member in self._faults:
            return None
        alarm = self.rooms.monitors.see(sample, self.ledger.now())
        if alarm is None:
            return sample
        self._fault(alarm)
        return sample if sample.finite else None

    def _misfit(self, member: str, error: Exception | str) -> ev.MonitorAlarm:
        return ev.MonitorAlarm(at=self.ledger.now(), member=member, monitor="schema", reason=str(error))

    def _fault(self, alarm: ev.MonitorAlarm) -> None:
        """A member is condemned: the policy kills it, and nothing more of this attempt is taken in. A copy is only ended."""
        of = copied_member(alarm.member)
        if of is not None:
            self._copies.cut(of, alarm.reason)
        elif alarm.member not in self._faults:
            self._faults[alarm.member] = alarm
            self._chronicle.record(alarm)

    def _store(self, batch: Sequence[Sample], heard: Mapping[tuple[str, int], int]) -> None:
        """Make steps durable and tell the writers, who of each stream were ``heard`` up to a step, and the learner."""
        schema = self.ledger.schema()
        assert schema is not None
        had = {s.member: self.ledger.stored_steps(s.member) for s in batch}
        while batch:
            try:
                self._chronicle.fold(*self.ledger.store(batch, schema))
                break
            except SampleRefused as error:
                self._fault(self._misfit(error.member, error))
                batch = [s for s in batch if s.member != error.member]
        taken = {s.member for s in batch}
        for (name, attempt), upto in heard.items():
            member = copied_member(name) or name
            if member in taken:  # each writer up to where it is: one that is behind its copy still sends what it makes
                self.rooms.reader.acknowledge(name, attempt, min(upto, self.ledger.stored_steps(member)))
        batch = [s for s in batch if s.member not in self.state.revoked]
        if self.learner is not None:
            sent = {(s.member, s.step): s for s in reversed(batch)}  # two copies may have sent the same step
            new = [s for s in reversed(sent.values()) if had[s.member] <= s.step < self.ledger.stored_steps(s.member)]
            self.learner.tell(Stored(self.ledger.last_sample, [new]))

    def _collect(self) -> None:
        """Exits of members, slots that came or went, and answers of the learner become facts."""
        if self.state.slots != self.rooms.launcher.slots:
            self._chronicle.record(ev.CapacityChanged(at=self.ledger.now(), slots=self.rooms.launcher.slots))
        for gone in self.rooms.launcher.poll():
            self._gone(gone)
        self._settle()
        for key, since in list(self._cut.items()):
            if time.monotonic() - since > CUT_S:  # what it computes from here on is lost: its slot is for another attempt
                del self._cut[key]
                self.rooms.launcher.cancel(*key)
        if self.learner is None:
            return
        for answer in self.learner.answers():
            self._asked.discard(type(answer.question))
            self._learned(answer)

    def _gone(self, gone: Exit) -> None:
        """An attempt's process has ended; of its stream some may still come."""
        self._exits[gone.member, gone.attempt] = (gone, time.monotonic())
        if self.rooms.following is not None:
            self.rooms.following.ended(gone.member, gone.attempt)

    def _place(self, member: str, attempt: int) -> Path:
        """Where an attempt runs."""
        return self.directory / "members" / member / str(attempt)

    def _settle(self, final: bool = False) -> None:
        """End every member whose process is gone and whose stream has run dry."""
        for key, (gone, since) in list(self._exits.items()):
            waiting = key in self._streams and self._streams[key] is None
            patience = STREAM_TAIL_S
            if self.rooms.following is not None:  # a last End or Broken is certain, and what comes before it is not on its way but in files
                waiting, patience = self._streams.get(key) is None, math.inf
            if waiting and not final and time.monotonic() - since < patience:
                continue
            stream, record = self._streams.get(key), self.state.active.get(gone.member)
            state, reason, cause = verdict(gone, stream, record, self._faults.get(gone.member), self.state.ended, self.rooms.classify)
            if state in ("lost", "failed") and not final and self._copies.may_save(gone.member):
                continue
            del self._exits[key]
            self._streams.pop(key, None)
            self._cut.pop(key, None)
            if copied_member(gone.member) is not None:
                self._copies.ended(gone, stream)
                continue
            if state in ("killed", "failed"):
                self.news.append((gone.member, state, reason, record.steps if record is not None else 0))
            self._chronicle.record(self._ended(gone.member, gone.attempt, state, reason, cause, gone.core_s, gone.wall_s))
            if self.learner is not None and gone.member not in self.state.active:
                self.learner.tell(Gone(gone.member, killed=state == "killed"))

    def _ended(
        self, member: str, attempt: int, state: str, reason: str, cause: str, core_s: float = 0.0, wall_s: float = 0.0
    ) -> ev.MemberEnded:
        core_s, wall_s = (0.0 if not np.isfinite(v) else v for v in (core_s, wall_s))
        self.rooms.monitors.forget(member, attempt)
        return ev.MemberEnded(
            at=self.ledger.now(), member=member, attempt=attempt, state=state, reason=reason, cause=cause, core_s=core_s, wall_s=wall_s
        )

    def _learned(self, answer: Answer) -> None:
        now, result = self.ledger.now(), answer.result
        match answer.question:
            case Propose() as asked:
                self._chosen(asked, result, answer.seconds)
            case Judge():
                active = self.state.active
                self._chronicle.record(*[dataclasses.replace(s, at=now) for s in result if s.member in active])
            case Measure():
                self._measured(result, answer.question, answer.seconds)
            case Rescore():
                changed = {m: s for m, s in result.items() if m in self.state.queue and s != self.state.records[m].score}
                self._chronicle.record(*[ev.MemberRescored(at=now, member=m, score=s) for m, s in changed.items()])
            case Save():
                self._chronicle.record(ev.SnapshotWritten(at=now, name=answer.question.path.name, updates=self.state.updates))
                self.ledger.discard(self._snapshotted)  # what the snapshot before this one holds too: either may be damaged
                self._snapshotted = answer.question.samples
                self._seal()

    def _seal(self) -> None:
        """Move full segments into the archive beside the loop."""
        if self._sealing is None or not self._sealing.is_alive():
            self._sealing = threading.Thread(target=self._chronicle.seal_full_segments, name="alearn-seal")
            self._sealing.start()

    def _measured(self, m: Measured, asked: Measure, seconds: float) -> None:
        now = self.ledger.now()
        queued = {
            r.id: (r.x, r.first_score)
            for m in self.state.queue
            if math.isfinite((r := self.state.records[m]).first_score) and not r.attempt
        }
        if queued and not asked.final:
            self._ask(Rescore(queued))
        self._chronicle.record(
            ev.Refitted(
                at=now, updates=m.updates, samples=m.samples, loss=m.loss, seconds=seconds, lead=m.lead, busy_s=m.busy_s, last=asked.final
            ),
            ev.Evaluated(
                at=now, simulated_steps=asked.simulated_steps, members=asked.members,
                error=m.error, prequential=m.prequential, calibration=m.calibration, std=m.std,
            ),
        )  # fmt: skip

    def _steer(self) -> None:
        """What the user wants: Ctrl-C, or a command dropped into the study's directory."""
        now = self.ledger.now()
        if self._interrupted():
            self._chronicle.record(ev.StudyEnded(at=now, state="stopped", reason="interrupted by the user"))
            return
        if now - self._steered_at < STEER_EVERY_S:
            return
        self._steered_at = now
        for alarm in self.rooms.monitors.check(now):
            if not self._copies.may_save(alarm.member):
                self._fault(alarm)
        for wish in commands(self._root):
            record = self.state.active.get(wish.member or "")
            if wish.command == "kill" and record is not None:
                self._kill(do.Kill(record.id, record.attempt, "killed by the user"))
            elif wish.command == "steer" and record is not None:
                self._hand_over(record, wish.values)
            elif wish.command == "revoke" and wish.member is not None:
                self._revoke(wish.member, wish.reason)
            elif wish.command == "slots":
                resize(self.rooms.launcher, wish.values)
            elif wish.command == "pause":
                self._chronicle.record(ev.StudyPaused(at=now, reason="by the user"))
            elif wish.command == "continue":
                self._chronicle.record(ev.StudyContinued(at=now))
            elif wish.command == "stop":
                self._chronicle.record(ev.StudyEnded(at=now, state="stopped", reason="stopped by the user"))
                return

    def _hand_over(self, record: Record, values: Mapping[str, Any]) -> None:
        """Hand new values to a running simulation, which takes them when it next asks."""
        carrier = self.rooms.carrier
        if not isinstance(carrier, Steering):
            log.warning("Member %s was not steered: transport=%s cannot; socket can.", record.id, self.rooms.config.transport.name)
            return
        self._chronicle.record(ev.SteerRequested(at=self.ledger.now(), member=record.id, attempt=record.attempt, values=values))
        self._copies.cut(record.id, "what it copies was steered")
        carrier.steer(record.id, record.attempt, values)

    def _revoke(self, member: str, reason: str) -> None:
        """Take a member's samples back; what was learned from them is unlearned by learning anew from the rest."""
        if member in self.state.revoked or member not in self._chronicle.atlas.points:
            return
        record = self.state.active.get(member)
        if record is not None and not record.kill:
            self._kill(do.Kill(record.id, record.attempt, "killed by the user"))
        self._chronicle.record(ev.MemberRevoked(at=self.ledger.now(), member=member, reason=reason))
        if self.learner is not None:
            self.learner.close()
            self._asked.clear()
            self._start_learner()

    # --- decisions go out ------------------------------------------------------------------------------------

    def _act(self, decision: do.Decision) -> None:
        now = self.ledger.now()
        match decision:
            case do.Launch(member=member):
                self._launch(member)
            case do.Kill():
                self._kill(decision)
            case do.Duplicate(member=member, reason=reason):
                self._copies.launch(member, reason)
            case do.Cut(member=member, reason=reason):
                self._copies.cut(member, reason)
            case do.Spare(member=member, reason=reason):
                self._chronicle.record(ev.GhostSpared(at=now, member=member, step=self.state.active[member].steps, reason=reason))
            case do.Requeue(member=member, reason=reason):
                attempt = self.state.records[member].attempt
                self._chronicle.record(ev.MemberRequeued(at=now, member=member, attempt=attempt, reason=reason))
            case do.Withdraw(member=member, reason=reason):
                self._chronicle.record(ev.MemberRescored(at=now, member=member, score=0.0, withdrawn=True, why=reason))
            case do.Acquire():
                self._acquire(decision)
            case do.Refit() | do.Evaluate():
                final = isinstance(decision, do.Refit) and decision.last
                atlas = self._chronicle.atlas
                self._ask(Measure(self.state.steps, self.state.with_data, final, tuple(atlas.with_data.values()), tuple(atlas.failed)))
            case do.Checkpoint():
                self._ask(Save(self.directory / "snapshots", self.ledger.last_sample))
            case do.Pause(reason=reason):
                self._chronicle.record(ev.StudyPaused(at=now, reason=reason))
            case do.Stop(state=state, reason=reason):
                self._chronicle.record(ev.StudyEnded(at=now, state=state, reason=reason))

    def _ask(self, question: Propose | Judge | Measure | Rescore | Save) -> None:
        """Ask the learner, one question of a kind at a time."""
        if self.learner is not None and type(question) not in self._asked:
            self._asked.add(type(question))
            self.learner.ask(question)

    def _launch(self, member: str) -> None:
        record = self.state.records[member]
        attempt = record.attempt + 1
        self._faults.pop(member, None)
        job = self.rooms.job(member, attempt, record.parameters, self.directory)
        self._chronicle.record(ev.MemberLaunched(at=self.ledger.now(), member=member, attempt=attempt))
        try:
            self.rooms.launcher.submit(job)
        except LaunchError as error:
            if self.rooms.following is not None:
                self.rooms.following.ended(member, attempt)
            self._chronicle.record(self._ended(member, attempt, "failed", str(error), cause="launch"))

    def _kill(self, kill: do.Kill) -> None:
        self._chronicle.record(
            ev.KillRequested(
                at=self.ledger.now(),
                member=kill.member,
                attempt=kill.attempt,
                reason=kill.reason,
                saved_steps=kill.saved_steps,
                fault=kill.fault,
                cause=kill.cause,
            )
        )
        self.rooms.reader.stop(kill.member, kill.attempt)
        self.rooms.launcher.cancel(kill.member, kill.attempt)

    def _acquire(self, wish: do.Acquire) -> None:
        """The initial design comes from the space; later rounds from the acquisition, beside a Sobol hold-out."""
        if wish.origin == "design" or self.learner is None:
            self._initial(wish.q, self.state.queued_total)
            return
        if Propose in self._asked:
            return
        pending = {r.id: (r.x, self.state.share(r)) for r in self.state.records.values() if r.state is not MemberState.LOST}
        observed = {m: x for m, x in self._chronicle.atlas.with_data.items() if m not in pending}
        q = wish.q - wish.holdout
        if q:
            self._holdout = wish.holdout
            atlas = self._chronicle.atlas
            dear = "core_s" in self.state.budget or "wall_s" in self.state.budget  # else a dear member counts as one like any other
            costs = [(atlas.points[m], core_s) for m, core_s in atlas.costs.items()] if dear else []
            self._ask(Propose(self.state.rounds + 1, q, pending, observed, tuple(atlas.failed), self.state.queued_total, costs))
        else:
            self._queue(self.state.rounds + 1, "holdout", self._holdout_points(wish.holdout))

    def _initial(self, n: int, skip: int) -> None:
        self._queue(0, "design", [(p, "design", math.nan, self.rooms.designed_by) for p in self.rooms.design(n, skip)])

    def _chosen(self, asked: Propose, chosen: Selection, seconds: float) -> None:
        """The learner's answer: queue its points and those of the hold-out stream."""
        points = [(tuple(x), "acquisition", float(s), w) for x, s, w in zip(chosen.x, chosen.scores, chosen.reasons, strict=True)]
        self._queue(asked.round, self.rooms.acquisition_name, [*points, *self._holdout_points(self._holdout)], seconds)
        self._holdout = 0

    def _holdout_points(self, n: int) -> list[Point]:
        x = self.rooms.holdout(n, skip=self.state.origins["holdout"]) if n else []
        return [(p, "holdout", math.nan, "Sobol hold-out beside the acquisition: an unbiased check") for p in x]

    def _queue(self, number: int, how: str, points: Sequence[Point], seconds: float = 0.0) -> None:
        now, first = self.ledger.now(), self.state.queued_total
        settled = self.rooms.settle([p[0] for p in points], [m.parameters for m in self.ledger.members()])
        self._chronicle.record(
            ev.RoundDecided(at=now, round=number, q=len(settled), acquisition=how, seconds=seconds),
            *[
                ev.MemberQueued(
                    at=now,
                    member=member_id(first + i),
                    parameters=at.parameters,
                    x=at.x,
                    origin=origin,
                    score=score,
                    why="; ".join(filter(None, (why, at.why))),
                    round=number,
                )
                for i, ((_, origin, score, why), at) in enumerate(zip(points, settled, strict=False))  # a record may run out
            ],
        )
        for i, point in enumerate(points[: len(settled)]):
            if point[1] == "holdout" and self.learner is not None:
                self.learner.tell(Hold(member_id(first + i)))

    def _judge(self) -> None:
        """Ask the learner what the running members could still teach."""
        now = time.monotonic()
        if not self.rooms.judging or not self.state.updates or now - self._judged_at < JUDGE_EVERY_S:
            return
        running = {
            r.id: RunningMember(r.x, r.steps - 1, r.t, round(self.state.length(r)))
            for r in self.state.active.values()
            if r.state is MemberState.RUNNING and r.steps and not r.kill
        }
        if running:
            self._judged_at = now
            self._ask(Judge(running, self.state.seconds_per_step, self.state.startup_s))
