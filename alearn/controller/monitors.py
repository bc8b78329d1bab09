"""Monitors on the stream: they see every time step of a member and raise the alarm with a reason."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from alearn.errors import AlearnError, ConfigError, StudyFailed
from alearn.events import MonitorAlarm
from alearn.types import Sample


class Monitor(Protocol):
    """Watches one attempt of one member."""

    def see(self, sample: Sample) -> str | None:
        """Look at the next time step; the reason of an alarm in words, or None."""
        ...


@runtime_checkable
class Clocked(Protocol):
    """A monitor that also looks when nothing arrives. Times are Unix s."""

    def started(self, now: float) -> None:
        """The stream opened."""
        ...

    def arrived(self, now: float) -> None:
        """A time step arrived."""
        ...

    def overdue(self, now: float) -> str | None:
        """The reason of an alarm at ``now``, or None."""
        ...


class NonFinite:
    """Alarm at the first NaN or infinity; says which field and which step."""

    def see(self, sample: Sample) -> str | None:
        """Look at one time step."""
        if not math.isfinite(sample.t):
            return f"the time of step {sample.step} is {sample.t}"
        for name, value in sample.values.items():
            bad = ~np.isfinite(value)
            n = int(np.count_nonzero(bad))
            if n:
                what = "NaN" if bool(np.isnan(value[bad]).any()) else "infinity"
                of = f" in {n} of {value.size} values" if value.size > 1 else ""
                return f"{what} in field '{name}' at step {sample.step}{of}"
        return None


class OutOfRange:
    """Alarm when a field leaves the bounds that the user knows to be physical.

    Args:
        bounds: (lowest, highest) by field; either may be None.
    """

    def __init__(self, *, bounds: Mapping[str, Sequence[float | None]] | None = None) -> None:
        self.bounds: dict[str, tuple[float, float]] = {}
        for name, pair in (bounds or {}).items():
            if len(pair) != 2:
                raise ConfigError(f"The bounds of '{name}' are {list(pair)}; give [lowest, highest], null for none.")
            low = -math.inf if pair[0] is None else float(pair[0])
            high = math.inf if pair[1] is None else float(pair[1])
            if not low < high:
                raise ConfigError(f"The bounds of '{name}' are [{low}, {high}]; the lowest must be below the highest.")
            self.bounds[name] = (low, high)

    def see(self, sample: Sample) -> str | None:
        """Look at one time step."""
        for name, (low, high) in self.bounds.items():
            if name not in sample.values:
                raise ConfigError(
                    f"The bounds name a field '{name}' that the simulation does not send; it sends {', '.join(sample.values)}."
                )
            value = sample.values[name]
            if value.size == 0:
                continue
            lowest, highest = float(np.min(value)), float(np.max(value))
            if lowest < low or highest > high:
                seen = lowest if lowest < low else highest
                return f"field '{name}' is {seen:.4g} at step {sample.step}, outside [{low:g}, {high:g}]"
        return None


class Divergence:
    """Alarm while a solution runs away, before it overflows.

    Watches the logarithm g of each field's largest absolute value. A numerical instability multiplies the error by a
    factor per solver step, so once it rules the field, g climbs steadily, decade after decade, or ever faster (a
    nonlinear blow-up), while physical growth slows down. Let r be the increments of g between time steps, and m and s
    the median and the median absolute deviation of the member's own earlier increments. A one-sided CUSUM (Page,
    Biometrika 41, 1954) sums r - m - drift * max(s, floor); the alarm needs all of: the sum over ``threshold``
    (natural log units: a factor e^threshold beyond the member's own pace), the field over ``decades`` above its largest
    early value, growth in each of the last ``confirm`` increments, and no slowing down over them.

    Args:
        sensitivity: larger is earlier and less sure; divides ``threshold`` and ``decades``.
        threshold: alarm level of the CUSUM, natural log units.
        decades: powers of ten by which the field must exceed its early maximum.
        drift: allowance per increment in robust deviations.
        warmup: first time steps, from which the member's scale is learned.
        confirm: increments in a row that must grow.
        fields: which fields to watch; all that are floating if empty.
    """

    def __init__(
        self,
        *,
        sensitivity: float = 1.0,
        threshold: float = 4.0,
        decades: float = 2.0,
        drift: float = 3.0,
        warmup: int = 4,
        confirm: int = 3,
        fields: Sequence[str] = (),
    ) -> None:
        if sensitivity <= 0 or threshold <= 0 or decades < 0 or warmup < 1 or confirm < 2:
            raise ConfigError(
                f"sensitivity={sensitivity} and threshold={threshold} must be positive, decades={decades} not negative, "
                f"warmup={warmup} at least 1 and confirm={confirm} at least 2."
            )
        self.threshold, self.decades = threshold / sensitivity, decades / sensitivity
        self.drift, self.warmup, self.confirm, self.fields = drift, warmup, confirm, tuple(fields)
        self._tracks: dict[str, _Track] = {}

    def see(self, sample: Sample) -> str | None:
        """Look at one time step; non-finite values are left to ``NonFinite``."""
        for name in self.fields or tuple(sample.values):
            value = sample.values.get(name)
            if value is None or value.size == 0 or not np.issubdtype(value.dtype, np.floating):
                continue
            size = float(np.max(np.abs(value)))
            if not math.isfinite(size):
                continue
            track = self._tracks.setdefault(name, _Track(self))
            grown = track.see(size)
            if grown:
                return f"field '{name}' runs away: its size {size:.3g} at step {sample.step} {grown}"
        return None


class _Track:
    """The log-size of one field."""

    __slots__ = ("base", "cusum", "increments", "last", "rule", "seen")

    def __init__(self, rule: Divergence) -> None:
        self.rule = rule
        self.base = 0.0
        self.last = math.nan
        self.cusum = 0.0
        self.seen = 0
        self.increments: deque[float] = deque(maxlen=64)

    def see(self, size: float) -> str:
        rule = self.rule
        self.seen += 1
        log = math.log(max(size, 1e-300))
        if self.seen <= rule.warmup:
            self.base = max(self.base, size)
            if self.seen > 1 and self.last > -600.0:
                self.increments.append(log - self.last)
            self.last = log
            return ""
        step = log - self.last
        self.last = log
        earlier = np.asarray(tuple(self.increments)[: -rule.confirm] or (0.0,))
        usual = float(np.median(earlier))
        spread = 1.4826 * float(np.median(np.abs(earlier - usual)))
        allowed = max(usual, 0.0) + rule.drift * max(spread, 0.01)
        self.cusum = max(0.0, self.cusum + step - allowed)
        self.increments.append(step)
        if self.base <= 0.0:  # it was identically zero so far: any size is the first size
            self.base = size
            self.cusum = 0.0
            return ""
        recent = tuple(self.increments)[-rule.confirm :]
        steady = len(recent) == rule.confirm and all(r > 0.0 for r in recent) and recent[-1] >= 0.8 * recent[0]
        beyond = math.log10(max(size, 1e-300) / self.base)
        if self.cusum > rule.threshold and beyond > rule.decades and steady:
            return (
                f"is 10^{beyond:.1f} of its early maximum and has grown {math.exp(min(sum(recent), 50.0)):.3g}-fold in {rule.confirm} steps"
            )
        return ""


class Stall:
    """Alarm when no time step has come for far longer than the member itself has needed before.

    Args:
        factor: how many of its own longest or mean step times it may take.
        at_least_s: a silence shorter than this is never an alarm, s.
        first_s: how long the first step may take, s.
    """

    def __init__(self, *, factor: float = 20.0, at_least_s: float = 60.0, first_s: float = 3600.0) -> None:
        if factor <= 1 or at_least_s < 0 or first_s <= 0:
            raise ConfigError(f"factor={factor} must be above 1, at_least_s={at_least_s} not negative and first_s={first_s} positive.")
        self.factor, self.at_least_s, self.first_s = factor, at_least_s, first_s
        self._last = math.nan
        self._first = math.nan
        self._longest = 0.0
        self._n = 0

    def see(self, sample: Sample) -> str | None:
        """Nothing: only silence matters."""
        return None

    def started(self, now: float) -> None:
        """The stream opened, at ``now``."""
        if math.isnan(self._last):
            self._last = now

    def arrived(self, now: float) -> None:
        """A time step arrived."""
        if self._n == 0:
            self._first = now
        else:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        self._n += 1

    def overdue(self, now: float) -> str | None:
        """The alarm at ``now``, if the silence is too long."""
        if math.isnan(self._last):
            return None
        silence = now - self._last
        if self._n < 2:
            limit = max(self.first_s, self.at_least_s)
            return f"no step for {silence:.3g} s, {limit:.3g} s were allowed before its pace is known" if silence > limit else None
        pace = (self._last - self._first) / (self._n - 1)
        limit = max(self.at_least_s, self.factor * pace, 2.0 * self._longest)
        return f"no step for {silence:.3g} s, its own pace is {pace:.3g} s a step" if silence > limit else None


Factory = Callable[[], Monitor]


class MonitorPanel:
    """The monitors of all running members: one of each kind per attempt.

    Args:
        factories: by name, a function that makes a fresh monitor; a monitor class with ``fault = False`` ends its
            members as killed instead of failed.
    """

    def __init__(self, factories: Mapping[str, Factory] | None = None) -> None:
        self.factories: Mapping[str, Factory] = {"nonfinite": NonFinite} if factories is None else dict(factories)
        self._watched: dict[tuple[str, int], dict[str, Monitor]] = {}

    def started(self, member: str, attempt: int, now: float) -> None:
        """An attempt's stream opened at ``now`` (Unix s)."""
        monitors = self._watched.setdefault((member, attempt), {name: make() for name, make in self.factories.items()})
        for monitor in monitors.values():
            if isinstance(monitor, Clocked):
                monitor.started(now)

    def see(self, sample: Sample, now: float) -> MonitorAlarm | None:
        """Show a time step that arrived at ``now``; the first alarm, if any."""
        key = (sample.member, sample.attempt)
        if key not in self._watched:
            self.started(*key, now)
        alarm: MonitorAlarm | None = None
        for name, monitor in self._watched[key].items():
            if isinstance(monitor, Clocked):
                monitor.arrived(now)
            try:
                reason = monitor.see(sample)
            except AlearnError:
                raise
            except Exception as error:
                raise StudyFailed(
                    f"The monitor '{name}' broke at step {sample.step} of {sample.member}: {type(error).__name__}: {error}. "
                    "Mend it, then resume."
                ) from error
            if reason and alarm is None:
                alarm = self._alarm(sample.member, name, monitor, reason, now)
        return alarm

    def check(self, now: float) -> list[MonitorAlarm]:
        """The alarms of silence at ``now``; call it every second or so."""
        out = []
        for (member, _), monitors in self._watched.items():
            for name, monitor in monitors.items():
                reason = monitor.overdue(now) if isinstance(monitor, Clocked) else None
                if reason:
                    out.append(self._alarm(member, name, monitor, reason, now))
        return out

    def forget(self, member: str, attempt: int) -> None:
        """An attempt is over."""
        self._watched.pop((member, attempt), None)

    @staticmethod
    def _alarm(member: str, name: str, monitor: Monitor, reason: str, now: float) -> MonitorAlarm:
        return MonitorAlarm(at=now, member=member, monitor=name, reason=reason, fault=bool(getattr(monitor, "fault", True)))
