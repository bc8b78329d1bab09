"""Viscous Burgers in one dimension: two waves that steepen into a shock, wherever their phases put it.

``du/dt + d(u^2 / 2)/dx = nu d^2u/dx^2`` on the periodic unit interval, from
``u = 0.5 + a1 sin(2 pi (x - p1)) + a2 sin(4 pi (x - p2))`` (J. M. Burgers 1948). Second-order finite volumes
with minmod slopes and the local Lax-Friedrichs flux (LeVeque 2002), Heun in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from alearn.errors import SimulationError
from alearn.types import Floats

BOX = {"a1": (0.2, 1.0), "a2": (0.0, 0.6), "p1": (0.0, 0.5), "p2": (0.0, 0.5), "nu": (0.001, 0.02)}
"""The parameter box: amplitudes (speed), phases (length) and viscosity (length^2/time; sensible on a log scale)."""
OUTPUTS = ("u_max", "steepest", "energy")
"""The scalar outputs of every frame; the field itself is ``u``."""
UNITS = {"a1": "length/time", "a2": "length/time", "p1": "length", "p2": "length", "nu": "length^2/time", "t": "time"}
STEPS = 25
"""Frames that one run yields."""


def burgers(
    a1: float, a2: float, p1: float, p2: float, nu: float, *, grid: int = 128, frames: int = STEPS, duration: float = 0.75
) -> Iterator[dict[str, Any]]:
    """Simulate the waves, yielding evenly spaced frames.

    Args:
        a1: amplitude of the long wave, length/time.
        a2: amplitude of the short wave, length/time.
        p1: phase of the long wave, length.
        p2: phase of the short wave, length.
        nu: viscosity, length^2/time.
        grid: cells.
        frames: how many frames to yield.
        duration: time of the last frame.

    Yields:
        ``t``, ``u_max``, ``steepest`` (the largest negative slope), ``energy`` (mean of u^2/2) and ``u``, float32.

    Raises:
        SimulationError: a parameter is not finite, or the viscosity is not positive.
    """
    if not all(map(math.isfinite, (a1, a2, p1, p2, nu))) or nu <= 0 or grid < 8 or frames < 1 or not duration > 0:
        raise SimulationError(
            f"Burgers got a1={a1}, a2={a2}, p1={p1}, p2={p2}, nu={nu}, grid={grid}, frames={frames}, duration={duration}; "
            "all must be finite, nu and duration above 0, grid at least 8, frames at least 1."
        )
    h = 1 / grid
    x = (np.arange(grid) + 0.5) * h
    u = 0.5 + a1 * np.sin(2 * np.pi * (x - p1)) + a2 * np.sin(4 * np.pi * (x - p2))
    fastest = 0.5 + abs(a1) + abs(a2)  # no later value exceeds the first ones
    between = duration / frames
    steps = math.ceil(between / min(0.4 * h / fastest, 0.4 * h**2 / (2 * nu)))
    dt = between / steps
    for frame in range(1, frames + 1):
        for _ in range(steps):
            half = u + dt * _rate(u, nu, h)
            u = 0.5 * (u + half + dt * _rate(half, nu, h))
        yield {
            "t": between * frame,
            "u_max": float(u.max()),
            "steepest": float(-(np.roll(u, -1) - u).min() / h),
            "energy": float((u**2).mean() / 2),
            "u": u.astype(np.float32),
        }


def _rate(u: Floats, nu: float, h: float) -> Floats:
    """du/dt of every cell."""
    ahead = np.roll(u, -1) - u
    behind = np.roll(ahead, 1)
    slope = np.where(ahead * behind > 0, np.sign(ahead) * np.minimum(np.abs(ahead), np.abs(behind)), 0.0)
    left = u + slope / 2
    right = np.roll(u - slope / 2, -1)
    speed = np.maximum(np.abs(left), np.abs(right))
    flux = (left**2 + right**2) / 4 - speed * (right - left) / 2 - nu * ahead / h
    return np.asarray((np.roll(flux, 1) - flux) / h)
