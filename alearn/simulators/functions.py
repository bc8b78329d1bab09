"""Analytic test functions: vectorised, with their boxes and their sources; for benchmarks and tests of acquisition.

``FUNCTIONS["borehole"](X)`` evaluates ``N x d`` points of the box; ``FUNCTIONS["borehole"].simulate(rw=…, …)``
is a simulation that yields one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from alearn.errors import SimulationError
from alearn.types import Floats


@dataclass(frozen=True, slots=True)
class TestFunction:
    """A function of named parameters with a known answer everywhere.

    Args:
        name: its name.
        box: low and high end of each parameter.
        rule: from the columns of ``N x d`` points, ``d x N``, to ``N`` values.
        source: where it comes from.
    """

    __test__ = False  # its name begins as pytest's test classes do

    name: str
    box: Mapping[str, tuple[float, float]]
    rule: Callable[[Floats], Floats]
    source: str

    @property
    def d(self) -> int:
        """How many parameters."""
        return len(self.box)

    def __call__(self, X: Floats) -> Floats:
        """Values at points in the parameters' own units.

        Args:
            X: ``N x d``.

        Returns:
            ``N``.

        Raises:
            SimulationError: X has another shape or is not finite.
        """
        x = np.asarray(X, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.d:
            raise SimulationError(
                f"The function '{self.name}' got points of shape {x.shape}; it needs N x {self.d} ({', '.join(self.box)})."
            )
        if not np.isfinite(x).all():
            raise SimulationError(f"The function '{self.name}' got NaN or infinity; give finite numbers.")
        return self.rule(x.T)

    def from_unit(self, U: Floats) -> Floats:
        """Points of the box from points of the unit cube, ``N x d``."""
        low, high = (np.array([ends[i] for ends in self.box.values()]) for i in (0, 1))
        return np.asarray(low + (high - low) * U)

    def simulate(self, **parameters: float) -> Iterator[dict[str, float]]:
        """The function as a simulation of one time step, with the output ``y``.

        Raises:
            SimulationError: a parameter is missing, unknown or not finite.
        """
        if set(parameters) != set(self.box):
            raise SimulationError(f"The function '{self.name}' got {sorted(parameters)}; it needs {', '.join(self.box)}.")
        yield {"t": 0.0, "y": float(self(np.array([[parameters[n] for n in self.box]]))[0])}


def _unit(d: int) -> dict[str, tuple[float, float]]:
    return {f"x{i}": (0.0, 1.0) for i in range(1, d + 1)}


def _ridge(x: Floats) -> Floats:
    a, b = x
    return np.asarray(np.tanh(25 * (b - 0.5 - 0.25 * np.sin(2 * np.pi * a))) * (0.6 + 0.4 * a) + 0.3 * np.sin(3 * a) * b)


def _ring(x: Floats) -> Floats:
    a, b = x
    return np.asarray(a + np.exp(-((a**2 + b**2 - 0.75**2) ** 2) / 0.2**4))


def _fusion(x: Floats) -> Floats:
    density, temperature, field, shape = x
    # the optimum density falls with temperature; the peak is narrow across that valley and wide along it
    across = density - 0.85 + 0.55 * temperature
    peak = np.exp(-((across / 0.09) ** 2) - ((temperature - 0.55) / 0.22) ** 2 - ((field - 0.6) / 0.3) ** 2)
    return np.asarray(peak * (0.5 + shape) + 0.15 * density * temperature * (1 + field) - 0.05 * shape**2)


def _borehole(x: Floats) -> Floats:
    rw, r, tu, hu, tl, hl, length, kw = x
    log = np.log(r / rw)
    return np.asarray(2 * np.pi * tu * (hu - hl) / (log * (1 + 2 * length * tu / (log * rw**2 * kw) + tu / tl)))


def _piston(x: Floats) -> Floats:
    mass, area, volume, spring, pressure, ambient, gas = x
    a = pressure * area + 19.62 * mass - spring * volume / area
    v = area / (2 * spring) * (np.sqrt(a**2 + 4 * spring * pressure * volume * ambient / gas) - a)
    return np.asarray(2 * np.pi * np.sqrt(mass / (spring + area**2 * pressure * volume * ambient / (gas * v**2))))


def _otl(x: Floats) -> Floats:
    rb1, rb2, rf, rc1, rc2, beta = x
    vb1 = 12 * rb2 / (rb1 + rb2)
    gain = beta * (rc2 + 9)
    total = gain + rf
    return np.asarray((vb1 + 0.74) * gain / total + 11.35 * rf / total + 0.74 * rf * gain / (total * rc1))


def _wing_weight(x: Floats) -> Floats:
    sw, wfw, aspect, sweep, q, taper, tc, nz, wdg, wp = x
    cos = np.cos(np.deg2rad(sweep))
    geometry = sw**0.758 * wfw**0.0035 * (aspect / cos**2) ** 0.6 * q**0.006 * taper**0.04
    return np.asarray(0.036 * geometry * (100 * tc / cos) ** -0.3 * (nz * wdg) ** 0.49 + sw * wp)


_HARTMANN_A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
_HARTMANN_C = np.array([1.0, 1.2, 3.0, 3.2])


def _hartmann(x: Floats) -> Floats:
    squared = (x.T[:, None, :] - _HARTMANN_P) ** 2
    return np.asarray(-np.exp(-(squared * _HARTMANN_A).sum(-1)) @ _HARTMANN_C)


def _catalogue() -> dict[str, TestFunction]:
    made = (
        TestFunction("ridge", _unit(2), _ridge, "alearn: a sharp front along a sine, of varying height, on a smooth ground"),
        TestFunction(
            "ring", {"x1": (-1.0, 1.0), "x2": (-1.0, 1.0)}, _ring, "the 2-D example of python-adaptive's tutorial (Nijholt et al. 2019)"
        ),
        TestFunction("fusion", _unit(4), _fusion, "alearn: a narrow curved peak like a fusion-power window, on a smooth ground"),
        TestFunction(
            "borehole",
            {
                "rw": (0.05, 0.15),
                "r": (100.0, 50_000.0),
                "Tu": (63_070.0, 115_600.0),
                "Hu": (990.0, 1110.0),
                "Tl": (63.1, 116.0),
                "Hl": (700.0, 820.0),
                "L": (1120.0, 1680.0),
                "Kw": (9855.0, 12_045.0),
            },
            _borehole,
            "water flow through a borehole, m^3/year: Harper and Gupta 1983; Morris, Mitchell and Ylvisaker 1993",
        ),
        TestFunction(
            "piston",
            {
                "M": (30.0, 60.0),
                "S": (0.005, 0.020),
                "V0": (0.002, 0.010),
                "k": (1000.0, 5000.0),
                "P0": (90_000.0, 110_000.0),
                "Ta": (290.0, 296.0),
                "T0": (340.0, 360.0),
            },
            _piston,
            "cycle time of a piston, s: Kenett and Zacks 1998; Ben-Ari and Steinberg 2007",
        ),
        TestFunction(
            "otl",
            {"Rb1": (50.0, 150.0), "Rb2": (25.0, 70.0), "Rf": (0.5, 3.0), "Rc1": (1.2, 2.5), "Rc2": (0.25, 1.20), "beta": (50.0, 300.0)},
            _otl,
            "midpoint voltage of an output-transformerless circuit, V: Ben-Ari and Steinberg 2007",
        ),
        TestFunction(
            "wing_weight",
            {
                "Sw": (150.0, 200.0),
                "Wfw": (220.0, 300.0),
                "A": (6.0, 10.0),
                "sweep": (-10.0, 10.0),
                "q": (16.0, 45.0),
                "taper": (0.5, 1.0),
                "tc": (0.08, 0.18),
                "Nz": (2.5, 6.0),
                "Wdg": (1700.0, 2500.0),
                "Wp": (0.025, 0.08),
            },
            _wing_weight,
            "weight of a light aircraft's wing, lb: Forrester, Sobester and Keane 2008",
        ),
        TestFunction("hartmann", _unit(6), _hartmann, "six-dimensional Hartmann function: Dixon and Szego 1978"),
    )
    return {f.name: f for f in made}


FUNCTIONS: Mapping[str, TestFunction] = _catalogue()
"""The test functions by name."""
