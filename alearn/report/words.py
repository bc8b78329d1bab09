"""How the report room writes numbers, durations and counts."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three significant digits; "–" where it is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e5 or size < 1e-4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def tick(value: float, _position: object = None) -> str:
    """A tick label: as few digits as it needs (the second argument is matplotlib's, unused)."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}"


def count(value: float) -> str:
    """An integer with thousands separators."""
    return f"{int(value):,}"


def plural(value: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def percent(share: float | None) -> str:
    """A share as a percentage."""
    if share is None or not math.isfinite(share):
        return "–"
    value = 100 * share
    return f"{value:.1f} %" if 0 < abs(value) < 9.95 or 99 < value < 100 else f"{value:.0f} %"


def duration(seconds: float | None) -> str:
    """``4.2 s``, ``1:05 min``, ``2:03:10 h``; "–" where it is unknown."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}:{minutes:02d}:{rest:02d} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


def join(items: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def reason_kind(reason: str) -> str:
    """What kind of reason a sentence gives: its words up to the first figure or bracket.

    ``diverging: |v| doubled 6 times`` -> ``diverging``; ``no step for 12 s`` -> ``no step for``.
    """
    text = " ".join(reason.split())
    for at, character in enumerate(text):
        if at and (character in ":;([{=,|<>" or (character.isdigit() and text[at - 1] == " ")):
            text = text[:at]
            break
    return text.strip(" .-–")[:60] or "no reason given"


def clean(text: str) -> str:
    """One line without control characters: what a simulation says must not steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
