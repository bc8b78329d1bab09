"""``alearn status DIR --verify``: launched = stored = trained, by count and by checksum, in one table with a verdict.

What was launched and stored comes from the checker, which reads ledger and data apart from the code that writes them. What was
trained on comes from the learner's newest snapshot: which steps of which member it has seen, and the rows that it
remembers, compared value by value with what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alearn import events as ev
from alearn.errors import AlearnError
from alearn.ledger import Ledger
from alearn.ledger.lock import has_writer
from alearn.testing.checker import check
from alearn.types import Floats, Member, MemberState

TOLERANCE = 1e-12
"""Relative difference up to which a remembered output is the stored one (it travels as a double)."""


@dataclass(frozen=True, slots=True)
class Line:
    """Members of one state: how many, how many steps they announced (0: unknown), stored, and were learned from."""

    state: str
    launched: int
    with_data: int
    announced: int
    stored: int
    trained: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """One arm's account.

    Args:
        arm: its name.
        lines: by state.
        compared: remembered rows whose values were compared with what is stored.
        problems: what does not agree, a sentence each.
        notes: what could not be said.
    """

    arm: str
    lines: tuple[Line, ...]
    compared: int
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.problems

    def render(self) -> str:
        """The table and the verdict, for a terminal."""
        head = ("state", "launched", "with data", "announced", "stored", "trained")
        rows = [
            (
                line.state,
                f"{line.launched:,}",
                f"{line.with_data:,}",
                f"{line.announced:,}" if line.announced else "-",
                f"{line.stored:,}",
                f"{line.trained:,}",
            )
            for line in self.lines
        ]
        widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
        out = [f"{self.arm} arm"]
        out += [
            "  " + "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
            for r in (head, *rows)
        ]
        total = self.lines[-1]
        if self.sound:
            out.append(
                f"  sound: {total.stored:,} samples stored, each once and as it was sent; {total.trained:,} of them trained on, "
                f"{self.compared:,} compared value by value."
            )
        else:
            out.append(f"  NOT sound: {len(self.problems)} problems.")
            out += [f"    {p}" for p in self.problems[:20]]
        return "\n".join([*out, *(f"  {n}" for n in self.notes)])


def reconcile(directory: Path, arm: str = "active") -> Reconciliation:
    """The account of one arm's directory; of a running study as far as it has come.

    Raises:
        LedgerError: there is no study in it, or its ledger cannot be read.
    """
    running = has_writer(directory)
    problems: list[str] = []
    notes: list[str] = []
    with Ledger.open(directory, readonly=True) as ledger:
        members = {m.id: m for m in ledger.members()}
        events = [event for _, event in ledger.events()]
        ended = bool(ledger.meta().get("finished"))
        if running:
            notes.append("The study is running: its data are not checked byte by byte now; `alearn verify` does that beside it.")
        else:
            problems += check(directory, over=ended).problems
        announced = _announced(events)
        for m in members.values():
            said = announced.get(m.id, 0)
            if m.state is MemberState.DONE and said and m.steps != said:
                problems.append(f"{m.id} is done and announced {said} steps; {m.steps} are stored")
            if m.attempt and m.state is MemberState.QUEUED and ended:
                problems.append(f"{m.id} is queued in a study that is over")
        learned, compared = _trained(directory, ledger, members, ended, problems, notes)
    return Reconciliation(arm, _lines(members, announced, learned), compared, tuple(problems), tuple(notes))


def _announced(events: list[ev.Event]) -> dict[str, int]:
    return {e.member: e.steps_total for e in events if isinstance(e, ev.MemberRunning) and e.steps_total}


def _lines(members: Mapping[str, Member], announced: Mapping[str, int], learned: Mapping[str, int]) -> tuple[Line, ...]:
    tally: dict[str, Counter[str]] = {}
    for m in members.values():
        state = "revoked" if m.revoked else "never launched" if not m.attempt else m.state.value
        for key in (state, "all"):
            count = tally.setdefault(key, Counter())
            count.update(
                launched=m.attempt > 0, data=m.steps > 0, said=announced.get(m.id, 0), stored=m.steps, trained=learned.get(m.id, 0)
            )
    order = [s for s in tally if s != "all"] + ["all"]
    return tuple(Line(s, *(tally[s][k] for k in ("launched", "data", "said", "stored", "trained"))) for s in order if s in tally)


def _trained(
    directory: Path, ledger: Ledger, members: Mapping[str, Member], ended: bool, problems: list[str], notes: list[str]
) -> tuple[dict[str, int], int]:
    """Steps learned from by member, and how many remembered rows were compared with the stored ones."""
    from alearn.trainer.snapshots import read_snapshot

    try:
        found = read_snapshot(directory / "snapshots")
    except AlearnError as error:
        problems.append(f"the learner's snapshots cannot be read: {error}")
        return {}, 0
    if found is None:
        notes.append("No snapshot of the learner is on disk yet, so nothing says what it was trained on.")
        return {}, 0
    _, info, state = found
    names = {int(number): name for name, number in state["features"]["members"].items()}
    learned = {names[int(g)]: int(last) + 1 for g, last in state["last"].items()}
    for name, steps in learned.items():
        stored = members[name].steps if name in members else 0
        if members.get(name) is not None and members[name].revoked:
            problems.append(f"{name} is revoked, and the newest snapshot was trained on it; `alearn resume` trains anew without it")
        elif steps > stored:
            problems.append(f"the learner has seen {steps} steps of {name}, of which {stored} are stored")
        elif ended and steps < stored:
            problems.append(f"{stored} steps of {name} are stored, and the learner has seen {steps}")
    if ended:
        missing = [m.id for m in members.values() if m.steps and not m.revoked and m.id not in learned]
        problems += [f"{m} has {members[m].steps} steps stored, and the learner has seen none" for m in missing]
    history = state["history"]
    if "y" not in history:
        return learned, 0
    rows = {(names[int(g)], int(s)): y for g, s, y in zip(history["group"], history["step"], history["y"], strict=True)}
    if len(rows) != len(history["y"]):
        problems.append(f"the learner remembers {len(history['y']) - len(rows)} samples twice")
    problems += _differing(ledger, rows, info.outputs)
    return learned, len(rows)


def _differing(ledger: Ledger, rows: Mapping[tuple[str, int], Floats], outputs: tuple[str, ...]) -> list[str]:
    schema = ledger.schema()
    if schema is None:
        return ["the learner remembers samples, and the study has no schema"]
    whole = {name for name in outputs if name in schema.names}
    wanted = [(k, name) for k, name in enumerate(outputs) if name in whole]
    out = []
    for sample in ledger.samples(fields=sorted(whole)):
        y = rows.get(sample.key)
        if y is None:
            continue
        for k, name in wanted:
            value = sample.values[name]
            if value.size == 1 and not np.isclose(float(value.reshape(())), y[k], rtol=TOLERANCE, atol=0.0):
                out.append(
                    f"{sample.member} step {sample.step}: the learner was given {name} = {y[k]!r}, stored is {float(value.reshape(()))!r}"
                )
    return out
