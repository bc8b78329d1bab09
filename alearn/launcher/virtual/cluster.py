"""Nodes, attempts and streams in virtual time, with faults.

It does what a launcher and a transport do for the study's loop: ``submit``, ``cancel``, ``slots`` and ``exits``;
``inbox`` and ``acknowledge``. A time step is a count here, not an array.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from zlib import crc32

from alearn.errors import LaunchError
from alearn.launcher.virtual.agenda import Agenda
from alearn.launcher.virtual.costs import CostModel, Life
from alearn.launcher.virtual.faults import Faults, NodeLoss
from alearn.types import Exit, ExitCause, copied_member

KILL_S = 0.05
"""How long a polite end takes."""
GRACE_S = 2.0
"""After this the deaf are killed."""
RECONNECT_S = 1.0
DETECT_S = 5.0
"""How long the loss of a node goes unnoticed."""

HELLO, STEPS, END = 0, 1, 2
GOOD_LUCK = frozenset({ExitCause.DONE, ExitCause.EXIT_CODE, ExitCause.CANCELLED})


@dataclass(frozen=True, slots=True)
class Word:
    """One message of a stream: HELLO, STEPS (``n`` of them from ``first``) or END (closed or broken off)."""

    kind: int
    member: str
    attempt: int
    first: int = 0
    n: int = 0
    poison: bool = False


class Attempt:
    """One attempt on its way through the cluster."""

    __slots__ = (
        "acked", "attempt", "cancelled", "connected", "deaf", "ends_at", "epoch", "gone", "heard", "life", "member", "node", "opened",
        "placed_at", "poison_at", "produced", "stop_at", "stop_fails", "waits",
    )  # fmt: skip

    def __init__(self, member: str, attempt: int, life: Life) -> None:
        self.member, self.attempt, self.life = member, attempt, life
        self.node = -1
        self.placed_at = self.heard = self.ends_at = 0.0
        self.produced = self.acked = self.epoch = 0
        self.gone = self.opened = self.waits = self.cancelled = self.deaf = self.stop_fails = False
        self.connected = True
        self.stop_at = self.poison_at = -1

    @property
    def key(self) -> tuple[str, int]:
        return (self.member, self.attempt)


class Cluster:
    """Virtual nodes that run members.

    Args:
        agenda: the virtual clock.
        costs: what members cost.
        nodes: how many nodes.
        slots_per_node: members at a time on each.
        faults: what goes wrong.
        seed: seed of the faults and of the members' costs.
        burst: time steps that travel together.
        window: time steps that a member may be ahead of the acknowledgements.

    Attributes:
        inbox: messages that arrived.
        exits: ends that were reported and not yet recorded.
        delayed: ends whose news is still on its way.
        live: attempts that wait for a slot or hold one.
        busy: slots that are held.
        busy_s: slot-seconds that were held by attempts which are over.
        core_s: core-seconds of the same.
    """

    def __init__(
        self, agenda: Agenda, costs: CostModel, *, nodes: int, slots_per_node: int = 1, faults: Faults | None = None, seed: int = 0,
        burst: int = 5, window: int = 50,
    ) -> None:  # fmt: skip
        self.agenda, self.costs, self.faults, self.seed = agenda, costs, faults or Faults(), seed
        self._patience_s = max(5 * RECONNECT_S, 20 * self.faults.delay_s)  # a writer knows how slow its network is
        self.nodes, self.slots_per_node, self.burst, self.window = nodes, slots_per_node, burst, max(window, burst)
        self.rng = Random(seed * 2 + 1)
        self.inbox: list[Word] = []
        self.exits: list[Exit] = []
        self.live: dict[tuple[str, int], Attempt] = {}
        self.listening = True
        self._listener = 0
        self.busy = 0
        self.busy_s = self.core_s = 0.0
        self.down: set[int] = set()
        self.repairs = 0
        self._free = [n for n in range(nodes - 1, -1, -1) for _ in range(slots_per_node)]
        self._on: dict[int, set[tuple[str, int]]] = {}
        self._waiting: deque[Attempt] = deque()
        self._unheard: list[Exit] = []
        self._reported: dict[tuple[str, int], Exit] = {}
        self.delayed = 0
        for loss in self.faults.nodes:
            agenda.after(loss.at_s, self._lose, loss)

    # --- as a launcher ------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Members that may run at a time now."""
        return (self.nodes - len(self.down)) * self.slots_per_node

    def submit(self, member: str, attempt: int) -> None:
        """Start an attempt.

        Raises:
            LaunchError: the schedule of faults says so.
        """
        if self.faults.refused and self.rng.random() < self.faults.refused:
            raise LaunchError(f"The virtual cluster refused attempt {attempt} of {member}; the faults say that it sometimes does.")
        a = Attempt(member, attempt, self._life(member))
        self.live[a.key] = a
        if self.faults.queue_s:
            self.agenda.after(self.rng.expovariate(1.0 / self.faults.queue_s), self._ready, a)
        else:
            self._ready(a)

    def cancel(self, member: str, attempt: int) -> None:
        """End an attempt; its end is reported later. Unknown ones and those that are over are left alone."""
        a = self.live.get((member, attempt))
        if a is None or a.cancelled:
            return
        a.cancelled = True
        self.agenda.after(GRACE_S if a.deaf else KILL_S, self._finish, a, ExitCause.CANCELLED)

    def confirm(self, member: str, attempt: int) -> None:
        """The end of an attempt is recorded: it need not be reported again."""
        self._reported.pop((member, attempt), None)

    # --- as a transport -----------------------------------------------------------------------------------------

    def acknowledge(self, member: str, attempt: int, steps: int) -> None:
        """The member's steps ``0 … steps-1`` are durable."""
        a = self.live.get((member, attempt))
        if a is None or (self.faults.ack_loss and self.rng.random() < self.faults.ack_loss):
            return
        a.acked = max(a.acked, steps)
        if a.waits:
            self._go_on(a)

    # --- the controller dies and comes back -----------------------------------------------------------------------

    def deserted(self, adopt: bool) -> None:
        """The controller died: streams break; members die with it, or go on and keep their ends to themselves."""
        self.listening = False
        self._listener += 1
        self.inbox.clear()
        self.exits.clear()
        if adopt:
            self._unheard += self._reported.values()
            for a in self.live.values():
                a.connected, a.epoch = False, a.epoch + 1
            return
        self.sweep()

    def sweep(self) -> None:
        """End everything at once and report nothing."""
        for a in list(self.live.values()):
            self._remove(a)
        self._reported.clear()
        self._unheard.clear()
        self.exits.clear()

    def attended(self) -> None:
        """A new controller listens: what ended meanwhile is reported, open streams connect again."""
        self.listening = True
        for gone in self._unheard:
            self._report(gone)
        self._unheard.clear()
        for a in self.live.values():
            if a.opened:
                self.agenda.after(self.rng.uniform(0.0, RECONNECT_S), self._reconnect, a)

    def knows(self, member: str, attempt: int) -> bool:
        """Whether this attempt lives, or its end is reported or about to be."""
        key = (member, attempt)
        return key in self.live or key in self._reported

    # --- an attempt's way ---------------------------------------------------------------------------------------

    def _life(self, member: str) -> Life:
        return self.costs.draw(self.seed, copied_member(member) or member)

    def _ready(self, a: Attempt) -> None:
        if a.gone:
            return
        while self._free and self._free[-1] in self.down:
            self._free.pop()
        if self._free:
            self._place(a, self._free.pop())
        else:
            self._waiting.append(a)

    def _place(self, a: Attempt, node: int) -> None:
        f, rng, now = self.faults, self.rng, self.agenda.now
        a.node, a.placed_at, a.heard = node, now, now
        self.busy += 1
        self._on.setdefault(node, set()).add(a.key)
        a.ends_at = now + a.life.wall_s
        if f.stragglers and rng.random() < f.stragglers:
            life = a.life
            a.life = Life(life.startup_s, life.step_s * f.straggle, life.steps, life.cores, life.tail_s)
        fate = crc32(f"{self.seed}:fate:{copied_member(a.member) or a.member}".encode()) / 2**32
        if fate < self.costs.fail:  # the same member fails at the same step whenever it is tried
            a.stop_at, a.stop_fails = round(a.life.steps * fate / self.costs.fail), True
        elif f.hang and rng.random() < f.hang:
            a.stop_at = rng.randrange(a.life.steps)
        if f.poison and rng.random() < f.poison:
            a.poison_at = rng.randrange(a.life.steps)
        a.deaf = f.deaf > 0 and rng.random() < f.deaf
        if f.preempt_s:
            self.agenda.after(rng.expovariate(1.0 / f.preempt_s), self._finish, a, ExitCause.PREEMPTED)
        if f.wall_s:
            self.agenda.after(f.wall_s, self._finish, a, ExitCause.WALL_TIME)
        self.agenda.after(a.life.startup_s, self._open, a)

    def _open(self, a: Attempt) -> None:
        if a.gone:
            return
        a.opened = True
        a.connected = self.listening  # else it knocks until somebody opens
        self._say(a, Word(HELLO, a.member, a.attempt))
        self._next(a)

    def _next(self, a: Attempt) -> None:
        """Work on the next burst, if the window has room and nothing stops it."""
        left = a.life.steps - a.produced
        if a.stop_at >= 0:
            left = min(left, a.stop_at - a.produced)
        if left <= 0:
            if a.stop_fails:
                self._finish(a, ExitCause.EXIT_CODE)
            elif a.stop_at < 0:
                self._flush(a)
            return
        if a.produced - a.acked >= self.window:
            self._wait(a)
            return
        n = min(self.burst, left)
        self.agenda.after(n * a.life.step_s, self._stepped, a, n)

    def _stepped(self, a: Attempt, n: int) -> None:
        if a.gone:
            return
        first, a.produced = a.produced, a.produced + n
        if self.faults.break_ and a.connected and self.rng.random() < self.faults.break_:
            a.connected, a.epoch = False, a.epoch + 1
            self.agenda.after(RECONNECT_S, self._reconnect, a)
        poison = first <= a.poison_at < a.produced
        self._say(a, Word(STEPS, a.member, a.attempt, first, n, poison))
        self._next(a)

    def _flush(self, a: Attempt) -> None:
        """The last step is made; the writer closes once all is acknowledged."""
        if a.acked < a.life.steps:
            self._wait(a)
            return
        a.waits = False
        self._say(a, Word(END, a.member, a.attempt))
        self.agenda.after(a.life.tail_s, self._finish, a, ExitCause.DONE)

    def _wait(self, a: Attempt) -> None:
        if not a.waits:
            a.waits = True
            self.agenda.after(self._patience_s, self._impatient, a, a.acked)

    def _go_on(self, a: Attempt) -> None:
        if a.produced >= a.life.steps:
            self._flush(a)
        elif a.produced - a.acked < self.window:
            a.waits = False
            self._next(a)

    def _impatient(self, a: Attempt, acked: int) -> None:
        if a.gone or not a.waits:
            return
        if a.acked == acked and a.connected:
            a.connected, a.epoch = False, a.epoch + 1
            self._reconnect(a)
        self.agenda.after(self._patience_s, self._impatient, a, a.acked)

    def _reconnect(self, a: Attempt) -> None:
        """Open the stream again and send everything that is not acknowledged."""
        if a.gone or a.connected or not self.listening:
            return
        a.connected = True
        self._say(a, Word(HELLO, a.member, a.attempt))
        if a.produced > a.acked:
            poison = a.acked <= a.poison_at < a.produced
            self._say(a, Word(STEPS, a.member, a.attempt, a.acked, a.produced - a.acked, poison))

    def _say(self, a: Attempt, word: Word) -> None:
        if not a.connected:
            return
        if not self.faults.delay_s:
            self._hear(a, a.epoch, self._listener, word)
            return
        a.heard = max(a.heard, self.agenda.now + self.rng.expovariate(1.0 / self.faults.delay_s))
        self.agenda.after(a.heard - self.agenda.now, self._hear, a, a.epoch, self._listener, word)

    def _hear(self, a: Attempt, epoch: int, listener: int, word: Word) -> None:
        if epoch != a.epoch or listener != self._listener:
            return  # that connection is broken, and what it carried is lost
        if self.listening:
            self.inbox.append(word)
        else:
            a.connected, a.epoch = False, a.epoch + 1

    # --- ends ---------------------------------------------------------------------------------------------------

    def _remove(self, a: Attempt) -> None:
        """Take an attempt off its slot."""
        a.gone = True
        del self.live[a.key]
        if a.node < 0:
            return
        held = self.agenda.now - a.placed_at
        self.busy -= 1
        self.busy_s += held
        self.core_s += held * a.life.cores
        self._on[a.node].discard(a.key)
        if a.node not in self.down:
            self._free.append(a.node)
            self._fill()

    def _fill(self) -> None:
        while self._waiting and self._free:
            waiting = self._waiting.popleft()
            if not waiting.gone:
                self._ready(waiting)

    def _finish(self, a: Attempt, cause: ExitCause) -> None:
        if a.gone:
            return
        self._remove(a)
        if a.opened and cause not in (ExitCause.DONE, ExitCause.NODE_LOST):
            self._say(a, Word(END, a.member, a.attempt))  # the socket of a dead process closes; a lost node says nothing
        if cause not in GOOD_LUCK:
            a.epoch += a.epoch >= 0 and self.rng.random() < 0.5  # what was on its way may be lost with the node
        held = self.agenda.now - a.placed_at if a.node >= 0 else 0.0
        code = {ExitCause.DONE: 0, ExitCause.EXIT_CODE: 1}.get(cause)
        gone = Exit(a.member, a.attempt, cause, code=code, wall_s=held, core_s=held * a.life.cores)
        self._reported[a.key] = gone
        wait = DETECT_S if cause is ExitCause.NODE_LOST else 0.0
        if self.faults.exit_delay_s:
            wait += self.rng.expovariate(1.0 / self.faults.exit_delay_s)
        if wait:
            self.delayed += 1
            self.agenda.after(wait, self._report_late, gone)
        else:
            self._report(gone)

    def _report_late(self, gone: Exit) -> None:
        self.delayed -= 1
        self._report(gone)

    def _report(self, gone: Exit) -> None:
        if (gone.member, gone.attempt) not in self._reported:
            return
        if self.listening:
            self.exits.append(gone)
        else:
            self._unheard.append(gone)

    def _lose(self, loss: NodeLoss) -> None:
        node = loss.node % self.nodes
        if node in self.down:
            return
        self.down.add(node)
        for key in sorted(self._on.get(node, ())):
            self._finish(self.live[key], ExitCause.NODE_LOST)
        self._free = [n for n in self._free if n != node]
        if loss.repair_s >= 0:
            self.repairs += 1
            self.agenda.after(loss.repair_s, self._repair, node)

    def _repair(self, node: int) -> None:
        self.down.discard(node)
        self.repairs -= 1
        self._free += [node] * self.slots_per_node
        self._fill()

    def audit(self) -> str:
        """What is wrong with the cluster's own book-keeping; "" if nothing."""
        held = sum(a.node >= 0 for a in self.live.values())
        free = sum(n not in self.down for n in self._free)
        if held != self.busy or self.busy + free != self.slots:
            return f"{self.busy} slots are held by {held} attempts and {free} are free, of {self.slots}"
        return ""
