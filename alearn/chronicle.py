"""A study's facts as they happen: made durable first, then folded into what is decided from."""

from __future__ import annotations

import logging

from alearn import events as ev
from alearn.atlas import Atlas
from alearn.controller import StudyState, apply
from alearn.errors import LedgerError
from alearn.ledger import Ledger

log = logging.getLogger(__name__)


class Chronicle:
    """The ledger with the state and the atlas that follow from its events.

    Args:
        ledger: open for writing; what it holds already is folded in.

    Attributes:
        state: what the policy decides from.
        atlas: where the members are.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.state = StudyState()
        self.atlas = Atlas()
        self.fold(*(event for _, event in ledger.events()))

    def record(self, *happened: ev.Event) -> None:
        """Make facts durable, then fold them in."""
        if happened:
            self.ledger.append(happened)
            self.fold(*happened)

    def fold(self, *happened: ev.Event) -> None:
        """Fold in facts that the ledger holds already."""
        for event in happened:
            self.state = apply(self.state, event)
            self.atlas.see(event)

    def seal_full_segments(self) -> None:
        """Move full segments into the archive; called beside the loop."""
        try:
            self.ledger.seal(everything=False)
        except LedgerError as error:
            log.warning("The archive could not take a segment in, which stays where it is: %s", error)
