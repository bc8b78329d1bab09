"""Heat in a square plate: five temperatures and a diffusivity.

``dT/dt = alpha lap(T)`` on the unit square, each side held at its own temperature, the inside starting at a
fifth: the example of the online-training literature (Meyer et al. 2023, "High throughput training of deep
surrogates from large ensemble runs"). With ``alpha`` fixed the answer is linear in the temperatures, and five
runs and least squares predict everything; that is why ``alpha`` varies here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from alearn.errors import SimulationError

BOX = dict.fromkeys(("inside", "left", "right", "bottom", "top"), (100.0, 500.0)) | {"alpha": (0.01, 0.2)}
"""The parameter box: temperatures in K, diffusivity in 1/time (the side is 1)."""
OUTPUTS = ("T_mean", "T_std", "T_centre")
"""The scalar outputs of every frame; the field itself is ``T``."""
UNITS = {**dict.fromkeys(("inside", "left", "right", "bottom", "top", *OUTPUTS, "T"), "K"), "alpha": "1/time", "t": "time"}
STEPS = 25
"""Frames that one run yields."""


def heat(
    inside: float,
    left: float,
    right: float,
    bottom: float,
    top: float,
    alpha: float,
    *,
    grid: int = 32,
    frames: int = STEPS,
    duration: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """Simulate the plate with explicit steps of a fifth of ``h^2 / alpha``, yielding evenly spaced frames.

    Args:
        inside: temperature of the plate at the start, K.
        left: temperature held at x = 0, K.
        right: temperature held at x = 1, K.
        bottom: temperature held at y = 0, K.
        top: temperature held at y = 1, K.
        alpha: diffusivity, 1/time.
        grid: inner points along a side.
        frames: how many frames to yield.
        duration: time of the last frame.

    Yields:
        ``t``, ``T_mean``, ``T_std``, ``T_centre`` and ``T``, the inner points' temperatures ``grid x grid`` with y
        along the rows, float32.

    Raises:
        SimulationError: a temperature is not above zero, or the diffusivity is not positive.
    """
    for name, value in (("inside", inside), ("left", left), ("right", right), ("bottom", bottom), ("top", top)):
        if not (math.isfinite(value) and value > 0):
            raise SimulationError(f"The plate's temperature {name} is {value}; give kelvins above 0.")
    if not (math.isfinite(alpha) and alpha > 0) or grid < 2 or frames < 1 or not duration > 0:
        raise SimulationError(
            f"The plate got alpha={alpha}, grid={grid}, frames={frames}, duration={duration}; "
            "alpha and duration must be above 0, grid at least 2, frames at least 1."
        )
    h = 1 / (grid + 1)
    steps = math.ceil(duration / frames * alpha / (0.2 * h**2))
    share = alpha * duration / frames / steps / h**2
    plate = np.full((grid + 2, grid + 2), float(inside))
    plate[:, 0], plate[:, -1], plate[0, :], plate[-1, :] = left, right, bottom, top
    inner = plate[1:-1, 1:-1]
    change = np.empty_like(inner)
    for frame in range(1, frames + 1):
        for _ in range(steps):
            np.add(plate[:-2, 1:-1], plate[2:, 1:-1], out=change)
            change += plate[1:-1, :-2]
            change += plate[1:-1, 2:]
            change *= share
            inner *= 1 - 4 * share
            inner += change
        yield {
            "t": duration * frame / frames,
            "T_mean": float(inner.mean()),
            "T_std": float(inner.std()),
            "T_centre": float(inner[(grid - 1) // 2 : grid // 2 + 1, (grid - 1) // 2 : grid // 2 + 1].mean()),
            "T": inner.astype(np.float32),
        }
