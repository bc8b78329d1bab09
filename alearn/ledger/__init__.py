"""The durable truth of a study: events, members and samples in SQLite, fields in checksummed segments and a BP5 archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alearn.ledger.batch import SampleRefused
from alearn.ledger.fold import MemberTable, Row
from alearn.ledger.ledger import Ledger
from alearn.ledger.verify import verify

if TYPE_CHECKING:
    from alearn.ledger.dataset import open_archive, select_members

__all__ = ["Ledger", "MemberTable", "Row", "SampleRefused", "open_archive", "select_members", "verify"]


def __getattr__(name: str) -> Any:
    if name in ("open_archive", "select_members"):  # xarray brings pandas: a third of a second
        from alearn.ledger import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'alearn.ledger' has no attribute '{name}'")
