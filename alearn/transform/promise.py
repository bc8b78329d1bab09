"""What a lossy codec promises about every field: its error, and diagnostics that stay what they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from alearn.errors import ConfigError
from alearn.transform.diagnostics import diagnostic, rms
from alearn.types import Array

OUTLIER = 10.0
"""A field whose misfit is larger than this many times the usual size of the fluctuations is never learned from."""


@final
class Promise:
    """A field is represented if its relative error is small enough and every diagnostic is right to within what is stated.

    Args:
        what: the codec's name, for errors.
        error: root-mean-square error allowed, in units of the fields' usual fluctuation.
        keep: diagnostics (mean, std, min, max, rms, scale, or ``FILE.py:NAME``) with the absolute error allowed.

    Raises:
        ConfigError: an error is not positive.
        UnknownName: there is no such diagnostic.
    """

    def __init__(self, what: str, error: float, keep: Mapping[str, float] | None) -> None:
        if not error > 0:
            raise ConfigError(f"The transform '{what}' has error={error}; the error is positive.")
        self.error, self.keep = float(error), dict(keep or {})
        for name, tolerance in self.keep.items():
            if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance > 0:
                raise ConfigError(f"The transform '{what}' keeps {name} within {tolerance!r}; give a positive number.")
        self._rules = {name: diagnostic(name) for name in self.keep}

    def judge(self, field: Array, decoded: Array, scale: float) -> tuple[float, bool]:
        """A field's misfit in units of ``scale``, and whether the promise is kept; both arrays have the field's shape."""
        misfit = rms(field - decoded) / scale
        good = misfit <= self.error and all(abs(rule(decoded) - rule(field)) <= self.keep[name] for name, rule in self._rules.items())
        return misfit, good
