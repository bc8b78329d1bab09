"""The controller: events fold into a state, a policy maps the state to decisions. No clock, process or file inside.

::

    state = StudyState()
    for event in events:
        apply(state, event)
    for decision in policy.decide(state, now):
        ...  # carry it out, write down the event that answers it, apply that event
"""

from alearn.controller.decisions import (
    Acquire,
    Checkpoint,
    Decision,
    Evaluate,
    Kill,
    Launch,
    Pause,
    Refit,
    Requeue,
    Spare,
    Stop,
    Withdraw,
)
from alearn.controller.failure import Retry
from alearn.controller.folding import apply, fold
from alearn.controller.kill import NeverKill, ValueOfContinuing
from alearn.controller.member import Record, Settled
from alearn.controller.monitors import Divergence, Monitor, MonitorPanel, NonFinite, OutOfRange, Stall
from alearn.controller.policy import Ending, KeepSlotsFull, Learn, Policy, Rounds, Rule, StopRule, room
from alearn.controller.replay import Difference, Hindsight, differences, hindsight, replay
from alearn.controller.state import StudyState
from alearn.controller.stop import BudgetSpent, CoverageGoal, ErrorGoal, FailureBudget, NoProgress

__all__ = [
    "Acquire",
    "BudgetSpent",
    "Checkpoint",
    "CoverageGoal",
    "Decision",
    "Difference",
    "Divergence",
    "Ending",
    "ErrorGoal",
    "Evaluate",
    "FailureBudget",
    "Hindsight",
    "KeepSlotsFull",
    "Kill",
    "Launch",
    "Learn",
    "Monitor",
    "MonitorPanel",
    "NeverKill",
    "NoProgress",
    "NonFinite",
    "OutOfRange",
    "Pause",
    "Policy",
    "Record",
    "Refit",
    "Requeue",
    "Retry",
    "Rounds",
    "Rule",
    "Settled",
    "Spare",
    "Stall",
    "Stop",
    "StopRule",
    "StudyState",
    "ValueOfContinuing",
    "Withdraw",
    "apply",
    "differences",
    "fold",
    "hindsight",
    "replay",
    "room",
]
