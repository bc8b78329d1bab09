"""One line of ``alearn doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at and found: ``verdict`` is ok, optional (lacks, but only some need it) or missing."""

    what: str
    verdict: str
    detail: str
    mend: str = ""
