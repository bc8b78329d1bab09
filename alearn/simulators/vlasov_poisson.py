"""Vlasov-Poisson in one dimension and one velocity: two electron beams, stable or not across a sharp boundary.

Electrons over a fixed ion background, in units of the Debye length, the plasma frequency and the thermal speed::

    df/dt + v df/dx - E df/dv = 0,      dE/dx = 1 - integral f dv

Time-split shifts (Cheng and Knorr 1976), each exact by Fourier interpolation. The start is two Maxwellian beams
at ``+drift`` and ``-drift`` under a small cosine perturbation. Fast and long waves are unstable and grow by
orders of magnitude before they trap the beams; the rest is Landau damped (Landau 1946).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from alearn.errors import SimulationError

BOX = {"k": (0.15, 0.6), "drift": (0.0, 4.0)}
"""The parameter box: wavenumber (1/Debye length) and drift of each beam (thermal speeds)."""
OUTPUTS = ("log_field", "v_spread", "power")
"""The scalar outputs of every frame; the distribution itself is ``f``."""
UNITS = {"k": "1/Debye length", "drift": "thermal speed", "t": "1/plasma frequency", "v_spread": "thermal speed"}
STEPS = 40
"""Frames that one run yields."""


def vlasov_poisson(
    k: float,
    drift: float,
    *,
    perturbation: float = 0.01,
    nx: int = 32,
    nv: int = 128,
    frames: int = STEPS,
    duration: float = 40.0,
    dt: float = 0.1,
) -> Iterator[dict[str, Any]]:
    """Simulate the beams on one wavelength, yielding evenly spaced frames.

    Args:
        k: wavenumber of the perturbation, 1/Debye length; the periodic box has the length ``2 pi / k``.
        drift: speed of each beam, thermal speeds.
        perturbation: relative size of the density perturbation.
        nx: cells in space.
        nv: cells in velocity, from ``-(drift + 6)`` to ``drift + 6``.
        frames: how many frames to yield.
        duration: time of the last frame, in inverse plasma frequencies.
        dt: the longest step.

    Yields:
        ``t``, ``log_field`` (log10 of the electric field's root mean square), ``v_spread`` (standard deviation of the
        velocity), ``power`` (mean of the field times the electron flux: what the beams give up) and ``f``, ``nx x nv``, float32.

    Raises:
        SimulationError: a parameter is not physical.
    """
    if not (math.isfinite(k) and k > 0 and math.isfinite(drift) and drift >= 0 and 0 < perturbation < 1):
        raise SimulationError(
            f"Vlasov-Poisson got k={k}, drift={drift}, perturbation={perturbation}; "
            "k must be above 0, drift at least 0, perturbation between 0 and 1."
        )
    if nx < 8 or nv < 16 or frames < 1 or not (duration > 0 and dt > 0):
        raise SimulationError(
            f"Vlasov-Poisson got nx={nx}, nv={nv}, frames={frames}, duration={duration}, dt={dt}; "
            "at least 8, 16 and 1 are needed, and times above 0."
        )
    steps = math.ceil(duration / frames / dt)
    dt = duration / frames / steps
    half_width = drift + 6.0
    x = np.arange(nx) * (2 * np.pi / k / nx)
    v = -half_width + (np.arange(nv) + 0.5) * (2 * half_width / nv)
    dv = v[1] - v[0]
    beams = (np.exp(-((v - drift) ** 2) / 2) + np.exp(-((v + drift) ** 2) / 2)) / (2 * math.sqrt(2 * math.pi))
    f = (1 + perturbation * np.cos(k * x))[:, None] * beams
    kx = k * np.arange(nx // 2 + 1)
    kv = 2 * np.pi * np.fft.rfftfreq(nv, dv)
    drift_half = np.exp(-1j * kx[:, None] * v * (dt / 2))
    inverse = np.divide(1j, kx, out=np.zeros(len(kx), dtype=complex), where=kx > 0)  # of E' = 1 - density, mode by mode

    for frame in range(1, frames + 1):
        for _ in range(steps):
            f = np.fft.irfft(np.fft.rfft(f, axis=0) * drift_half, nx, axis=0)
            field = np.fft.irfft(np.fft.rfft(f.sum(axis=1) * dv) * inverse, nx)
            f = np.fft.irfft(np.fft.rfft(f, axis=1) * np.exp(1j * np.outer(field * dt, kv)), nv, axis=1)
            f = np.fft.irfft(np.fft.rfft(f, axis=0) * drift_half, nx, axis=0)
        density = f.sum(axis=1) * dv
        field = np.fft.irfft(np.fft.rfft(density) * inverse, nx)
        mean_v = float((f * v).sum() / f.sum())
        yield {
            "t": duration * frame / frames,
            "log_field": float(np.log10(np.sqrt((field**2).mean()) + 1e-12)),
            "v_spread": float(np.sqrt((f * (v - mean_v) ** 2).sum() / f.sum())),
            "power": float((field * (f @ v) * dv).mean()),
            "f": f.astype(np.float32),
        }
