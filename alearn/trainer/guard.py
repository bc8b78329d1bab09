"""Keeps a training that diverges from ruining what was learned: back to the last good weights, at a lower rate."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any, final

from alearn.errors import StudyFailed
from alearn.surrogate.base import Rated, Resumable, Surrogate

log = logging.getLogger(__name__)

EVERY = 50
SLOWER = 0.3
PATIENCE = 12


def capture(surrogate: Surrogate) -> dict[str, Any]:
    """A copy of a surrogate's whole state."""
    state: dict[str, Any] = {"weights": {k: v.detach().clone() for k, v in surrogate.state_dict().items()}}
    if isinstance(surrogate, Resumable):
        state["training"] = copy.deepcopy(surrogate.training_state())
    if isinstance(surrogate, Rated):
        state["lr"] = surrogate.lr
    return state


def reinstate(surrogate: Surrogate, state: dict[str, Any]) -> None:
    """Put a surrogate back to a captured state."""
    surrogate.load_state_dict(state["weights"])
    if isinstance(surrogate, Resumable) and "training" in state:
        surrogate.load_training_state(copy.deepcopy(state["training"]))
    if isinstance(surrogate, Rated) and "lr" in state:
        surrogate.lr = state["lr"]


@final
class Guard:
    """Runs training calls, and undoes those whose loss is not finite.

    A state counts as good once 50 updates that started from it had finite losses. After a loss that is NaN or infinite the
    last good state returns with the learning rate times 0.3.

    Args:
        surrogate: what is trained.
    """

    def __init__(self, surrogate: Surrogate) -> None:
        self._surrogate = surrogate
        self._good: dict[str, Any] | None = None
        self._candidate: dict[str, Any] | None = None
        self._since = 0
        self._failures = 0

    def update(self, run: Callable[[], float]) -> float | None:
        """One update; returns the loss, or None if it was undone.

        Raises:
            StudyFailed: it diverges again and again, however low the rate.
        """
        if self._candidate is None:
            self._candidate = capture(self._surrogate)
        elif self._since >= EVERY:
            self._good, self._candidate, self._since, self._failures = self._candidate, capture(self._surrogate), 0, 0
        loss = run()
        self._since += 1
        if math.isfinite(loss):
            return loss
        self._candidate, self._since = self._good or self._candidate, 0
        self._undo(self._candidate, loss)
        return None

    def burst(self, run: Callable[[], float]) -> float:
        """A whole fit; returns its loss. Tried again at a lower rate if it diverges.

        Raises:
            StudyFailed: it diverges again and again, however low the rate.
        """
        before = capture(self._surrogate)
        while True:
            loss = run()
            if math.isfinite(loss):
                self._good, self._candidate, self._since, self._failures = before, None, 0, 0
                return loss
            self._undo(before if self._good is None else self._good, loss)

    def _undo(self, state: dict[str, Any], loss: float) -> None:
        self._failures += 1
        slower = None
        if isinstance(self._surrogate, Rated):
            slower = self._surrogate.lr * SLOWER
        if self._failures >= PATIENCE:
            raise StudyFailed(
                f"Training diverged {self._failures} times in a row (the last loss is {loss}), although the learning rate was lowered "
                f"each time{f' to {slower:.1e}' if slower is not None else ''}; look for outputs of absurd size among the samples."
            )
        reinstate(self._surrogate, state)
        if slower is not None and isinstance(self._surrogate, Rated):
            self._surrogate.lr = slower
        rate = "" if slower is None else f" and the learning rate lowered to {slower:.1e}"
        log.warning("The loss became %s; the last good weights are restored%s.", loss, rate)
