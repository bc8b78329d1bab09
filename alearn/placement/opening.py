"""Opening a learner where it is to run, and making it there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from alearn.assembly import Rooms
from alearn.learner import Learner, Stored
from alearn.ledger import Ledger
from alearn.placement.base import Learning
from alearn.placement.inline import InlineLearner
from alearn.placement.process import ProcessLearner
from alearn.placement.recall import ReadBack
from alearn.placement.words import Opening
from alearn.trainer import InlineTrainer
from alearn.trainer.placing import Placing
from alearn.types import Sample

log = logging.getLogger(__name__)


def open_learner(rooms: Rooms, ledger: Ledger, directory: Path, *, fresh: bool = False) -> Learning:
    """The learner of an arm whose schema is known, where ``trainer.placement`` says; it knows nothing yet but its snapshot.

    Args:
        rooms: the arm's.
        ledger: the arm's.
        directory: the arm's.
        fresh: do not take up a snapshot, because what those there are learned from holds no longer.
    """
    placing, _ = Placing.of(rooms.config.trainer.options)
    if placing.placement != "inline":
        return ProcessLearner(Opening(rooms.config.to_mapping(), str(directory.resolve()), fresh), placing)
    schema = ledger.schema()
    assert schema is not None
    trainer = rooms.make_trainer(schema)
    if not fresh:
        take_up(trainer, directory, ledger)
    trainer.recall_from(ReadBack(directory, rooms.needed(trainer.fields), lambda found: rooms.prepared(found, trainer.fields)))

    def samples(fact: Stored) -> Iterator[Sequence[Sample]]:
        if fact.samples is None:
            yield rooms.prepared(ledger.samples(fields=rooms.needed(trainer.fields)), trainer.fields)
        for batch in fact.samples or ():
            yield rooms.prepared(batch, trainer.fields)

    return InlineLearner(Learner(trainer, rooms.acquisition, rooms.space, rooms.reference, rooms.seed), samples)


def take_up(trainer: InlineTrainer, directory: Path, ledger: Ledger) -> None:
    """Go on from the newest whole snapshot, and say what is lost for good if it knows less than was discarded."""
    trainer.restore(directory / "snapshots")
    known, gone = trainer.samples, ledger.counts()["discarded"]["samples"]
    if known < gone:
        log.warning("archive=none: the newest whole snapshot knows %d of %d discarded samples; the rest is lost.", known, gone)
