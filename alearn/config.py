"""The configuration of a study: validated, frozen, and the only place that knows Hydra.

``Config.from_mapping`` takes what Hydra composed (or what a Python caller wrote), refuses what it does not
know with did-you-mean, and makes every path absolute, so that ``config.yaml`` resumes from anywhere.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, UnknownName
from alearn.space.designs import DESIGNS, points_in
from alearn.transform.options import Transforms
from alearn.types import ExitCause

GROUPS = ("simulation", "surrogate", "acquisition", "kill", "launcher", "transport", "buffer", "trainer")
NO_SIMULATION = "No simulation is named; give simulation=python simulation.target=FILE.py:FUNCTION, or experiment=gray_scott."
METRICS = ("mean", "rmse", "p95", "p99", "max")
SHARES = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)
VIEWS = ("auto", "live", "plain", "quiet")
ARCHIVES = ("bp5", "none")
TEST_SEED = 1_000_003
"""Keeps the Sobol design of a study's own test members apart from all its other points."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """The choice of a plug-in: its name and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


@dataclass(frozen=True, slots=True)
class Design:
    """How members are chosen in number: initial design (None is automatic), batch q, share of the hold-out stream.

    ``kind`` is how the initial design is placed, or a CSV file with its points; ``data`` is what was simulated before.
    """

    initial: int | None = None
    kind: str = "sobol"
    data: str | None = None
    batch: int = 4
    holdout: float = 0.1
    withdraw_below: float = 0.1


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a study; None is no limit. ``money`` is in the currency of ``price``, which is for a core-hour."""

    members: int | None = 60
    steps: int | None = None
    core_hours: float | None = None
    wall_minutes: float | None = None
    money: float | None = None
    price: float | None = None

    def limits(self) -> dict[str, float]:
        """The limits that are set, in the units of the controller: members, steps, core_s, wall_s."""
        hours = [h for h in (self.core_hours, None if self.money is None else self.money / (self.price or math.nan)) if h is not None]
        raw = {
            "members": self.members,
            "steps": self.steps,
            "core_s": min(hours) * 3600 if hours else None,
            "wall_s": None if self.wall_minutes is None else self.wall_minutes * 60,
        }
        return {k: float(v) for k, v in raw.items() if v is not None}


@dataclass(frozen=True, slots=True)
class Goal:
    """Stop as soon as the error's ``metric`` is below a value, or ``share`` of the box has a standard deviation below
    ``std`` (in units of the outputs' spread), or ``patience`` measurements in a row brought less than ``improvement``.
    None, and a patience of 0, is no goal."""

    metric: str | None = None
    below: float | None = None
    std: float | None = None
    share: float = 0.95
    patience: int = 0
    improvement: float = 0.01


@dataclass(frozen=True, slots=True)
class Failure:
    """How many failures a study bears, what is tried again and when, and what becomes of regions that fail and of stragglers."""

    budget: float = 0.5
    attempts: int = 3
    retry: Sequence[str] = ()
    backoff_s: float | Mapping[str, float] = 0.0
    quarantine: int = 0
    radius: float = 0.1
    stragglers: str = "wait"
    slow: float = 5.0

    def causes(self) -> list[str]:
        """The causes in ``retry``, by their names in ``ExitCause`` (``out_of_memory`` may stand for ``out of memory``)."""
        return [cause.replace("_", " ") for cause in self.retry]

    def backoff(self) -> float | dict[str, float]:
        """``backoff_s`` with the causes by their names in ``ExitCause``."""
        if isinstance(self.backoff_s, Mapping):
            return {cause.replace("_", " "): seconds for cause, seconds in self.backoff_s.items()}
        return self.backoff_s


@dataclass(frozen=True, slots=True)
class Control:
    """Whether the matched Sobol control arm runs too."""

    enabled: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a study is made from. See configs/config.yaml for what each entry means."""

    simulation: PlugIn | None
    space: Mapping[str, Any]
    surrogate: PlugIn = PlugIn("ensemble")
    acquisition: PlugIn = PlugIn("std_distance")
    kill: PlugIn = PlugIn("value")
    launcher: PlugIn = PlugIn("local")
    transport: PlugIn = PlugIn("socket")
    buffer: PlugIn = PlugIn("reservoir")
    trainer: PlugIn = PlugIn("inline")
    transform: Transforms = field(default_factory=Transforms)
    study: str = "study"
    seed: int = 0
    outputs: str | tuple[str, ...] = "auto"
    units: Mapping[str, str] = field(default_factory=dict)
    reference: str | int | None = "auto"
    t_is_input: str | bool = "auto"
    design: Design = Design()
    budget: Budget = Budget()
    goal: Goal = Goal()
    failure: Failure = Failure()
    control: Control = Control()
    monitors: Mapping[str, Any] = field(default_factory=lambda: {"nonfinite": {}, "stall": {}})
    archive: str = "bp5"
    snapshot_s: float = 60.0
    view: str = "auto"

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Config:
        """Validate a nested mapping of plain values.

        Raises:
            UnknownName: an entry that does not exist (carries did-you-mean).
            ConfigError: a value of the wrong type or out of range; one sentence.
        """
        known = {f.name: f for f in dataclasses.fields(cls)}
        for key in raw:
            if key not in known:
                raise UnknownName("configuration entry", key, known)
        values: dict[str, Any] = {}
        for key, value in raw.items():
            if key in GROUPS:
                values[key] = _plugin(key, value)
            elif key in _SECTIONS:
                values[key] = _section(key, value)
            else:
                values[key] = value
        values.setdefault("simulation", None)
        values["space"] = _space(values.get("space") or _recorded_space(values["simulation"]))
        values["study"] = _name(values.get("study", "study"))
        values["seed"] = _whole("seed", values.get("seed", 0), 0)
        values["outputs"] = _outputs(values.get("outputs", "auto"))
        values["reference"] = _reference(values.get("reference", "auto"))
        values["transform"] = Transforms.of(values.get("transform"))
        values["monitors"] = _monitors(values.get("monitors", {"nonfinite": {}, "stall": {}}))
        values["units"] = {str(k): str(v) for k, v in (values.get("units") or {}).items()}
        _choice("view", values.get("view", "auto"), VIEWS)
        values["snapshot_s"] = _number("snapshot_s", values.get("snapshot_s", 60.0), 0, math.inf)
        values["archive"] = _choice("archive", values.get("archive", "bp5"), ARCHIVES)
        if values.get("t_is_input", "auto") not in ("auto", True, False):
            raise ConfigError(f"t_is_input is {values['t_is_input']!r}; write auto, true or false.")
        config = cls(**values)
        _check(config)
        return config

    def to_mapping(self) -> dict[str, Any]:
        """Plain nested values; ``from_mapping`` of it gives an equal configuration."""
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (PlugIn, Transforms)):
                out[f.name] = value.to_mapping()
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                out[f.name] = dataclasses.asdict(value)
            else:
                out[f.name] = _plain(value)
        return out

    @property
    def initial(self) -> int:
        """The size of the initial design: as configured, that of its file, or max(8, 4 d) but at most a third of the members."""
        if self.design.initial is not None:
            return self.design.initial
        if self.design.kind not in DESIGNS:
            from alearn.space import Space

            return len(points_in(Path(self.design.kind), Space.from_config(self.space)))
        size = max(8, 4 * len(self.space))
        return max(2, min(size, self.budget.members // 3)) if self.budget.members else size

    @property
    def test_set(self) -> str | None:
        """The fixed test set that is named: a bundled simulator's, or a file; None if there is none (yet)."""
        return self.reference if isinstance(self.reference, str) and self.reference != "auto" else None

    @property
    def test_members(self) -> int:
        """How many test members the study simulates first, outside its budget: ``reference=N``, or, for a study with a
        control arm and no other reference, a quarter of its members, but at least 8 and at most 32."""
        if self.simulation is None:
            return 0
        if isinstance(self.reference, int):
            return self.reference
        if self.reference != "auto" or not self.control.enabled:
            return 0
        return min(32, max(8, (self.budget.members or 96) // 4))

    def test_arm(self) -> Config:
        """The test members: a Sobol design of its own, run to the end and never learned from."""
        return dataclasses.replace(
            self.control_arm(),
            reference=None,
            seed=self.seed + TEST_SEED,
            budget=Budget(members=self.test_members),
            archive="bp5",
            design=dataclasses.replace(self.design, initial=self.test_members, holdout=0.0, kind="sobol", data=None),
        )

    def control_arm(self) -> Config:
        """The same study with Sobol points and without kills: the control."""
        return dataclasses.replace(
            self,
            acquisition=PlugIn("sobol"),
            kill=PlugIn("never"),
            control=Control(enabled=False),
            design=dataclasses.replace(self.design, holdout=0.0),
            goal=Goal(),
        )

    def save(self, path: Path) -> None:
        """Write as YAML."""
        from omegaconf import OmegaConf

        path.write_text(OmegaConf.to_yaml(OmegaConf.create(self.to_mapping())))

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read what ``save`` wrote.

        Raises:
            ConfigError: there is no such file, or it is no configuration.
        """
        return cls.from_mapping(_read_yaml(path, "configuration"))


_SECTIONS: Mapping[str, type] = {"design": Design, "budget": Budget, "goal": Goal, "failure": Failure, "control": Control}


def _plugin(group: str, value: Any) -> PlugIn | None:
    if value is None:
        return None
    if isinstance(value, PlugIn):
        return value
    if isinstance(value, str):
        return PlugIn(_absolute_target(value))
    if not isinstance(value, Mapping) or "name" not in value:
        raise ConfigError(f"{group} is {value!r}; give the name of a plug-in, or a mapping with 'name' and its options.")
    options = {str(k): _plain(v) for k, v in value.items() if k != "name"}
    target = options.get("target")
    if isinstance(target, str):
        options["target"] = _absolute_target(target)
    if group == "simulation" and isinstance(options.get("collect"), dict) and isinstance(options["collect"].get("reader"), str):
        options["collect"]["reader"] = _absolute_target(options["collect"]["reader"])
    if group == "simulation" and isinstance(options.get("study"), str):
        options["study"] = os.path.abspath(os.path.expanduser(options["study"]))
    if group == "simulation" and isinstance(options.get("argv"), list):
        options["argv"] = [_absolute(str(word)) for word in options["argv"]]
    return PlugIn(_absolute_target(str(value["name"])), options)


def _recorded_space(simulation: PlugIn | None) -> Any:
    """A replay without a space of its own has the recorded study's."""
    if simulation is None or simulation.name != "replay":
        return None
    if not simulation.options.get("study"):
        raise ConfigError("simulation=replay needs the directory of the recorded study: simulation.study=DIR.")
    return _read_yaml(Path(simulation.options["study"]) / "config.yaml", "configuration of the recorded study").get("space")


def _absolute_target(target: str) -> str:
    """``FILE.py:NAME`` with the file's full path (links stay what they are); anything else as it is."""
    path, colon, name = target.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(path))}:{name}" if colon and path.endswith(".py") else target


def _absolute(word: str) -> str:
    """A word of a command line; a file of the present folder becomes absolute (members run in folders of their own)."""
    return os.path.abspath(word) if "{" not in word and word and Path(word).is_file() else word  # links stay what they are


def _section(key: str, value: Any) -> Any:
    section = _SECTIONS[key]
    if isinstance(value, section):
        return value
    if key == "budget" and isinstance(value, int) and not isinstance(value, bool):
        return Budget(members=value)
    if key == "control" and isinstance(value, bool):
        return Control(enabled=value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} is {value!r}; it is a group of entries: {', '.join(f.name for f in dataclasses.fields(section))}.")
    valid = [f.name for f in dataclasses.fields(section)]
    for name in value:
        if name not in valid:
            raise UnknownName(f"entry of {key}", str(name), valid)
    entries = {str(k): v for k, v in value.items()}
    if key == "failure":
        entries["retry"] = tuple(str(cause) for cause in entries.get("retry") or ())
        entries["backoff_s"] = _plain(entries.get("backoff_s", 0.0))
    if key == "design" and entries.get("initial") == "auto":
        entries["initial"] = None
    if key == "design":
        entries |= {k: os.path.abspath(os.path.expanduser(str(entries[k]))) for k in ("data",) if entries.get(k) is not None}
        if "." in str(entries.get("kind", "")):
            entries["kind"] = os.path.abspath(os.path.expanduser(str(entries["kind"])))
    return section(**entries)


def _check(config: Config) -> None:
    b, d, f, g = config.budget, config.design, config.failure, config.goal
    if b.members is not None:
        _whole("budget.members", b.members, 1)
    if b.steps is not None:
        _whole("budget.steps", b.steps, 1)
    for name, value in (("budget.core_hours", b.core_hours), ("budget.wall_minutes", b.wall_minutes)):
        if value is not None:
            _number(name, value, 0, math.inf)
    if b.money is not None:
        _number("budget.money", b.money, 0, math.inf)
        if b.price is None:
            raise ConfigError(f"budget.money is {b.money} but budget.price is not set; say what a core-hour costs.")
    if b.price is not None and not _number("budget.price", b.price, 0, math.inf):
        raise ConfigError("budget.price is 0; a core-hour that costs nothing needs no budget of money.")
    if not b.limits() and g.metric is None and g.std is None:
        raise ConfigError("The study has neither a budget nor a goal and would never end; set budget.members, for example.")
    if d.initial is not None:
        _whole("design.initial", d.initial, 1)
    if d.kind not in DESIGNS and not d.kind.endswith(".csv"):
        raise UnknownName("value of design.kind", str(d.kind), [*DESIGNS, "FILE.csv"])
    _whole("design.batch", d.batch, 1)
    _number("design.holdout", d.holdout, 0, 1)
    _number("failure.budget", f.budget, 0, 1)
    _whole("failure.attempts", f.attempts, 1)
    _whole("failure.quarantine", f.quarantine, 0)
    _number("failure.radius", f.radius, 0, 1)
    _number("failure.slow", f.slow, 1, math.inf)
    _choice("failure.stragglers", f.stragglers, ("wait", "kill", "restart", "duplicate"))
    for cause, seconds in f.backoff_s.items() if isinstance(f.backoff_s, Mapping) else [("", f.backoff_s)]:
        _number(f"failure.backoff_s{f'.{cause}' if cause else ''}", seconds, 0, 86400)
    backoff = f.backoff()
    for cause in [*f.causes(), *(backoff if isinstance(backoff, dict) else ())]:
        _choice("failure.retry or failure.backoff_s", cause, list(ExitCause))
    if not isinstance(config.control.enabled, bool):
        raise ConfigError(f"control.enabled is {config.control.enabled!r}; write true or false.")
    if g.metric is not None:
        _choice("goal.metric", g.metric, METRICS)
        if g.below is None:
            raise ConfigError(f"goal.metric is {g.metric} but goal.below is not set; say which error is good enough.")
        _number("goal.below", g.below, 0, math.inf)
    if g.std is not None:
        _number("goal.std", g.std, 0, math.inf)
    if g.share not in SHARES:
        raise ConfigError(f"goal.share is {g.share!r}; choose one of {', '.join(map(str, SHARES))}.")
    _whole("goal.patience", g.patience, 0)
    _number("goal.improvement", g.improvement, 0, 1)
    _number("design.withdraw_below", d.withdraw_below, 0, 1)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; it needs a whole number of at least {least}.")
    return value


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; it needs a number between {low} and {high}.")
    return float(value)


def _choice(name: str, value: Any, valid: Sequence[str]) -> str:
    if value not in valid:
        raise UnknownName(f"value of {name}", str(value), valid)
    return str(value)


def _name(value: Any) -> str:
    text = str(value)
    if not text or text.startswith(".") or not all(c.isalnum() or c in "._-" for c in text):
        raise ConfigError(f"The study's name is {text!r}; use letters, digits, '-', '_' and '.' only (it becomes a folder).")
    return text


def _outputs(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value if value == "auto" else (value,)
    return tuple(str(v) for v in value)


def _monitors(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"monitors is {value!r}; write each monitor's name with its options: {{nonfinite: {{}}, stall: {{factor: 10}}}}.")
    chosen = {str(name): _plain(options or {}) for name, options in value.items() if options is not False}
    for name, options in chosen.items():
        if not isinstance(options, dict):
            raise ConfigError(f"monitors.{name} is {options!r}; give its options, or false to switch it off.")
        if isinstance(options.get("target"), str):
            options["target"] = _absolute_target(options["target"])
    return chosen


def _reference(value: Any) -> str | int | None:
    if value is None:
        return None
    if isinstance(value, int):
        return _whole("reference", value, 2)
    text = str(value)
    return str(Path(text).expanduser().resolve()) if text.endswith(".npz") else text


def _space(value: Any) -> dict[str, Any]:
    if value is None or value == {}:
        raise ConfigError("No parameter space is given; write space='{a: [0, 1], b: [0, 1]}' or space=FILE.yaml.")
    if isinstance(value, str):
        value = _read_yaml(Path(value).expanduser(), "parameter space")
        value = value.get("space", value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"The space is {value!r}; write each parameter's name with its bounds: {{a: [0, 1], b: [0, 1]}}.")
    from alearn.space import Space

    plain: dict[str, Any] = _plain(value)
    for constraint in plain.get("constraints", ()) or ():
        if isinstance(constraint, dict) and isinstance(constraint.get("target"), str):
            constraint["target"] = _absolute_target(constraint["target"])
    for spec in plain.values():
        if isinstance(spec, dict) and isinstance(spec.get("pool"), str):
            spec["pool"] = os.path.abspath(os.path.expanduser(spec["pool"]))
    Space.from_config(plain)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _read_yaml(path: Path, what: str) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not path.is_file():
        raise ConfigError(f"The {what} {path} does not exist; give the path of a YAML file.")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"The {what} {path} cannot be read as YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"The {what} {path} holds no mapping.")
    return {str(k): v for k, v in content.items()}


# --- Hydra -------------------------------------------------------------------------------------------------


def config_directory() -> Path:
    """Where the YAML files are: inside the wheel, or beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "configs", here.parent / "configs"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise ConfigError(f"The configs that ship with alearn are not beside {here}; reinstall the package.")


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> dict[str, Any]:
    """What ``alearn run OVERRIDES`` would run, as plain nested values.

    Raises:
        UnknownName: a group, plug-in or entry that does not exist (carries did-you-mean).
        ConfigError: an override that cannot be read.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
            raw = OmegaConf.to_container(hydra_compose("config", [*search, *map(_addable, overrides)]), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, overrides, config_dir) from error
    finally:
        GlobalHydra.instance().hydra = before
    assert isinstance(raw, dict)
    return {str(k): v for k, v in raw.items() if k != "experiment"}


def _explain(error: Exception, overrides: Sequence[str], config_dir: str | None) -> ConfigError:
    """Turn Hydra's complaint into one sentence with did-you-mean."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    folders = [config_directory(), *([Path(config_dir)] if config_dir else [])]
    groups = {p.name for f in folders for p in f.iterdir() if p.is_dir()}
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            return ConfigError(f"The override '{text}' cannot be read; write key=value (quote it if it has spaces or brackets).")
        key = override.key_or_group
        if override.is_add() or key.startswith("hydra"):
            continue
        if key in groups:
            options = {p.stem for f in folders for p in (f / key).glob("*.yaml")}
            value = override.value()
            if isinstance(value, str) and value not in options:
                return UnknownName(key, value, options)
            continue
        try:
            base = compose([o for o in overrides if o.partition("=")[0].lstrip("+~") in groups], config_dir)
        except ConfigError as inner:
            return inner
        entries = _flatten(base)
        if key not in entries and not any(key.startswith(f"{e}.") for e, v in entries.items() if v is None):
            level = key.rpartition(".")[0]
            beside = [e for e in entries if e.rpartition(".")[0] == level] or list(base)
            return UnknownName("configuration entry", key, {*entries, *groups}, shown=beside)
    return ConfigError(str(error).strip().replace("\n", " "))


def _flatten(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in raw.items():
        out[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            out.update(_flatten(value, f"{prefix}{key}."))
    return out


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a sweep: its overrides and its study's directory."""

    overrides: tuple[str, ...]
    directory: Path


def launch(
    argv: Sequence[str],
    run: Callable[[Config, Path], int],
    score: Callable[[Config, Path], float] | None = None,
    swept: Callable[[Sequence[Job]], None] | None = None,
) -> int:
    """Hand ``argv`` to Hydra (so that --multirun, --cfg, --config-dir and completion work) and run each job.

    Args:
        argv: what stood behind ``alearn run``.
        run: called with each job's configuration and study directory; returns an exit code.
        score: what a sweeper that searches is told of a job afterwards.
        swept: called with the jobs after a sweep.

    Returns:
        The largest exit code.

    Raises:
        ConfigError: an override is wrong; nothing was started.
    """
    import sys

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    codes = [0]
    broken: list[BaseException] = []
    jobs: list[Job] = []
    overrides, config_dir = _preflight(argv)
    if overrides is not None:
        for batch in _batches(overrides):
            raw = compose(batch, config_dir)
            Config.from_mapping(raw)

    def task(composed: DictConfig) -> float | None:
        raw = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(raw, dict)
        here = HydraConfig.get()
        directory = Path(here.runtime.output_dir)
        if here.mode is RunMode.MULTIRUN:
            jobs.append(Job(tuple(here.overrides.task), directory))
        try:
            config = Config.from_mapping({str(k): v for k, v in raw.items() if k != "experiment"})
            codes.append(run(config, directory))
            return None if score is None else score(config, directory)
        except BaseException as error:  # past Hydra, which would print it in its own way
            broken.append(error)
            return None

    old, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["alearn run", *map(_addable, argv)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out as they are, not printed by Hydra
    try:
        hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")(task)()
    except OSError as error:
        raise ConfigError(f"The study's directory cannot be made: {error}. Give one that can be written, hydra.run.dir=DIR.") from error
    finally:
        sys.argv = old
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
    if jobs and swept is not None:
        swept(jobs)
    if broken:
        raise broken[0]
    return max(codes)


def _addable(override: str) -> str:
    """A space given on the command line may have parameters that the experiment's own does not; a list is one of transforms."""
    if override.startswith("transform=["):
        return override.replace("=", ".steps=", 1)
    return f"++{override}" if override.startswith("space={") else override


def _preflight(argv: Sequence[str]) -> tuple[list[str] | None, str | None]:
    """The overrides in ``argv`` and its --config-dir; no overrides (None) when Hydra is only asked to print."""
    overrides: list[str] = []
    config_dir: str | None = None
    words = iter(argv)
    for word in words:
        if word in ("--config-dir", "-cd"):
            config_dir = next(words, None)
        elif word.startswith("--config-dir="):
            config_dir = word.partition("=")[2]
        elif word in ("--multirun", "-m", "--run", "-r"):
            continue
        elif word.startswith("-"):
            return None, config_dir
        else:
            overrides.append(word)
    return overrides, config_dir


def _batches(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep, each a list of plain overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        parsed = parser.parse_overrides(overrides)
    except HydraException:
        return [overrides]
    if not any(o.is_sweep_override() for o in parsed):
        return [overrides]
    # a sweeper that searches tries numbers of an interval; its low end stands for all
    ends = {i: v.start for i, o in enumerate(parsed) if isinstance(v := o.value(), IntervalSweep)}
    parsed = [parser.parse_override(f"{o.get_key_element()}={ends[i]}") if i in ends else o for i, o in enumerate(parsed)]
    return [list(batch) for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
