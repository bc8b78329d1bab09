"""Where the learner runs: beside the study's loop in a thread, in a process of its own, or in several that train together."""

from alearn.placement.base import Learning, wait
from alearn.placement.inline import InlineLearner
from alearn.placement.opening import open_learner
from alearn.placement.process import ProcessLearner

__all__ = ["InlineLearner", "Learning", "ProcessLearner", "open_learner", "wait"]
