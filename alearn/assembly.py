"""From a configuration to rooms: the only place where a study's parts are made and connected."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alearn import events as ev
from alearn.acquisition.base import Acquisition
from alearn.buffer import Recalling
from alearn.chronicle import Chronicle
from alearn.config import NO_SIMULATION, Config, PlugIn
from alearn.controller import (
    BudgetSpent,
    CoverageGoal,
    ErrorGoal,
    FailureBudget,
    KeepSlotsFull,
    Learn,
    MonitorPanel,
    NoProgress,
    Policy,
    Retry,
    Rounds,
)
from alearn.controller.member import Record
from alearn.controller.quarantine import Quarantine
from alearn.controller.stragglers import Stragglers
from alearn.errors import ConfigError
from alearn.launcher.base import Job, Launcher
from alearn.ledger import Ledger
from alearn.registry import build
from alearn.simulation.base import Recorded, Settled, Simulation
from alearn.simulators.reference import Reference, load_reference
from alearn.space import Space
from alearn.space.designs import DESIGNS, initial_design
from alearn.surrogate import Surrogate
from alearn.surrogate.base import Parallel
from alearn.trainer import InlineTrainer
from alearn.trainer.placing import Placing, device_of
from alearn.transform import Planner
from alearn.transport.base import Following, Reader
from alearn.transport.transformed import TransformedReader
from alearn.types import Exit, Parameters, Sample, Schema
from alearn.warmstart import read_past, take_over

ADIOS2 = ("adios_sst", "adios_bp")
"""Carriers of programs that write ADIOS2 by themselves."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rooms:
    """Everything one arm's loop connects."""

    config: Config
    arm: str
    space: Space
    simulation: Simulation
    launcher: Launcher
    reader: Reader
    acquisition: Acquisition
    policy: Policy
    reference: Reference | None
    monitors: MonitorPanel

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def learning(self) -> bool:
        """Whether anything is learned from this arm's members; nothing is from the test members."""
        return self.arm != "test"

    @property
    def acquisition_name(self) -> str:
        return self.config.acquisition.name

    @property
    def judging(self) -> bool:
        """Whether the kill policy needs running members to be scored."""
        return self.config.kill.name != "never"

    def started(self, now: float) -> ev.StudyStarted:
        """The study's first event."""
        c = self.config
        return ev.StudyStarted(at=now, study=c.study, arm=self.arm, seed=c.seed, budget=c.budget.limits())

    def design(self, n: int, skip: int) -> Sequence[tuple[float, ...]]:
        """The next ``n`` points of the initial design."""
        c = self.config
        return [tuple(row) for row in initial_design(self.space, c.design.kind, c.initial, n, self.seed, skip).tolist()]

    @property
    def designed_by(self) -> str:
        """Why a point of the initial design is where it is."""
        kind = self.config.design.kind
        return DESIGNS[kind] if kind in DESIGNS else f"initial design, from {Path(kind).name}"

    def take_over(self, ledger: Ledger, chronicle: Chronicle) -> int:
        """Make the members of what was simulated before; returns how many they are."""
        if self.config.design.data is None:
            return 0
        path = Path(self.config.design.data)
        found = read_past(path, self.space)
        take_over(found, path, self.space, ledger, chronicle, self.config.units)
        if found.left_out:
            log.warning("%s", found.summary(path))
        return len(found.members)

    def holdout(self, n: int, skip: int) -> Sequence[tuple[float, ...]]:
        """The next ``n`` points of the Sobol stream beside the acquisition (a sequence of its own)."""
        return [tuple(row) for row in self.space.sobol(n, seed=self.seed + 7919, skip=skip).tolist()]

    def settle(self, points: Sequence[tuple[float, ...]], taken: Sequence[Parameters]) -> list[Settled]:
        """The chosen points (``n x d`` in the unit cube) as they can be simulated, given the members that there are.

        Control and test members have the fidelity that is wanted in the end: the surrogate is judged there, and a plain design
        has no reason to simulate anything else.
        """
        if self.space.fidelities and self.arm != "active":
            points = [tuple(row) for row in self.space.at_target(np.array(points).reshape(-1, self.space.d)).tolist()]
        if isinstance(self.simulation, Recorded):
            return self.simulation.settle(points, taken, self.space)
        values = self.space.from_unit(np.array(points))
        return [Settled(tuple(x), p) for x, p in zip(points, values, strict=True)]

    def classify(self, gone: Exit, record: Record) -> tuple[str, str, str]:
        """How an attempt's end counts: state, reason, cause."""
        retry = self.policy.failure
        assert isinstance(retry, Retry)
        state, reason, cause = retry.classify(gone, record)
        return state.value, reason, cause

    def job(self, member: str, attempt: int, parameters: Parameters, directory: Path) -> Job:
        """One attempt, ready for the launcher."""
        command = self.simulation.command(parameters)
        stream = {
            "ALEARN_MEMBER": member,
            "ALEARN_ATTEMPT": str(attempt),
            "ALEARN_PARAMETERS": json.dumps(dict(parameters)),
        }
        where = directory / "members" / member / str(attempt)
        env = {**command.env, **stream, **self.announce(member, attempt, parameters, where)}
        return Job(member=member, attempt=attempt, argv=command.argv, directory=where, env=env, warm=command.warm)

    @property
    def following(self) -> Following | None:
        """The carrier, if its writers may know nothing of us and it must be told of them."""
        return self.carrier if isinstance(self.carrier, Following) else None

    @property
    def carrier(self) -> Reader:
        """What carries the streams, without the transforms on the way."""
        return self.reader if self.transformed is None else self.transformed.carrier

    def announce(self, member: str, attempt: int, parameters: Parameters, where: Path) -> Mapping[str, str]:
        """Let an attempt's stream come; returns the variables of its environment."""
        if self.following is not None:
            self.following.follow(member, attempt, parameters, where)
        return self.reader.address(member, attempt)

    def make_trainer(self, schema: Schema) -> InlineTrainer:
        """The trainer, once the first hello has told what a step carries."""
        return make_trainer(self.config, self.space, schema if self.transformed is None else self.transformed.learned(schema))

    @property
    def transformed(self) -> TransformedReader | None:
        """The reader, if steps are transformed on their way."""
        return self.reader if isinstance(self.reader, TransformedReader) else None

    def prepared(self, samples: Iterable[Sample], fields: Sequence[str]) -> list[Sample]:
        """Stored samples as the learner is given them, which needs these fields."""
        return list(samples) if self.transformed is None else self.transformed.prepared(list(samples), fields)

    def needed(self, fields: Sequence[str]) -> Sequence[str] | None:
        """Which stored fields are read for those that the learner needs; None is all."""
        return fields if self.transformed is None else self.transformed.needed(fields)


def check(config: Config) -> None:
    """Find what is wrong with a configuration before anything is started.

    Raises:
        ConfigError: one sentence.
    """
    space = Space.from_config(config.space)
    if config.simulation is None:
        raise ConfigError(NO_SIMULATION)
    make_simulation(config).check(space.names)
    if config.simulation.options.get("format") == "adios2" and config.transport.name not in ADIOS2:
        raise ConfigError(f"simulation.format=adios2 needs transport={' or '.join(ADIOS2)}; transport is '{config.transport.name}'.")
    _build("transport", config.transport).close()  # a wrong option, or a server that is not there, is told before a study is made
    _comparable(find_reference(config, space), config.outputs)
    if config.design.data is not None:
        read_past(Path(config.design.data), space)
    _build("acquisition", config.acquisition, seed=config.seed)
    config.transform.check()
    make_monitors(config)
    _build("kill", config.kill, seed=config.seed)
    if isinstance(_build("buffer", config.buffer, seed=config.seed), Recalling) and config.archive == "none":
        raise ConfigError(
            f"buffer={config.buffer.name} reads rows back from the archive, and archive=none keeps none; "
            "choose archive=bp5 or buffer=reservoir."
        )
    d = space.d + 1
    surrogate = _build("surrogate", config.surrogate, d=d, m=1, over_t=True, seed=config.seed)
    check_placing(config, surrogate)


def check_placing(config: Config, surrogate: Surrogate) -> None:
    """Whether the learner can run where ``trainer.placement`` says.

    Raises:
        ConfigError: it cannot; one sentence.
    """
    placing, options = Placing.of(config.trainer.options)
    for rank in range(placing.ranks):
        device_of(placing.device(str(options.get("device", "auto")), rank))
    if placing.placement == "ddp" and not isinstance(surrogate, Parallel):
        raise ConfigError(
            f"trainer.placement=ddp averages the gradients of networks, and surrogate={config.surrogate.name} has none to average; "
            "choose surrogate=ensemble or dropout, or trainer.placement=process."
        )
    if placing.placement == "ddp" and config.archive == "none":
        raise ConfigError("trainer.placement=ddp needs an archive, from which each rank reads its share; archive is none.")
    launcher = config.launcher.options
    needed, have = placing.processes * int(options.get("threads", 1)), int(launcher.get("learner_cores", 1))
    if launcher.get("placement") == "space" and needed > have:
        raise ConfigError(
            f"The learner's {placing.processes} process(es) of trainer.threads={options.get('threads', 1)} need {needed} cores, and "
            f"launcher.learner_cores is {have}; raise that, or set launcher.placement=free."
        )


def make_trainer(config: Config, space: Space, schema: Schema, rank: int = 0) -> InlineTrainer:
    """The trainer of a study whose steps are learned from as ``schema`` says; with several ranks, that of one of them."""
    placing, options = Placing.of(config.trainer.options)
    if placing.ranks > 1:
        options["device"] = placing.device(str(options.get("device", "auto")), rank)
    trainer: InlineTrainer = build(
        "trainer",
        config.trainer.name,
        options,
        space=space,
        schema=schema,
        surrogate=config.surrogate.name,
        surrogate_options=config.surrogate.options,
        buffer=config.buffer.name,
        buffer_options=config.buffer.options,
        outputs=config.outputs,
        over_t=config.t_is_input is not False,
        seed=config.seed,
    )
    return trainer


def make_simulation(config: Config) -> Any:
    """The user's simulation as the configuration names it; None if it names none."""
    return None if config.simulation is None else _build("simulation", config.simulation)


def assemble(config: Config, arm: str, directory: Path) -> Rooms:
    """Make the rooms of one arm.

    Args:
        config: the arm's configuration.
        arm: "active", "control" or "test".
        directory: the arm's.

    Raises:
        ConfigError: something cannot be made; nothing was started.
    """
    space = Space.from_config(config.space)
    simulation = make_simulation(config)
    if isinstance(simulation, Recorded):
        config = _within_record(config, simulation.available(space))
    carrier = {"name": config.transport.name, **config.transport.options}
    launcher = _build("launcher", config.launcher, carrier=carrier, ranks=_ranks(config))
    return Rooms(
        config=config,
        arm=arm,
        space=space,
        simulation=simulation,
        acquisition=_build("acquisition", config.acquisition, seed=config.seed),
        policy=make_policy(config, learning=arm != "test"),
        reference=find_reference(config, space),
        monitors=make_monitors(config),
        launcher=launcher,
        reader=make_reader(config, launcher, directory),
    )


def _within_record(config: Config, available: int) -> Config:
    """A replay ends when everything recorded has been used."""
    members = available if config.budget.members is None else min(config.budget.members, available)
    return dataclasses.replace(config, budget=dataclasses.replace(config.budget, members=members))


def make_reader(config: Config, launcher: Launcher, directory: Path) -> Reader:
    """The carrier's reader, behind the study's transforms if there are any."""
    reader: Reader = _build("transport", config.transport, directory=directory)
    wish = config.transform
    if not wish.steps:
        return reader
    try:
        planner = Planner(wish.where, members=lambda: launcher.slots, must_read=wish.must_read)
        return TransformedReader(reader, wish.pipeline(), planner, directory, on_read=wish.on_read)
    except BaseException:
        reader.close()
        raise


def make_policy(config: Config, *, learning: bool = True) -> Policy:
    """The controller's policy; without ``learning`` the members run and that is all."""
    goal = config.goal
    stop: list[Any] = [BudgetSpent(), FailureBudget(share=config.failure.budget)]
    if goal.metric is not None and goal.below is not None:
        source = "error" if config.test_set else "prequential"
        stop.append(ErrorGoal(metric=goal.metric, threshold=goal.below, source=source))
    if goal.std is not None:
        stop.append(CoverageGoal(share=goal.share, std=goal.std))
    if goal.patience:
        source = "error" if config.test_set else "prequential"
        metric = goal.metric or "mean"
        stop.append(NoProgress(metric=metric, evaluations=goal.patience, improvement=goal.improvement, source=source))
    q = config.design.batch
    return Policy(
        launch=KeepSlotsFull(withdraw_below=config.design.withdraw_below),
        kill=Stragglers(_build("kill", config.kill), action=config.failure.stragglers, factor=config.failure.slow),
        acquire=Rounds(design=config.initial, q=q, low_water=min(2, q), holdout=config.design.holdout),
        learn=Learn(members=q, snapshot_s=config.snapshot_s) if learning else Learn(members=0, first_steps=sys.maxsize),
        stop=stop,
        failure=Retry(max_attempts=config.failure.attempts, retry=config.failure.causes(), backoff_s=config.failure.backoff()),
        screen=Quarantine(failures=config.failure.quarantine, radius=config.failure.radius),
    )


def _ranks(config: Config) -> int:
    """MPI ranks of one member."""
    return int(config.simulation.options.get("ranks", 1)) if config.simulation is not None else 1


def make_monitors(config: Config) -> MonitorPanel:
    """What watches the members' streams."""

    def factory(name: str) -> Callable[[], Any]:
        options = dict(config.monitors[name])
        plugin = str(options.pop("target", name))
        build("monitor", plugin, options)  # a wrong option is told now
        return lambda: build("monitor", plugin, options)

    return MonitorPanel({name: factory(name) for name in config.monitors})


def _build(room: str, choice: PlugIn, **given: Any) -> Any:
    return build(room, choice.name, choice.options, **given)


def _comparable(reference: Reference | None, outputs: str | Sequence[str]) -> None:
    """Refuse a test set that knows nothing of what is learned.

    Raises:
        ConfigError: it shares no output with those named.
    """
    if reference is None or outputs == "auto":
        return
    known = {*reference.outputs, *reference.fields}
    named = [outputs] if isinstance(outputs, str) else list(outputs)
    if not known.intersection([*named, *(n.partition("[")[0] for n in named)]):
        raise ConfigError(
            f"The test set knows {', '.join(sorted(known))}, and outputs={named} are to be learned: nothing to compare. "
            "Set reference=16 for sixteen test members of the study's own, or reference=null."
        )


def find_reference(config: Config, space: Space) -> Reference | None:
    """The fixed test set, or None.

    Raises:
        ConfigError: it is not there, or is over other parameters.
    """
    name = config.test_set
    if name is None:
        return None
    reference = Reference.read(name) if name.endswith(".npz") else load_reference(name)
    if set(reference.names) != set(space.names):
        raise ConfigError(
            f"The reference '{name}' is over {sorted(reference.names)}, but the space has {sorted(space.names)}; "
            "set reference=null or give one over the same parameters."
        )
    return reference
