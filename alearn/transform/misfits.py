"""Raw fields that a codec could not represent, kept beside it; and the writing of files that appear whole and durable."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import final

import numpy as np

from alearn.transform.base import Key
from alearn.types import Array

_NAME = re.compile(r"([\w.-]+)-(\d{6,})\.npy")


@final
class Misfits:
    """``MEMBER-STEP.npy`` is a raw field that no version of the codec represents within what is stated.

    Args:
        directory: made if absent.
        room_mb: 10^6 bytes that are kept at most.
    """

    def __init__(self, directory: Path, room_mb: float) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._room = int(room_mb * 1e6) - sum(p.stat().st_size for p in directory.iterdir())
        self._seen: set[Path] = set()

    def keep(self, key: Key, field: Array) -> bool:
        """Keep a field that is not represented; False if there is no room for more."""
        path = self.directory / f"{key[0]}-{key[1]:06d}.npy"
        size = 0 if path.exists() else field.nbytes  # of an earlier attempt, whose step was not stored
        if self._room < size:
            return False
        self._room -= size
        draft = path.with_suffix(f".{os.getpid()}")
        with open(draft, "wb") as file:
            np.save(file, np.ascontiguousarray(field), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
        sync(self.directory)
        self._seen.add(path)
        return True

    def unseen(self) -> list[Path]:
        """Raw fields that others have put there since the last call."""
        new = sorted(set(self.kept().values()) - self._seen)
        self._seen.update(new)
        return new

    def read(self, key: Key) -> Array | None:
        """The raw field that is kept of a sample, if one is."""
        path = self.directory / f"{key[0]}-{key[1]:06d}.npy"
        return np.asarray(np.load(path, allow_pickle=False)) if path.exists() else None

    def kept(self) -> dict[Key, Path]:
        """The raw fields that are kept, by (member, step)."""
        found = {}
        for path in self.directory.iterdir():
            if match := _NAME.fullmatch(path.name):
                found[match[1], int(match[2])] = path
        return found


def save(path: Path, content: dict[str, Array]) -> None:
    """Write arrays into an ``.npz`` file that appears whole; durable on return."""
    draft = path.with_suffix(".new")
    with open(draft, "wb") as file:
        np.savez(file, **content)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    os.rename(draft, path)
    sync(path.parent)


def load(path: Path) -> dict[str, Array]:
    """Every array of an ``.npz`` file."""
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
