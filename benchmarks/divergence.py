"""How early, how surely and how falsely the divergence monitor calls: on solvers that really blow up and on some that do not.

    python benchmarks/divergence.py [--quick] [--json FILE]

Blowing up: an oscillator that escapes to infinity (nonlinear, in finite time), and explicit heat conduction with a time step
beyond its limit (a numerical instability). Not blowing up: the same two where they are stable, a two-stream instability
that grows by orders of magnitude and saturates, Burgers' shocks, Gray-Scott patterns. A run has blown up at its first value
that is not finite, or 10^12 times its start; a call is a recall if it comes before, and the lead is how many time steps
before, also as a share of the steps until then.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alearn.controller import Divergence
from alearn.simulators.burgers import BOX as BURGERS
from alearn.simulators.burgers import burgers
from alearn.simulators.gray_scott import BOX as GRAY_SCOTT
from alearn.simulators.gray_scott import gray_scott
from alearn.simulators.oscillator import BOX as OSCILLATOR
from alearn.simulators.oscillator import oscillator
from alearn.simulators.vlasov_poisson import BOX as VLASOV
from alearn.simulators.vlasov_poisson import vlasov_poisson
from alearn.space import Space
from alearn.types import Sample, Schema

RUNAWAY = 1e12
"""A solution so many times larger than its start has blown up, whether or not it overflows before the run ends."""


def explicit_heat(number: float, wave: float) -> Iterator[dict[str, Any]]:
    """Heat conduction by explicit steps on 64 cells, five a frame: unstable if the Fourier number exceeds a half."""
    x = np.linspace(0.0, 1.0, 64)
    u = np.sin(math.pi * x) + 0.1 * np.sin(round(wave) * math.pi * x)
    for frame in range(400):
        yield {"t": float(frame), "T": u.copy(), "T_mean": float(u.mean())}
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(5):
                u[1:-1] += number * (u[2:] - 2 * u[1:-1] + u[:-2])


def call(frames: Iterator[dict[str, Any]]) -> tuple[int | None, int | None, int]:
    """Steps of the first alarm and of the blow-up, None if there was none, and of the last one."""
    monitor, alarm, broken, last, first = Divergence(), None, None, -1, math.nan
    schema: Schema | None = None
    for step, values in enumerate(frames):
        t, last = values.pop("t"), step
        schema = schema or Schema.of(values)
        sample = Sample("m0000", 1, step, t, {}, schema.conform(values))
        size = max(float(np.max(np.abs(v))) for v in sample.values.values())
        first = size if step == 0 else first
        if not sample.finite or size > RUNAWAY * max(first, 1e-3):
            broken = step
            break
        if alarm is None and monitor.see(sample):
            alarm = step
    return alarm, broken, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    share = 0.25 if args.quick else 1.0
    cases: dict[str, tuple[Any, dict[str, Any], int]] = {
        "oscillator": (lambda **p: oscillator(**p, frames=400), {k: list(v) for k, v in OSCILLATOR.items()}, 200),
        "explicit heat": (explicit_heat, {"number": [0.3, 0.8], "wave": [2.0, 60.0]}, 200),
        "two-stream": (lambda **p: vlasov_poisson(**p, nx=16, nv=64), {k: list(v) for k, v in VLASOV.items()}, 60),
        "Burgers": (burgers, {k: list(v) for k, v in BURGERS.items()}, 100),
        "Gray-Scott": (
            lambda **p: gray_scott(**p, grid=32, frames=40, steps_per_frame=100),
            {k: list(v) for k, v in GRAY_SCOTT.items()},
            40,
        ),
    }
    results: dict[str, Any] = {}
    leads, shares, caught, broke, false, sound = [], [], 0, 0, 0, 0
    for name, (simulate, box, n) in cases.items():
        space = Space.from_config(box)
        runs = [call(simulate(**p)) for p in space.from_unit(space.sobol(max(8, int(share * n)), seed=1))]
        blown = [(a, b) for a, b, _ in runs if b is not None]
        early = [(a, b) for a, b in blown if a is not None and a < b]
        wrong = sum(a is not None for a, b, _ in runs if b is None)
        lead = [b - a for a, b in early]
        results[name] = {
            "runs": len(runs), "blew_up": len(blown), "called_before": len(early), "false_calls": wrong,
            "lead_steps": statistics.median(lead) if lead else None,
        }  # fmt: skip
        said = f", called before in {len(early)}, median lead {statistics.median(lead):g} steps" if lead else ""
        print(f"{name}: {len(runs)} runs, {len(blown)} blew up{said}; false calls {wrong} of {len(runs) - len(blown)}", flush=True)
        leads += lead
        shares += [(b - a) / b for a, b in early]
        caught, broke, false, sound = caught + len(early), broke + len(blown), false + wrong, sound + len(runs) - len(blown)
    if args.json:
        args.json.write_text(json.dumps(results))
    print(
        f"recall {100 * caught / broke:.0f} % of {broke} that blew up, a median of {statistics.median(leads):g} steps "
        f"({100 * statistics.median(shares):.0f} % of the way) before the blow-up; {false} false calls in {sound} sound runs"
    )


if __name__ == "__main__":
    main()
