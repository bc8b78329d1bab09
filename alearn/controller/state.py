"""The state of a study as it follows from its events; ``alearn.controller.folding`` says how.

No clock, process or file: the only time is the ``at`` of the events. An event costs O(log n) at most, whatever
the number of members; a settled member keeps one integer.
"""

from __future__ import annotations

import math
from collections import Counter, deque

from alearn import events as ev
from alearn.controller.member import Copy, Record, Settled, unpack
from alearn.controller.ranking import Ranking
from alearn.errors import IllegalEvent
from alearn.types import MemberState

BUDGET = ("members", "steps", "core_s", "wall_s")
"""What a budget may limit: members launched, time steps simulated, core-seconds, wall-clock seconds."""

RECENT = 2048
"""How many ended members are remembered with their points."""


class StudyState:
    """Everything that the policies and the status need. Only ``apply`` changes it.

    Attributes:
        study, arm, seed: as the study was started.
        started, paused, ended: ``paused`` and ``ended`` hold the reason ("" is no); ``end_state`` is done, stopped or failed.
        at: time of the latest event, Unix s.
        events, late: how many events were applied; how many of them came too late to change anything.
        budget: the limits that are set, out of ``BUDGET``.
        slots: what the launcher can run at a time; None before it said so.
        counts: members by state; the withdrawn are among the killed.
        records: queued, active and lost members.
        active: the active ones, in the order of their launch.
        copies: by member, the copies of attempts that hold a slot too; ``won``: active members whose copy was done first.
        queue: queued members; retries first, then the initial design, then by round, best score first.
        faded: queued members by present score over first score.
        lost: lost members by the attempts that count against them.
        alarmed: active members with an alarm that no kill has answered.
        outbid: for each origin the active members with two scores or more, by the larger of the last two ratios of
            remaining to best value; neither ghosts nor members about to be killed are in it.
        surprising: active members scored since the last training, those farthest off the surrogate's prediction first.
        origins: members queued by origin.
        queued_total, launched_total: distinct members that were queued (withdrawn included) or launched.
        withdrawn: members taken back from the queue.
        attempts: launches, retries included.
        with_data: members with at least one step.
        steps, duplicates: time steps stored; repeated ones dropped.
        saved_steps: expected steps that kills did not simulate.
        kills_by_value: killed members that were not at fault.
        ghosts: members ever spared.
        core_s, wall_s: core-seconds and wall seconds of ended attempts; of abandoned ones what they are thought to have used.
        recent: the latest members that are done or failed: the point in the unit cube, and whether it failed.
        failures: failed members by cause; ``failure_reasons`` by reason with numbers blanked.
        lost_in_a_row: attempts lost since one ended otherwise.
        rounds, acquired: acquisition rounds; points chosen by them (origin acquisition or holdout).
        updates, refits: optimiser updates; trainings.
        lead: which of several candidate surrogates answers, in words.
        evaluations: the last few ``Evaluated`` events; ``evaluations_total`` counts all.
        snapshot_at, snapshot_updates: of the latest snapshot.
        revoked: members whose samples the user took back.
        outdated: the snapshots know a member that was revoked since.
    """

    def __init__(self) -> None:
        self.study = ""
        self.arm = ""
        self.seed = 0
        self.started = False
        self.started_at = math.nan
        self.paused = ""
        self.ended = ""
        self.end_state = ""
        self.at = math.nan
        self.events = 0
        self.late = 0
        self.budget: dict[str, float] = {}
        self.slots: int | None = None

        self.counts: dict[MemberState, int] = dict.fromkeys(MemberState, 0)
        self.records: dict[str, Record] = {}
        self.active: dict[str, Record] = {}
        self.copies: dict[str, Copy] = {}
        self.won: dict[str, Record] = {}
        self.queue = Ranking()
        self.faded = Ranking()
        self.lost = Ranking()
        self.alarmed: dict[str, Record] = {}
        self.outbid: dict[str, Ranking] = {}
        self.surprising = Ranking()
        self.origins: Counter[str] = Counter()
        self.queued_total = 0
        self.launched_total = 0
        self.withdrawn = 0
        self.attempts = 0
        self.with_data = 0

        self.steps = 0
        self.duplicates = 0
        self.saved_steps = 0
        self.kills_by_value = 0
        self.ghosts = 0
        self.core_s = 0.0
        self.wall_s = 0.0
        self.failures: Counter[str] = Counter()
        self.failure_reasons: Counter[str] = Counter()
        self.recent: deque[tuple[tuple[float, ...], bool]] = deque(maxlen=RECENT)
        self.lost_in_a_row = 0

        self.rounds = 0
        self.acquired = 0
        self.updates = 0
        self.refits = 0
        self.lead = ""
        self.evaluations: deque[ev.Evaluated] = deque(maxlen=256)
        self.evaluations_total = 0
        self.snapshot_at = math.nan
        self.snapshot_updates = 0
        self.revoked: set[str] = set()
        self.outdated = False
        self.refits_at_round = 0
        self.steps_at_round = 0
        self.steps_at_refit = 0
        self.steps_at_last_refit = 0
        self.settled_at_refit = 0
        self.refits_at_evaluation = 0

        self._settled: dict[str, int] = {}
        self._done_steps = 0
        self._announced = (0, 0)
        self._active_steps = 0
        self._active_since = 0.0
        self._pace = (0, 0.0)
        self._startup = (0, 0.0)
        self._clock_used = 0.0
        self._clock_since = math.nan

    def look(self, member: str) -> Record | Settled:
        """The member's record, or what is left of it.

        Raises:
            IllegalEvent: it was never queued.
        """
        record = self.records.get(member)
        if record is not None:
            return record
        code = self._settled.get(member)
        if code is None:
            raise IllegalEvent(f"Member {member} was never queued.")
        return unpack(code)

    @property
    def adoptable(self) -> list[Record]:
        """Attempts that were active when the controller died and of which nothing was heard since."""
        return [r for m in self.lost if (r := self.records[m]).adoptable]

    @property
    def members(self) -> int:
        """Members that were queued and not withdrawn."""
        return self.queued_total - self.withdrawn

    @property
    def settled(self) -> int:
        """Members that ran and are done, killed or failed."""
        return sum(self.counts[s] for s in (MemberState.DONE, MemberState.KILLED, MemberState.FAILED)) - self.withdrawn

    @property
    def idle(self) -> bool:
        """True if nothing runs and nothing waits to."""
        return not self.busy and not self.queue

    @property
    def busy(self) -> int:
        """Slots that are held: by active members and by copies."""
        return len(self.active) + len(self.copies)

    @property
    def expected_steps(self) -> float:
        """Steps of a whole trajectory: the mean of the finished ones, else of the announced ones, else 0 (unknown)."""
        done = self.counts[MemberState.DONE]
        if done:
            return self._done_steps / done
        n, total = self._announced
        return total / n if n else 0.0

    def length(self, record: Record) -> float:
        """Expected steps of this member's whole trajectory; 0 if unknown."""
        return float(record.steps_total) if record.steps_total else max(self.expected_steps, float(record.steps))

    def share(self, record: Record) -> float:
        """The share of its trajectory that a member has streamed."""
        return min(1.0, record.steps / max(1.0, self.length(record)))

    @property
    def outstanding_steps(self) -> float:
        """Steps that the active members are still expected to make."""
        return max(0.0, len(self.active) * self.expected_steps - self._active_steps)

    @property
    def seconds_per_step(self) -> float:
        """Mean wall seconds between steps; NaN before anything was seen."""
        n, total = self._pace
        return total / n if n else math.nan

    @property
    def startup_s(self) -> float:
        """Mean wall seconds from launch to an open stream; NaN before anything was seen."""
        n, total = self._startup
        return total / n if n else math.nan

    @property
    def member_wall_s(self) -> float:
        """Expected wall seconds of a member from launch to end; NaN before anything was seen."""
        startup = 0.0 if math.isnan(self.startup_s) else self.startup_s
        return startup + self.seconds_per_step * self.expected_steps if self.expected_steps else math.nan

    def core_seconds(self, now: float) -> float:
        """Core-seconds spent: those of ended attempts, and what the active ones have used so far at the same rate."""
        rate = self.core_s / self.wall_s if self.wall_s > 0 else 1.0
        copies = sum(now - copy.launched_at for copy in self.copies.values())
        return self.core_s + rate * max(0.0, len(self.active) * now - self._active_since + copies)

    def member_core_s(self) -> float:
        """Mean core-seconds of an ended attempt; 0 before one ended."""
        over = self.attempts - self.busy - self.origins["data"]  # what ran before the study cost it nothing
        return self.core_s / over if over > 0 else 0.0

    def wall_clock(self, now: float) -> float:
        """Seconds in which the study ran: pauses and the time between a crash and the resume do not count."""
        return self._clock_used + (0.0 if math.isnan(self._clock_since) else max(0.0, now - self._clock_since))

    def common_failure(self) -> str:
        """The commonest reason of failure, in words; "" if nothing failed."""
        best = self.failure_reasons.most_common(1)
        return best[0][0] if best else ""

    def _move(self, record: Record, to: MemberState) -> None:
        self.counts[record.state] -= 1
        self.counts[to] += 1
        record.state = to

    def _enqueue(self, record: Record) -> None:
        score = record.score if math.isfinite(record.score) else 0.0
        turn = 0.0 if record.attempt else 1.0 if record.origin == "design" else 2.0
        self.queue.set(record.id, turn, float(record.round), -score)
        if record.first_score > 0 and math.isfinite(record.first_score):
            self.faded.set(record.id, score / record.first_score)

    def _dequeue(self, member: str) -> None:
        self.queue.discard(member)
        self.faded.discard(member)

    def _hold(self, record: Record) -> None:
        """Count an attempt among the active."""
        self.active[record.id] = record
        self._active_steps += record.steps
        self._active_since += record.launched_at

    def _adopt(self, record: Record) -> None:
        """Take up an attempt again that was lost only because the controller died."""
        self.lost.discard(record.id)
        self._move(record, MemberState.RUNNING)
        record.adoptable = False
        record.excused -= 1
        self._hold(record)

    def _abandon(self, record: Record) -> None:
        """An active attempt's controller died: it is lost, and costs what it has used as far as anybody knows."""
        wall = max(0.0, self.at - record.launched_at)
        core = wall * (self.core_s / self.wall_s if self.wall_s > 0 else 1.0)
        self.core_s, self.wall_s = self.core_s + core, self.wall_s + wall
        record.estimates = {**(record.estimates or {}), record.attempt: (core, wall)}
        self._retire(record)
        self._move(record, MemberState.LOST)
        record.adoptable = True
        record.excused += 1
        self.lost.set(record.id, record.tries)

    def _abandon_copies(self) -> None:
        """The copies' controller died: they are nobody's any more, and cost what they have used as far as anybody knows."""
        for copy in self.copies.values():
            wall = max(0.0, self.at - copy.launched_at)
            core = wall * (self.core_s / self.wall_s if self.wall_s > 0 else 1.0)
            self.core_s, self.wall_s = self.core_s + core, self.wall_s + wall
        self.copies.clear()

    def _settle_estimate(self, record: Record, attempt: int) -> bool:
        """Take back what an abandoned attempt was thought to have cost, now that it is known; False if nothing was."""
        core, wall = (record.estimates or {}).pop(attempt, (math.nan, math.nan))
        if math.isnan(core):
            return False
        self.core_s, self.wall_s = self.core_s - core, self.wall_s - wall
        return True

    def _retire(self, record: Record) -> None:
        """Take an attempt out of everything that concerns the active."""
        del self.active[record.id]
        self._active_steps -= record.steps
        self._active_since -= record.launched_at
        if not self.active:
            self._active_since = 0.0  # no drift from sums of large floats
        self.alarmed.pop(record.id, None)
        self.won.pop(record.id, None)
        self.outbid[record.origin].discard(record.id)
        self.surprising.discard(record.id)
