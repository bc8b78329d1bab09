"""What became of a study's transforms, in words: where they ran, what was predicted and measured, how good the codecs are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.report.words import count, number, plural

PLAN_FILE = "transform/plan.json"
_PLACES = ("writer", "reader")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The accounts of the reader that transforms.

    Args:
        place: where transforms ran in the end; "" if that was never decided.
        why: why there, in words.
        raw_bytes: of a step before the transforms.
        out_bytes: behind them.
        steps: steps by the place where they were transformed.
        predicted_s: seconds a step that the performance model expected, by place.
        measured_s: seconds a step as measured, by place.
        read: samples that were transformed only when they were read.
        on_read: whether that is how the study did it.
        codecs: of each codec field, version, what it has learned in words, exact (fields kept raw) and lossy (neither).
    """

    place: str
    why: str
    raw_bytes: float
    out_bytes: float
    steps: Mapping[str, int]
    predicted_s: Mapping[str, float] = field(default_factory=dict)
    measured_s: Mapping[str, float] = field(default_factory=dict)
    read: int = 0
    on_read: bool = False
    codecs: tuple[Mapping[str, Any], ...] = ()

    @property
    def table(self) -> list[list[str]]:
        """One row for each place: steps, predicted and measured milliseconds a step, and which was chosen."""
        return [
            [
                f"at the {at}",
                count(self.steps.get(at, 0)),
                _ms(self.predicted_s.get(at)),
                _ms(self.measured_s.get(at)),
                "chosen" if at == self.place else "",
            ]
            for at in _PLACES
        ]

    def sentences(self) -> list[str]:
        """What a person should know."""
        out = []
        total = sum(self.steps.values())
        if self.on_read:
            made = f"{count(self.read)} of {plural(total, 'step')} were transformed to be learned"
            out.append(f"Raw steps of {_bytes(self.raw_bytes)} are stored; {made}.")
        elif total:
            factor = self.raw_bytes / self.out_bytes if self.out_bytes else 0.0
            less = f", {number(factor)} times less" if factor > 1.05 else ""
            where = f"at the {self.place}" if self.place else "by turns at writer and reader (too few members to choose)"
            reason = f" ({self.why})" if self.why else ""
            out.append(f"Transforms ran {where}{reason}: {_bytes(self.raw_bytes)} a step became {_bytes(self.out_bytes)}{less}.")
        for codec in self.codecs:
            kept = (
                f"; {plural(int(codec['exact']), 'field')} kept raw because they are not represented within what is stated"
                if codec["exact"]
                else ""
            )
            lost = f"; {plural(int(codec['lossy']), 'field')} beyond the stated error" if codec["lossy"] else ""
            out.append(f"Codec of {codec['field']}: {codec['what']} in version {codec['version']}{kept}{lost}.")
        return out

    def lines(self) -> list[str]:
        """For the terminal: the sentences, and predicted beside measured where both places were compared."""
        out = self.sentences()
        if self.predicted_s:
            rows = [["ms a step", "steps", "predicted", "measured", ""], *self.table]
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            out += [
                "  " + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
                for row in rows
            ]
        return out


def read_preprocessing(directory: Path) -> Preprocessing | None:
    """The accounts of an arm; None if nothing was transformed or they cannot be read."""
    try:
        said = json.loads((directory / PLAN_FILE).read_text())
        return Preprocessing(
            place=str(said["place"] or ""),
            why=str(said["why"]),
            raw_bytes=float(said["raw_bytes"]),
            out_bytes=float(said["out_bytes"]),
            steps={str(k): int(v) for k, v in said["steps"].items()},
            predicted_s={str(k): float(v) for k, v in said["predicted_s"].items()},
            measured_s={str(k): float(v) for k, v in said["measured_s"].items()},
            read=int(said["read"]),
            on_read=bool(said["on_read"]),
            codecs=tuple(dict(c) for c in said["codecs"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _ms(seconds: float | None) -> str:
    return number(None if seconds is None else 1e3 * seconds)


def _bytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{number(size / scale)} {unit}"
    return f"{count(size)} B"
