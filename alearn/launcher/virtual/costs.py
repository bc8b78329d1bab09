"""What members and learners cost: given, or fitted from the events of a real study."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from alearn import events as ev
from alearn.errors import ConfigError

METRICS = ("mean", "rmse", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Life:
    """What one member needs.

    Args:
        startup_s: seconds from the start of its process to the first word of its stream.
        step_s: seconds a time step.
        steps: time steps of the whole trajectory.
        cores: cores it keeps busy.
        tail_s: seconds from the last step to the end of its process.
    """

    startup_s: float
    step_s: float
    steps: int
    cores: float = 1.0
    tail_s: float = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds from start to end."""
        return self.startup_s + self.step_s * self.steps + self.tail_s


@dataclass(frozen=True, slots=True)
class ValueModel:
    """What the rest of a member is worth next to the best candidate: ``start * exp(-decay * share + spread * z)``.

    Args:
        start: the ratio at the start of a member, at its median.
        decay: how fast it falls with the share of the trajectory that was seen.
        spread: standard deviation of the logarithm between members.
        noise: the same between the scores of one member.
    """

    start: float = 1.0
    decay: float = 3.0
    spread: float = 1.0
    noise: float = 0.2

    def ratio(self, share: float, z: float, noise: float = 0.0) -> float:
        """The ratio for a member of interest ``z`` (standard normal) after ``share`` of its trajectory."""
        return self.start * math.exp(min(50.0, self.spread * z + self.noise * noise - self.decay * share))


@dataclass(frozen=True, slots=True)
class LearnerModel:
    """How long the learner takes, and how the error falls.

    Args:
        refit_s: seconds from the wish to train to a measured surrogate.
        final_s: seconds of the last training of a study.
        acquire_s: seconds for each chosen point.
        judge_s: seconds to score one running member.
        snapshot_s: seconds a snapshot.
        errors: by metric (a, b) of ``error = exp(a) * steps ** -b``; empty is not measured.
    """

    refit_s: float = 1.0
    final_s: float = 1.0
    acquire_s: float = 0.05
    judge_s: float = 0.0005
    snapshot_s: float = 0.2
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def error(self, steps: int) -> dict[str, float]:
        """The errors after so many simulated steps."""
        return {k: math.exp(a - b * math.log(max(1, steps))) for k, (a, b) in self.errors.items()}


@dataclass(frozen=True, slots=True)
class CostModel:
    """Members to draw from, whole ones, so that what belongs together stays together.

    Args:
        lives: the members; a new one is like one of these.
        fail: probability that a member fails by itself.
        value: what continuing is worth.
        learner: what the learner needs.
        announced: whether members tell how many steps they will make.
    """

    lives: tuple[Life, ...]
    fail: float = 0.0
    value: ValueModel = ValueModel()
    learner: LearnerModel = LearnerModel()
    announced: bool = True

    def __post_init__(self) -> None:
        if not self.lives or not 0 <= self.fail <= 1:
            raise ConfigError(f"A cost model needs at least one member and a probability of failure in [0, 1], not {self.fail}.")
        for life in self.lives:
            if life.steps < 1 or not (life.startup_s >= 0 and life.step_s > 0 and life.cores >= 0 and life.tail_s >= 0):
                raise ConfigError(f"A member cannot cost {life}; steps must be at least 1 and step_s positive.")

    @classmethod
    def given(
        cls, *, startup_s: float = 2.0, step_s: float = 1.0, steps: int = 20, spread: float = 0.3, fail: float = 0.0, n: int = 199
    ) -> CostModel:
        """Log-normal costs.

        Args:
            startup_s: median start-up, s.
            step_s: median seconds a step.
            steps: time steps of every member.
            spread: standard deviation of the logarithms.
            fail: probability that a member fails.
            n: how many members stand for the distribution.
        """
        normal = statistics.NormalDist()
        factors = [math.exp(spread * normal.inv_cdf((i + 0.5) / n)) for i in range(n)]
        shuffled = Random(0).sample(factors, n)
        return cls(tuple(Life(startup_s * a, step_s * b, steps) for a, b in zip(factors, shuffled, strict=True)), fail)

    def draw(self, seed: int, member: str) -> Life:
        """The member's life: the same for every attempt and under every policy."""
        return self.lives[crc32(f"{seed}:life:{member}".encode()) % len(self.lives)]

    @property
    def wall_s(self) -> float:
        """Mean seconds of a whole member."""
        return statistics.fmean(life.wall_s for life in self.lives)

    @property
    def core_s(self) -> float:
        """Mean core-seconds of a whole member."""
        return statistics.fmean(life.wall_s * life.cores for life in self.lives)

    @classmethod
    def fit(cls, events: Iterable[ev.Event]) -> CostModel:
        """Costs as a finished or running study had them.

        A killed member counts with the length that it announced, or with that of the finished ones: what was cut
        off is not mistaken for a short trajectory.

        Raises:
            ConfigError: no member of the study streamed anything and ended.
        """
        return _Fit(events).model()


class _Fit:
    """Gathers what a cost model needs from a study's events."""

    def __init__(self, events: Iterable[ev.Event]) -> None:
        self.launched: dict[tuple[str, int], float] = {}
        self.opened: dict[tuple[str, int], float] = {}
        self.announced: dict[str, int] = {}
        self.last: dict[tuple[str, int], float] = {}
        self.made: dict[tuple[str, int], int] = {}
        self.steps: dict[str, int] = {}
        self.ends: list[ev.MemberEnded] = []
        self.scores: dict[str, list[tuple[int, float]]] = {}
        self.refits: list[float] = []
        self.ended = False
        self.points: list[float] = []
        self.errors: dict[str, list[tuple[float, float]]] = {}
        for event in events:
            self._see(event)

    def _see(self, event: ev.Event) -> None:
        match event:
            case ev.MemberLaunched():
                self.launched[event.member, event.attempt] = event.at
            case ev.MemberRunning():
                self.opened.setdefault((event.member, event.attempt), event.at)
                if event.steps_total:
                    self.announced[event.member] = event.steps_total
            case ev.SamplesStored():
                key = (event.member, event.attempt)
                self.last[key] = event.at
                self.made[key] = self.made.get(key, 0) + event.steps + event.duplicates
                self.steps[event.member] = max(self.steps.get(event.member, 0), event.last + 1)
            case ev.MemberEnded():
                self.ends.append(event)
            case ev.MemberScored():
                if event.best_value > 0 and event.remaining_value > 0:
                    self.scores.setdefault(event.member, []).append((event.step + 1, event.remaining_value / event.best_value))
            case ev.Refitted():
                self.refits += [event.seconds] if math.isfinite(event.seconds) else []
            case ev.StudyEnded():
                self.ended = event.state == "done"
            case ev.RoundDecided():
                self.points += [event.seconds / event.q] if event.q and event.seconds > 0 else []
            case ev.Evaluated():
                for name, value in (event.error or event.prequential).items():
                    if name in METRICS and math.isfinite(value) and value > 0 and event.simulated_steps:
                        self.errors.setdefault(name, []).append((math.log(event.simulated_steps), math.log(value)))

    def model(self) -> CostModel:
        whole = [self.steps[e.member] for e in self.ends if e.state == "done" and self.steps.get(e.member)]
        usual = round(statistics.fmean(whole)) if whole else 0
        lives = []
        for e in self.ends:
            key = (e.member, e.attempt)
            made = self.made.get(key, 0)
            if key not in self.opened or key not in self.launched or not made or self.last[key] <= self.opened[key]:
                continue
            steps = self.announced.get(e.member) or (self.steps[e.member] if e.state == "done" else max(usual, self.steps[e.member]))
            lives.append(
                Life(
                    startup_s=max(0.0, self.opened[key] - self.launched[key]),
                    step_s=(self.last[key] - self.opened[key]) / made,
                    steps=steps,
                    cores=e.core_s / e.wall_s if e.wall_s > 0 and e.core_s > 0 else 1.0,
                    tail_s=max(0.0, e.at - self.last[key]) if e.state == "done" else 0.0,
                )
            )
        if not lives:
            raise ConfigError(
                "No member of the study streamed a time step and ended, so there is nothing to plan from; "
                "let a short run (ten members or so) finish first."
            )
        judged = [e for e in self.ends if e.state in ("done", "killed", "failed")]
        failed = sum(e.state == "failed" for e in judged)
        return CostModel(tuple(lives), failed / len(judged) if judged else 0.0, self._value(usual), self._learner(), bool(self.announced))

    def _value(self, usual: int) -> ValueModel:
        rows = []
        for member, scores in self.scores.items():
            length = max(self.announced.get(member) or usual, scores[-1][0], 1)
            rows.append([(step / length, math.log(ratio)) for step, ratio in scores])
        flat = [row for member in rows for row in member]
        if len(flat) < 8:
            return ValueModel()
        intercept, slope = _line(flat)
        residuals = [[y - intercept - slope * x for x, y in member] for member in rows]
        means = [statistics.fmean(r) for r in residuals]
        within = [r - m for row, m in zip(residuals, means, strict=True) for r in row]
        return ValueModel(math.exp(intercept), max(0.0, -slope), statistics.pstdev(means), statistics.pstdev(within))

    def _learner(self) -> LearnerModel:
        standard = LearnerModel()
        errors = {}
        for name, rows in self.errors.items():
            if len(rows) >= 3 and rows[-1][0] > rows[0][0]:
                a, b = _line(rows)
                errors[name] = (a, max(0.0, -b))
        refit_s = statistics.median(self.refits) if self.refits else standard.refit_s
        return LearnerModel(
            refit_s=refit_s,
            final_s=self.refits[-1] if self.refits and self.ended else refit_s,
            acquire_s=statistics.median(self.points) if self.points else standard.acquire_s,
            errors=errors,
        )


def _line(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope by least squares; slope 0 if all x agree."""
    mx, my = statistics.fmean(x for x, _ in rows), statistics.fmean(y for _, y in rows)
    across = sum((x - mx) ** 2 for x, _ in rows)
    slope = sum((x - mx) * (y - my) for x, y in rows) / across if across > 0 else 0.0
    return my - slope * mx, slope
