"""An oscillator that escapes: simulations that really blow up, in a part of the box that is known exactly.

The undamped softening Duffing oscillator ``x'' = -x + x^3`` (Duffing 1918) swings in a well of depth 1/4. A start
inside the well with less energy than that stays for ever; any other runs away and reaches infinity in a finite
time, where the numbers overflow as those of a diverging solver do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from alearn.errors import SimulationError

BOX = {"x0": (0.0, 1.2), "v0": (0.0, 0.9)}
"""The parameter box: position and speed at the start, both dimensionless."""
OUTPUTS = ("x", "v", "energy")
"""The outputs of every frame."""
STEPS = 40
"""Frames that a run yields, those after a blow-up (NaN) included."""


def escapes(x0: float, v0: float) -> bool:
    """Whether a start of the box runs away: outside the well, or with more energy than its depth."""
    return abs(x0) > 1 or v0**2 / 2 + x0**2 / 2 - x0**4 / 4 > 0.25


def oscillator(x0: float, v0: float, *, frames: int = STEPS, duration: float = 40.0, dt: float = 0.01) -> Iterator[dict[str, float]]:
    """Simulate the oscillator with fourth-order Runge-Kutta steps.

    Args:
        x0: position at the start.
        v0: speed at the start.
        frames: how many frames to yield.
        duration: time of the last frame.
        dt: the longest step.

    Yields:
        ``t``, ``x``, ``v`` and ``energy``; infinite or NaN from the blow-up on.

    Raises:
        SimulationError: a start is not finite, or a number of steps makes no sense.
    """
    if not (math.isfinite(x0) and math.isfinite(v0)) or frames < 1 or not (duration > 0 and dt > 0):
        raise SimulationError(
            f"The oscillator got x0={x0}, v0={v0}, frames={frames}, duration={duration}, dt={dt}; "
            "the start must be finite, the others above 0."
        )
    steps = math.ceil(duration / frames / dt)
    dt = duration / frames / steps
    # numpy numbers overflow to infinity and NaN, as a compiled solver's do; plain floats would raise
    x, v = np.float64(x0), np.float64(v0)
    with np.errstate(over="ignore", invalid="ignore"):
        for frame in range(1, frames + 1):
            for _ in range(steps):
                k1, l1 = v, _pull(x)
                k2, l2 = v + dt / 2 * l1, _pull(x + dt / 2 * k1)
                k3, l3 = v + dt / 2 * l2, _pull(x + dt / 2 * k2)
                k4, l4 = v + dt * l3, _pull(x + dt * k3)
                x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
                v = v + dt / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
            yield {"t": duration * frame / frames, "x": float(x), "v": float(v), "energy": float(v**2 / 2 + x**2 / 2 - x**4 / 4)}


def _pull(x: np.float64) -> np.float64:
    return x * x * x - x
