"""Every error alearn raises on purpose.

::

    AlearnError
    ├── ConfigError            a wrong option, plug-in name, parameter box or file; nothing was started
    │   ├── UnknownName        a name that is not in a list of valid ones (carries did-you-mean)
    │   └── MissingDependency  an optional package is not installed (carries the pip command)
    ├── SimulationError        the user's simulation misbehaved; costs one member, not the study
    │   └── SchemaError        a step whose names, shapes, dtypes or values are not what was announced
    ├── TransportError         a stream could not be opened, authenticated or kept
    │   ├── DeadlineExceeded   a wait ended without what it waited for (says what and for how long)
    │   └── Stopped            the learner asked this member to stop: not a failure
    ├── LedgerError            the durable record cannot be written or read
    │   ├── LedgerLocked       another live controller owns the study
    │   └── LedgerCorrupt      a checksum does not match (says where)
    ├── IllegalEvent           an event that the study's state does not allow (a bug, or a damaged record)
    ├── LaunchError            a member could not be started or killed
    └── StudyFailed            the study gave up (failure budget spent, no progress)

A message is one sentence or two: what happened, the value seen, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AlearnError(Exception):
    """Base of all errors that alearn raises on purpose."""


class ConfigError(AlearnError):
    """A wrong option, name, box or file; found before anything was started."""


class UnknownName(ConfigError):
    """A name that is not among the valid ones.

    Args:
        what: what kind of thing was named ("surrogate", "option of surrogate 'ensemble'").
        name: the name that was given.
        valid: the names that exist.
        shown: those of them that the message lists; all if None.
    """

    def __init__(self, what: str, name: str, valid: Iterable[str], shown: Iterable[str] | None = None) -> None:
        names = sorted(valid)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        super().__init__(f"There is no {what} '{name}'. {hint}Valid: {', '.join(names if shown is None else sorted(shown)) or '(none)'}.")
        self.name = name
        self.valid = names


class MissingDependency(ConfigError):
    """An optional package is not installed.

    Args:
        package: the distribution name.
        purpose: what needs it.
        extra: the alearn extra that brings it.
    """

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}', which is not installed: pip install 'alearn[{extra}]'")


class SimulationError(AlearnError):
    """The user's simulation misbehaved; this costs one member, not the study."""


class SchemaError(SimulationError):
    """A step whose names, shapes, dtypes or values are not what was announced."""


class TransportError(AlearnError):
    """A stream could not be opened, authenticated or kept."""


class DeadlineExceeded(TransportError):
    """A wait ended without what it waited for."""


class Stopped(TransportError):
    """The learner asked this member to stop; not a failure."""


class LedgerError(AlearnError):
    """The durable record cannot be written or read."""


class LedgerLocked(LedgerError):
    """Another live controller owns the study."""


class LedgerCorrupt(LedgerError):
    """A checksum does not match."""


class IllegalEvent(AlearnError):
    """An event that the study's state does not allow; it changed nothing."""


class LaunchError(AlearnError):
    """A member could not be started or killed."""


class StudyFailed(AlearnError):
    """The study gave up: failure budget spent or no progress."""
