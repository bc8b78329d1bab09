"""The learner: trainer and acquisition, and what the study's loop tells and asks them.

The loop tells it what is stored and asks it questions; between these it trains. Answers come back in order. It never
holds the loop up, because it runs beside it: where is said by ``trainer.placement`` (``alearn/placement``).
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.acquisition.base import Acquisition, Context, PoolFunction, Selection
from alearn.acquisition.costs import expected_cost
from alearn.config import SHARES
from alearn.controller.stop import quantile_name
from alearn.errors import AlearnError
from alearn.simulators.reference import Reference
from alearn.space import Space
from alearn.surrogate import save_snapshot
from alearn.surrogate.feasibility import Feasibility
from alearn.trainer import InlineTrainer
from alearn.types import Floats, Sample

BOX_POINTS = 1024
"""Points of the box over which the standard deviation is measured."""
QUICK_TIMES = 16
"""Times at which test members are compared while the study runs; the last measurement takes them all."""


@dataclass(frozen=True, slots=True)
class RunningMember:
    """What the learner needs of a member to judge it: the point, the last stored step and its time, steps expected."""

    x: tuple[float, ...]
    step: int
    t: float
    steps_expected: int


@dataclass(frozen=True, slots=True)
class Propose:
    """Choose ``q`` points. ``pending`` maps members without all their data to (point, share already streamed);
    ``created`` counts the members made so far; ``costs`` are points of ended members with their core-seconds."""

    round: int
    q: int
    pending: Mapping[str, tuple[tuple[float, ...], float]]
    observed: Mapping[str, tuple[float, ...]]
    failed: Sequence[tuple[float, ...]] = ()
    created: int = 0
    costs: Sequence[tuple[tuple[float, ...], float]] = ()


@dataclass(frozen=True, slots=True)
class Judge:
    """Score running members for the kill policy."""

    members: Mapping[str, RunningMember]
    seconds_per_step: float
    startup_s: float


@dataclass(frozen=True, slots=True)
class Measure:
    """Recalibrate and evaluate. ``final`` trains to convergence first; where members ``failed`` the box is not judged."""

    simulated_steps: int
    members: int
    final: bool = False
    observed: Sequence[tuple[float, ...]] = ()
    failed: Sequence[tuple[float, ...]] = ()


@dataclass(frozen=True, slots=True)
class Rescore:
    """Score queued members again, now that the surrogate has changed: point and first score of each."""

    members: Mapping[str, tuple[tuple[float, ...], float]]


@dataclass(frozen=True, slots=True)
class Save:
    """Write a snapshot under this path. ``samples`` counts those stored, and fed, before it was asked for."""

    path: Path
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Gone:
    """A member streams no more."""

    member: str
    killed: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep this member out of the training until it is complete: an honest test."""

    member: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The study's first ``upto`` samples are durable. ``samples`` are those to take in, in batches; without them a learner
    reads for itself what it has not read yet."""

    upto: int
    samples: Iterable[Sequence[Sample]] | None = None


Question = Propose | Judge | Measure | Rescore | Save
Fact = Stored | Gone | Hold
DOING = {
    Propose: "choosing points",
    Judge: "judging members",
    Measure: "measuring",
    Rescore: "looking at the queue again",
    Save: "saving",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """``result`` is a Selection for Propose, a list of scores for Judge, a ``Measured`` for Measure, scores by member for
    Rescore, a path for Save."""

    question: Question
    result: Any
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The outcome of ``Measure``; ``busy_s`` is how long the learner was at work since the one before."""

    error: Mapping[str, float]
    prequential: Mapping[str, float]
    calibration: Mapping[str, float]
    updates: int
    samples: int
    loss: float
    std: Mapping[str, float]
    lead: str = ""
    busy_s: float = math.nan


@dataclass(frozen=True, slots=True)
class Vitals:
    """The learner's pulse, for the live view."""

    updates: int = 0
    samples: int = 0
    buffer: int = 0
    busy_s: float = 0.0
    doing: str = "idle"
    alive_at: float = field(default_factory=time.time)


class Learner:
    """Trainer and acquisition: takes facts in, answers questions, and trains between them. Where it runs is the placement's
    (``alearn/placement``): it knows of no thread and no process.

    Args:
        trainer: made by the study once the schema is known.
        acquisition: chooses points.
        space: the parameter space.
        reference: the fixed test set, or None.
        seed: for the acquisition's generator.
    """

    def __init__(
        self, trainer: InlineTrainer, acquisition: Acquisition, space: Space, reference: Reference | None = None, seed: int = 0
    ) -> None:
        self.trainer = trainer
        self._acquisition = acquisition
        self._space = space
        self._reference = reference
        self._generator = torch.Generator().manual_seed(seed)
        self._best_std = math.nan
        self._rank_at_choice: dict[tuple[float, ...], float] = {}
        self._busy_s = self._told_busy_s = 0.0
        self.doing = "idle"

    def run(self, inbox: queue.SimpleQueue[Fact | Question | None], emit: Callable[[Answer], None], stop: threading.Event) -> None:
        """Serve until ``stop`` is set and something (None) is in the inbox: facts and questions in their order, training between them."""
        torch.set_num_threads(max(1, self.trainer.threads))
        while not stop.is_set():
            worked = False
            with contextlib.suppress(queue.Empty):
                while True:
                    self._handle(inbox.get_nowait(), emit)
                    worked = True
            self.doing = "training"
            began = time.monotonic()
            if self.trainer.work(0.05):
                self._busy_s += time.monotonic() - began
            elif not worked:
                self.doing = "idle"
                self._handle(inbox.get(), emit)

    def vitals(self) -> Vitals:
        """How it is; may be called from any thread."""
        t = self.trainer
        return Vitals(t.updates, t.samples, t.buffered, self._busy_s, self.doing)

    def _handle(self, item: Fact | Question | None, emit: Callable[[Answer], None]) -> None:
        began = time.monotonic()
        match item:
            case None:
                return
            case Gone():
                self.trainer.ended(item.member, item.killed)
            case Hold():
                self.trainer.hold(item.member)
            case Stored():
                self.doing = "taking samples in"
                for samples in item.samples or ():
                    self.trainer.add(samples)
            case _:
                self.doing = DOING[type(item)]
                result = self._answer(item)
                emit(Answer(item, result, time.monotonic() - began))
        self._busy_s += time.monotonic() - began

    def _answer(self, question: Question) -> Any:
        match question:
            case Propose():
                return self._propose(question)
            case Judge():
                return self._judge(question)
            case Measure():
                return self._measure(question)
            case Rescore():
                return self._rescore(question)
            case Save():
                return self._save(question.path)

    def _save(self, directory: Path) -> Path:
        """The learner's whole state, and the surrogate by itself with what it is about."""
        self.trainer.snapshot(directory)
        features = self.trainer.features
        units = {f.name: f.unit for f in features.schema.fields}
        save_snapshot(
            directory / "surrogate.pt",
            self.trainer.surrogate,
            name=self.trainer.surrogate_name,
            space=self._space,
            schema=features.schema,
            outputs=features.outputs,
            extra={
                "t": self.trainer.times.tolist(),
                "units": units,
                "samples": self.trainer.samples,
                "updates": self.trainer.updates,
                "fields": [d.to_plain() for d in features.decoders()],
            },
        )
        return directory

    def _propose(self, question: Propose) -> Selection:
        d = self._space.d
        observed = np.array(list(question.observed.values()), dtype=float).reshape(-1, d)
        pending = np.array([x for x, _ in question.pending.values()], dtype=float).reshape(-1, d)
        progress = np.array([share for _, share in question.pending.values()], dtype=float)
        context = Context(
            X=torch.as_tensor(observed),
            pending=torch.as_tensor(pending),
            progress=torch.as_tensor(progress),
            generator=self._generator,
            round=question.round,
            created=question.created,
            residuals=torch.as_tensor(self.trainer.residuals(list(question.observed))),
            feasible=_feasibility(list(question.observed.values()), question.failed, d),
            cost=expected_cost([x for x, _ in question.costs], [core_s for _, core_s in question.costs]),
        )
        selection = self._acquisition.select(self.trainer.parameter_model(), self._space, question.q, context)
        if len(selection.x) == 0:
            raise AlearnError("The acquisition returned no point; it must return as many as it is asked for.")
        std = self.trainer.trajectory_std(np.asarray(selection.x))
        self._best_std = float(std.max())
        self._rank_at_choice |= {tuple(x): float(s) / max(self._best_std, 1e-300) for x, s in zip(selection.x.tolist(), std, strict=True)}
        return selection

    def _rescore(self, question: Rescore) -> dict[str, float]:
        """The first score times what has become of the point's uncertainty, compared with the largest in the box, since it was chosen."""
        known = {m: (x, first) for m, (x, first) in question.members.items() if x in self._rank_at_choice}
        if not known:
            return {}
        std = self.trainer.trajectory_std(np.array([x for x, _ in known.values()], dtype=float))
        best = max(self._largest_std(), float(std.max()), 1e-300)
        return {
            m: first * float(s) / best / max(self._rank_at_choice[x], 1e-300) for (m, (x, first)), s in zip(known.items(), std, strict=True)
        }

    def _largest_std(self) -> float:
        if not math.isfinite(self._best_std):
            probe: Floats = self._space.sobol(256, seed=0)
            self._best_std = float(self.trainer.trajectory_std(probe).max())
        return self._best_std

    def _judge(self, question: Judge) -> list[Any]:
        return self.trainer.member_scores(
            {m: (r.x, r.step, r.t, r.steps_expected) for m, r in question.members.items()},
            best_std=self._largest_std(),
            seconds_per_step=question.seconds_per_step,
            startup_s=question.startup_s,
        )

    def _measure(self, question: Measure) -> Measured:
        began = time.monotonic()
        if question.final:
            self.trainer.final_fit()
        else:
            self.trainer.refit()
        self._best_std = math.nan
        reference = self._reference
        if reference is not None and not question.final:
            reference = reference.thinned(QUICK_TIMES)
        error, calibration = self.trainer.evaluate(reference)
        spread = self._spread(question)
        busy = self._busy_s + time.monotonic() - began
        since, self._told_busy_s = busy - self._told_busy_s, busy
        return Measured(
            error,
            self.trainer.prequential(),
            calibration,
            self.trainer.updates,
            self.trainer.samples,
            self.trainer.loss,
            spread,
            self.trainer.lead,
            since,
        )

    def _spread(self, question: Measure) -> dict[str, float]:
        """Quantiles of the standard deviation over the feasible part of the box, for the coverage goal."""
        box: Floats = self._space.at_target(self._space.sobol(BOX_POINTS, seed=1))
        feasible = _feasibility(question.observed, question.failed, self._space.d)
        if feasible is not None:
            box = box[feasible(torch.as_tensor(box)).numpy() >= 0.5]
        if not len(box):
            return {}
        std = self.trainer.trajectory_std(box)
        return {quantile_name(share): float(np.quantile(std, share)) for share in SHARES}


def _feasibility(with_data: Sequence[tuple[float, ...]], failed: Sequence[tuple[float, ...]], d: int) -> PoolFunction | None:
    """The probability that a member succeeds; None while nothing failed. A member that failed half-way has data too."""
    if not failed:
        return None
    ok = set(with_data) - set(failed)
    points = np.array([*ok, *failed], dtype=float).reshape(-1, d)
    model = Feasibility(points, np.arange(len(points)) < len(ok))
    return lambda X: torch.as_tensor(model(X.cpu().numpy()))
