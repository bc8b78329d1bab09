"""Monitors on small solvers that really blow up, and on others that only look as if they would."""

from collections.abc import Iterator

import numpy as np
import pytest

from alearn.controller import Divergence, MonitorPanel, NonFinite, OutOfRange, Stall
from alearn.errors import ConfigError
from alearn.types import Sample


def sample(step: int, **values) -> Sample:
    return Sample("m0000", 1, step, float(step), {}, {k: np.asarray(v) for k, v in values.items()})


def heat(courant: float, frames: int = 200, per_frame: int = 5) -> Iterator[np.ndarray]:
    """The heat equation with explicit Euler: unstable for courant > 1/2."""
    x = np.linspace(0, 1, 41)
    u = np.exp(-100 * (x - 0.5) ** 2) + 1e-12 * np.random.default_rng(0).standard_normal(41)
    for _ in range(frames):
        for _ in range(per_frame):
            u[1:-1] += courant * (u[2:] - 2 * u[1:-1] + u[:-2])
        yield u.copy()


def advection(courant: float, frames: int = 200) -> Iterator[np.ndarray]:
    """Upwind advection of a pulse: unstable for courant > 1."""
    x = np.linspace(0, 1, 64, endpoint=False)
    u = np.exp(-200 * (x - 0.3) ** 2)
    for _ in range(frames):
        for _ in range(3):
            u = u - courant * (u - np.roll(u, 1))
        yield u.copy()


def burgers(dt: float, frames: int = 300) -> Iterator[np.ndarray]:
    """Viscous Burgers with central differences and explicit Euler: blows up nonlinearly for too large a step."""
    n = 128
    x = np.linspace(0, 2 * np.pi, n, endpoint=False)
    u, dx = np.sin(x) * 2, 2 * np.pi / n
    for _ in range(frames):
        for _ in range(4):
            du = (np.roll(u, -1) - np.roll(u, 1)) / (2 * dx)
            d2 = (np.roll(u, -1) - 2 * u + np.roll(u, 1)) / dx**2
            u = u + dt * (0.2 * d2 - u * du)
        yield u.copy()


def fine() -> dict[str, list[np.ndarray]]:
    """Trajectories that grow, oscillate or wander, and are all right."""
    t = np.arange(200.0)
    rng = np.random.default_rng(5)
    vdp = [np.array([1e-3, 0.0])]
    for _ in range(4000):
        q, p = vdp[-1]
        vdp.append(np.array([q + 0.02 * p, p + 0.02 * (1.5 * (1 - q * q) * p - q)]))
    return {
        "logistic": list(1.0 / (1.0 + 999.0 * np.exp(-0.15 * t))),
        "exponential": list(1e-6 * np.exp(0.1 * t)),
        "linear": list(0.3 * t),
        "quadratic": list(1e-3 + t**2),
        "limit cycle": vdp[::20],
        "oscillation": list(np.sin(0.4 * t) * 3),
        "random walk": list(np.cumsum(rng.standard_normal(200))),
        "noise": list(rng.standard_normal((200, 10))),
        "switched on": [np.zeros(4)] * 20 + [np.full(4, 5.0)] * 100,
        "pulse": list(1.0 + 50.0 * np.exp(-(((t - 80) / 5) ** 2))),
        "stable heat": list(heat(0.45)),
        "stable advection": list(advection(0.9)),
        "stable Burgers": list(burgers(0.004)),
    }


def watch(monitor: Divergence, frames) -> tuple[int, int]:
    """The step of the alarm and that of the first non-finite value; -1 for never."""
    alarm = bad = -1
    with np.errstate(all="ignore"):
        for step, u in enumerate(frames):
            if not np.isfinite(u).all():
                bad = step
                break
            if alarm < 0 and monitor.see(sample(step, u=u)):
                alarm = step
    return alarm, bad


BLOWN = {
    "heat 0.55": lambda: heat(0.55, 2000),
    "heat 0.7": lambda: heat(0.7, 2000),
    "heat 1": lambda: heat(1.0, 2000),
    "advection 1.05": lambda: advection(1.05, 3000),
    "advection 1.3": lambda: advection(1.3, 3000),
    "Burgers 0.0065": lambda: burgers(0.0065, 3000),
    "Burgers 0.008": lambda: burgers(0.008, 3000),
}


@pytest.mark.parametrize("name", BLOWN)
def test_a_blow_up_is_seen_before_the_nan(name):
    alarm, bad = watch(Divergence(), BLOWN[name]())
    assert bad > 0, "the solver was meant to blow up"
    assert 0 < alarm < bad


@pytest.mark.parametrize("name", fine())
def test_what_grows_and_is_fine_raises_no_alarm(name):
    assert watch(Divergence(), fine()[name]) == (-1, -1)


def test_more_sensitive_is_earlier():
    early, _ = watch(Divergence(sensitivity=2.0), heat(0.7, 2000))
    late, _ = watch(Divergence(sensitivity=0.5), heat(0.7, 2000))
    assert 0 < early < late


def test_the_reason_says_what_and_where():
    monitor = Divergence()
    reasons = [r for step, u in enumerate(heat(1.0, 40)) if (r := monitor.see(sample(step, u=u, n=3)))]
    assert "field 'u' runs away" in reasons[0]
    assert "at step" in reasons[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "NaN in field 'b' at step 7"),
        (np.inf, "infinity in field 'b' at step 7"),
        (np.array([1.0, np.nan, np.inf]), "NaN in field 'b' at step 7 in 2 of 3 values"),
    ],
)
def test_nonfinite_says_which_field_and_step(value, words):
    assert NonFinite().see(sample(7, a=1, b=value)) == words
    assert NonFinite().see(sample(7, a=1, b=2.0)) is None


def test_a_time_that_is_not_a_number_is_seen():
    bad = Sample("m", 1, 2, float("nan"), {}, {"a": np.array(1.0)})
    assert "time of step 2" in (NonFinite().see(bad) or "")


def test_bounds():
    monitor = OutOfRange(bounds={"u": [0, 1], "n": [None, 5]})
    assert monitor.see(sample(0, u=[0.1, 0.9], n=-100)) is None
    assert "field 'u' is 1.2 at step 3, outside [0, 1]" in (monitor.see(sample(3, u=[0.1, 1.2], n=0)) or "")
    assert "field 'n' is 6" in (monitor.see(sample(3, u=[0.1], n=6)) or "")
    with pytest.raises(ConfigError, match="sends u"):
        OutOfRange(bounds={"v": [0, 1]}).see(sample(0, u=1.0))
    with pytest.raises(ConfigError, match="lowest must be below"):
        OutOfRange(bounds={"v": [1, 0]})
    with pytest.raises(ConfigError, match="null for none"):
        OutOfRange(bounds={"v": [1.0]})


def test_stall_follows_the_members_own_pace():
    monitor = Stall(factor=10, at_least_s=1.0, first_s=100.0)
    assert monitor.overdue(5.0) is None
    monitor.started(0.0)
    assert monitor.overdue(99.0) is None
    assert "before its pace is known" in (monitor.overdue(101.0) or "")
    for n in range(10):
        monitor.arrived(2.0 * n)
    assert monitor.overdue(18.0 + 19.0) is None
    assert "its own pace is 2 s a step" in (monitor.overdue(18.0 + 21.0) or "")
    slow = Stall(factor=3, at_least_s=0.0)
    for now in (0.0, 1.0, 2.0, 50.0, 51.0, 52.0):  # it paused for 48 s once, and was well
        slow.arrived(now)
    assert slow.overdue(52.0 + 90.0) is None
    assert slow.overdue(52.0 + 97.0) is not None


def test_the_panel_keeps_attempts_apart_and_names_the_monitor():
    class Tired:
        fault = False

        def see(self, sample: Sample) -> str | None:
            return "steady" if sample.step >= 2 else None

    panel = MonitorPanel({"nonfinite": NonFinite, "stall": lambda: Stall(first_s=10.0, at_least_s=0.0), "tired": Tired})
    panel.started("m0000", 1, 0.0)
    assert panel.see(sample(0, u=1.0), 1.0) is None
    alarm = panel.see(sample(1, u=np.nan), 2.0)
    assert alarm is not None
    assert (alarm.monitor, alarm.fault, alarm.member) == ("nonfinite", True, "m0000")
    alarm = panel.see(sample(2, u=1.0), 3.0)
    assert alarm is not None
    assert (alarm.monitor, alarm.fault) == ("tired", False)
    (stalled,) = panel.check(99.0)
    assert stalled.monitor == "stall"
    panel.forget("m0000", 1)
    assert panel.check(999.0) == []


@pytest.mark.parametrize("options", [{"sensitivity": 0}, {"warmup": 0}, {"confirm": 1}])
def test_wrong_options_of_divergence(options):
    with pytest.raises(ConfigError, match="must be positive"):
        Divergence(**options)
    with pytest.raises(ConfigError, match="above 1"):
        Stall(factor=1.0)
