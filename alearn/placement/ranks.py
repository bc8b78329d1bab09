"""Several processes that train one surrogate: each computes gradients on rows of its own, the average updates it.

Rank 0 is the learner: it takes every sample in, tests the surrogate on it before it is learned, makes the updates,
answers, and writes snapshots, which are those of a learner alone: a study may go on in another placement. The other ranks
share the members among themselves and read only theirs from the study's segments and archive. For each update rank 0
broadcasts the parameters, every rank computes the gradients of a mini-batch, and they are averaged (all-reduce); rank 0's
normalisation holds on all. So no rank can drift from the others, and a rank holds nothing that a restart could lose.

Gradients go through ``torch.distributed`` (gloo on CPUs, NCCL on GPUs), which finds its peers through a file in the study's
directory; everything else goes over a socket pair to each rank.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from alearn.assembly import make_trainer
from alearn.buffer import Rows
from alearn.config import Config
from alearn.errors import ConfigError, StudyFailed
from alearn.ledger.tail import Tail
from alearn.placement.words import Close, Contribute, Framed, Learned, Message, Opening, Weighed, pack
from alearn.space import Space
from alearn.surrogate import Batch
from alearn.surrogate.base import Parallel
from alearn.trainer import InlineTrainer
from alearn.trainer.history import History
from alearn.trainer.weights import ImportanceWeights

DEADLINE_S = 60.0
"""How long a rank waits for the others in an update."""


class RankLost(StudyFailed):
    """Another rank is gone or silent; a new start may succeed."""


@contextlib.contextmanager
def meeting(opening: Opening, device: torch.device, rank: int, ranks: int) -> Iterator[None]:
    """The group of all ranks, for as long as the block lasts.

    Raises:
        RankLost: they did not all come within the deadline.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _together("the others"):
        store = dist.FileStore(opening.meeting, ranks)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=DEADLINE_S))
    try:
        yield
    finally:
        dist.destroy_process_group()


@final
class Together:
    """Rank 0's side: tells the other ranks what to learn, and makes updates with them.

    Args:
        channels: the connections to ranks 1, 2, ….
        opening: what they are made from.
        trainer: what they help.

    Raises:
        ConfigError: it learns something that they cannot help with.
    """

    def __init__(self, channels: Sequence[socket.socket], opening: Opening, trainer: InlineTrainer) -> None:
        if trainer.features.codes:
            raise ConfigError("trainer.placement=ddp does not learn whole fields; choose trainer.placement=process.")
        assert isinstance(trainer.surrogate, Parallel)
        self._channels, self._surrogate, self._device = channels, trainer.surrogate, trainer.device
        self._ids = trainer.features.members
        self._framed = -1
        self._names: list[str] = []
        for channel in channels:
            channel.settimeout(DEADLINE_S)
        self._say(opening)

    def learned(self, rows: Rows) -> None:
        """These rows are learned from now on; each member's by one of the other ranks too."""
        self._names += list(self._ids)[len(self._names) :]
        share = len(self._channels)
        for i, channel in enumerate(self._channels):
            mine = rows.group % share == i
            if mine.any():
                numbers = {self._names[g]: g for g in np.unique(rows.group[mine]).tolist()}
                self._tell(channel, Learned(numbers, rows.group[mine], rows.step[mine]))

    def weighed(self, tables: Mapping[str, Any]) -> None:
        """The importance weights have changed."""
        self._say(Weighed(tables))

    def begin(self) -> None:
        """Let the other ranks compute their gradients of the surrogate as it is now."""
        version, state = self._surrogate.framed()
        if version != self._framed:
            self._framed = version
            self._say(Framed({name: t.detach().cpu().numpy() for name, t in state.items()}))
        self._say(Contribute())
        with _together("the other ranks to take the parameters"):
            dist.broadcast(_flat([p.detach() for p in self._surrogate.trained()]), src=0)

    def finish(self) -> None:
        """Replace the gradients by the average."""
        parameters = self._surrogate.trained()
        _average(parameters, 1.0 / (1 + len(self._channels)), self._device)

    def close(self) -> None:
        """Let the other ranks end."""
        with contextlib.suppress(RankLost):
            self._say(Close())

    def _say(self, message: Message) -> None:
        for channel in self._channels:
            self._tell(channel, message)

    def _tell(self, channel: socket.socket, message: Message) -> None:
        try:
            channel.sendall(pack(message))
        except OSError as error:
            raise RankLost(f"Another rank of the learner takes no word ({error}).") from error


@final
class Follower:
    """A rank above 0: keeps the rows of its share of the members, and computes gradients on them.

    Args:
        opening: what it is made from.
        rank: its number.
        ranks: how many there are.
    """

    def __init__(self, opening: Opening, rank: int, ranks: int) -> None:
        config = Config.from_mapping(opening.config)
        space = Space.from_config(config.space)
        directory = Path(opening.directory)
        with contextlib.closing(Tail(directory)) as whole:
            schema = whole.schema
        trainer = make_trainer(config, space, schema, rank)
        assert isinstance(trainer.surrogate, Parallel)
        torch.set_num_threads(max(1, trainer.threads))
        self.device = trainer.device
        self._surrogate, self._features = trainer.surrogate, trainer.features
        self._share = 1.0 / ranks
        self._tail = Tail(directory, trainer.fields)
        self._history = History(trainer.history_mb, seed=config.seed + rank)
        self._weights = ImportanceWeights(space.d)
        self._generator = np.random.default_rng([config.seed, rank])
        self._batch_size = trainer.batch_size

    def heed(self, message: Message) -> bool:
        """Do what rank 0 says; False when that was to end."""
        match message:
            case Learned():
                self._learn(message)
            case Weighed():
                self._weights.load_state_dict(message.tables)
            case Framed():
                state = {name: torch.from_numpy(array) for name, array in message.state.items()}
                self._surrogate.load_state_dict(state, strict=False)
            case Contribute():
                self._contribute()
            case Close():
                return False
        return True

    def _learn(self, message: Learned) -> None:
        for member, number in message.numbers.items():
            for samples in self._tail.steps(member, message.step[message.group == number].tolist()):
                rows, _ = self._features.rows(samples)
                if len(rows):
                    self._history.add(Rows(rows.x, rows.y, rows.weight, np.full(len(rows), number), rows.step))

    def _contribute(self) -> None:
        parameters = self._surrogate.trained()
        flat = _flat([p.detach() for p in parameters])
        with _together("rank 0 to send the parameters"):
            dist.broadcast(flat, src=0)
        with torch.no_grad():
            for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.copy_(piece.view_as(parameter))
        rows = self._history.rows()
        if rows is None:
            for parameter in parameters:
                parameter.grad = None
            _average(parameters, 0.0, self.device)
            return
        drawn = rows.take(self._generator.integers(len(rows), size=min(self._batch_size, len(rows))))
        tensors = (torch.as_tensor(a, device=self.device) for a in (drawn.x, drawn.y, self._weights.of(drawn), drawn.group))
        self._surrogate.contribute(Batch(*tensors))
        _average(parameters, self._share, self.device)


def _average(parameters: Sequence[Tensor], weight: float, device: torch.device) -> None:
    """The gradients become the mean over all ranks' that have any, each by its weight."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([weight * _flat(gradients), torch.tensor([weight], device=device)])
    with _together("the gradients of all ranks"):
        dist.all_reduce(flat)
    flat = flat[:-1] / flat[-1]
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


@contextlib.contextmanager
def _together(what: str) -> Iterator[None]:
    """Name what an operation of all ranks waits for.

    Raises:
        RankLost: it did not come.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RankLost(f"A rank of the learner waited at most {DEADLINE_S:.0f} s for {what}, in vain ({reason}).") from error
