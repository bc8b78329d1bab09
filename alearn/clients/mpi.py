"""The client for a simulation of several MPI ranks: every rank calls ``put``, rank 0 holds the stream.

::

    from mpi4py import MPI
    from alearn.clients.mpi import Block, connect

    with connect(MPI.COMM_WORLD, default={"kappa": 0.1}) as run:
        mine = slab(run.parameters, run.rank, run.size)
        for step in range(200):
            ...
            run.put(t=time, u=Block(mine, offset=(first, 0), shape=(nx, ny)), energy=energy)

``connect``, ``put``, ``announce`` and ``close`` are collective: every rank calls them, in the same order. A field is either the
same kind of value on every rank, of which rank 0's is sent, or a ``Block``: this rank's part of an array that rank 0 puts
together. Needs mpi4py and numpy, and nothing else of alearn than ``alearn.client``; nothing is pickled between the ranks.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from alearn import client
from alearn.client import DTYPES, DeadlineExceeded, Refused, SchemaError, Stopped, StreamError

__all__ = ["Block", "DeadlineExceeded", "MpiRun", "Refused", "SchemaError", "Stopped", "StreamError", "connect"]

_KINDS: tuple[type[StreamError], ...] = (Stopped, DeadlineExceeded, Refused, SchemaError, StreamError)


class Block(NamedTuple):
    """This rank's part of a global array.

    Args:
        values: the part; an array of any layout. A rank without any gives an empty one.
        offset: where it begins in the global array, an index for each axis; None puts the ranks' parts one after the other
            along the first axis, in the order of the ranks.
        shape: the global array's shape; None with ``offset`` None only.
    """

    values: Any
    offset: Sequence[int] | None = None
    shape: Sequence[int] | None = None


def connect(
    comm: Any,
    default: Mapping[str, Any] | None = None,
    *,
    steps_total: int = 0,
    units: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> MpiRun:
    """Open this member's run on every rank of a communicator; collective.

    Args:
        comm: an mpi4py communicator; a duplicate of it is used, so the simulation's own messages are not in the way.
        default: the parameters to use when the code runs by itself, outside a study.
        steps_total: how many steps will be put, if known.
        units: unit of each field.
        environ: rank 0 reads this mapping instead of ``os.environ``.

    Raises:
        StreamError: the environment is incomplete or wrong; on every rank.
    """
    comm = comm.Dup()
    run: client.Run | None = None
    said: dict[str, Any] = {}
    if comm.rank == 0:
        try:
            run = client.connect(default, steps_total=steps_total, units=units, environ=environ)
            said = {"member": run.member, "attempt": run.attempt, "parameters": run.parameters, "acknowledged": run.acknowledged}
        except StreamError as error:
            said = _told(error)
    said = _broadcast(comm, said)
    _raise(said)
    return MpiRun(comm, run, said["member"], int(said["attempt"]), said["parameters"], int(said["acknowledged"]))


class MpiRun:
    """One rank's end of the member's run. Made by ``connect``.

    Args:
        comm: the communicator, owned from here on.
        run: rank 0's stream; None on the others.
        member: the member's id; empty outside a study.
        attempt: which attempt this is.
        parameters: what to simulate; the same on every rank.
        acknowledged: steps of this member that the learner is known to have.
    """

    def __init__(self, comm: Any, run: client.Run | None, member: str, attempt: int, parameters: dict[str, Any], acknowledged: int) -> None:
        self.member = member
        self.attempt = attempt
        self.parameters = parameters
        self.acknowledged = acknowledged
        self.step = 0
        """The number of the next step to be put."""
        self.rank, self.size = int(comm.rank), int(comm.size)
        self._comm = comm
        self._run = run
        self._mine: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] | None = None
        self._plans: dict[str, _Plan] = {}
        self._closed = False

    def __enter__(self) -> MpiRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Close the run. An exception of this rank alone ends all ranks: the others would wait for it for ever."""
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.close()
        elif isinstance(error, StreamError) and error.__dict__.get("collective"):
            if isinstance(error, Stopped):
                self.close("stopped")
            elif isinstance(error, SchemaError):
                self.close("failed", f"SchemaError: {error}"[:500])
            else:
                self._release()
        else:
            self._abort(error)
        return isinstance(error, Stopped)

    def put(self, t: float, values: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Send the next step; collective.

        Args:
            t: simulation time; rank 0's counts.
            values: the fields as a mapping, of the same names in the same order on every rank.
            fields: the fields by name: numbers or arrays, of which rank 0's are sent, or ``Block``.

        Raises:
            Stopped: the learner asked this member to stop; on every rank, at the same step.
            SchemaError: some rank's fields are not like its first ones, or the blocks do not make up the global array.
            DeadlineExceeded: no acknowledgement, or no connection, came within the deadline.
            Refused: the learner refused this stream.
        """
        whole = self._gather({**(values or {}), **fields})
        said: dict[str, Any] = {}
        if self._run is not None:
            try:
                self._run.put(t, whole)
                said = {"acknowledged": self._run.acknowledged}
            except StreamError as error:
                said = _told(error)
        self._agree(said)
        self.step += 1

    def announce(self, values: Mapping[str, Any] | None = None, **fields: Any) -> int:
        """Open the stream before the first step, with values like those that will be put; collective.

        Returns:
            How many steps need not be sent again, on every rank.
        """
        whole = self._gather({**(values or {}), **fields})
        said: dict[str, Any] = {}
        if self._run is not None:
            try:
                said = {"acknowledged": self._run.announce(whole)}
            except StreamError as error:
                said = _told(error)
        self._agree(said)
        return self.acknowledged

    def resume_at(self, step: int) -> None:
        """Say that the next ``put`` is step number ``step``, for a simulation restarted from its own checkpoint; collective."""
        said: dict[str, Any] = {"acknowledged": self.acknowledged}
        if self._run is not None:
            try:
                self._run.resume_at(step)
            except StreamError as error:
                said = _told(error)
        self._agree(said)
        self.step = step

    def close(self, status: str = "done", reason: str = "") -> None:
        """Wait until every step is acknowledged, then say the end; collective. Closing twice is harmless."""
        if self._closed:
            return
        said: dict[str, Any] = {"acknowledged": self.acknowledged}
        if self._run is not None:
            try:
                self._run.close(status, reason)
            except StreamError as error:
                said = _told(error)
        try:
            self._agree(said)
        finally:
            self._release()

    # --- inside ----------------------------------------------------------------------------------------------

    def _release(self) -> None:
        if not self._closed:
            self._closed = True
            self._comm.Free()

    def _agree(self, said: dict[str, Any]) -> None:
        """What became of it at rank 0, on every rank."""
        said = _broadcast(self._comm, said)
        _raise(said)
        self.acknowledged = int(said["acknowledged"])

    def _abort(self, error: BaseException) -> None:
        if self._run is not None:
            self._run.__exit__(type(error), error, None)
        if self.size > 1:
            traceback.print_exception(error)
            print(f"alearn: rank {self.rank} of {self.size} failed; the other ranks are ended with it.", file=sys.stderr, flush=True)
            self._comm.Abort(1)

    def _gather(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The whole fields at rank 0; nothing on the others.

        Raises:
            SchemaError: on every rank, if it is so on any.
        """
        parts: dict[str, Any] = {}
        mine: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = []
        trouble = ""
        try:
            for name, value in given.items():
                if isinstance(value, Block):
                    parts[name] = part = np.ascontiguousarray(value.values)
                    if part.dtype.name not in DTYPES:
                        raise SchemaError(f"The step's value '{name}' has dtype {part.dtype.name}; numeric arrays are needed.")
                    mine.append((name, part.dtype.name, tuple(part.shape), tuple(value.offset or ())))
                else:
                    mine.append((name, "", (), ()))
            if self._mine is not None and mine != self._mine:
                raise SchemaError(f"The step's fields changed on rank {self.rank}: {mine} after {self._mine}.")
        except SchemaError as error:
            trouble = str(error)
        if self._mine is None:
            trouble = self._plan(given, mine, trouble)
        else:
            trouble = _first_trouble(self._comm, trouble)
        if trouble:
            raise _collective(SchemaError(trouble))
        self._mine = mine
        whole = {name: value for name, value in given.items() if not isinstance(value, Block)} if self.rank == 0 else {}
        for name, part in parts.items():
            found = self._plans[name].gather(self._comm, part)
            if found is not None:
                whole[name] = found
        return {name: whole[name] for name in given} if self.rank == 0 else {}

    def _plan(self, given: Mapping[str, Any], mine: Sequence[Any], trouble: str) -> str:
        """Agree once on where every rank's part lies; returns what is wrong, the same on every rank."""
        blocks = {name: value for name, value in given.items() if isinstance(value, Block)}
        said = {
            "trouble": trouble,
            "names": [m[0] for m in mine],
            "blocks": {
                m[0]: {"dtype": m[1], "part": m[2], "offset": blocks[m[0]].offset and [int(n) for n in blocks[m[0]].offset or ()],
                       "shape": blocks[m[0]].shape and [int(n) for n in blocks[m[0]].shape or ()]}
                for m in mine if m[1]
            },
        }  # fmt: skip
        everyone = _all(self._comm, said)
        for rank, one in enumerate(everyone):
            if one["trouble"]:
                return str(one["trouble"])
            if one["names"] != everyone[0]["names"] or list(one["blocks"]) != list(everyone[0]["blocks"]):
                return f"Rank {rank} puts the fields {one['names']} and rank 0 {everyone[0]['names']}; all ranks must put the same ones."
        for name in everyone[0]["blocks"]:
            plan = _Plan.of(name, [one["blocks"][name] for one in everyone])
            if isinstance(plan, str):
                return plan
            self._plans[name] = plan
        return ""


class _Plan(NamedTuple):
    """How the parts of one field become the global array."""

    dtype: str
    shape: tuple[int, ...]
    offsets: list[tuple[int, ...]]
    parts: list[tuple[int, ...]]

    @classmethod
    def of(cls, name: str, said: Sequence[Mapping[str, Any]]) -> _Plan | str:
        """The plan, or what is wrong with the parts."""
        parts = [tuple(s["part"]) for s in said]
        dtype = said[0]["dtype"]
        for rank, one in enumerate(said):
            if one["dtype"] != dtype or len(parts[rank]) != len(parts[0]):
                return f"The field '{name}' is {one['dtype']} {parts[rank]} on rank {rank} and {dtype} {parts[0]} on rank 0."
            if (one["offset"] is None) != (said[0]["offset"] is None) or one["shape"] != said[0]["shape"]:
                return f"The field '{name}' has the global shape {one['shape']} on rank {rank} and {said[0]['shape']} on rank 0."
        if said[0]["offset"] is None:
            if not parts[0] or len({p[1:] for p in parts}) != 1:
                return f"The parts {parts} of the field '{name}' do not fit along the first axis; give each an offset and the global shape."
            starts = np.cumsum([0, *(p[0] for p in parts)]).tolist()
            return cls(dtype, (starts[-1], *parts[0][1:]), [(int(s), *(0,) * (len(parts[0]) - 1)) for s in starts[:-1]], parts)
        if said[0]["shape"] is None:
            return f"The field '{name}' has an offset but no global shape; give both."
        shape = tuple(said[0]["shape"])
        offsets = [tuple(s["offset"]) for s in said]
        for rank, (offset, part) in enumerate(zip(offsets, parts, strict=True)):
            alike = len(offset) == len(part) == len(shape)
            if not alike or any(o < 0 or o + n > s for o, n, s in zip(offset, part, shape, strict=True)):
                return f"The field '{name}' of shape {shape} does not hold rank {rank}'s part {part} at {offset}."
        covered = np.zeros(shape, np.uint8)
        for offset, part in zip(offsets, parts, strict=True):
            covered[_where(offset, part)] += 1
        if covered.size and (covered.min(), covered.max()) != (1, 1):
            how = "is left open" if covered.min() == 0 else "is given twice"
            return f"The ranks' parts do not make up the field '{name}' of shape {shape}: some of it {how}."
        return cls(dtype, shape, offsets, parts)

    def gather(self, comm: Any, part: Any) -> Any:
        """The global array at rank 0, None elsewhere; collective."""
        from mpi4py import MPI

        itemsize = np.dtype(self.dtype).itemsize
        counts = [itemsize * math.prod(p) for p in self.parts]
        starts = [0, *np.cumsum(counts).tolist()]
        received = np.empty(starts[-1], np.uint8) if comm.rank == 0 else None
        sent = part.reshape(-1).view(np.uint8)
        comm.Gatherv([sent, MPI.BYTE], None if received is None else [received, counts, starts[:-1], MPI.BYTE], root=0)
        if received is None:
            return None
        whole = np.empty(self.shape, self.dtype)
        for rank, (offset, shape) in enumerate(zip(self.offsets, self.parts, strict=True)):
            whole[_where(offset, shape)] = received[starts[rank] : starts[rank + 1]].view(self.dtype).reshape(shape)
        return whole


def _where(offset: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))


def _told(error: StreamError) -> dict[str, Any]:
    return {"error": next(i for i, kind in enumerate(_KINDS) if isinstance(error, kind)), "said": str(error)}


def _raise(said: Mapping[str, Any]) -> None:
    if "error" in said:
        raise _collective(_KINDS[said["error"]](said["said"]))


def _collective(error: StreamError) -> StreamError:
    """Marked: every rank raises it, so none waits for another."""
    error.__dict__["collective"] = True
    return error


def _broadcast(comm: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """Rank 0's small facts on every rank, as JSON."""
    data = json.dumps(dict(said)).encode() if comm.rank == 0 else b""
    length = np.array([len(data)], np.int64)
    comm.Bcast(length, root=0)
    buffer = np.frombuffer(data, np.uint8).copy() if comm.rank == 0 else np.empty(int(length[0]), np.uint8)
    comm.Bcast(buffer, root=0)
    out: dict[str, Any] = json.loads(buffer.tobytes())
    return out


def _all(comm: Any, said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every rank's small facts on every rank, as JSON."""
    data = np.frombuffer(json.dumps(dict(said)).encode(), np.uint8).copy()
    lengths = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([len(data)], np.int64), lengths)
    buffer = np.empty(int(lengths.sum()), np.uint8)
    comm.Allgatherv(data, [buffer, lengths.tolist()])
    ends = np.cumsum(lengths).tolist()
    return [json.loads(buffer[end - n : end].tobytes()) for end, n in zip(ends, lengths.tolist(), strict=True)]


def _first_trouble(comm: Any, trouble: str) -> str:
    """The lowest rank's trouble on every rank; costs one number where there is none."""
    from mpi4py import MPI

    mine = np.array([comm.rank if trouble else comm.size], np.int64)
    first = np.empty(1, np.int64)
    comm.Allreduce(mine, first, op=MPI.MIN)
    if int(first[0]) == comm.size:
        return ""
    return next(str(one["trouble"]) for one in _all(comm, {"trouble": trouble}) if one["trouble"])
