"""The real controller on a virtual cluster, in virtual time, under seeded faults, with its promises checked.

::

    python -m alearn.testing.virtual --seed 17          one study with its trace
    python -m alearn.testing.virtual --seeds 0 1000     a thousand, quietly
"""

from __future__ import annotations

from alearn.testing.virtual.ledger import ControllerDied, VirtualLedger
from alearn.testing.virtual.outcome import Outcome
from alearn.testing.virtual.scenario import HORIZON_S, scenario
from alearn.testing.virtual.study import VirtualStudy
from alearn.testing.virtual.witness import PromiseBroken, Witness

__all__ = ["HORIZON_S", "ControllerDied", "Outcome", "PromiseBroken", "VirtualLedger", "VirtualStudy", "Witness", "scenario"]
