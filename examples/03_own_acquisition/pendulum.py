"""The pendulum of example 01, but only its angle."""

import math


def pendulum(push: float, friction: float):
    angle, speed, dt = 0.0, push, 0.005
    for step in range(2001):
        if step % 50 == 0:
            yield {"t": step * dt, "angle": angle}
        speed -= dt * (math.sin(angle) + friction * speed)
        angle += dt * speed
