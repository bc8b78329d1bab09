"""What goes wrong in a virtual cluster, as plain numbers that can be written down, shrunk and replayed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random

from alearn.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """A node goes away and may come back.

    Args:
        at_s: seconds after the study's start.
        node: which node (modulo their number).
        repair_s: seconds until it is back; negative is never.
    """

    at_s: float
    node: int
    repair_s: float = -1.0


@dataclass(frozen=True, slots=True)
class Crash:
    """The controller dies at one of its commits.

    Args:
        commit: at which commit, counted from 0 over all controllers of the study.
        durable: whether that commit reached the disk.
        down_s: seconds until a new controller takes the study up.
        adopt: members outlive the controller and are taken up again (a batch system); else they die with it.
    """

    commit: int
    durable: bool = True
    down_s: float = 10.0
    adopt: bool = False


@dataclass(frozen=True, slots=True)
class Faults:
    """A schedule of faults; all off by default. Shares are of attempts, in [0, 1].

    Args:
        queue_s: mean wait between submission and start, s (exponential).
        stragglers: share that is slower by the factor ``straggle``.
        straggle: see ``stragglers``.
        preempt_s: mean running time until the system takes an attempt's node away, s; 0 is never.
        wall_s: wall-time limit of an attempt, s; 0 is none.
        hang: share that stops stepping without ending.
        poison: share that sends a NaN.
        deaf: share that ignores a polite request to end.
        refused: share of submissions that the launcher refuses.
        delay_s: mean delay of a message, s (exponential; in order within a stream, not across).
        exit_delay_s: mean delay of the news that a process ended, s: it may overtake the last steps or lag behind.
        break_: probability at each message that its stream breaks off and opens again.
        ack_loss: share of acknowledgements that never arrive.
        nodes: losses of nodes.
        crashes: deaths of the controller.
        disk_full: the commit (counted from 0) at which the ledger's disk is full; -1 is never.
        disk_freed_s: seconds until there is room again and the study is resumed; negative is never.
    """

    queue_s: float = 0.0
    stragglers: float = 0.0
    straggle: float = 10.0
    preempt_s: float = 0.0
    wall_s: float = 0.0
    hang: float = 0.0
    poison: float = 0.0
    deaf: float = 0.0
    refused: float = 0.0
    delay_s: float = 0.0
    exit_delay_s: float = 0.0
    break_: float = 0.0
    ack_loss: float = 0.0
    nodes: tuple[NodeLoss, ...] = ()
    crashes: tuple[Crash, ...] = ()
    disk_full: int = -1
    disk_freed_s: float = -1.0

    def __post_init__(self) -> None:
        for name in ("stragglers", "hang", "poison", "deaf", "refused", "break_", "ack_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"The fault {name}={getattr(self, name)} is a share and lies in [0, 1].")
        for name in ("queue_s", "preempt_s", "wall_s", "delay_s", "exit_delay_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"The fault {name}={getattr(self, name)} is in seconds and not negative.")

    @classmethod
    def draw(cls, rng: Random, *, nodes: int, horizon_s: float, commits: int) -> Faults:
        """A random schedule: each kind of fault with probability 0.4.

        Args:
            rng: where the numbers come from.
            nodes: nodes of the cluster.
            horizon_s: about how long the study takes, s.
            commits: about how many commits it makes.
        """

        def some(most: float) -> float:
            return rng.uniform(0.0, most) if rng.random() < 0.4 else 0.0

        losses, crashes = [], []
        while rng.random() < 0.4:
            losses.append(NodeLoss(rng.uniform(0, horizon_s), rng.randrange(nodes), rng.choice([-1.0, 5.0, horizon_s / 3])))
        while rng.random() < 0.4:
            crashes.append(Crash(rng.randrange(commits), rng.random() < 0.5, rng.uniform(1, 30), rng.random() < 0.5))
        return cls(
            queue_s=some(20.0),
            stragglers=some(0.3),
            preempt_s=rng.uniform(20, 400) if rng.random() < 0.3 else 0.0,
            wall_s=rng.uniform(20, 80) if rng.random() < 0.2 else 0.0,
            hang=some(0.3),
            poison=some(0.3),
            deaf=some(1.0),
            refused=some(0.2),
            delay_s=some(3.0),
            exit_delay_s=some(5.0),
            break_=some(0.2),
            ack_loss=some(0.5),
            nodes=tuple(losses),
            crashes=tuple(sorted(crashes, key=lambda c: c.commit)),
            disk_full=rng.randrange(commits) if rng.random() < 0.15 else -1,
            disk_freed_s=rng.choice([-1.0, 60.0]),
        )

    def told(self) -> str:
        """The faults that are on, in one line."""
        on = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default and f.name != "straggle"
        ]
        return ", ".join(on) or "none"
