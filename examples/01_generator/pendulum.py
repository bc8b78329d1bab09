"""The simulation: a pendulum that is pushed once and loses energy to friction. One yield is one time step."""

import math


def pendulum(push: float, friction: float):
    angle, speed, dt = 0.0, push, 0.005
    for step in range(2001):
        if step % 50 == 0:
            yield {"t": step * dt, "angle": angle, "energy": 0.5 * speed**2 + 1 - math.cos(angle)}
        speed -= dt * (math.sin(angle) + friction * speed)
        angle += dt * speed
