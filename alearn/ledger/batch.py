"""What of a batch of samples is new, what came twice, what is fenced off, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alearn.errors import SchemaError
from alearn.ledger.fold import MemberTable, Row
from alearn.types import Array, Sample, Schema


class SampleRefused(SchemaError):
    """A sample that cannot be stored: a gap, an unknown member, another schema. It costs its member only.

    Nothing of the batch was stored and the ledger goes on: leave this member's samples out and store again.
    """

    def __init__(self, member: str, message: str) -> None:
        super().__init__(message)
        self.member = member


def describe(schema: Schema) -> str:
    """The fields of a schema in one line."""
    return ", ".join(f"{f.name} {f.dtype}{list(f.shape) if f.shape else ''}{' ' + f.unit if f.unit else ''}" for f in schema.fields)


def sort_out(
    table: MemberTable, samples: Sequence[Sample], schema: Schema
) -> tuple[list[tuple[Row, Sample, dict[str, Array]]], dict[str, list[Any]]]:
    """What of a batch is new, and for each member: attempt, new steps, last step, its t, duplicates."""
    fresh: list[tuple[Row, Sample, dict[str, Array]]] = []
    tally: dict[str, list[Any]] = {}
    for sample in samples:
        row = table.find(sample.member)
        if row is None:
            raise SampleRefused(sample.member, f"A sample of '{sample.member}' arrived, but the study has no such member.")
        mine = tally.get(sample.member)
        if sample.attempt < (row.member.attempt if mine is None else mine[0]):
            continue  # fenced: a late writer of an attempt that was given up
        if mine is None:
            mine = tally[sample.member] = [sample.attempt, 0, row.member.steps - 1, row.member.t, 0]
        mine[0] = sample.attempt
        if sample.step <= mine[2]:
            mine[4] += 1
            continue
        if sample.step != mine[2] + 1:
            raise SampleRefused(
                sample.member,
                f"The member '{sample.member}' sent step {sample.step}; step {mine[2] + 1} is the next and must come first.",
            )
        try:
            arrays = schema.conform(sample.values)
        except SchemaError as error:
            raise SampleRefused(sample.member, f"Step {sample.step} of the member '{sample.member}' cannot be stored: {error}") from error
        fresh.append((row, sample, arrays))
        mine[1:4] = [mine[1] + 1, sample.step, float(sample.t)]
    return fresh, tally
