"""Where transforms run: a small performance model, fitted on the first members, that chooses writer or reader.

A time step costs its member ``solve + put(bytes) [+ transform]``, the reader's loop ``handle(bytes)``, and the thread beside it
the transform, if it is not the member's. Members work side by side, loop and thread do one step after the other, and each waits
for the others only through a full window. So a study needs, in seconds a step,

    at the writer:  max((solve + put(out) + transform at a member) / members, handle(out))
    at the reader:  max((solve + put(raw)) / members, handle(raw), read share * transform at the reader)

with ``put`` and ``handle`` straight lines in the bytes. The first members run by turns in both ways; medians of what they
measured, and a fit to the turns of the loop, give every constant. What a turn of the loop costs however many steps it takes
in is left out of ``handle``: the more there is to do, the more steps share it.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from alearn.errors import UnknownName
from alearn.types import Floats

Place = Literal["writer", "reader"]
PLACES: tuple[Place, Place] = ("writer", "reader")
PROBES = 2
"""Attempts that must have reported from each place before the planner chooses."""
LOOK_S = 0.25
_KEPT = 256


@dataclass(frozen=True, slots=True)
class Costs:
    """What one time step costs; seconds and bytes.

    Args:
        raw: bytes of a step before the transforms.
        out: bytes behind them.
        solve_s: of the simulation, from one step to the next.
        put_s: of handing a step to the stream, whatever its size.
        put_s_per_byte: what each byte adds to it: one over the bandwidth that a member sees.
        writer_s: of the transforms at a member.
        reader_s: of the transforms at the reader.
        handle_s: of everything else that the reader's loop does with one more step in a turn.
        handle_s_per_byte: what each byte adds to it: one over the bandwidth that the loop sees, the disk included.
        members: side by side.
        read: share of the transformed steps that anything reads; below 1 only where they are made when they are read.
    """

    raw: float
    out: float
    solve_s: float
    put_s: float
    put_s_per_byte: float
    writer_s: float
    reader_s: float
    handle_s: float
    handle_s_per_byte: float
    members: int = 1
    read: float = 1.0

    def member(self, at: Place) -> float:
        """Seconds that a step costs its member."""
        sent = self.out if at == "writer" else self.raw
        return self.solve_s + self.put_s + self.put_s_per_byte * sent + (self.writer_s if at == "writer" else 0.0)

    def loop(self, at: Place) -> float:
        """Seconds that a step costs the reader: its loop, or the thread that transforms beside it."""
        sent = self.out if at == "writer" else self.raw
        return max(self.handle_s + self.handle_s_per_byte * sent, self.read * self.reader_s if at == "reader" else 0.0)


def predict(costs: Costs) -> dict[Place, float]:
    """Seconds that a study needs for a step, with the transforms at either place."""
    return {at: max(costs.member(at) / max(1, costs.members), costs.loop(at)) for at in PLACES}


def choose(costs: Costs) -> Place:
    """The faster place; the writer, which also spares the network and the loop, where there is nothing between them."""
    seconds = predict(costs)
    return "writer" if seconds["writer"] <= 1.02 * seconds["reader"] else "reader"


def line(points: Mapping[float, float]) -> tuple[float, float]:
    """Intercept and slope through what was measured at one or two sizes; neither is negative.

    With one size all of it counts as slope, because bytes are what differs between the places.
    """
    sizes = sorted(points)
    if len(sizes) == 1:
        return (0.0, points[sizes[0]] / sizes[0]) if sizes[0] > 0 else (points[sizes[0]], 0.0)
    small, large = sizes[0], sizes[-1]
    slope = (points[large] - points[small]) / (large - small)
    if slope <= 0:
        return statistics.fmean(points.values()), 0.0
    slope = min(slope, points[large] / large)
    return max(0.0, points[small] - slope * small), slope


@dataclass(slots=True)
class _Place:
    """What was measured of one place."""

    reported: dict[Path, tuple[float, float, float]] = field(default_factory=dict)
    """Of attempts: solve, transform, put; seconds a step."""
    transform: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def member(self) -> tuple[float, float, float]:
        solve, transform, put = zip(*self.reported.values(), strict=True)
        return statistics.median(solve), statistics.median(transform), statistics.median(put)


@final
class Planner:
    """Says for each attempt where its steps are transformed, and keeps the accounts.

    Args:
        where: "writer", "reader", or "auto": by turns until enough is measured, then by the model.
        members: how many run side by side, asked when it matters.
        must_read: a sentence for why the raw has to travel; then everything is transformed at the reader.
        read: share of the transformed steps that anything reads.
        clock: seconds; monotonic.

    Raises:
        UnknownName: there is no such place.
    """

    def __init__(
        self,
        where: str = "auto",
        members: Callable[[], int] = lambda: 1,
        must_read: str = "",
        read: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if where not in ("auto", *PLACES):
            raise UnknownName("place for transforms", where, ("auto", *PLACES))
        self.where = where
        self.place: Place | None = "reader" if must_read else None if where == "auto" else "writer" if where == "writer" else "reader"
        self.why = must_read or ("" if where == "auto" else f"transform.where={where}")
        self.costs: Costs | None = None
        self.predicted: dict[Place, float] = {}
        self.raw = self.out = 0.0
        self._members, self._read, self._clock = members, read, clock
        self._turn = 0
        self._files: dict[Path, Place] = {}
        self._measured: dict[Place, _Place] = defaultdict(_Place)
        self._turns: deque[tuple[int, int, float]] = deque(maxlen=4 * _KEPT)
        self._looked = 0.0
        self._foreign = 0

    def assign(self, costs_file: Path, ready: bool) -> Place:
        """Where the next attempt's steps are transformed.

        Args:
            costs_file: where its writer will say what its steps cost.
            ready: whether a writer could do it.
        """
        at = self.place
        if at is None:
            self._turn += 1
            at = "reader" if self._turn % 2 else "writer"
        if at == "writer" and not ready:
            at = "reader"
        self._files[costs_file] = at
        if len(self._files) > _KEPT:
            del self._files[next(iter(self._files))]
        return at

    def ended(self, costs_file: Path) -> None:
        """An attempt is over: its last report counts."""
        at = self._files.pop(costs_file, None)
        if at is not None:
            self._read_report(costs_file, at)

    def _read_reports(self) -> None:
        for path, at in self._files.items():
            self._read_report(path, at)

    def _read_report(self, path: Path, at: Place) -> None:
        try:
            said = json.loads(path.read_text())
            seconds = (float(said["solve_s"]), float(said["transform_s"]), float(said["put_s"]))
            matches = said["at"] == at
        except (OSError, ValueError, KeyError, TypeError):
            return  # nothing yet, or no file system in common
        if matches:
            known = self._measured[at].reported
            known.pop(path, None)
            known[path] = seconds
            if len(known) > _KEPT:
                del known[next(iter(known))]

    def sizes(self, raw: float, out: float) -> None:
        """Bytes of a step before and behind the transforms."""
        self.raw, self.out = float(raw), float(out)

    def transformed(self, seconds: float, steps: int) -> None:
        """The reader transformed some steps."""
        self._measured["reader"].transform.append(seconds / steps)

    def handled(self, seconds: float, steps: Mapping[Place, int]) -> None:
        """A turn of the reader's loop with so many steps of each place took so long, besides transforming them."""
        self._turns.append((steps.get("writer", 0), steps.get("reader", 0), seconds))

    def foreign(self) -> None:
        """An attempt that was to transform sent raw steps: its client cannot."""
        self._foreign += 1
        if self.place is None and self._foreign >= PROBES and not self._measured["writer"].reported:
            self.place, self.why = "reader", "the members' client cannot transform"

    def look(self) -> str:
        """Read what attempts have reported; a sentence once the place is chosen, else ""."""
        now = self._clock()
        if now - self._looked < LOOK_S:
            return ""
        self._looked = now
        self._read_reports()
        if self.place is not None or any(len(self._measured[at].reported) < PROBES for at in PLACES):
            return ""
        if not self._measured["reader"].transform or not self.raw:
            return ""
        self.costs = self.fit()
        self.predicted = predict(self.costs)
        self.place = choose(self.costs)
        other: Place = "reader" if self.place == "writer" else "writer"
        self.why = f"predicted {_ms(self.predicted[self.place])} a step, against {_ms(self.predicted[other])} at the {other}"
        return f"transforms run at the {self.place} from now on: {self.why}"

    def fit(self) -> Costs:
        """The model's constants from all that was measured so far; both places must have reported."""
        at_writer, at_reader = (self._measured[at] for at in PLACES)
        solve_w, transform_w, put_w = at_writer.member()
        solve_r, _, put_r = at_reader.member()
        put_s, put_b = line({self.out: put_w, self.raw: put_r})
        handle_s, handle_b = self._handling()
        return Costs(
            raw=self.raw,
            out=self.out,
            solve_s=statistics.fmean((solve_w, solve_r)),
            put_s=put_s,
            put_s_per_byte=put_b,
            writer_s=transform_w,
            reader_s=statistics.median(at_reader.transform),
            handle_s=handle_s,
            handle_s_per_byte=handle_b,
            members=max(1, self._members()),
            read=self._read,
        )

    def measured(self) -> dict[Place, float]:
        """Seconds a step as measured at each place that was tried: the longer of a member's share and the loop's."""
        out: dict[Place, float] = {}
        for at in PLACES:
            seen = self._measured[at]
            if not seen.reported or not self._turns:
                continue
            handle_s, handle_b = self._handling()
            loop = handle_s + handle_b * (self.out if at == "writer" else self.raw)
            loop = max(loop, self._read * statistics.median(seen.transform) if seen.transform else 0.0)
            out[at] = max(sum(seen.member()) / max(1, self._members()), loop)
        return out

    def _handling(self) -> tuple[float, float]:
        """What one more step, and one more byte, add to a turn of the loop."""
        turns = sorted(self._turns, key=lambda t: t[2] / max(1, t[0] + t[1]))
        kept = np.array(turns[: max(1, round(0.9 * len(turns)))], dtype=np.float64).reshape(-1, 3)  # without the hiccups
        steps, sent = kept[:, 0] + kept[:, 1], kept[:, 0] * self.out + kept[:, 1] * self.raw
        _, per_step, per_byte = _not_negative(np.stack([np.ones(len(kept)), steps, sent], axis=1), kept[:, 2])
        return per_step, per_byte

    def resume(self, account: Mapping[str, Any]) -> None:
        """Take an earlier choice over, from its ``account``: the members and the machine are the same."""
        if self.place is None and account["where"] == self.where and account["place"] in PLACES and account["predicted_s"]:
            self.place, self.why = account["place"], str(account["why"])
            self.predicted = {at: float(account["predicted_s"][at]) for at in PLACES}
            self.costs = Costs(**account["costs"])

    def account(self) -> dict[str, Any]:
        """Everything for plan.json and the report; plain values."""
        self._read_reports()
        return {
            "where": self.where,
            "place": self.place,
            "why": self.why,
            "raw_bytes": self.raw,
            "out_bytes": self.out,
            "predicted_s": dict(self.predicted),
            "measured_s": dict(self.measured()),
            "attempts": {at: len(self._measured[at].reported) for at in PLACES},
            "costs": None if self.costs is None else asdict(self.costs),
        }


def _not_negative(columns: Floats, y: Floats) -> tuple[float, ...]:
    """Least squares with coefficients >= 0, ``n x 3``; where columns cannot be told apart, the first of them takes all."""
    sizes = np.maximum(np.abs(columns).max(axis=0, initial=0.0), 1e-300)
    best, least = np.zeros(columns.shape[1]), float(y @ y)
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(columns.shape[1]), k) for k in (1, 2, 3)):
        picked = list(chosen)
        found, _, rank, _ = np.linalg.lstsq(columns[:, picked] / sizes[picked], y, rcond=1e-9)
        left = y - columns[:, picked] / sizes[picked] @ found
        if rank == len(picked) and (found >= 0).all() and float(left @ left) < 0.999 * least:
            best, least = np.zeros(columns.shape[1]), float(left @ left)
            best[picked] = found / sizes[picked]
    return tuple(float(b) for b in best)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
