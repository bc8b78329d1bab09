"""Why a member was simulated: ``alearn why DIR [MEMBER]``, from what the ledger holds."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alearn import events as ev
from alearn.errors import ConfigError, UnknownName
from alearn.ledger import Ledger
from alearn.types import Member, Value

SHOWN = 20
"""Members of the list without ``--all``: the latest."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One member as it was chosen, and what became of it.

    Args:
        member: its id.
        parameters: its point, in the parameters' own units.
        round: acquisition round; 0 is the initial design.
        origin: design, acquisition, holdout, data or user.
        by: what chose the round.
        score: the acquisition's score; NaN if there was none.
        why: the reason that was given.
        known: members with data at the time.
        later: what happened to its score while it waited, in words.
        outcome: its state, steps and the reason of its end, in words.
    """

    member: str
    parameters: dict[str, Value]
    round: int
    origin: str
    by: str
    score: float
    why: str
    known: int
    later: tuple[str, ...]
    outcome: str


def choices(directory: Path) -> list[Choice]:
    """Every member of a study's arm with the reason for it, in the order in which they were chosen.

    Raises:
        LedgerError: there is no study.
    """
    by: dict[int, str] = {}
    queued: dict[str, tuple[ev.MemberQueued, int]] = {}
    later: dict[str, list[str]] = {}
    with_data: set[str] = set()
    with Ledger.open(directory, readonly=True) as ledger:
        for _, event in ledger.events():
            match event:
                case ev.RoundDecided(round=number, acquisition=name):
                    by[number] = name
                case ev.MemberQueued(member=member):
                    queued[member] = (event, len(with_data))
                case ev.SamplesStored(member=member):
                    with_data.add(member)
                case ev.MemberRescored(member=member, score=score, withdrawn=gone, why=reason):
                    later.setdefault(member, []).append(reason if gone else f"rescored to {score:.3g}{f': {reason}' if reason else ''}")
                case ev.GhostSpared(member=member, step=step, reason=reason):
                    later.setdefault(member, []).append(f"condemned at step {step}, but runs on as a ghost: {reason}")
                case _:
                    pass
        members = {m.id: m for m in ledger.members()}
    return [
        Choice(
            name, dict(e.parameters), e.round, e.origin, by.get(e.round, "") if e.origin != "holdout" else "sobol", e.score, e.why, known,
            tuple(later.get(name, ())), _outcome(members[name]),
        )
        for name, (e, known) in queued.items()
    ]  # fmt: skip


def why_command(directory: Path, member: str | None, *, everything: bool = False, as_json: bool = False) -> int:
    """Print why one member, or the latest ones, were chosen; returns the exit code.

    Raises:
        ConfigError: there is no study, or it has no members yet.
        UnknownName: there is no such member.
    """
    if not (directory / "ledger.sqlite").is_file():
        raise ConfigError(f"There is no study in {directory} (it has no ledger.sqlite); give a study directory.")
    found = choices(directory)
    if not found:
        raise ConfigError(f"The study in {directory} has no members yet.")
    if member is not None:
        one = next((c for c in found if c.member == member), None)
        if one is None:
            raise UnknownName("member", member, [c.member for c in found], shown=[found[0].member, "…", found[-1].member])
        print(json.dumps(_plain(one)) if as_json else _told(one))
        return 0
    if as_json:
        print(json.dumps([_plain(c) for c in found]))
        return 0
    shown = found if everything else found[-SHOWN:]
    for number in dict.fromkeys(c.round for c in shown):
        mine = [c for c in shown if c.round == number]
        print(f"round {number}" + (f" ({mine[0].by})" if mine[0].by else ""))
        for c in mine:
            print(f"  {c.member}  {_point(c)}  {c.why or c.origin}")
    tally = ", ".join(f"{n} {origin}" for origin, n in Counter(c.origin for c in found).items())
    rest = "" if len(shown) == len(found) else f" The latest {len(shown)} are shown; --all shows all."
    print(f"{len(found)} members: {tally}.{rest} One by itself: alearn why {directory} {found[-1].member}")
    return 0


def _told(c: Choice) -> str:
    score = "" if math.isnan(c.score) else f", score {c.score:.3g}"
    lines = [
        f"{c.member}: {_point(c)}",
        f"  chosen   in round {c.round} by {c.by or c.origin} ({c.origin}){score}, when {c.known} members had data",
        f"  because  {c.why or 'nothing was noted'}",
        *(f"  then     {what}" for what in c.later),
        f"  outcome  {c.outcome}",
    ]
    return "\n".join(lines)


def _point(c: Choice) -> str:
    return ", ".join(f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in c.parameters.items())


def _outcome(member: Member) -> str:
    reason = f": {member.reason}" if member.reason else ""
    return f"{member.state.value} after {member.steps} steps{reason}"


def _plain(c: Choice) -> dict[str, Any]:
    return {name: None if isinstance(v := getattr(c, name), float) and math.isnan(v) else v for name in c.__dataclass_fields__}
