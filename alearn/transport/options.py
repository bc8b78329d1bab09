"""The options that every carrier has in common, checked before anything is opened."""

from __future__ import annotations

from alearn.errors import ConfigError


def check_limits(*, deadline_s: float, reconnect_s: float, **positive: float) -> None:
    """See that waits are not negative, and that all other limits leave room for something.

    Args:
        deadline_s: seconds, 0 or more.
        reconnect_s: seconds, 0 or more.
        positive: by the option's name; above 0.

    Raises:
        ConfigError: one is not; its name, the value, what is needed.
    """
    waits = {"deadline_s": deadline_s, "reconnect_s": reconnect_s}
    for name, value in {**waits, **positive}.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not (value >= 0 if name in waits else value > 0):
            raise ConfigError(f"transport.{name} is {value!r}; a number {'≥' if name in waits else '>'} 0 is needed.")
