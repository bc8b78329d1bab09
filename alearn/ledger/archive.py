"""The archive: one ADIOS2 BP5 store for the whole study, one ADIOS step for each sealed segment.

The only file that imports adios2. Each step holds, with a leading dimension n: ``member`` (number), ``attempt``,
``step``, ``t``, ``crc`` and ``crcs`` (checksums), ``param_<name>`` for every numeric parameter, and every field;
the string ``members`` holds ids and all parameters as JSON. Units, schema and names are attributes.

What a crash leaves behind the last step that the ledger names is cut off before the next one is appended: the
sizes of the store's files after each step stand in the ledger, so the cut is exact to the byte.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from alearn import failpoints
from alearn.errors import LedgerCorrupt, LedgerError, MissingDependency
from alearn.ledger.database import sync_directory
from alearn.ledger.segments import Layout, Records, check, runs
from alearn.types import Array, Member, Schema

NAME = "archive.bp"
_FILES = ("data.0", "md.0", "mmd.0", "md.idx")
_OVERHEAD = 256 << 10
"""Bytes that a step of BP5 may take besides its data."""
_INDEX_HEAD = 64  # md.idx begins with a header whose flags change while somebody writes
_RESERVED = ("member", "attempt", "step", "t", "crc", "crcs", "members")
_STORED_AS = {"bool": "uint8", "float16": "float32"}  # what ADIOS2 has no type for


def load_adios2() -> ModuleType:
    """adios2, without the torch that its import drags in when torch is installed.

    Raises:
        MissingDependency: adios2 is not installed.
    """
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import adios2
    except ImportError as error:
        raise MissingDependency("adios2", "The archive", "archive") from error
    finally:
        if hide and sys.modules.get("torch", 0) is None:
            del sys.modules["torch"]
    return cast(ModuleType, adios2)


def variable_name(field: str) -> str:
    """Under which name a field is stored: its own unless that is one of ours."""
    return f"field_{field}" if field in _RESERVED or field.startswith(("param_", "field_")) else field


def state_of(directory: Path) -> dict[str, int]:
    """The sizes of the store's files and a checksum over its metadata, as they are now."""
    store = directory / NAME
    sizes = {name: (store / name).stat().st_size for name in _FILES}
    return {**sizes, "crc": _metadata_crc(store, sizes)}


def _metadata_crc(store: Path, sizes: Mapping[str, int]) -> int:
    crc = 0
    for name in ("md.0", "mmd.0", "md.idx"):
        with open(store / name, "rb") as file:
            skip = _INDEX_HEAD if name == "md.idx" else 0
            file.seek(skip)
            crc = zlib.crc32(file.read(sizes[name] - skip), crc)
    return crc


def restore(directory: Path, state: Mapping[str, int] | None) -> int:
    """Cut the store back to what the ledger names; returns how many bytes were cut.

    Raises:
        LedgerCorrupt: bytes that the ledger names are missing.
    """
    store = directory / NAME
    if state is None:
        if not store.exists():
            return 0
        lost = sum(f.stat().st_size for f in store.iterdir())
        shutil.rmtree(store)
        return lost
    cut = 0
    for name in _FILES:
        path = store / name
        size = path.stat().st_size if path.exists() else 0
        if size < state[name]:
            raise LedgerCorrupt(f"The archive's file {path} has {size} bytes; the ledger names {state[name]}.")
        if size > state[name]:
            os.truncate(path, state[name])
            cut += size - state[name]
    return cut


def surplus(directory: Path, state: Mapping[str, int] | None) -> int:
    """Bytes in the store that the ledger does not name (an interrupted sealing)."""
    store = directory / NAME
    if state is None:
        return sum(f.stat().st_size for f in store.iterdir()) if store.exists() else 0
    return sum(max(0, (store / name).stat().st_size - state[name]) for name in _FILES if (store / name).exists())


def append(
    directory: Path, study: str, layout: Layout, records: Records, members: Mapping[int, Member], state: Mapping[str, int] | None
) -> dict[str, int]:
    """Append one ADIOS step and make it durable; returns the store's new state for the ledger.

    Args:
        directory: the study's.
        study: its name, an attribute of the store.
        layout: of the records.
        records: what the step holds, all fields.
        members: the members that occur in it, by number.
        state: the store's state that the ledger names; None if there is no step yet.

    Raises:
        LedgerError: ADIOS2 could not write.
    """
    adios2 = load_adios2()
    restore(directory, state)
    store = directory / NAME
    try:
        _find_room(directory, records)
        io = adios2.Adios().declare_io("archive")
        io.set_engine("BP5")
        with adios2.Stream(io, str(store), "w" if state is None else "a") as stream:
            stream.begin_step()
            if state is None:
                _attributes(stream, study, layout.schema, members)
            _variables(stream, layout, records, members)
            failpoints.hit("ledger.seal_writing")
            stream.end_step()
            failpoints.hit("ledger.seal_step_ended")
        failpoints.hit("ledger.seal_written")
        for name in _FILES:
            fd = os.open(store / name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_directory(store)
        sync_directory(directory)
        return state_of(directory)
    except (RuntimeError, ValueError, OSError) as error:
        raise LedgerError(
            f"The archive {store} could not be extended ({_plain(error)}); the samples stay safe in their segment."
        ) from error


def _find_room(directory: Path, records: Records) -> None:
    """Reserve as much as the step will take, and give it back: ADIOS2 ends the whole process when a write of its own fails.

    Raises:
        OSError: the disk or the quota is full.
    """
    nbytes = records.facts.nbytes + sum(values.nbytes for values in records.values.values())
    scratch = directory / ".room"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(fd, 0, nbytes + nbytes // 8 + _OVERHEAD)
    finally:
        os.close(fd)
        scratch.unlink()


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _attributes(stream: Any, study: str, schema: Schema, members: Mapping[int, Member]) -> None:
    stream.write_attribute("alearn/format", "1")
    stream.write_attribute("alearn/study", study)
    stream.write_attribute("alearn/schema", schema.to_json())
    names = sorted({name for m in members.values() for name in m.parameters})
    stream.write_attribute("alearn/parameters", json.dumps(names))
    for f in schema.fields:
        if f.nbytes:
            stream.write_attribute(f"{variable_name(f.name)}/unit", f.unit or "1")
            stream.write_attribute(f"{variable_name(f.name)}/dtype", f.dtype)


def _variables(stream: Any, layout: Layout, records: Records, members: Mapping[int, Member]) -> None:
    facts = records.facts
    n = len(facts)

    def write(name: str, array: Array) -> None:
        data = np.ascontiguousarray(array)  # ADIOS2 writes anything else wrong, silently
        stream.write(name, data, list(data.shape), [0] * data.ndim, list(data.shape))

    write("member", facts["member"].astype(np.int32))
    write("attempt", facts["attempt"].astype(np.int32))
    write("step", facts["step"].astype(np.int32))
    write("t", facts["t"].astype(np.float64))
    write("crc", facts["crc"].astype(np.uint32))
    write("crcs", facts["crcs"].astype(np.uint32))
    numbers, where = np.unique(facts["member"], return_inverse=True)
    for name in sorted({name for m in members.values() for name in m.parameters}):
        column = [_number(members[int(k)].parameters.get(name, math.nan)) for k in numbers]
        write(f"param_{name}", np.asarray(column, np.float64)[where].reshape(n))
    stream.write(
        "members", json.dumps({str(k): {"id": members[int(k)].id, "parameters": dict(members[int(k)].parameters)} for k in numbers})
    )
    for f in layout.schema.fields:
        if f.nbytes:
            write(variable_name(f.name), records.values[f.name].astype(_STORED_AS.get(f.dtype, f.dtype), copy=False))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


class ArchiveReader:
    """Reads records of the archive by ADIOS step and row, only the named fields, verified."""

    def __init__(self, directory: Path, layout: Layout, state: Mapping[str, int]) -> None:
        """Open the store as far as the ledger names it.

        Raises:
            LedgerCorrupt: it is gone, too short, or its metadata is damaged.
        """
        adios2 = load_adios2()
        self.store = directory / NAME
        self.layout = layout
        for name in _FILES:
            path = self.store / name
            size = path.stat().st_size if path.exists() else 0
            if size < state[name]:
                raise LedgerCorrupt(f"The archive's file {path} has {size} bytes; the ledger names {state[name]}.")
        if _metadata_crc(self.store, state) != state["crc"]:
            raise LedgerCorrupt(f"The metadata of the archive {self.store} does not match its checksum.")
        try:
            self._file = adios2.FileReader(str(self.store))
        except (RuntimeError, ValueError) as error:
            raise LedgerCorrupt(f"The archive {self.store} cannot be opened: {_plain(error)}.") from error
        self._facts: tuple[int, Array] | None = None

    def close(self) -> None:
        self._file.close()

    def read(self, step: int, rows: Array, names: Sequence[str]) -> Records:
        """The rows with these ascending numbers of an ADIOS step.

        Raises:
            LedgerCorrupt: a checksum does not match, or ADIOS2 cannot read.
        """
        try:
            facts = self._facts_of(step)[rows]
            values = {f.name: self._field(step, rows, f.name) for f in self.layout.schema.fields if f.name in names}
        except (RuntimeError, ValueError, IndexError) as error:
            raise LedgerCorrupt(f"Step {step} of the archive {self.store} cannot be read: {_plain(error)}.") from error
        check(self.layout, facts, values, f"step {step} of {self.store}", rows)
        return Records(facts, values)

    def _facts_of(self, step: int) -> Array:
        if self._facts is None or self._facts[0] != step:
            columns = {name: self._block(step, name, 0, None) for name in ("member", "attempt", "step", "t", "crc", "crcs")}
            facts = np.empty(len(columns["member"]), self.layout.facts_dtype)
            for name, column in columns.items():
                facts[name] = column
            self._facts = (step, facts)
        return self._facts[1]

    def _field(self, step: int, rows: Array, name: str) -> Array:
        f = self.layout.schema.fields[self.layout.schema.names.index(name)]
        out = np.empty((len(rows), *f.shape), np.dtype(f.dtype))
        if f.nbytes:
            for a, b in runs(rows, max(1, (8 << 20) // f.nbytes)):
                out[a:b] = self._block(step, variable_name(name), int(rows[a]), b - a)
        return out

    def _block(self, step: int, name: str, start: int, count: int | None) -> Array:
        variable = self._file.inquire_variable(name)
        if variable is None:
            raise ValueError(f"there is no variable {name}")
        variable.set_step_selection([step, 1])
        shape = [int(n) for n in variable.shape(step)]
        n = shape[0] - start if count is None else count
        return np.asarray(self._file.read(name, start=[start] + [0] * (len(shape) - 1), count=[n, *shape[1:]], step_selection=[step, 1]))
