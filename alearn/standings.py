"""``alearn population``: how every model of a population fared, from the newest snapshot."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

from alearn.errors import ConfigError
from alearn.predict import open_surrogate
from alearn.surrogate.population import Model, Population


def standings_of(directory: Path) -> tuple[Model, ...]:
    """The models of a study's population, those left first.

    Raises:
        ConfigError: there is no study, it has no snapshot, or its surrogate is no population.
    """
    surrogate = open_surrogate(directory).surrogate
    if not isinstance(surrogate, Population):
        raise ConfigError(f"The surrogate in {directory} is a {type(surrogate).__name__} and no population; run with surrogate=population.")
    return surrogate.standings


def population_command(directory: Path, *, as_json: bool) -> int:
    """Print the table, or JSON; returns the exit code."""
    found = standings_of(directory)
    if as_json:
        rows = [{**asdict(s), "error": s.error if math.isfinite(s.error) else None} for s in found]
        print(json.dumps(rows, indent=1))
        return 0
    wide = max(len("model"), *(len(s.name) for s in found))
    print(f"{'model':<{wide}}  {'error':>9}  {'on':>4}  what became of it")
    for s in found:
        fate = "answers" if s.answers else "is trained"
        if s.dropped:
            fate = f"dropped after {s.at_updates} updates and {s.at_members} members: {s.dropped}"
        error = f"{s.error:.4g}" if math.isfinite(s.error) else "-"
        print(f"{s.name:<{wide}}  {error:>9}  {s.members:>4}  {fate}")
    return 0
