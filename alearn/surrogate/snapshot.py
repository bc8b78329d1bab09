"""Snapshots: one file that rebuilds a surrogate and says what it is for. Plain torch, loadable with ``weights_only``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alearn import registry
from alearn.errors import AlearnError, ConfigError
from alearn.space import Space
from alearn.surrogate.base import Surrogate
from alearn.types import Schema

FORMAT = "alearn surrogate 1"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a snapshot says besides the weights.

    Args:
        name: the surrogate's plug-in name.
        options: its constructor options.
        space: the parameter box.
        schema: what the simulation streams; None if unknown.
        outputs: names of the surrogate's outputs.
        extra: whatever was stored along (numbers, strings, lists, dicts and tensors).
    """

    name: str
    options: Mapping[str, Any]
    space: Space
    schema: Schema | None
    outputs: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


def save_snapshot(
    path: str | Path,
    surrogate: Surrogate,
    *,
    name: str,
    space: Space,
    outputs: Sequence[str],
    schema: Schema | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a snapshot atomically: whoever reads sees the old file or the whole new one.

    Args:
        path: the file.
        surrogate: what to save.
        name: the plug-in name that rebuilds it (``ensemble``, ``gp``, ``FILE.py:NAME``).
        space: the parameter box it is valid in.
        outputs: names of its outputs.
        schema: what the simulation streams.
        extra: further plain values and tensors.

    Returns:
        The path.

    Raises:
        ConfigError: ``extra`` holds something that ``weights_only`` cannot load.
    """
    target = Path(path)
    document: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "options": surrogate.options(),
        "shape": {"d": surrogate.d, "m": surrogate.m, "over_t": surrogate.over_t, "seed": int(getattr(surrogate, "seed", 0))},
        "space": json.dumps(space.to_config()),
        "schema": "" if schema is None else schema.to_json(),
        "outputs": list(outputs),
        "extra": _plain(dict(extra or {}), "extra"),
        "state": {k: v.detach().cpu().clone() for k, v in surrogate.state_dict().items()},
    }
    document["checksum"] = _checksum(document)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return target


def load_snapshot(path: str | Path) -> tuple[Surrogate, SnapshotInfo]:
    """Rebuild the surrogate of a snapshot and verify its checksum.

    Raises:
        AlearnError: the file is missing, truncated, changed, or no snapshot.
        UnknownName: the plug-in that it names is not installed.
    """
    document = _read(Path(path))
    shape = document["shape"]
    surrogate = registry.build("surrogate", document["name"], {**document["options"], **shape})
    if not isinstance(surrogate, Surrogate):
        raise ConfigError(f"The plug-in '{document['name']}' made a {type(surrogate).__name__}, which is no Surrogate.")
    surrogate.load_state_dict(document["state"])
    surrogate.eval()
    info = SnapshotInfo(
        name=document["name"],
        options=document["options"],
        space=Space.from_config(json.loads(document["space"])),
        schema=Schema.from_json(document["schema"]) if document["schema"] else None,
        outputs=tuple(document["outputs"]),
        extra=document["extra"],
    )
    return surrogate, info


def verify_snapshots(directory: Path) -> list[str]:
    """Read every snapshot of a study and compare it with its checksum; the plug-ins that they name are not needed.

    Args:
        directory: the study's ``snapshots``; it need not be there.

    Returns:
        A sentence for each snapshot that is truncated, changed or none.
    """
    problems = []
    for path in sorted(directory.glob("*.pt")):
        try:
            _read(path)
        except AlearnError as error:
            problems.append(str(error))
    return problems


def _read(source: Path) -> dict[str, Any]:
    """A snapshot's document, verified."""
    try:
        document = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise AlearnError(f"There is no snapshot at {source}; the study writes its first one after the first fit.") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        kind = type(error).__name__
        raise AlearnError(f"The snapshot {source} cannot be read ({kind}): it is truncated or damaged; use an earlier one.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise AlearnError(f"The file {source} is not a snapshot of this version of alearn (expected '{FORMAT}').")
    if document.get("checksum") != _checksum(document):
        raise AlearnError(f"The snapshot {source} does not match its checksum: it was changed or damaged; use an earlier one.")
    return document


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise ConfigError(f"The snapshot's {where} is a {type(value).__name__}; store numbers, strings, lists, dicts or tensors only.")


def _checksum(document: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    _feed(digest, {k: v for k, v in document.items() if k != "checksum"})
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(f"key {key}\0".encode())
            _feed(digest, value[key])
        digest.update(b"end\0")
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)}\0".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r}\0".encode())
