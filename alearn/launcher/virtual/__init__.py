"""A virtual cluster: nodes, costs and faults in virtual time. What drives the controller on it is ``alearn.testing.virtual``."""

from __future__ import annotations

from alearn.launcher.virtual.agenda import Agenda
from alearn.launcher.virtual.cluster import END, GRACE_S, HELLO, STEPS, Cluster, Word
from alearn.launcher.virtual.costs import CostModel, LearnerModel, Life, ValueModel
from alearn.launcher.virtual.faults import Crash, Faults, NodeLoss

__all__ = [
    "END",
    "GRACE_S",
    "HELLO",
    "STEPS",
    "Agenda",
    "Cluster",
    "CostModel",
    "Crash",
    "Faults",
    "LearnerModel",
    "Life",
    "NodeLoss",
    "ValueModel",
    "Word",
]
