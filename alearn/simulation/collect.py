"""Time steps out of the files that a program leaves behind: looked for while it runs, read as they are complete.

Only the standard library is imported before a reader needs more, because every member's process loads this.
"""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, SimulationError, UnknownName

Step = Mapping[str, Any]
Reader = Callable[[Path], Any]
LineParser = Callable[[str], Step | None]

OURS = ("stdout.log", "stderr.log", "exit.json", "spec.json", "job.json", "place.json", "lease", "slurm.log")
"""What the member's supervisor writes into the folder; never collected."""
DEFAULTS: Mapping[str, Any] = {"files": "", "reader": "auto", "settle_s": 2.0, "poll_s": 0.1}
_NUMBER = re.compile(r"(\d+)")


class Collector:
    """Reads files that match a pattern, in the order of their names (``out_9`` before ``out_10``), each once.

    A file is complete when the program has ended, when a later one is there, or when its size and time of change have
    been the same for ``settle_s``. Files are waited for in order: an incomplete one holds back those behind it. Where every
    line is a step ("csv_rows", "jsonl"), an incomplete file is followed line by line, until a later one is there or the
    program has ended.

    Args:
        files: the pattern, within the folder: ``out_*.csv``, ``results/*.npy``.
        reader: a built-in reader ("auto" goes by the file's suffix: .csv, .json, .jsonl, .npy, .npz; "csv_rows" makes
            every row of a table a step), or the user's, ``FILE.py:NAME`` or ``package.module:NAME``. It is called with the
            file's path and returns a step (a mapping), several steps (a list or a generator), or None for none.
        settle_s: seconds without a change after which the newest file is complete; 0 waits for a later one or the end.
        poll_s: seconds between two looks.

    Raises:
        ConfigError: an option is wrong.
    """

    def __init__(self, files: str, reader: str = "auto", settle_s: float = 2.0, poll_s: float = 0.1) -> None:
        if not files or Path(files).is_absolute() or ".." in Path(files).parts:
            raise ConfigError(f"simulation.collect.files is {files!r}; give a pattern within the member's folder, e.g. 'out_*.csv'.")
        if reader not in READERS and reader not in _LINES and ":" not in reader:
            raise UnknownName("reader of simulation.collect", reader, [*READERS, *_LINES, "FILE.py:NAME"])
        if not settle_s >= 0 or not poll_s > 0:
            raise ConfigError(f"simulation.collect has settle_s={settle_s!r} and poll_s={poll_s!r}; give seconds, the latter above 0.")
        self.files, self.reader, self.settle_s, self.poll_s = files, reader, float(settle_s), float(poll_s)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Collector:
        """From the entries of ``simulation.collect``.

        Raises:
            UnknownName: an entry does not exist.
            ConfigError: one has a wrong value.
        """
        for name in options:
            if name not in DEFAULTS:
                raise UnknownName("entry of simulation.collect", str(name), DEFAULTS)
        return cls(**{**DEFAULTS, **options})

    def load(self) -> Reader:
        """The reader's function.

        Raises:
            ConfigError: there is none of that name.
        """
        if self.reader in READERS or self.reader in _LINES:
            return READERS.get(self.reader, read_auto)
        from alearn.registry import load_object

        function: Reader = load_object(self.reader)
        return function

    def steps(self, folder: Path, running: Callable[[], bool]) -> Iterator[Step]:
        """The steps of every file, as the files are complete, until the program has ended.

        Args:
            folder: where the program works.
            running: whether the program still runs.

        Raises:
            SimulationError: the reader cannot read a complete file, or returned something else than steps.
        """
        read = self.load()
        done = {folder / name for name in OURS}
        following: dict[Path, _Follower] = {}
        seen: dict[Path, tuple[tuple[int, int], float]] = {}
        while True:
            ended = not running()  # asked before looking: what it left is all there
            waiting = sorted((p for p in folder.glob(self.files) if p.is_file() and p not in done), key=_natural)
            for path in waiting:
                parse = self._by_line(path)
                if parse is not None:
                    whole = ended or path != waiting[-1]
                    if path not in following:
                        following[path] = _Follower(path, parse())
                    yield from following[path].more(whole)
                    if not whole:
                        break
                    done.add(path)
                    continue
                settled = self._settled(path, seen)
                if not (ended or settled or path != waiting[-1]):
                    break
                try:
                    found = _as_steps(read(path), path)
                except SimulationError:
                    raise
                except Exception as error:
                    if not (ended or settled):
                        break  # a later one is there, and yet this one is not whole
                    raise SimulationError(f"{self.reader} cannot read the file {path}: {type(error).__name__}: {error}") from error
                yield from found
                done.add(path)
                seen.pop(path, None)
            if ended:
                if len(done) == len(OURS):
                    there = ", ".join(sorted(p.name for p in folder.iterdir())[:8])
                    raise SimulationError(f"The program ended, and no file matches '{self.files}' in {folder} (there are: {there}).")
                return
            time.sleep(self.poll_s)

    def _by_line(self, path: Path) -> Callable[[], LineParser] | None:
        """What reads the file's lines, if each of them is a step."""
        return _LINES.get(path.suffix.removeprefix(".") if self.reader == "auto" else self.reader)

    def _settled(self, path: Path, seen: dict[Path, tuple[tuple[int, int], float]]) -> bool:
        now = time.monotonic()
        found = path.stat()
        state = (found.st_size, found.st_mtime_ns)
        before = seen.get(path)
        if before is None or before[0] != state:
            seen[path] = (state, now)
            return False
        return self.settle_s > 0 and now - before[1] >= self.settle_s


class _Follower:
    """A file that grows: its lines as they are whole."""

    def __init__(self, path: Path, parse: LineParser) -> None:
        self._path = path
        self._parse = parse
        self._at = 0
        self._rest = b""

    def more(self, whole: bool) -> Iterator[Step]:
        """The steps of the lines that have come; of the last one too if nothing more will."""
        with open(self._path, "rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if whole:
            lines.append(self._rest)
        for line in filter(bytes.strip, lines):
            try:
                step = self._parse(line.decode("utf-8"))
            except ValueError as error:
                raise SimulationError(f"The line {line[:80]!r} of {self._path} is no step: {type(error).__name__}: {error}") from error
            if step is not None:
                yield step


def _natural(path: Path) -> list[Any]:
    """Numbers in the name count as numbers."""
    return [int(part) if part.isdigit() else part for part in _NUMBER.split(str(path))]


def _as_steps(result: Any, path: Path) -> list[Step]:
    if result is None:
        return []
    steps = [result] if isinstance(result, Mapping) else list(result)
    for step in steps:
        if not isinstance(step, Mapping):
            raise SimulationError(
                f'The reader made a {type(step).__name__} of {path}; it returns a dict for each step, e.g. {{"t": t, "y": y}}.'
            )
    return steps


def read_csv(path: Path) -> Step:
    """A table as one step: each column an array, a table of one row as numbers; a column t must be one value."""
    columns = _columns(path)
    if len(next(iter(columns.values()))) == 1:
        return {name: values[0] for name, values in columns.items()}
    if "t" in columns:
        times = set(columns.pop("t"))
        if len(times) != 1:
            raise ValueError("its column t has several values; simulation.collect.reader=csv_rows makes every row a step")
        return {**columns, "t": times.pop()}
    return columns


def csv_rows() -> LineParser:
    """Reads a table line by line: the first names the columns, each other is a step."""
    names: list[str] = []

    def row(line: str) -> Step | None:
        values = next(csv.reader([line], skipinitialspace=True))
        if not names:
            names.extend(name.strip() for name in values)
            return None
        if len(values) != len(names):
            raise ValueError(f"it has {len(values)} values, and the header names {len(names)}")
        return dict(zip(names, map(float, values), strict=True))

    return row


def jsonl() -> LineParser:
    """Reads objects line by line, each a step."""

    def row(line: str) -> Step:
        step = json.loads(line)
        if not isinstance(step, dict):
            raise ValueError("it is no JSON object")
        return step

    return row


_LINES: Mapping[str, Callable[[], LineParser]] = {"csv_rows": csv_rows, "jsonl": jsonl}


def _columns(path: Path) -> dict[str, list[float]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    if len(rows) < 2:
        raise ValueError("it has no row below its header")
    names = [name.strip() for name in rows[0]]
    return {name: [float(row[i]) for row in rows[1:]] for i, name in enumerate(names)}


def read_json(path: Path) -> Any:
    """An object as one step, a list of objects as many."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_npy(path: Path) -> Step:
    """The array as the step's field ``values``."""
    import numpy as np

    return {"values": np.load(path, allow_pickle=False)}


def read_npz(path: Path) -> Step:
    """Each array a field; one named t, of one number, is the time."""
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        step = {name: arrays[name] for name in arrays.files}
    return {**step, "t": step["t"].item()} if "t" in step else step


_SUFFIXES: Mapping[str, Reader] = {".csv": read_csv, ".json": read_json, ".npy": read_npy, ".npz": read_npz}


def read_auto(path: Path) -> Any:
    """By the file's suffix."""
    if path.suffix not in _SUFFIXES:
        raise SimulationError(
            f"There is no built-in reader for {path.name}; known suffixes: {', '.join([*_SUFFIXES, '.jsonl'])}. Write your own, "
            "simulation.collect.reader=FILE.py:NAME."
        )
    return _SUFFIXES[path.suffix](path)


READERS: Mapping[str, Reader] = {
    "auto": read_auto,
    "csv": read_csv,
    "json": read_json,
    "npy": read_npy,
    "npz": read_npz,
}
