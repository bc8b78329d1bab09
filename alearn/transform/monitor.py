"""The codec's error as a sign of trouble: a field that the modes of all others cannot represent."""

from __future__ import annotations

from typing import final

from alearn.errors import ConfigError
from alearn.types import Sample

_SUFFIX = "_misfit"


@final
class Unrepresented:
    """Alarm when a codec makes large errors of a member's fields, several steps in a row.

    The misfit of a step is the relative error that the basis, as it stood when the step came, made of the field: near 0 for what
    resembles the rest of the study, 1 for an ordinary fluctuation in directions never seen, far above for a field that
    is out of proportion.

    Args:
        limit: misfit from which a step counts.
        confirm: such steps in a row.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, *, limit: float = 3.0, confirm: int = 2) -> None:
        if not limit > 0 or confirm < 1:
            raise ConfigError(f"The monitor 'codec' has limit={limit} and confirm={confirm}; the limit is positive, confirm at least 1.")
        self.limit, self.confirm = limit, confirm
        self._seen: dict[str, int] = {}

    def see(self, sample: Sample) -> str | None:
        """Look at one time step; of steps without a codec nothing is said."""
        for name, value in sample.values.items():
            if not (name.startswith("_") and name.endswith(_SUFFIX)):
                continue
            misfit = float(value)
            self._seen[name] = self._seen.get(name, 0) + 1 if misfit > self.limit else 0
            if self._seen[name] >= self.confirm:
                field = name[1 : -len(_SUFFIX)]
                return (
                    f"field '{field}' at step {sample.step} is unlike all others: the codec leaves {misfit:.3g} of its usual fluctuation "
                    f"over, more than {self.limit:g} in {self.confirm} steps in a row"
                )
        return None
