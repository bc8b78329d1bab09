"""The trainer that shares the process with its caller: learns from samples as they come, and answers about the surrogate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from botorch.models.model import Model

from alearn import events as ev
from alearn.buffer import Buffer, RateLimiter, Rows
from alearn.errors import ConfigError
from alearn.registry import build
from alearn.space import Space
from alearn.surrogate import Batch, OnlineSurrogate, OverTime, Surrogate
from alearn.surrogate.base import Competing, Counted
from alearn.trainer.early import Early
from alearn.trainer.evaluate import Truth, judge_study
from alearn.trainer.features import Features
from alearn.trainer.feedback import Read, let_recall, tell_priorities
from alearn.trainer.grid import TimeGrid
from alearn.trainer.grids import make_surrogate, on_grid
from alearn.trainer.guard import Guard, capture, reinstate
from alearn.trainer.history import History
from alearn.trainer.jury import Jury, plain, predict, rows_of
from alearn.trainer.outlook import Outlook
from alearn.trainer.placing import Helpers, device_of
from alearn.trainer.prequential import Prequential
from alearn.trainer.snapshots import read_snapshot, write_snapshot
from alearn.trainer.weights import ImportanceWeights
from alearn.types import Array, Floats, Parameters, Sample, Schema

log = logging.getLogger(__name__)

GRID = 48
"""The most times at which a trajectory is judged."""
LOOK = 8
"""The most times at which candidates by the thousand are compared."""


@final
class InlineTrainer:
    """Trains one surrogate on a stream of samples, by time division with whatever else its caller does.

    ``add`` takes samples in, ``work`` trains for a while, ``refit`` trains in a burst and recalibrates, ``final_fit``
    trains to convergence; the rest asks the surrogate. The same samples and calls give the same weights. Not thread-safe.

    A share of the members is *held out*: their rows are kept aside until the member is complete, predicted whole by a
    surrogate that has seen none of them (the evidence for the calibration), and learned only then.

    Args:
        space: the parameters.
        schema: what a time step carries.
        surrogate: a registered surrogate's name.
        surrogate_options: its options.
        buffer: a registered buffer's name.
        buffer_options: its options.
        outputs: see ``Features``.
        field: how whole fields among the outputs are learned; see ``FieldOptions``.
        over_t: whether t is an input; "auto" is yes (with one step a member it is constant and harmless).
        seed: of everything random in here.
        device: "cpu", "cuda", … or "auto": a CUDA device if there is one.
        threads: torch's threads; the caller sets them (they are a property of the process).
        batch_size: rows of a mini-batch.
        updates_per_row: the most updates per received row while the stream lasts; then the trainer idles.
        min_updates_per_row: the least; rows are held back (``holding``) while training is behind. 0 never holds.
        refit_updates: updates of a burst.
        holdout_share: share of members held out, besides those named by ``hold``.
        truncation_weights: whether to weigh late steps for what kills cut off (``trainer/weights.py``).
        density_correction: exponent in [0, 1] of the weights against the acquisition's skew (``trainer/weights.py``).
        history_mb: memory for all rows so far, 10^6 bytes; beyond it a uniform sample of them.
        snapshots: how many snapshots are kept.

    Raises:
        ConfigError: an option is wrong, or ``outputs`` does not fit the schema.
    """

    def __init__(
        self,
        space: Space,
        schema: Schema,
        *,
        surrogate: str = "ensemble",
        surrogate_options: Mapping[str, Any] | None = None,
        buffer: str = "reservoir",
        buffer_options: Mapping[str, Any] | None = None,
        outputs: str | Sequence[str] = "auto",
        field: Mapping[str, Any] | None = None,
        over_t: bool | str = "auto",
        seed: int = 0,
        device: str = "auto",
        threads: int = 1,
        batch_size: int = 128,
        updates_per_row: float = 1.0,
        min_updates_per_row: float = 0.0,
        refit_updates: int = 300,
        holdout_share: float = 0.1,
        truncation_weights: bool = True,
        density_correction: float = 0.5,
        history_mb: float = 256.0,
        snapshots: int = 3,
    ) -> None:
        if batch_size < 1 or refit_updates < 1 or threads < 1 or not 0 <= holdout_share < 1 or not history_mb > 0:
            raise ConfigError(
                f"The trainer has batch_size={batch_size}, refit_updates={refit_updates}, threads={threads}, "
                f"holdout_share={holdout_share}, history_mb={history_mb}; "
                "the first three are at least 1, the share is in [0, 1), the memory positive."
            )
        self.threads = threads
        self.device = device_of(device)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(4)]
        learned = Features(space, schema, outputs, over_t if isinstance(over_t, bool) else True, field, cells=on_grid(surrogate))
        self.features = learned
        self.surrogate: Surrogate = make_surrogate(surrogate, surrogate_options, learned, seeds[0]).to(self.device)
        self.buffer: Buffer = build("buffer", buffer, buffer_options, seed=seeds[1])
        self.loss = math.nan
        self._kind = (surrogate, buffer)
        self.batch_size, self.history_mb = batch_size, history_mb
        self._refit_updates, self._keep = refit_updates, snapshots
        self._limiter = RateLimiter(min_per_row=min_updates_per_row, max_per_row=updates_per_row, slack=max(256.0, 2.0 * batch_size))
        self._weights = ImportanceWeights(space.d, truncation=truncation_weights, density_correction=density_correction, seed=seeds[2])
        self._history = History(history_mb, seeds[2])
        self._grid = TimeGrid()
        self._prequential = Prequential()
        self._jury = Jury(self.features.m, holdout_share, seeds[3], lambda weights: self._copy(weights), self.features.targets)
        self._guard = Guard(self.surrogate)
        self._last: dict[int, int] = {}
        self._killed: set[int] = set()
        self._ended: set[int] = set()
        self._outlook = Outlook(self.features, self._grid)
        self._early = Early(self.features)
        self._waiting: list[Rows] = []
        self._trained = False
        self._fits = 0
        self._weighed_at = 0
        self._helpers: Helpers | None = None

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def fields(self) -> tuple[str, ...]:
        """The schema's fields that training needs."""
        return self.features.sources

    @property
    def surrogate_name(self) -> str:
        """The registered name of the surrogate."""
        return self._kind[0]

    @property
    def lead(self) -> str:
        """Which of several candidates answers, in words; "" for a surrogate without candidates."""
        return self.surrogate.lead if isinstance(self.surrogate, Competing) else ""

    @property
    def updates(self) -> int:
        """Optimiser updates so far (of a surrogate without: fits)."""
        return int(self.surrogate.updates) if isinstance(self.surrogate, Counted) else self._fits

    @property
    def samples(self) -> int:
        """Samples taken in, held-out ones and those that wait for a field's basis included."""
        return sum(self._last.values()) + len(self._last) + len(self._early)

    @property
    def buffered(self) -> int:
        """Rows from which ``work`` draws, or all rows remembered for a surrogate that does not learn online."""
        return len(self.buffer) if isinstance(self.buffer, _Sized) and self._online is not None else len(self._history)

    @property
    def holding(self) -> bool:
        """True while rows wait because the buffer or the limiter refuses them: feed no more until ``work`` has made room."""
        return bool(self._waiting)

    @property
    def _online(self) -> OnlineSurrogate | None:
        return self.surrogate if isinstance(self.surrogate, OnlineSurrogate) else None

    # --- samples in ------------------------------------------------------------------------------------------------

    def hold(self, member: str) -> None:
        """Hold this member out, from before its first sample on. For the members of a plain Sobol stream."""
        self._jury.hold(member)

    def ended(self, member: str, killed: bool = False) -> None:
        """Say that a member streams no more, and whether because it was killed (its truncation is then weighed for)."""
        number = self.features.members.get(member)
        if number is not None:
            self._ended.add(number)
            self._outlook.ended(number, killed)
            if killed:
                self._killed.add(number)

    def add(self, samples: Sequence[Sample]) -> int:
        """Take samples in: test the surrogate on them first, then learn them. Known ones (member, step) are dropped.

        Returns:
            how many were new.
        """
        return self._take(self._early.pass_on(self._unknown(samples)))

    def _take(self, samples: Sequence[Sample]) -> int:
        rows, _ = self.features.rows(samples)
        if not len(rows):
            return 0
        times = rows.x[:, -1] if self.features.over_t else np.zeros(len(rows))
        self._grid.observe(rows.step, times)
        if self._trained:
            self._test(rows)
        names = {number: name for name, number in self.features.members.items()}
        held = np.zeros(len(rows), dtype=bool)
        for number in np.unique(rows.group).tolist():
            mine = rows.group == number
            if number not in self._ended:
                self._outlook.streamed(number, times[mine], rows.y[mine])
            if self._jury.takes(number, names[number], new=number not in self._last):
                self._jury.keep(number, rows.take(np.flatnonzero(mine)))
                held |= mine
            self._last[number] = int(rows.step[mine].max())
        self._learn(rows.take(np.flatnonzero(~held)))
        return len(rows)

    def _unknown(self, samples: Sequence[Sample]) -> list[Sample]:
        newest: dict[str, int] = {}
        new = []
        for sample in samples:
            last = max(self._early.newest(sample.member), self._last.get(self.features.members.get(sample.member, -1), -1))
            known = newest.get(sample.member, last)
            if sample.step > known:
                newest[sample.member] = sample.step
                new.append(sample)
        return new

    def _test(self, rows: Rows) -> None:
        mean, std = self._predict(rows.x)
        scale = self.surrogate.output_scale.cpu().numpy()
        targets = self.features.targets(rows.y)
        self._outlook.arrived(rows.group, rows.step, targets)
        error = mean - targets
        self._prequential.add(rows.group, error / self.features.scale(scale), error / np.maximum(std, 1e-12 * scale))

    def _learn(self, rows: Rows) -> None:
        if not len(rows):
            return
        if self._helpers is not None:
            self._helpers.learned(rows)
        self._history.add(rows)
        if self._online is not None:
            self._online.observe(self._batch(rows, rows.weight))
            self._waiting.append(rows)
            self._admit()
        if len(self._last) > 1.1 * self._weighed_at:
            self._weigh()

    def _admit(self) -> None:
        """Move waiting rows into the buffer, as many as it and the limiter take."""
        while self._waiting:
            rows = self._waiting[0]
            room = min(len(rows), self._limiter.room)
            offered = rows if room == len(rows) else rows.take(np.arange(int(room)))
            taken = self.buffer.insert(offered)
            self._limiter.row(taken)
            if taken < len(rows):
                self._waiting[0] = rows.take(np.arange(taken, len(rows)))
                return
            self._waiting.pop(0)

    # --- training --------------------------------------------------------------------------------------------------

    def work(self, seconds: float, max_updates: int | None = None) -> int:
        """Train on mini-batches for about so long; returns the updates done. 0 means that there is nothing to do now.

        Args:
            seconds: time to spend; at least one update is made if one may be.
            max_updates: stop after so many.
        """
        online = self._online
        if online is None:
            return 0
        deadline = time.monotonic() + seconds
        done = 0
        while self._limiter.may_update and (max_updates is None or done < max_updates):
            rows = self.buffer.draw(self.batch_size)
            if rows is None:
                break
            batch = self._batch(rows, self._weights.of(rows))
            loss = self._guard.update(lambda batch=batch: online.update(batch))  # type: ignore[misc]
            if loss is not None:
                self.loss = loss
                self._trained = True
                tell_priorities(self.buffer, online, batch, self._scale)
            self._limiter.update()
            done += 1
            self._admit()
            if time.monotonic() >= deadline:
                break
        return done

    def recall_from(self, read: Read) -> None:
        """Let a buffer that lets rows go read them back."""
        let_recall(self.buffer, self.features, read)

    def refit(self) -> float:
        """Train in a burst on all rows, recalibrate, then release the held-out members that are complete.

        Returns:
            the loss.
        """
        self._fit(self._refit_updates if self._online is not None else None)
        self._recalibrate(everything=False)
        return self.loss

    def final_fit(self) -> float:
        """Train to convergence on everything, held-out members included (judged before, for the calibration).

        Returns:
            the loss.
        """
        self._fit(self._refit_updates if self._online is not None else None)
        self._recalibrate(everything=True)
        self._fit(None)
        return self.loss

    def _fit(self, updates: int | None) -> None:
        self._take(self._early.release())
        rows = self._history.rows()
        if rows is None:
            return
        self._weigh()
        self._jury.hear(rows)
        if self.features.renew():
            self._jury.forget()  # it would be asked for coefficients that mean something else now
        batch = self._batch(rows, self._weights.of(rows))
        self.loss = self._guard.burst(lambda: self.surrogate.fit(batch, updates=updates))
        self._jury.remember(self.surrogate, rows)
        self._fits += 1
        self._trained = True

    def _recalibrate(self, everything: bool) -> None:
        """Let the jury judge the surrogate, and learn the members that it held out until now."""
        if self._trained:
            released = self._jury.verdict(self.surrogate, self._last, self._ended, everything)
        else:
            released = self._jury.release() if everything else []
        for rows in released:
            self._learn(rows)

    def _copy(self, weights: Mapping[str, Any]) -> Surrogate:
        """A surrogate of the same make, with these weights."""
        s = self.surrogate
        given = {"d": s.d, "m": s.m, "over_t": s.over_t, "seed": 0}
        copied: Surrogate = build("surrogate", self._kind[0], s.options(), **given).to(self.device)
        copied.load_state_dict(weights)
        return copied

    def _weigh(self) -> None:
        n = len(self._last)
        last = np.array([self._last.get(g, -1) for g in range(len(self.features.members))], dtype=np.int64)
        killed = np.array([g in self._killed for g in range(len(last))], dtype=bool)
        self._weights.refresh(self.features.X, last, killed)
        self._weighed_at = n
        if self._helpers is not None:
            self._helpers.weighed(self._weights.state_dict())

    def work_with(self, helpers: Helpers) -> None:
        """Let other processes learn too what is learned from now on, and what is known already."""
        self._helpers = helpers
        rows = self._history.rows()
        if rows is not None:
            helpers.learned(rows)
        helpers.weighed(self._weights.state_dict())

    # --- answers ---------------------------------------------------------------------------------------------------

    def predict(self, parameters: Sequence[Parameters], t: Sequence[float] | Array) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the outputs at all pairs of points and times, each ``n x T x m``."""
        times = np.asarray(t, dtype=np.float64)
        return self._trajectories(self.features.space.to_unit(list(parameters)), times)

    def _trajectories(self, x: Floats, times: Floats) -> tuple[Floats, Floats]:
        mean, std = self._predict(self.features.inputs(x, times))
        if not self.features.over_t:
            shape = (len(x), 1, self.features.m)
            return np.repeat(mean.reshape(shape), len(times), axis=1), np.repeat(std.reshape(shape), len(times), axis=1)
        shape = (len(x), len(times), self.features.m)
        return mean.reshape(shape), std.reshape(shape)

    def _predict(self, x: Floats) -> tuple[Floats, Floats]:
        return predict(self.surrogate, x)

    @property
    def times(self) -> Floats:
        """The observed times at which trajectories are judged, at most 48."""
        return self._grid.times(0, len(self._grid), GRID)

    def parameter_model(self) -> Model:
        """The surrogate over parameters alone: over t, its outputs are those of the whole observed trajectory."""
        return self._over_time()

    def _over_time(self) -> OverTime:
        times = self._grid.times(0, len(self._grid), LOOK)
        return OverTime(self.surrogate, times if len(times) else np.zeros(1), scale=self._scale()).to(self.device)

    def _scale(self) -> Floats:
        """The outputs' scales where one number is wanted for all of them, ``m``."""
        return self.features.scale(self.surrogate.output_scale.double().cpu().numpy())

    def trajectory_std(self, x: Floats) -> Floats:
        """Root mean normalised epistemic variance over the observed trajectory at ``n x d`` points, ``n``.

        Each output's variance is divided by the square of its standard deviation over the data seen (of a field: the sum of
        its coefficients' variances by that of their squared standard deviations).
        """
        points = torch.as_tensor(np.atleast_2d(np.asarray(x, dtype=np.float64)), device=self.device)
        return np.asarray(self._over_time().trajectory_std(points).cpu().numpy())

    def member_scores(
        self,
        members: Mapping[str, tuple[Sequence[float], int, float, int]],
        *,
        best_std: float,
        seconds_per_step: float,
        startup_s: float,
    ) -> list[ev.MemberScored]:
        """The value of continuing, for the kill policy.

            remaining_value = worth of the remaining steps / seconds_per_step
            best_value      = n * best_std^2 / (startup_s + n * seconds_per_step)

        where ``n`` is the length of a whole trajectory: what each would teach per core-second of the slot. The worth is a normalised
        variance given what the member has streamed, and not less than forecasts like it came to (``trainer/outlook.py``); NaN while
        too few members were seen to their end. Members without remaining steps are left out, and all are while the surrogate has not
        been trained.

        Args:
            members: for each running one its point, last stored step, that step's t, and steps expected (0: unknown).
            best_std: ``trajectory_std`` of the best candidate.
            seconds_per_step: core-seconds a step.
            startup_s: core-seconds from launch to the first step.
        """
        if not self._trained or not members:
            return []
        pace = max(seconds_per_step, 1e-9)
        longest = len(self._grid)
        found = []
        now = time.time()
        for name, (x, step, _, expected) in members.items():
            total = expected or longest
            remaining = total - step - 1
            if remaining <= 0:
                continue
            number = self.features.members.get(name, -1)
            worth = self._outlook.worth(self.surrogate, number, np.array(x, dtype=np.float64), step, total, best_std**2)
            square = self._prequential.latest(number)
            scored = ev.MemberScored(
                at=now,
                member=name,
                step=step,
                remaining_value=worth / pace,
                best_value=best_std**2 * total / (max(startup_s, 0.0) + total * pace),
                remaining_steps=remaining,
                surprise=self._prequential.surprise(number),
                error=math.sqrt(square),
                taught=square / pace,
            )
            found.append(scored)
        return found

    def evaluate(self, test: Truth | None) -> tuple[dict[str, float], dict[str, float]]:
        """Errors and calibration on a test set (see ``judge``); without one, no errors and the calibration of the stream.

        Raises:
            ConfigError: the test set shares no output with the surrogate, or has other parameters.
        """
        if test is None:
            return {}, self._jury.report() or ({"coverage95": p["coverage95"]} if (p := self._prequential.summary()) else {})
        return judge_study(self.surrogate, self.features, test)

    def prequential(self) -> dict[str, float]:
        """The running error of arriving members, predicted before they were learned; empty until there is one."""
        return self._prequential.summary()

    def residuals(self, members: Sequence[str]) -> Floats:
        """Prequential RMS error of each member, normalised; NaN where unknown."""
        return self._prequential.residuals(np.array([self.features.members.get(m, -1) for m in members], dtype=np.int64))

    def _batch(self, rows: Rows, weights: Floats) -> Batch:
        tensors = (torch.as_tensor(a, device=self.device) for a in (rows.x, self.features.targets(rows.y), weights, rows.group))
        return Batch(*tensors)

    # --- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self, directory: Path) -> Path:
        """Write everything down so that training goes on exactly from here (see ``trainer/snapshots.py``); the surrogate alone loads with
        ``alearn.surrogate.load_snapshot``.

        Returns:
            the file.
        """
        return write_snapshot(directory, self.surrogate, self._kind[0], self.features, self._state(), self._keep)

    def restore(self, directory: Path) -> bool:
        """Take up the newest whole snapshot; False if there is none.

        Raises:
            ConfigError: it is that of another surrogate, buffer, space or schema (the sentence says which).
            LedgerCorrupt: there are snapshots, and none is whole.
        """
        found = read_snapshot(directory)
        if found is None:
            return False
        surrogate, info, state = found
        theirs = _identity(info.name, surrogate, info.space, info.schema, info.outputs) | {"buffer": state["buffer"].get("kind")}
        mine = _identity(self._kind[0], self.surrogate, self.features.space, self.features.schema, self.features.outputs)
        for key, value in (mine | {"buffer": self.buffer.state_dict().get("kind")}).items():
            if theirs[key] != value:
                raise ConfigError(f"The snapshot in {directory} was made with {key} = {theirs[key]}; this study has {value}.")
        self._load(surrogate, state)
        return True

    def _state(self) -> dict[str, Any]:
        return {
            "training": {k: v for k, v in capture(self.surrogate).items() if k != "weights"},
            "buffer": self.buffer.state_dict(),
            "limiter": self._limiter.state_dict(),
            "features": self.features.state_dict(),
            "history": self._history.state_dict(),
            "grid": self._grid.state_dict(),
            "prequential": self._prequential.state_dict(),
            "outlook": self._outlook.state_dict(),
            "jury": self._jury.state_dict(),
            "early": self._early.state_dict(),
            "weights": self._weights.state_dict(),
            "last": {str(k): v for k, v in self._last.items()},
            "killed": sorted(self._killed),
            "ended": sorted(self._ended),
            "waiting": [plain(r) for r in self._waiting],
            "trained": self._trained,
            "fits": self._fits,
            "weighed_at": self._weighed_at,
            "loss": self.loss,
        }

    def _load(self, surrogate: Surrogate, state: Mapping[str, Any]) -> None:
        reinstate(self.surrogate, {"weights": surrogate.state_dict(), **state["training"]})
        self._guard = Guard(self.surrogate)
        self.buffer.load_state_dict(state["buffer"])
        self._limiter.load_state_dict(state["limiter"])
        self.features.load_state_dict(state["features"])
        self._history.load_state_dict(state["history"])
        self._grid.load_state_dict(state["grid"])
        self._prequential.load_state_dict(state["prequential"])
        self._outlook.load_state_dict(state.get("outlook", {"members": [], "rows": []}))
        self._jury.load_state_dict(state["jury"])
        self._early.load_state_dict(state.get("early", {"held": []}))
        self._weights.load_state_dict(state["weights"])
        self._last = {int(k): int(v) for k, v in state["last"].items()}
        self._killed, self._ended = set(state["killed"]), set(state["ended"])
        self._waiting = [rows_of(v) for v in state["waiting"]]
        self._trained, self._fits = bool(state["trained"]), int(state["fits"])
        self._weighed_at, self.loss = int(state["weighed_at"]), float(state["loss"])


def _identity(name: str, surrogate: Surrogate, space: Space, schema: Schema | None, outputs: Sequence[str]) -> dict[str, Any]:
    """What a snapshot and a trainer must have in common."""
    return {
        "surrogate": name,
        "options": {k: v for k, v in surrogate.options().items() if k != "lr"},
        "d, m and over_t": (surrogate.d, surrogate.m, surrogate.over_t),
        "space": space.to_config(),
        "schema": schema,
        "outputs": tuple(outputs),
    }


@runtime_checkable
class _Sized(Protocol):
    def __len__(self) -> int: ...
