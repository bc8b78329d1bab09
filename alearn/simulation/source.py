"""From a function that lives only in a notebook or a script to a file that another process can import."""

from __future__ import annotations

import ast
import dis
import inspect
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from alearn.errors import ConfigError

FILE = "simulation.py"
LARGEST_ARRAY = 10_000
"""Elements of a global array that is written into the file; a larger one belongs into a data file."""


def write_source(function: Callable[..., Any], directory: Path, file: str = FILE) -> Path:
    """Write a function and everything it refers to into a file.

    Imports become imports, functions and classes of the notebook their source, plain values and small arrays literals.

    Args:
        function: defined in a notebook, in ``__main__`` or in another function.
        directory: where to write; made if it is not there.
        file: the file's name.

    Returns:
        The file.

    Raises:
        ConfigError: it is a lambda or a closure, its source is unknown, or it refers to something that has no source.
    """
    text = _Writer(function).text()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file
    part = directory / (file + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return path.resolve()


class _Writer:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        if self.name == "<lambda>":
            raise ConfigError("The simulation is a lambda, which has no source of its own; write it as a function with def.")
        self.imports: dict[str, None] = {}
        self.parts: list[str] = []
        self.seen: dict[str, Any] = {}
        self._define(self.name, function)

    def text(self) -> str:
        head = f'"""The simulation {self.name}, as it was when the study was made."""\n\nfrom __future__ import annotations\n'
        return "\n".join([head, *self.imports, "", *self.parts]) + "\n"

    def _define(self, name: str, thing: Any) -> None:
        """Append the source of a function or class, after that of what it needs."""
        if name in self.seen:
            return
        self.seen[name] = thing
        thing = inspect.unwrap(thing)
        try:
            source = textwrap.dedent(inspect.getsource(thing))
            tree = ast.parse(source)
        except (OSError, TypeError, SyntaxError) as error:
            raise ConfigError(
                f"The source of {name} cannot be found ({error}); put the simulation into a file and give FILE.py:FUNCTION."
            ) from error
        if isinstance(thing, FunctionType):
            if thing.__code__.co_freevars:
                raise ConfigError(
                    f"The function {name} uses '{thing.__code__.co_freevars[0]}' of the function around it; make it a module-level value "
                    "or an argument."
                )
            scope = thing.__globals__
            names = [*_globals_of(thing.__code__), *_header_names(tree)]
        else:
            module = sys.modules.get(thing.__module__)
            scope = vars(module) if module is not None else {}
            names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        for used in dict.fromkeys(names):
            if used in scope and used not in ("__name__", "__builtins__"):
                self._need(used, scope[used], tree, by=name)
        defined = tree.body[0]
        assert isinstance(defined, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)), ast.dump(defined)
        self.parts.append("\n" + source.rstrip() + "\n" + ("" if defined.name == name else f"\n{name} = {defined.name}\n"))

    def _need(self, name: str, value: Any, tree: ast.AST, by: str) -> None:
        if isinstance(value, ModuleType):
            self.imports[f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"] = None
            for chain in _chains(tree, name):  # `import scipy` alone does not bring scipy.ndimage
                full = f"{value.__name__}.{chain}"
                if isinstance(sys.modules.get(full), ModuleType):
                    self.imports[f"import {full}"] = None
            return
        if name in self.seen:
            return
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if module and module not in ("__main__", "builtins") and getattr(sys.modules.get(module), qualname, None) is value:
            importable = sys.modules[module]
            if getattr(importable, "__spec__", None) is not None:
                self.imports[f"from {module} import {qualname} as {name}"] = None
                return
        if isinstance(value, (FunctionType, type)):
            self._define(name, value)
            return
        literal = _literal(value)
        if literal is None:
            raise ConfigError(
                f"{by} uses '{name}', a {type(value).__name__} that cannot be written to a file; make it inside the function, or put the "
                "simulation into a file and give FILE.py:FUNCTION."
            )
        self.seen[name] = value
        if literal.startswith("_numpy"):
            self.imports["import numpy as _numpy"] = None
        self.parts.append(f"{name} = {literal}")


def _globals_of(code: CodeType) -> Iterator[str]:
    """Names that a function's body looks up outside itself, nested functions included."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant)


def _header_names(tree: ast.Module) -> Iterator[str]:
    """Names in the decorators and defaults of a definition: these are looked up when it is defined."""
    defined = tree.body[0]
    if isinstance(defined, ast.FunctionDef):
        defaults = [d for d in defined.args.kw_defaults if d is not None]
        for part in (*defined.decorator_list, *defined.args.defaults, *defaults):
            yield from (node.id for node in ast.walk(part) if isinstance(node, ast.Name))


def _chains(tree: ast.AST, name: str) -> Iterator[str]:
    """``b`` and ``b.c`` for every ``name.b.c`` in the source."""
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == name:
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _literal(value: Any) -> str | None:
    """Python source of a plain value or a small numeric array; None if there is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if value is None or type(value) in (bool, int, str, bytes, complex):
        return repr(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and value.size <= LARGEST_ARRAY:
        rows = _literal(value.tolist())
        return None if rows is None else f'_numpy.array({rows}, dtype="{value.dtype.name}").reshape({value.shape})'
    if type(value) in (list, tuple, set):
        items = [_literal(v) for v in value]
        if any(item is None or item.startswith("_numpy") for item in items):
            return None
        text = ", ".join(str(item) for item in items)
        if isinstance(value, tuple):
            return f"({text},)" if items else "()"
        return f"[{text}]" if isinstance(value, list) else (f"{{{text}}}" if items else "set()")
    if type(value) is dict:
        pairs = [(_literal(k), _literal(v)) for k, v in value.items()]
        if any(part is None or part.startswith("_numpy") for pair in pairs for part in pair):
            return None
        return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
    return None
