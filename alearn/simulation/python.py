"""The user's simulation as a Python function: a generator of time steps, or a function that returns one."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, UnknownName
from alearn.registry import load_object
from alearn.simulation import mpi
from alearn.simulation.base import Command
from alearn.simulation.source import FILE, write_source
from alearn.types import Parameters


class PythonSimulation:
    """A Python function that runs in a process of its own for each member.

    Args:
        target: ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``. The function is called with the parameters as keyword
            arguments; it yields a dict for each time step (``{"t": 0.1, "y": 1.2}``; without "t" the number of the step is
            taken), or returns one such dict.
        steps: how many time steps a run yields, if known.
        arguments: further keyword arguments, the same for every member.
        ranks: MPI ranks of one member; each calls the function (with mpi4py inside), and what the first one yields is streamed.
        mpiexec: the program that starts them, by name or path; empty finds the mpiexec beside this Python or in PATH.
        mpi_options: further words for it, where ranks are placed, say; a binding to cores takes the place of ours (none).

    Raises:
        ConfigError: no target, or it has another form.
    """

    def __init__(
        self,
        target: str | None = None,
        steps: int = 0,
        arguments: Mapping[str, Any] | None = None,
        ranks: int = 1,
        mpiexec: str = "",
        mpi_options: Sequence[str] = (),
    ) -> None:
        if not target:
            raise ConfigError("The simulation 'python' has no target; give simulation.target=FILE.py:FUNCTION.")
        where, _, name = target.rpartition(":")
        if not where or not name:
            raise ConfigError(f"The target '{target}' names no function; write FILE.py:FUNCTION or package.module:FUNCTION.")
        if steps < 0:
            raise ConfigError(f"simulation.steps={steps} is no number of time steps; give 0 if it is not known.")
        mpi.check(ranks, mpiexec, mpi_options)
        self.ranks, self.mpiexec, self.mpi_options = ranks, mpiexec, tuple(mpi_options)
        if where.endswith(".py"):  # members run in directories of their own
            where = str(Path(where).expanduser().resolve())
        self.where, self.name = where, name
        self.target = f"{where}:{name}"
        self.steps = steps
        self.arguments = dict(arguments or {})

    @classmethod
    def of(cls, function: Callable[..., Any], directory: Path | None = None, **options: Any) -> PythonSimulation:
        """The simulation that a function object is.

        A function at the top of a module is found there by its process. One that was typed into a notebook, a script's
        ``__main__`` or another function is written, with all it refers to, to ``simulation.py`` in ``directory``.

        Args:
            function: a generator function, or one that returns a dict.
            directory: where such a file may be written: the study's directory.
            options: as for the class.

        Raises:
            ConfigError: it is no plain function, or it refers to something that cannot be written to a file.
        """
        return cls(target_of(function, directory), **options)

    def check(self, names: Iterable[str]) -> None:
        """See before anything is started that the function exists and takes exactly these parameters. It is not called.

        Raises:
            ConfigError: it needs a parameter that the space does not have, or cannot be called by keywords.
            UnknownName: it does not take one that the space has, or there is no such function.
        """
        names = list(names)
        accepted, required, anything = self._signature()
        for name in required:
            if name not in names and name not in self.arguments:
                raise ConfigError(
                    f"The simulation {self.name} needs the parameter '{name}', which the space does not have (it has "
                    f"{', '.join(names) or 'none'}); add it to space, or set simulation.arguments.{name}."
                )
        for name in [*names, *self.arguments]:
            if name not in accepted and not anything:
                raise UnknownName(f"parameter of the simulation {self.name}", name, accepted)

    def command(self, parameters: Parameters) -> Command:
        """The command of one member; the parameters travel in its environment."""
        warm = ["python", self.target]
        if self.steps or self.arguments:
            warm.append(json.dumps({"steps": self.steps, "arguments": self.arguments}))
        driven = [sys.executable, "-P", "-m", "alearn.simulation.drive", *warm]
        argv = mpi.wrapped(self.ranks, self.mpiexec, driven, self.mpi_options)
        env = {"ALEARN_PARAMETERS": json.dumps(dict(parameters)), **_search_path(self.where)}
        return Command(argv, env, tuple(warm) if self.ranks == 1 else ())

    def describe(self) -> str:
        return self.target

    def _signature(self) -> tuple[list[str], list[str], bool]:
        """Accepted names, required names, and whether any name is taken. Read from the source where that tells all."""
        found = _parse(_source_file(self.where), self.name)
        if found is not None:
            a = found.args
            if a.posonlyargs:
                raise self._positional(a.posonlyargs[0].arg)
            plain = [arg.arg for arg in a.args]
            keyword = [arg.arg for arg in a.kwonlyargs]
            required = plain[: len(plain) - len(a.defaults)]
            required += [name for name, default in zip(keyword, a.kw_defaults, strict=True) if default is None]
            return plain + keyword, required, a.kwarg is not None
        function = load_object(self.target)
        if not callable(function):
            raise ConfigError(f"The target {self.target} is a {type(function).__name__}; a function is needed.")
        accepted, required, anything = [], [], False
        for p in inspect.signature(function).parameters.values():
            if p.kind is p.POSITIONAL_ONLY:
                raise self._positional(p.name)
            if p.kind is p.VAR_KEYWORD:
                anything = True
            elif p.kind is not p.VAR_POSITIONAL:
                accepted.append(p.name)
                if p.default is p.empty:
                    required.append(p.name)
        return accepted, required, anything

    def _positional(self, name: str) -> ConfigError:
        return ConfigError(f"The simulation {self.name} takes '{name}' by position only; remove the '/' from its signature.")


def target_of(function: Callable[..., Any], directory: Path | None = None, file: str = FILE) -> str:
    """The target by which another process finds a function: its module's, or a file that is written for it.

    Args:
        function: a plain function.
        directory: where such a file may be written; None if nowhere.
        file: its name.

    Raises:
        ConfigError: it is no plain function, or it refers to something that cannot be written to a file.
    """
    if not inspect.isfunction(function):
        raise ConfigError(f"{function!r} is no plain function; give one (def …), or FILE.py:FUNCTION as a string.")
    target = _importable(function)
    if target is not None:
        return target
    if directory is None:
        raise ConfigError(f"The function {function.__name__} is at no module's top; put it into a file and give FILE.py:FUNCTION.")
    return f"{write_source(function, directory, file)}:{function.__name__}"


def _importable(function: Callable[..., Any]) -> str | None:
    """The target of a function that another process can import, or None."""
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    name = function.__name__
    if module is None or function.__module__ == "__main__" or not file or not file.endswith(".py"):
        return None
    if getattr(module, name, None) is not function:
        return None
    if getattr(module, "__package__", "") and (Path(file).parent / "__init__.py").is_file():
        return f"{function.__module__}:{name}"  # a package: it may import its neighbours relatively
    return f"{Path(file).resolve()}:{name}"


def _source_file(where: str) -> Path | None:
    if where.endswith(".py"):
        return Path(where)
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _parse(file: Path | None, name: str) -> ast.FunctionDef | None:
    """The one undecorated definition of ``name`` at the top of a file; None if the file has to be run to know."""
    if file is None or not file.is_file():
        return None
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise ConfigError(f"The file {file} is not valid Python: {error.msg} in line {error.lineno}.") from error
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found[0] if len(found) == 1 and not found[0].decorator_list else None


@functools.cache
def _search_path(where: str) -> Mapping[str, str]:
    """PYTHONPATH for a target given as a module that only this process's path leads to (a script's neighbour)."""
    file = None if where.endswith(".py") or where.partition(".")[0] == "alearn" else _source_file(where)
    if file is None:
        return {}
    root = file.parent
    for _ in range(where.count(".") + (file.name == "__init__.py")):
        root = root.parent
    return {} if root.name in ("site-packages", "dist-packages") else {"PYTHONPATH": str(root)}
