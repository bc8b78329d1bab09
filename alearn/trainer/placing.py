"""Where the learner runs, as ``trainer.placement`` and its neighbours say (what runs there is in ``alearn/placement``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from alearn.buffer import Rows
from alearn.errors import ConfigError, UnknownName

PLACEMENTS = ("inline", "process", "ddp")


@dataclass(frozen=True, slots=True)
class Placing:
    """Where the learner runs, as ``trainer`` is configured.

    Args:
        placement: "inline" (a thread of the controller's process), "process" (a process of its own) or "ddp" (several).
        ranks: processes that train together, with "ddp".
        restarts: how often a learner whose process died is started again.

    Raises:
        UnknownName: no such placement.
        ConfigError: a number makes no sense, or does not go with the placement.
    """

    placement: str = "inline"
    ranks: int = 1
    restarts: int = 3

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise UnknownName("value of trainer.placement", str(self.placement), PLACEMENTS)
        for name, value, least in (("ranks", self.ranks, 1), ("restarts", self.restarts, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"trainer.{name} is {value!r}; it needs a whole number of at least {least}.")
        if self.placement == "ddp" and self.ranks < 2:
            raise ConfigError(f"trainer.placement=ddp trains in several processes, and trainer.ranks is {self.ranks}; give 2 or more.")
        if self.placement != "ddp" and self.ranks > 1:
            raise ConfigError(f"trainer.ranks is {self.ranks}, but trainer.placement is {self.placement}; several ranks need ddp.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> tuple[Placing, dict[str, Any]]:
        """The placing in a trainer's options, and the other options: those of the trainer itself."""
        mine = {name: options[name] for name in ("placement", "ranks", "restarts") if name in options}
        return cls(**mine), {name: value for name, value in options.items() if name not in mine}

    @property
    def processes(self) -> int:
        """How many processes it takes besides the controller's."""
        return 0 if self.placement == "inline" else self.ranks

    def device(self, name: str, rank: int) -> str:
        """The device of a rank where ``trainer.device`` is ``name``: with several ranks each has a GPU of its own, or none has.

        Raises:
            ConfigError: there are fewer GPUs than ranks, or one is named for all.
        """
        if self.ranks == 1 or name == "cpu":
            return name
        gpus = torch.cuda.device_count()
        if name == "auto":
            return f"cuda:{rank}" if gpus >= self.ranks else "cpu"
        if name != "cuda":
            raise ConfigError(
                f"trainer.device is {name!r}; with trainer.placement=ddp give auto, cpu or cuda: each rank takes a GPU of its own."
            )
        if gpus < self.ranks:
            raise ConfigError(
                f"trainer.ranks is {self.ranks} and this machine has {gpus} GPU(s); each rank needs one of its own, or give cpu."
            )
        return f"cuda:{rank}"


class Helpers(Protocol):
    """Other processes that compute gradients of the surrogate on a share of the rows."""

    def learned(self, rows: Rows) -> None:
        """These rows are learned from now on."""
        ...

    def weighed(self, tables: Mapping[str, Any]) -> None:
        """The importance weights are these from now on."""
        ...


def device_of(name: str) -> torch.device:
    """The device of that name; "auto" is a CUDA device if there is one.

    Raises:
        ConfigError: this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"trainer.device is {name!r}, which this machine does not have ({why}); give cpu or auto.") from error
