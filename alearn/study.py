"""A study: one campaign in one directory. Read this file first.

::

        space ──► acquisition ──► controller ──► launcher ──► simulation
          ▲            ▲             │    ▲                       │ time steps
          │            │             │    └── states ─────────────┤
          │         surrogate ◄── trainer ◄── buffer ◄── transport ◄──┘
          │            │                        │
          └── report ◄─┴──── study (ledger, archive, snapshots) ◄──┘

The loop that turns this picture is ``alearn/arm.py``; ``alearn/assembly.py`` makes the rooms from the
configuration; ``alearn/learner.py`` holds trainer and acquisition. A study has one arm, or several: the active one,
a control arm that is the same but for its Sobol points and without kills, in the folder ``control``, and before
them, where no test set is named, test members that nothing is learned from, in the folder ``test``.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from alearn.config import Config
from alearn.errors import ConfigError, LedgerError, StudyFailed
from alearn.ledger import Ledger, open_archive
from alearn.simulation import target_of
from alearn.testset import with_test_set, write_test_set
from alearn.types import Candidate, Parameters

if TYPE_CHECKING:
    import xarray

    from alearn.asktell import OwnLoop
    from alearn.predict import Prediction
    from alearn.report.maps import Maps
    from alearn.report.notebook import Shown
    from alearn.report.status import Status

EXIT_CODES = {"done": 0, "failed": 1, "stopped": 130}


class Study:
    """A study made in Python; ``from_config``, ``open`` and ``resume`` make one from elsewhere.

    Args:
        space: each parameter's bounds, ``{"F": (0.01, 0.08)}``, or what configs and docs/space.md allow.
        simulation: a generator function (one yield, one time step), a plain function that returns a dict, a
            registered name with options as a mapping, or ``FILE.py:NAME``; None for a study that is asked and told.
        surrogate: a plug-in's name, or a mapping with its name and options.
        acquisition: likewise; or a function ``(surrogate, X, context) -> scores``.
        budget: number of members, or a mapping with members, steps, core_hours, wall_minutes.
        directory: where the study lives; made if absent. None makes ``studies/<study>/<time>``.
        entries: any other entry of the configuration (seed, outputs, control, design, launcher, …).

    Raises:
        ConfigError: something is wrong; nothing was started.
    """

    def __init__(
        self,
        space: Mapping[str, Any],
        simulation: Callable[..., Any] | Mapping[str, Any] | str | None = None,
        *,
        surrogate: str | Mapping[str, Any] = "ensemble",
        acquisition: str | Mapping[str, Any] | Callable[..., Any] = "std_distance",
        budget: int | Mapping[str, Any] = 60,
        directory: str | Path | None = None,
        **entries: Any,
    ) -> None:
        name = str(entries.get("study", "study"))
        self.directory = Path(directory) if directory else Path("studies") / name / time.strftime("%Y-%m-%d_%H-%M-%S")
        self._resuming = False
        if callable(acquisition):
            acquisition = {"name": "python", "target": target_of(acquisition, self.directory, "acquisition.py")}
        raw = {
            "space": {n: list(box) if isinstance(box, tuple) else box for n, box in space.items()},
            "simulation": None if simulation is None else _simulation(simulation, self.directory),
            "surrogate": surrogate,
            "acquisition": acquisition,
            "budget": budget,
            **entries,
        }
        self.config = Config.from_mapping(raw)
        self._loop: OwnLoop | None = None

    @classmethod
    def from_config(cls, config: Config, directory: Path) -> Study:
        """A study as configured, in ``directory``."""
        study = cls.__new__(cls)
        study.directory = Path(directory)
        study.config = with_test_set(config, study.directory)
        study._loop, study._resuming = None, False
        return study

    @classmethod
    def open(cls, directory: str | Path) -> Study:
        """Look at a study, running or not; changes nothing.

        Raises:
            ConfigError: there is no study in the directory.
        """
        directory = Path(directory)
        if not (directory / "ledger.sqlite").is_file() or not (directory / "config.yaml").is_file():
            raise ConfigError(f"There is no study in {directory} (it needs config.yaml and ledger.sqlite); give a study directory.")
        return cls.from_config(Config.load(directory / "config.yaml"), directory)

    @classmethod
    def resume(cls, directory: str | Path) -> Study:
        """Take up a study that was stopped or killed; ``run`` goes on."""
        study = cls.open(directory)
        study._resuming = True
        return study

    # --- run -------------------------------------------------------------------------------------------------

    def run(self) -> Study:
        """Run the study to its end, from wherever it stands; returns itself.

        Ctrl-C stops it cleanly, and ``resume`` goes on. The state it ends in is ``status().state``.

        Raises:
            ConfigError: something is wrong; nothing was started.
            LedgerLocked: another live controller owns the study.
        """
        from alearn.arm import Arm
        from alearn.assembly import assemble, check
        from alearn.outcome import Outcome

        if (self.directory / "ledger.sqlite").exists() and not self._resuming:
            raise ConfigError(
                f"{self.directory} holds a study already: go on with it by `alearn resume {self.directory}`, or choose another directory."
            )
        check(self.config)
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.directory / "config.yaml").exists():
            self.config.save(self.directory / "config.yaml")
        with Outcome(self.directory, self.config) as outcome, _interruption() as interrupted:
            _ledger(self.directory, self.config).close()  # from here on there is a study in this directory
            for name, directory, config in self.arms():
                ledger = _ledger(directory, config)
                try:
                    if ledger.meta().get("finished"):
                        continue
                    rooms = assemble(config, name, directory)
                    state = Arm(rooms, ledger, directory, self.directory, outcome.show, interrupted).run()
                    if state.end_state == "done":
                        ledger.seal()
                        if name == "test":
                            write_test_set(ledger, rooms.space, self.directory, self.config.outputs)
                            self.config = outcome.config = with_test_set(self.config, self.directory)
                        ledger.set_meta("finished", True)
                except LedgerError as error:
                    outcome.broken()
                    raise LedgerError(f"{error} Then: alearn resume {self.directory}") from error
                except StudyFailed:
                    outcome.broken()
                    raise
                finally:
                    ledger.close()
                if state.end_state != "done":
                    break  # a stopped or failed arm: its control arm would compare nothing
            outcome.conclude()
        return self

    def arms(self) -> Iterator[tuple[str, Path, Config]]:
        """The arms in the order in which they run: name, directory and configuration."""
        if self.config.test_members:  # until they have run: what they gave is the reference from then on
            yield "test", self.directory / "test", self.config.test_arm()
        yield "active", self.directory, self.config
        if self.config.control.enabled:
            yield "control", self.directory / "control", self.config.control_arm()

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 130 stopped by the user."""
        return EXIT_CODES.get(self.status().state, 1)

    # --- look ------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Where the study stands: what ``alearn status --json`` prints."""
        from alearn.report.status import read_status

        return read_status(self.directory)

    def archive(self, decode: bool = False) -> xarray.Dataset:
        """Every stored sample as a lazy, labelled dataset over (member, step); ``decode`` undoes what codecs did to the fields."""
        return open_archive(self.directory, decode=decode)

    def predict(self, points: Parameters | Sequence[Parameters], t: Sequence[float] | None = None, special: str = "") -> Prediction:
        """Mean and standard deviation at ``points``, over the trajectory or at the times ``t``; by a special surrogate if one is named."""
        from alearn.predict import predict

        return predict(self.directory, [points] if isinstance(points, Mapping) else list(points), t, special or None)

    def coverage(self) -> Shown:
        """Where the members lie, drawn (Jupyter shows it; ``.figure`` is matplotlib's)."""
        from alearn.report.notebook import coverage_view

        return coverage_view(*self._maps())

    def uncertainty(self) -> Shown:
        """Where the surrogate is unsure, drawn."""
        from alearn.report.notebook import uncertainty_view

        return uncertainty_view(*self._maps())

    def error(self) -> Shown:
        """Where the surrogate errs on the test members, drawn."""
        from alearn.report.notebook import error_view

        return error_view(*self._maps())

    def _maps(self) -> tuple[Maps, Maps | None]:
        from alearn.report.maps import load_maps

        found = [arm / "maps.npz" for _, arm, _ in self.arms() if (arm / "maps.npz").exists()]
        if not found:
            raise ConfigError(f"The study in {self.directory} has no maps yet; report() writes them once it has trained.")
        return load_maps(found[0]), load_maps(found[1]) if len(found) > 1 else None

    def report(self) -> Path:
        """Write maps.npz and report.html from what is stored; returns the page's path."""
        from alearn.reporting import write_report_of

        return write_report_of(self.directory, self.config)

    # --- own your loop ---------------------------------------------------------------------------------------

    def ask(self, n: int = 1) -> list[Candidate]:
        """``n`` points to simulate next; you run them and ``tell`` what came out."""
        return self._own_loop().ask(n)

    def tell(self, point: Candidate | Parameters, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """What a simulation gave: one dict of outputs, or one for each time step (with "t"). Durable on return.

        Raises:
            ConfigError: the point is outside the space.
            SchemaError: the values are not like those told before, or not finite.
        """
        self._own_loop().tell(point, values)

    def close(self) -> None:
        """Finish an ask/tell study: train to convergence, write snapshot and report, release the ledger."""
        if self._loop is not None:
            loop, self._loop = self._loop, None
            loop.close()

    def _own_loop(self) -> OwnLoop:
        from alearn.asktell import OwnLoop

        if self._loop is None:
            self._loop = OwnLoop(self.config, self.directory)
        return self._loop

    def _repr_html_(self) -> str:
        from alearn.report.notebook import status_view

        return status_view(self.status())._repr_html_()


def _ledger(directory: Path, config: Config) -> Ledger:
    if (directory / "ledger.sqlite").exists():
        return Ledger.open(directory)
    directory.mkdir(parents=True, exist_ok=True)
    return Ledger.create(directory, study=config.study, archive=config.archive)


def _simulation(simulation: Callable[..., Any] | Mapping[str, Any] | str, directory: Path) -> Mapping[str, Any]:
    if isinstance(simulation, str):
        return {"name": "python", "target": simulation}
    if isinstance(simulation, Mapping):
        return simulation
    return {"name": "python", "target": target_of(simulation, directory)}


@contextlib.contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks; a second one interrupts at once."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    old = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals stay the caller's
        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
