"""A recorded study as the simulation: its members' steps are streamed into training again."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alearn.errors import ConfigError, LedgerError, UnknownName
from alearn.ledger import Ledger
from alearn.simulation.base import Command, Settled
from alearn.space import Space
from alearn.types import Floats, Member, MemberState, Parameters

ORDERS = ("nearest", "ordered", "shuffled")


class ReplaySimulation:
    """Streams what another study recorded, each member from a process of its own and over the study's transport.

    A member of this study is a recorded one, once: with its parameters, its steps, its times. ``order`` says which comes
    next. As many members stream side by side as the launcher has slots, a step from each in turn; with one slot they come
    one after the other. Everything else (kills, buffers, monitors, the report) is as with a live simulation.

    Args:
        study: the recorded study's directory (``DIR/control`` for its control arm).
        order: "nearest": the acquisition chooses a point, and the nearest recorded member not used yet answers for it
            (distance in the unit cube); "ordered": all in the order of their recording; "shuffled": all in random order.
            In the last two the acquisition's points count for nothing.
        fields: stream only these fields; None is all.
        pace_s: seconds between two steps of a member; 0 streams as fast as training takes them.
        truncated: also members that were killed; their trajectories end where the kill cut them.
        seed: of the shuffling.

    Raises:
        ConfigError: there is no such study, or nothing complete was recorded in it.
        UnknownName: no such order or field.
    """

    def __init__(
        self,
        study: str = "",
        order: str = "nearest",
        fields: Sequence[str] | None = None,
        pace_s: float = 0.0,
        truncated: bool = False,
        seed: int = 0,
    ) -> None:
        if not study:
            raise ConfigError("simulation=replay needs the directory of the recorded study: simulation.study=DIR.")
        if order not in ORDERS:
            raise UnknownName("order of simulation 'replay'", order, ORDERS)
        if not pace_s >= 0:
            raise ConfigError(f"simulation.pace_s is {pace_s!r}; give the seconds between two steps, 0 or more.")
        self.study = str(Path(study).absolute())
        self.order = order
        self.fields = None if fields is None else [str(f) for f in fields]
        self.pace_s = float(pace_s)
        self.truncated = truncated
        self.seed = seed

    @functools.cached_property
    def recorded(self) -> dict[str, Member]:
        """The members that can be replayed, by their parameters (as JSON); the longest of those at one point."""
        states = (MemberState.DONE, MemberState.KILLED) if self.truncated else (MemberState.DONE,)
        try:
            with Ledger.open(Path(self.study), readonly=True) as ledger:
                members = [m for m in ledger.members() if m.steps and m.state in states and not m.revoked]
                schema, gone = ledger.schema(), ledger.counts()["discarded"]["samples"]
        except LedgerError as error:
            raise ConfigError(f"Nothing can be replayed from {self.study}: {error}") from error
        if gone:
            raise ConfigError(f"The study {self.study} kept no archive (archive=none); {gone} of its samples are gone.")
        if not members or schema is None:
            raise ConfigError(f"The study {self.study} has no member that ran to its end; there is nothing to replay.")
        for field in self.fields or ():
            if field not in schema.names:
                raise UnknownName("field in the recorded study", field, schema.names)
        out: dict[str, Member] = {}
        for member in members:
            key = _key(member.parameters)
            if key not in out or member.steps > out[key].steps:
                out[key] = member
        return out

    def check(self, names: Iterable[str]) -> None:
        """See before anything is started that the record is there and over these parameters.

        Raises:
            ConfigError: it is not.
        """
        names = set(names)
        there = set(next(iter(self.recorded.values())).parameters)
        if names != there:
            raise ConfigError(f"The record in {self.study} is over {sorted(there)}, but the space has {sorted(names)}.")

    def available(self, space: Space) -> int:
        """How many recorded members lie in the space.

        Raises:
            ConfigError: none does.
        """
        inside = len(self._inside(space))
        if not inside:
            raise ConfigError(f"None of the {len(self.recorded)} recorded members of {self.study} lies in the space; widen it.")
        return inside

    def settle(self, points: Sequence[Sequence[float]], taken: Sequence[Parameters], space: Space) -> list[Settled]:
        """Which recorded members answer for these points.

        Args:
            points: ``n x d`` in the unit cube.
            taken: the parameters of the members that this study has already.
            space: the study's.

        Returns:
            At most ``n``: fewer when the record is used up.
        """
        used = {_key(p) for p in taken}
        free = [m for m in self._inside(space) if _key(m.parameters) not in used]
        if not free:
            return []
        cube = space.to_unit([m.parameters for m in free])
        out: list[Settled] = []
        left = np.ones(len(free), dtype=bool)
        for i, point in enumerate(points[: len(free)]):
            chosen, why = i, f"recorded member {free[i].id}, the next ({self.order})"
            if self.order == "nearest":
                distance: Floats = np.where(left, np.linalg.norm(cube - np.asarray(point), axis=1), np.inf)
                chosen = int(distance.argmin())
                why = f"answered by recorded member {free[chosen].id}, the nearest not used yet, at distance {distance[chosen]:.2g}"
            left[chosen] = False
            out.append(Settled(tuple(cube[chosen].tolist()), dict(free[chosen].parameters), why))
        return out

    def _inside(self, space: Space) -> list[Member]:
        """The recorded members in the space, in the order of the replay."""
        members = [m for m in self.recorded.values() if _fits(space, m.parameters)]
        if self.order == "shuffled":
            members = [members[i] for i in np.random.default_rng(self.seed).permutation(len(members))]
        return members

    def command(self, parameters: Parameters) -> Command:
        """The process that streams the member recorded at these parameters.

        Raises:
            ConfigError: none was.
        """
        member = self.recorded.get(_key(parameters))
        if member is None:
            raise ConfigError(f"No member was recorded at {dict(parameters)} in {self.study}.")
        options = {"study": self.study, "member": member.id, "steps": member.steps, "fields": self.fields, "pace_s": self.pace_s}
        argv = (sys.executable, "-P", "-m", "alearn.simulation.drive", "replay", json.dumps(options))
        return Command(argv, {"ALEARN_PARAMETERS": json.dumps(dict(parameters))})

    def describe(self) -> str:
        return f"replay of {self.study} ({self.order})"


def _key(parameters: Parameters) -> str:
    return json.dumps(dict(parameters), sort_keys=True)


def _fits(space: Space, parameters: Parameters) -> bool:
    try:
        space.check(parameters)
    except ConfigError:
        return False
    return True


def units_of(study: str) -> dict[str, str]:
    """The recorded fields' units."""
    with Ledger.open(Path(study), readonly=True) as ledger:
        schema = ledger.schema()
    return {f.name: f.unit for f in schema.fields} if schema is not None else {}


def recorded_steps(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of one recorded member, verified, in order; what ``drive`` streams.

    Args:
        options: "study", "member", "fields" and "pace_s" as ``ReplaySimulation.command`` gives them.

    Raises:
        LedgerCorrupt: a checksum does not match.
    """
    pace_s = float(options.get("pace_s", 0.0))
    with Ledger.open(Path(options["study"]), readonly=True) as ledger:
        for sample in ledger.samples([options["member"]], fields=options.get("fields")):
            yield {**sample.values, "t": sample.t}
            time.sleep(pace_s)
