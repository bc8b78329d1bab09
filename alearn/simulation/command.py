"""The user's simulation as a program: parameters in its command line, time steps as JSON lines on its stdout."""

from __future__ import annotations

import json
import os
import shutil
import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, UnknownName
from alearn.simulation import mpi
from alearn.simulation.base import Command
from alearn.simulation.collect import Collector
from alearn.types import Parameters, Value

FORMATS = ("jsonl", "client", "adios2")


class CommandSimulation:
    """A program that is started once for each member, never through a shell.

    Members run in directories of their own, so the program and any word of the command that names an existing file of the
    present folder are made absolute.

    Args:
        argv: the program and its arguments; ``{name}`` stands for a parameter's value, ``{name:.3f}`` formats it as Python
            does, ``{{`` is a brace.
        format: "jsonl" (one JSON object a time step on stdout: ``{"t": 0.1, "y": 1.2, "u": [..]}``; other lines go to the
            log), "client" (the program streams by itself through the alearn client) or "adios2" (the program writes ADIOS2,
            which the transport follows).
        steps: how many time steps a run prints, if known.
        ranks: MPI ranks of one member; more than one are started by mpiexec.
        mpiexec: the program that starts them, by name or path ("srun" too); empty finds the mpiexec in PATH.
        mpi_options: further words for it, where ranks are placed, say; a binding to cores takes the place of ours (none).
        terminal: give the program a pseudo-terminal as stdout, for one that otherwise holds its lines back (C's stdio
            writes to a pipe in blocks of 4 KiB).
        collect: for a program that only leaves files: which, and what reads them, ``{files: out_*.csv, reader: read.py:step}``
            (see ``alearn.simulation.collect.Collector``). What it prints goes to the log.

    Raises:
        ConfigError: the command is empty, a placeholder is malformed, or an entry of ``collect`` is wrong.
    """

    def __init__(
        self,
        argv: Sequence[str] = (),
        format: str = "jsonl",
        steps: int = 0,
        terminal: bool = False,
        ranks: int = 1,
        mpiexec: str = "",
        mpi_options: Sequence[str] = (),
        collect: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(argv, str) or not argv:
            raise ConfigError(f'simulation.argv is {argv!r}; give a list, e.g. simulation.argv=[./solver,--kappa,"{{kappa}}"].')
        if format not in FORMATS:
            raise UnknownName("format of simulation 'command'", format, FORMATS)
        if steps < 0:
            raise ConfigError(f"simulation.steps={steps} is no number of time steps; give 0 if it is not known.")
        self.argv = tuple(_absolute(str(word)) for word in argv)
        self.format = format
        self.steps = steps
        mpi.check(ranks, mpiexec, mpi_options)
        self.terminal = terminal
        self.ranks = ranks
        self.mpiexec = mpiexec
        self.mpi_options = tuple(mpi_options)
        self.collector = None if not collect else Collector.of(collect)
        if self.collector is not None and format != "jsonl":
            raise ConfigError(f"simulation.collect reads files, so simulation.format={format} does not go with it; leave one of them out.")
        self.placeholders = tuple(dict.fromkeys(name for word in self.argv for name in _placeholders(word)))

    def check(self, names: Iterable[str]) -> None:
        """See before anything is started that the command fits the parameters and that its program exists.

        A command without any placeholder is taken to read the variable ``ALEARN_PARAMETERS`` (a JSON object).

        Raises:
            UnknownName: a placeholder is not a parameter.
            ConfigError: a parameter has no placeholder, or there is no such program.
        """
        names = list(names)
        for name in self.placeholders:
            if name not in names:
                raise UnknownName("parameter for the placeholder", name, names)
        unused = [name for name in names if name not in self.placeholders]
        if unused and self.placeholders:
            raise ConfigError(f"The command does not use the parameter '{unused[0]}'; put {{{unused[0]}}} into simulation.argv.")
        if self.collector is not None:
            self.collector.load()
        if shutil.which(self.argv[0]) is None:
            raise ConfigError(f"The program '{self.argv[0]}' is not there or not executable; give its path, and chmod +x it.")

    def command(self, parameters: Parameters) -> Command:
        """The command of one member at ``parameters``.

        Raises:
            UnknownName: a placeholder is not among them.
        """
        argv = mpi.wrapped(self.ranks, self.mpiexec, [_fill(word, parameters) for word in self.argv], self.mpi_options)
        if self.format == "jsonl":
            collect = None if self.collector is None else vars(self.collector)
            options = json.dumps({"steps": self.steps, "terminal": self.terminal, "collect": collect})
            argv = (sys.executable, "-P", "-m", "alearn.simulation.drive", "command", options, "--", *argv)
        return Command(argv, {"ALEARN_PARAMETERS": json.dumps(dict(parameters))})

    def describe(self) -> str:
        return " ".join(self.argv)


def _absolute(word: str) -> str:
    if not word or "{" in word:
        return word
    path = Path(word).expanduser()
    # Links are not followed: a virtual environment's python is one, and it must be started by its own name.
    return os.path.abspath(path) if path.is_file() else word


def _placeholders(word: str) -> list[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(word) if name is not None]
    except ValueError as error:
        raise ConfigError(f"The word {word!r} of simulation.argv has a stray brace ({error}); write {{{{ for a plain one.") from error
    for name in names:
        if not name.isidentifier():
            raise ConfigError(f"The placeholder '{{{name}}}' in simulation.argv is no parameter's name; write {{{{ for a plain brace.")
    return names


def _fill(word: str, parameters: Mapping[str, Value]) -> str:
    out = []
    for text, name, spec, _ in string.Formatter().parse(word):
        out.append(text)
        if name is None:
            continue
        if name not in parameters:
            raise UnknownName("parameter for the placeholder", name, parameters)
        value = parameters[name]
        try:
            out.append(format(value, spec) if spec else str(value))  # str of a float is exact
        except ValueError as error:
            raise ConfigError(f"The placeholder '{{{name}:{spec}}}' cannot format {value!r}: {error}.") from error
    return "".join(out)
