"""Reading stored time steps back, for a buffer that let go of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from alearn.ledger.tail import Tail
from alearn.types import Sample


@final
class ReadBack:
    """Gives the samples of named steps of named members, from wherever they lie by now, segment or archive.

    Args:
        directory: the arm's.
        fields: the stored fields that are read; None is all.
        prepare: makes of stored samples what the learner is given.
    """

    def __init__(self, directory: Path, fields: Sequence[str] | None, prepare: Callable[[list[Sample]], list[Sample]]) -> None:
        self._directory, self._fields, self._prepare = directory, fields, prepare

    def __call__(self, wanted: Mapping[str, Sequence[int]]) -> list[Sample]:
        """Those that are there: not discarded, and not a revoked member's.

        Raises:
            LedgerCorrupt: a checksum does not match.
        """
        with contextlib.closing(Tail(self._directory, self._fields)) as tail:
            found = [s for member, steps in wanted.items() for part in tail.steps(member, steps) for s in part]
        return self._prepare(found)
