"""The simulation: a pulse of dye drifts down a channel of 200 cells, spreads, and sticks to the wall behind a threshold."""

import numpy as np

CELLS = 200
X = (np.arange(CELLS) + 0.5) / CELLS


def channel(speed: float, spread: float, stick: float):
    """Yield the concentration along the channel, 20 times between t = 0.05 and 1."""
    dx, dt = 1.0 / CELLS, 2e-4
    c = np.exp(-((X - 0.15) ** 2) / 0.002)
    for step in range(1, 5001):
        ahead = np.append(c[1:], c[-1])
        behind = np.insert(c[:-1], 0, 0.0)
        diffusion = spread * (ahead - 2 * c + behind) / dx**2
        c = c + dt * (diffusion - speed * (c - behind) / dx - stick * c**2 / (0.1 + c))
        if step % 250 == 0:
            yield {"t": step * dt, "c": c.astype(np.float32), "mass": c.mean()}
