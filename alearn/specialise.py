"""A study's surrogate made better in a part: a region of the box, or a regime, from what the study has simulated already.

The surrogate of the whole box is taken as it is, its inputs are mapped to the part with the function kept, and it is trained on
the rows of that part alone. Whether this helps is found out before it is done: two copies that have not seen a fifth of the
part's members, a general one and a special one made of it, predict these members.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.buffer import Rows
from alearn.errors import AlearnError, ConfigError, UnknownName
from alearn.predict import SPECIAL
from alearn.registry import build
from alearn.space import Space
from alearn.space.parameters import Continuous, Integer
from alearn.surrogate import Batch, SnapshotInfo, Surrogate, load_snapshot, save_snapshot
from alearn.surrogate.base import Zoomable
from alearn.surrogate.calibration import Calibrator
from alearn.surrogate.information import information, residual
from alearn.surrogate.rows import folds_of
from alearn.trainer.snapshots import read_snapshot
from alearn.trainer.weights import ImportanceWeights
from alearn.types import Array, Floats

LEAST = 10
"""Fewer members than this are no part of their own."""
FOLDS = 5
GAIN = 0.02
"""By this share its error must be smaller than the general surrogate's."""
ENOUGH = 2.0
"""Nats of information that new members must bring before a special surrogate is trained anew."""
_RANGE = re.compile(r"(?P<name>\w+)=(?P<low>.+?)\.\.(?P<high>[^.].*|\.\d.*)")
_WHERE = re.compile(r"(?P<name>[\w\[\],.]+?)\s*(?P<sign><=|>=|<|>)\s*(?P<value>\S+)")
_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what a surrogate covers.

    Args:
        space: the narrower box.
        low: its low edge in the unit cube of the whole box, ``d``.
        high: its high edge there, ``d``.
        conditions: on outputs and t: (name, sign, value); of a member those time steps belong to the part that meet all.
    """

    space: Space
    low: Floats
    high: Floats
    conditions: tuple[tuple[str, str, float], ...]

    def describe(self) -> list[str]:
        """The conditions in words."""
        return [f"{name} {sign} {value:g}" for name, sign, value in self.conditions]

    def rows(self, rows: Rows, outputs: Sequence[str]) -> Array:
        """The indices of the rows that belong to it."""
        d = self.space.d
        x = rows.x[:, :d]
        inside = ((x >= self.low - 1e-9) & (x <= self.high + 1e-9)).all(axis=1)
        for name, sign, value in self.conditions:
            column = rows.x[:, d] if name == "t" else rows.y[:, list(outputs).index(name)]
            inside &= _SIGNS[sign](column, value)
        return np.flatnonzero(inside)

    def inputs(self, x: Floats) -> Floats:
        """Rows ``n x d'`` of the whole box as rows of the part's own unit cube."""
        d = self.space.d
        return np.hstack([(x[:, :d] - self.low) / (self.high - self.low), x[:, d:]])


def part_of(info: SnapshotInfo, region: Sequence[str], where: Sequence[str], over_t: bool) -> Part:
    """Read ``NAME=LOW..HIGH`` and conditions like ``v_mean>0.1``.

    Raises:
        ConfigError: one that cannot be read, is empty or lies outside the box.
        UnknownName: no such parameter or output.
    """
    if not region and not where:
        raise ConfigError("Say what part: --region NAME=LOW..HIGH for parameters, or --where 'OUTPUT>VALUE' for a regime.")
    space = info.space
    low, high = np.zeros(space.d), np.ones(space.d)
    config = space.to_config()
    for text in region:
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"--region {text} cannot be read; write NAME=LOW..HIGH, e.g. {space.names[0]}=0.2..0.4.")
        name, ends = match["name"], (_number(text, match["low"]), _number(text, match["high"]))
        whole = space[name]
        if not isinstance(whole, (Continuous, Integer)):
            raise ConfigError(f"The parameter '{name}' has labels and no range; a region narrows numbers.")
        if not whole.low <= ends[0] < ends[1] <= whole.high:
            raise ConfigError(f"--region {text} is no part of the box of '{name}', {whole.low:g}..{whole.high:g}; its low end comes first.")
        config[name] = {**whole.to_config(), "low": ends[0], "high": ends[1]}
        half = 0.5 if isinstance(whole, Integer) else 0.0
        low[space.columns(name)], high[space.columns(name)] = whole.to_unit([ends[0] - half, ends[1] + half])[:, 0]
    conditions = []
    for text in where:
        match = _WHERE.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"--where {text} cannot be read; write OUTPUT>VALUE (or <, <=, >=), e.g. '{info.outputs[0]}>0.1'.")
        valid = [*info.outputs, *(["t"] if over_t else [])]
        if match["name"] not in valid:
            hint = " (a parameter is narrowed by --region)" if match["name"] in space.names else ""
            raise UnknownName(f"output for --where{hint}", match["name"], valid)
        conditions.append((match["name"], match["sign"], _number(text, match["value"])))
    narrow = Space.from_config(config)
    u = narrow.sobol(32, seed=0)
    if not np.allclose(space.to_unit(narrow.from_unit(u)), low + u * (high - low), atol=1e-6):
        raise ConfigError("The parameters of this space depend on one another, so that no region can be cut out; use --where alone.")
    return Part(narrow, low, high, tuple(conditions))


def specialise(
    directory: Path, name: str, region: Sequence[str] = (), where: Sequence[str] = (), *, updates: int | None = None, anyway: bool = False
) -> str:
    """Train a special surrogate for a part and store it under its name; returns what happened in words.

    Args:
        directory: the study's; nothing of it changes but its folder of special surrogates.
        name: by which ``alearn predict --special`` and ``alearn export --special`` find it.
        region: ranges of parameters, ``NAME=LOW..HIGH``.
        where: conditions on outputs and t; such a regime cannot be told from a point's parameters, the caller must know it.
        updates: of its training; None is to convergence.
        anyway: keep it even if it is no better than the general one, and train it anew though nothing new is known.

    Raises:
        ConfigError: there is no study, no snapshot, or the part makes no sense or holds too few members.
        AlearnError: it would be no better than the general surrogate; nothing is stored.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise ConfigError(f"The name {name!r} becomes a file; use letters, digits, '-', '_' and '.'.")
    found = read_snapshot(directory / "snapshots")
    if found is None:
        raise ConfigError(f"There is no snapshot of a learner in {directory}/snapshots; give the directory of a study that has trained.")
    general, info, state = found
    about = load_snapshot(directory / "snapshots" / "surrogate.pt")[1].extra
    part = part_of(info, region, where, general.over_t)
    rows = Rows(*(np.asarray(state["history"][k]) for k in ("x", "y", "weight", "group", "step")))
    weights = ImportanceWeights(info.space.d)
    weights.load_state_dict(state["weights"])
    own = part.rows(rows, info.outputs)
    members = np.unique(rows.group[own])
    if len(members) < LEAST:
        raise ConfigError(
            f"Only {len(members)} members have time steps in this part; {LEAST} are needed. Widen it, or simulate more there."
        )
    every = weights.of(rows)
    whole = _batch(rows.x, rows, every)
    special = _batch(part.inputs(rows.x[own]), rows.take(own), every[own])
    path = directory / SPECIAL / f"{name}.pt"
    numbers = {int(number): member for member, number in state["features"]["members"].items()}
    described = {"space": part.space.to_config(), "where": part.describe()}
    if not anyway and path.is_file():
        told = _nothing_new(path, described, special, numbers)
        if told:
            return told
    before, after, factor = _trial(info, general, part, whole, special, torch.as_tensor(own), updates)
    if not after < (1.0 - GAIN) * before and not anyway:
        raise AlearnError(
            f"A special surrogate would be no better: on members that neither had seen its error is {after:.3g}, the general one's "
            f"{before:.3g} (units of the outputs' spread in this part). Nothing was stored; --anyway stores it."
        )
    surrogate = _special(info, general, part)
    surrogate.fit(special, updates=updates)
    surrogate.scale_variance(torch.as_tensor(factor))
    tried = {"rmse": after, "rmse_of_the_general_one": before}
    extra = {**about, "part": {**described, "error": tried}, "members": sorted(numbers[int(g)] for g in members), "samples": len(special)}
    save_snapshot(path, surrogate, name=info.name, space=part.space, outputs=info.outputs, schema=info.schema, extra=extra)
    return (
        f"{path}: trained on {len(special)} time steps of {len(members)} members; on members that neither had seen its error was "
        f"{after:.3g}, the general surrogate's {before:.3g} (units of the outputs' spread in this part)."
    )


def specialise_command(
    directory: Path, name: str, region: Sequence[str], where: Sequence[str], updates: int | None, *, anyway: bool
) -> int:
    """``alearn specialise``: say what came of it; returns the exit code."""
    print(specialise(directory, name, region, where, updates=updates, anyway=anyway))
    return 0


def _batch(x: Floats, rows: Rows, weights: Floats) -> Batch:
    return Batch(*(torch.as_tensor(np.ascontiguousarray(a)) for a in (x, rows.y, weights / weights.mean(), rows.group)))


def _new(info: SnapshotInfo, like: Surrogate) -> Surrogate:
    made: Surrogate = build("surrogate", info.name, info.options, d=like.d, m=like.m, over_t=like.over_t, seed=getattr(like, "seed", 0))
    return made


def _special(info: SnapshotInfo, general: Surrogate, part: Part) -> Surrogate:
    """The general surrogate with the part for its cube; one whose function cannot be kept so starts anew."""
    special = _new(info, general)
    if isinstance(special, Zoomable):
        special.load_state_dict(general.state_dict())
        special.zoom(part.low.tolist(), part.high.tolist())
    return special


def _trial(
    info: SnapshotInfo, general: Surrogate, part: Part, whole: Batch, special: Batch, own: torch.Tensor, updates: int | None
) -> tuple[float, float, Floats]:
    """The errors of a general and a special surrogate on members that neither has seen, and the special one's calibration factor.

    Args:
        info: how surrogates are made.
        general: the study's.
        part: what is covered.
        whole: all rows.
        special: the part's, in its own cube.
        own: which of all they are.
        updates: of the special one's training.
    """
    held = folds_of(special.groups, FOLDS, 0) == 0
    test, learned = special.take(held.nonzero()[:, 0]), special.take((~held).nonzero()[:, 0])
    spread = special.Y.std(dim=0).clamp_min(1e-300)

    def error(mean: torch.Tensor) -> float:
        return float((((mean - test.Y) / spread) ** 2).mean().sqrt())

    other = _new(info, general)
    other.fit(whole.take((~torch.isin(whole.groups, test.groups)).nonzero()[:, 0]))
    before = error(other.predict(whole.X[own[held]]).mean)
    narrowed = _special(info, other, part)
    narrowed.fit(learned, updates=updates)
    mean, epistemic, aleatoric = narrowed.predict(test.X)
    calibrator = Calibrator(general.m)
    calibrator.add(mean, (epistemic.double() ** 2 + aleatoric.double() ** 2).sqrt(), test.Y, test.groups)
    return before, error(mean), calibrator.factor()


def _nothing_new(path: Path, described: Mapping[str, Any], special: Batch, numbers: Mapping[int, str]) -> str:
    """What to say if the members since the last time bring too little to train anew; "" if they bring enough."""
    old, info = load_snapshot(path)
    if any(info.extra["part"][k] != v for k, v in described.items()):
        return ""
    known = set(info.extra["members"])
    new = torch.tensor([numbers[g] not in known for g in special.groups.tolist()])
    nats = 0.0
    if bool(new.any()):
        fresh, learned = special.take(new.nonzero()[:, 0]), special.take((~new).nonzero()[:, 0])
        nats = information(old, fresh, residual(old, learned))
    if nats >= ENOUGH:
        return ""
    members = len(special.groups[new].unique())
    return (
        f"{path} stays as it is: the {members} members since it was trained bring {nats:.2g} nats of information, less than {ENOUGH:g}; "
        "--anyway trains it anew."
    )


def _number(text: str, word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise ConfigError(f"In '{text}' the word '{word}' is no number.") from error
