"""Ask and tell: a study whose simulations its user runs. Points out, results in; ledger and surrogate as ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alearn import events as ev
from alearn.assembly import Rooms, assemble
from alearn.chronicle import Chronicle
from alearn.config import Config
from alearn.controller import StudyState
from alearn.errors import ConfigError, SchemaError
from alearn.learner import Measure, Measured, Propose, Save, Stored
from alearn.ledger import Ledger
from alearn.outcome import status_of
from alearn.placement import Learning, open_learner, wait
from alearn.report.status import write_status
from alearn.types import Array, Candidate, Parameters, Sample, Schema, member_id

DEADLINE_S = 600.0


class OwnLoop:
    """The state behind ``Study.ask`` and ``Study.tell``.

    Args:
        config: the study's configuration.
        directory: where it lives; an existing ask/tell study is taken up again.
    """

    def __init__(self, config: Config, directory: Path) -> None:
        if config.archive == "none":
            raise ConfigError("archive=none is for studies that run by themselves; a study that is asked and told keeps what it is told.")
        self.config, self.directory = config, directory
        directory.mkdir(parents=True, exist_ok=True)
        fresh = not (directory / "ledger.sqlite").exists()
        self.rooms: Rooms = assemble(config, "active", directory)
        self.ledger = Ledger.create(directory, study=config.study) if fresh else Ledger.open(directory)
        if not (directory / "config.yaml").exists():
            config.save(directory / "config.yaml")
        self._chronicle = Chronicle(self.ledger)
        now = self.ledger.now()
        self._chronicle.record(self.rooms.started(now) if not self.state.started else ev.StudyResumed(at=now))
        self._asked: dict[tuple[float, ...], Candidate] = {}
        self._designed = len(self._chronicle.atlas.points)
        self._told_since_fit = 0
        self.learner: Learning | None = None
        if self.ledger.schema() is not None:
            self._start_learner()
            self._told_since_fit = self.state.with_data  # the learner starts anew from what is stored

    @property
    def state(self) -> StudyState:
        """What is known of the study."""
        return self._chronicle.state

    def ask(self, n: int) -> list[Candidate]:
        """``n`` candidates: Sobol points until the initial design is told, then the acquisition's."""
        if n < 1:
            raise ConfigError(f"ask({n}) asks for nothing; give a number of at least 1.")
        if self.learner is None or self.state.with_data < self.config.initial:
            x = self.rooms.design(n, skip=self._designed)
            self._designed += n
            found = self._candidates(x, "design", [float("nan")] * n, ["initial space-filling design (Sobol)"] * n, 0)
        else:
            if self._told_since_fit:
                self._fit()
            pending = {f"ask{i}": (x, 0.0) for i, x in enumerate(self._asked)}
            question = Propose(
                self.state.rounds + 1,
                n,
                pending,
                dict(self._chronicle.atlas.with_data),
                tuple(self._chronicle.atlas.failed),
                self._designed,
            )
            chosen = wait(self.learner, question, DEADLINE_S)
            self._chronicle.record(
                ev.RoundDecided(at=self.ledger.now(), round=question.round, q=n, acquisition=self.rooms.acquisition_name)
            )
            x = [tuple(map(float, row)) for row in chosen.x]
            found = self._candidates(x, "acquisition", list(chosen.scores), list(chosen.reasons), question.round)
        self._asked.update({c.x: c for c in found})
        return found

    def tell(self, point: Candidate | Parameters, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Store one simulation's result durably, and hand it to the learner."""
        candidate = point if isinstance(point, Candidate) else self._named(point)
        steps = [dict(values)] if isinstance(values, Mapping) else [dict(v) for v in values]
        if not steps:
            raise SchemaError("tell() got no time step; give one dict of outputs, or a list with one for each step.")
        number = member_id(self.state.queued_total)
        samples = self._samples(number, candidate, steps)
        now = self.ledger.now()
        self._chronicle.record(
            ev.MemberQueued(
                at=now, member=number, parameters=dict(candidate.parameters), x=candidate.x, origin=candidate.origin,
                score=candidate.score, why=candidate.reason, round=candidate.round,
            ),
            ev.MemberLaunched(at=now, member=number, attempt=1),
            ev.MemberRunning(at=now, member=number, attempt=1, steps_total=len(steps)),
        )  # fmt: skip
        schema = self.ledger.schema()
        assert schema is not None
        self._chronicle.fold(*self.ledger.store(samples, schema))
        self._chronicle.record(ev.MemberEnded(at=self.ledger.now(), member=number, attempt=1, state="done", cause="done"))
        self._asked.pop(candidate.x, None)
        self._told_since_fit += 1
        if self.learner is None:
            self._start_learner()
        else:
            self.learner.tell(Stored(self.ledger.last_sample, [samples]))
        write_status(self.directory, status_of(self.state))

    def close(self) -> None:
        """Train to convergence, save, seal the archive and write the report."""
        if self.learner is not None:
            self._fit(final=True)
            wait(self.learner, Save(self.directory / "snapshots"), DEADLINE_S)
            self._chronicle.record(ev.SnapshotWritten(at=self.ledger.now(), name="snapshots", updates=self.state.updates))
            self.learner.close()
        self.rooms.reader.close()
        self._chronicle.record(ev.StudyEnded(at=self.ledger.now(), state="done", reason="the user closed it"))
        self.ledger.seal()
        self.ledger.close()
        write_status(self.directory, status_of(self.state))
        if self.learner is not None:
            from alearn.reporting import write_report_of

            write_report_of(self.directory, self.config)

    def _start_learner(self) -> None:
        self.learner = open_learner(self.rooms, self.ledger, self.directory, fresh=True)
        self.learner.tell(Stored(self.ledger.last_sample))

    def _fit(self, final: bool = False) -> None:
        assert self.learner is not None
        m: Measured = wait(self.learner, Measure(self.state.steps, self.state.with_data, final), DEADLINE_S)
        now = self.ledger.now()
        self._chronicle.record(
            ev.Refitted(at=now, updates=m.updates, samples=m.samples, loss=m.loss, lead=m.lead, busy_s=m.busy_s, last=final),
            ev.Evaluated(
                at=now, simulated_steps=self.state.steps, members=self.state.with_data,
                error=m.error, prequential=m.prequential, calibration=m.calibration,
            ),
        )  # fmt: skip
        self._told_since_fit = 0

    def _candidates(self, x: Sequence[tuple[float, ...]], origin: str, scores: list[float], why: list[str], number: int) -> list[Candidate]:
        values = self.rooms.space.from_unit(np.array(x))
        return [Candidate(p, tuple(u), origin, float(s), w, number) for p, u, s, w in zip(values, x, scores, why, strict=True)]

    def _named(self, parameters: Parameters) -> Candidate:
        self.rooms.space.check(parameters)
        return Candidate(dict(parameters), tuple(self.rooms.space.to_unit([parameters])[0].tolist()), reason="given by the user")

    def _samples(self, member: str, candidate: Candidate, steps: list[dict[str, Any]]) -> list[Sample]:
        samples = []
        times = [float(step.pop("t", i)) for i, step in enumerate(steps)]
        if self.rooms.transformed is not None:
            stored, steps = self.rooms.transformed.told(member, steps, self.config.units)
            self.ledger.set_schema(stored)
        for i, (t, step) in enumerate(zip(times, steps, strict=True)):
            if self.ledger.schema() is None:
                self.ledger.set_schema(Schema.of(step, self.config.units))
            schema = self.ledger.schema()
            assert schema is not None
            values: dict[str, Array] = schema.conform(step)
            sample = Sample(member, 1, i, t, candidate.parameters, values)
            if not sample.finite:
                raise SchemaError(f"Step {i} at {dict(candidate.parameters)} has a value that is NaN or infinite; leave failed points out.")
            samples.append(sample)
        return samples
