"""A learner's snapshots: numbered files ``snapshot-000012.pt``, of which the newest whole one is used.

Each is a snapshot of the surrogate (``alearn.surrogate.snapshot``: written under another name, synced, renamed, checksummed,
loadable with ``weights_only``) whose ``extra["learner"]`` holds what training needs besides: optimiser, buffer, random
states, running sums.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alearn.errors import AlearnError, LedgerCorrupt
from alearn.surrogate import SnapshotInfo, Surrogate, load_snapshot, save_snapshot
from alearn.trainer.features import Features

log = logging.getLogger(__name__)

_NAME = re.compile(r"snapshot-(\d{6,})\.pt")


def write_snapshot(directory: Path, surrogate: Surrogate, name: str, features: Features, learner: Mapping[str, Any], keep: int) -> Path:
    """Write the next snapshot and delete all but the newest ``keep``.

    Args:
        directory: created if it is not there.
        surrogate: the model.
        name: its plug-in name.
        features: parameters, schema and outputs.
        learner: nested mappings and lists of tensors, numpy arrays, numbers and strings.
        keep: how many to keep, at least 1.

    Returns:
        the file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    numbers = _numbers(directory)
    path = _file(directory, numbers[-1] + 1 if numbers else 1)
    extra = {"learner": to_plain(learner)}
    save_snapshot(path, surrogate, name=name, space=features.space, outputs=features.outputs, schema=features.schema, extra=extra)
    for old in numbers[: max(0, len(numbers) + 1 - max(keep, 1))]:
        _file(directory, old).unlink(missing_ok=True)
    return path


def read_snapshot(directory: Path) -> tuple[Surrogate, SnapshotInfo, dict[str, Any]] | None:
    """Surrogate, its description and the learner's state from the newest snapshot that is whole; None if there is none at all.

    Raises:
        LedgerCorrupt: there are snapshots, and none is whole.
    """
    problems = []
    for number in reversed(_numbers(directory)):
        try:
            surrogate, info = load_snapshot(_file(directory, number))
            return surrogate, info, from_plain(info.extra["learner"])
        except (AlearnError, KeyError) as error:
            problems.append(str(error))
            log.warning("A snapshot is skipped: %s", error)
    if problems:
        raise LedgerCorrupt(
            f"None of the {len(problems)} snapshots in {directory} can be used; move them away to train anew. {problems[0]}"
        )
    return None


def _numbers(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(m[1]) for m in (_NAME.fullmatch(p.name) for p in directory.iterdir()) if m)


def _file(directory: Path, number: int) -> Path:
    return directory / f"snapshot-{number:06d}.pt"


_ARRAY, _EMPTY, _ITEMS = "__array__", "__empty__", "__items__"


def to_plain(value: Any) -> Any:
    """Arrays become marked tensors, and mappings with other keys than strings (an optimiser's) lists of pairs."""
    if isinstance(value, np.ndarray):
        if value.size == 0:
            return {_EMPTY: [value.dtype.name, *value.shape]}
        return {_ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, Mapping):
        if any(not isinstance(k, str) for k in value):
            return {_ITEMS: [[k, to_plain(v)] for k, v in value.items()]}
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def from_plain(value: Any) -> Any:
    """Inverse of ``to_plain``."""
    if isinstance(value, Mapping):
        if set(value) == {_ARRAY}:
            return value[_ARRAY].numpy()
        if set(value) == {_EMPTY}:
            return np.empty(value[_EMPTY][1:], value[_EMPTY][0])
        if set(value) == {_ITEMS}:
            return {k: from_plain(v) for k, v in value[_ITEMS]}
        return {k: from_plain(v) for k, v in value.items()}
    return [from_plain(v) for v in value] if isinstance(value, list) else value
