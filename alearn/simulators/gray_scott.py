"""Gray-Scott reaction-diffusion: two parameters, a thin crescent of patterns in a box that is mostly dead.

The equations, with J. E. Pearson, "Complex patterns in a simple system", Science 261, 189 (1993)::

    du/dt = Du lap(u) - u v^2 + F (1 - u)
    dv/dt = Dv lap(v) + u v^2 - (F + k) v

in Pearson's dimensionless units, with his grid spacing (2.5 / 256) on a smaller periodic square. Most of the
box decays to the trivial state u = 1, v = 0; spots, stripes and waves live in a thin crescent around
k = 0.05 … 0.065, and left of it v settles to a uniform value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from alearn.errors import SimulationError
from alearn.types import Array, Floats

BOX = {"F": (0.01, 0.08), "k": (0.03, 0.07)}
"""The parameter box of the default study: feed and kill rate, both per unit of time."""
OUTPUTS = ("v_mean", "v_std", "scale")
"""The scalar outputs of every frame; the field itself is ``v``."""
UNITS = {"F": "1/time", "k": "1/time", "Du": "length^2/time", "Dv": "length^2/time", "t": "time", "scale": "cycles/side"}
STEPS = 60
"""Frames that one run yields."""

SPACING = 1 / 96
_FLOOR = 1e-4  # variance under which a pattern counts as fading: (0.01)^2, patterns have about (0.1)^2
_TINY = np.float32(1e-15)  # v is kept above this, or its square becomes a denormal number, which costs tenfold time
_DT = 0.5
_SCALE = np.float32(_DT**0.5)


def gray_scott(
    F: float,
    k: float,
    Du: float = 2e-5,
    Dv: float = 1e-5,
    *,
    grid: int = 96,
    frames: int = STEPS,
    steps_per_frame: int = 250,
) -> Iterator[dict[str, Any]]:
    """Simulate one pattern, yielding a frame every ``steps_per_frame`` explicit Euler steps (of half a unit of time).

    Args:
        F: feed rate, 1/time.
        k: kill rate, 1/time.
        Du: diffusivity of u, length^2/time.
        Dv: diffusivity of v, length^2/time.
        grid: cells along a side of the periodic square.
        frames: how many frames to yield.
        steps_per_frame: solver steps from one frame to the next.

    Yields:
        ``t`` (time), ``v_mean`` and ``v_std`` over the grid, ``scale`` (see ``pattern_scale``) and ``v``, the
        field of shape ``grid x grid`` in float32.

    Raises:
        SimulationError: a parameter is not physical, or the explicit scheme would be unstable with it.
    """
    _check(F, k, Du, Dv, grid, frames, steps_per_frame)
    shape = (grid + 2, grid + 2)
    # Both fields live with their halo in one block, each flat: the neighbours of a cell are then plain offsets,
    # every operation runs over contiguous memory, and what it computes inside the halo is overwritten next step.
    # They are kept multiplied by sqrt(dt), which takes the time step out of the cubic reaction term.
    w = np.empty((2, *shape), dtype=np.float32)
    w[:, 1:-1, 1:-1] = _initial(grid) * _SCALE
    flat = w.reshape(2, -1)
    row = shape[1]
    inner = slice(row, -row)
    u, v = flat[0, inner], flat[1, inner]
    up, down = flat[:, : -2 * row], flat[:, 2 * row :]
    left, right = flat[:, row - 1 : -row - 1], flat[:, row + 1 : flat.shape[1] - row + 1]
    mixed = np.empty_like(up)
    mixed_u, mixed_v = mixed
    reaction = np.empty_like(mixed_u)
    cu, cv = (np.float32(D * _DT / SPACING**2) for D in (Du, Dv))
    keep_u, keep_v = np.float32(1 - 4 * cu - F * _DT), np.float32(1 - 4 * cv - (F + k) * _DT)
    feed = np.float32(F * _DT) * _SCALE

    for frame in range(1, frames + 1):
        for step in range(steps_per_frame):
            if step % 20 == 0:
                np.maximum(v, _TINY, out=v)
            w[:, 0], w[:, -1] = w[:, -2], w[:, 1]
            w[:, :, 0], w[:, :, -1] = w[:, :, -2], w[:, :, 1]
            np.add(up, down, out=mixed)
            mixed += left
            mixed += right
            mixed_u *= cu
            mixed_v *= cv
            np.multiply(v, v, out=reaction)
            reaction *= u
            mixed_u -= reaction
            mixed_v += reaction
            mixed_u += feed
            u *= keep_u
            u += mixed_u
            v *= keep_v
            v += mixed_v
        field = w[1, 1:-1, 1:-1] / _SCALE
        yield {
            "t": frame * steps_per_frame * _DT,
            "v_mean": float(field.mean(dtype=np.float64)),
            "v_std": float(field.std(dtype=np.float64)),
            "scale": pattern_scale(field),
            "v": field,
        }


def pattern_scale(field: Array) -> float:
    """Mean wavenumber of a square periodic field, in cycles per side: how many times the pattern repeats across.

    The centroid of the power spectrum, ``sum |n| P / (sum P + floor)``. Without the constant in the denominator
    (a variance of 1e-4) the number of a fading field would be that of its numerical dust; with it the number
    goes smoothly to 0 as the pattern dies.
    """
    n = field.shape[0]
    power = np.abs(np.fft.rfft2(field - field.mean(dtype=np.float64))) ** 2 / n**4
    power[:, 1 : (n + 1) // 2] *= 2  # rfft2 keeps one half of each conjugate pair
    return float((_wavenumbers(n) * power).sum() / (power.sum() + _FLOOR))


def _wavenumbers(n: int) -> Floats:
    """``|n|`` of every entry of ``rfft2``, in cycles per side."""
    return np.asarray(np.hypot(np.fft.fftfreq(n, 1 / n)[:, None], np.fft.rfftfreq(n, 1 / n)[None, :]), dtype=np.float64)


def _initial(grid: int) -> Array:
    """u = 1, v = 0, and in the middle a square with u = 1/2, v = 1/4 under 1 % of fixed noise (Pearson)."""
    w = np.empty((2, grid, grid), dtype=np.float32)
    w[0], w[1] = 1.0, _TINY
    half = max(1, round(grid * 10 / 96))
    middle = slice(grid // 2 - half, grid // 2 + half)
    noise = 1 + 0.01 * np.random.default_rng(1993).standard_normal((2, 2 * half, 2 * half))
    w[0, middle, middle] = 0.5 * noise[0]
    w[1, middle, middle] = 0.25 * noise[1]
    return w


def _check(F: float, k: float, Du: float, Dv: float, grid: int, frames: int, steps_per_frame: int) -> None:
    for name, rate in (("F", F), ("k", k)):
        if not 0 <= rate <= 0.5:
            raise SimulationError(f"Gray-Scott's rate {name} is {rate}; give a number from 0 to 0.5 per unit of time.")
    limit = 0.24 * SPACING**2 / _DT  # the five-point scheme with an Euler step is stable up to 0.25
    for name, D in (("Du", Du), ("Dv", Dv)):
        if not 0 < D <= limit:
            raise SimulationError(
                f"Gray-Scott's diffusivity {name} is {D}; the explicit scheme needs a number above 0 and up to {limit:.3g}."
            )
    if grid < 8 or frames < 1 or steps_per_frame < 1:
        raise SimulationError(
            f"Gray-Scott got grid={grid}, frames={frames}, steps_per_frame={steps_per_frame}; at least 8, 1 and 1 are needed."
        )
