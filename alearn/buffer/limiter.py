"""The rate limiter: keeps updates per received row within a band, by holding the trainer or the reception."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

from alearn.errors import ConfigError


@final
class RateLimiter:
    """Holds whichever side runs ahead: updates per received row stay between ``min_per_row`` and ``max_per_row``.

    The symmetrical limiter of Reverb (Cassirer et al., "Reverb: A Framework for Experience Replay", 2021) in
    alearn's units. With ``u`` updates and ``r`` received rows,

    * an update is allowed while ``u + 1 <= max_per_row * (r + slack)``: else the trainer would only repeat itself;
    * reception is allowed while ``min_per_row * (r + 1 - slack) <= u``: else rows would come faster than they teach.

    ``slack`` rows of tolerance on both sides keep the start and a burst from stopping anything; it must be large
    enough that both sides can never be held at once.

    Args:
        min_per_row: least updates per received row; 0 never holds the reception.
        max_per_row: most updates per received row; ``inf`` never holds the trainer.
        slack: tolerance in rows.

    Raises:
        ConfigError: the band is empty or negative, or the slack too small for it.
    """

    def __init__(self, *, min_per_row: float = 0.0, max_per_row: float = math.inf, slack: float = 256.0) -> None:
        if not 0 <= min_per_row <= max_per_row or max_per_row == 0:
            raise ConfigError(
                f"The band of updates per row is [{min_per_row}, {max_per_row}]; "
                "it needs 0 <= min_per_row <= max_per_row and max_per_row > 0."
            )
        least = 0.0 if min_per_row == 0 else (1 + min_per_row) / (max_per_row + min_per_row)
        if slack < max(1.0, least):
            raise ConfigError(
                f"The limiter's slack is {slack} rows; with less than {max(1.0, least):.4g} "
                "trainer and reception could hold each other for ever."
            )
        self.min_per_row = min_per_row
        self.max_per_row = max_per_row
        self.slack = slack
        self.received = 0
        self.updates = 0

    @property
    def may_update(self) -> bool:
        """Whether the trainer may make one more update."""
        return self.updates + 1 <= self.max_per_row * (self.received + self.slack)

    @property
    def may_receive(self) -> bool:
        """Whether one more row may be received."""
        return self.min_per_row * (self.received + 1 - self.slack) <= self.updates

    @property
    def room(self) -> float:
        """How many rows may be received now; infinite where the reception is never held."""
        if self.min_per_row == 0:
            return math.inf
        allowed = self.updates / self.min_per_row + self.slack
        return max(0.0, math.floor(allowed) - self.received) if math.isfinite(allowed) else math.inf

    def row(self, n: int = 1) -> None:
        """Count ``n`` received rows."""
        self.received += n

    def update(self, n: int = 1) -> None:
        """Count ``n`` updates."""
        self.updates += n

    def state_dict(self) -> dict[str, int]:
        """The two counters."""
        return {"received": self.received, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.received, self.updates = int(state["received"]), int(state["updates"])
