"""From a name to a plug-in's class: entry points in the groups ``alearn.<room>``, or ``FILE.py:NAME``."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, UnknownName

ROOMS = ("simulation", "surrogate", "acquisition", "launcher", "transport", "buffer", "trainer", "kill", "monitor", "archive", "transform")


@functools.cache
def plugins(room: str) -> Mapping[str, EntryPoint]:
    """The plug-ins of a room by name, without importing them."""
    return {e.name: e for e in entry_points(group=f"alearn.{room}")}


def resolve(room: str, name: str) -> Any:
    """The class or function behind a plug-in's name.

    Args:
        room: one of ``ROOMS``.
        name: a registered name, or ``FILE.py:NAME`` for one of the user's own.

    Raises:
        UnknownName: no such plug-in; the message suggests the nearest.
        ConfigError: the file or the name in it is not there.
    """
    if ".py:" in name:
        return load_object(name)
    known = plugins(room)
    if name not in known:
        raise UnknownName(room, name, known)
    return known[name].load()


def load_object(target: str) -> Any:
    """The object that ``FILE.py:NAME`` or ``package.module:NAME`` names.

    Raises:
        ConfigError: the form is wrong, or file, module or name are not there.
    """
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise ConfigError(f"The target '{target}' names no object; write FILE.py:NAME or package.module:NAME.")
    if where.endswith(".py"):
        path = Path(where).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"The file {path} of the target '{target}' does not exist; give the path of your Python file.")
        spec = importlib.util.spec_from_file_location(f"alearn_user_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"The file {path} cannot be loaded as Python.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # the user's file may import its neighbours
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ConfigError(f"The module of the target '{target}' cannot be imported: {error}.") from error
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UnknownName(f"object in {where}", name, public)
    return getattr(module, name)


def build(room: str, name: str, options: Mapping[str, Any] | None = None, **given: Any) -> Any:
    """Construct a plug-in: its class called with the configured options and what the study gives.

    Args:
        room: one of ``ROOMS``.
        name: the plug-in's name.
        options: from the configuration; unknown names are refused with did-you-mean.
        given: objects the study supplies (a space, a seed); passed only if the constructor takes them.

    Raises:
        UnknownName: no such plug-in, or no such option.
        ConfigError: an option has a wrong value.
    """
    factory = resolve(room, name)
    options = dict(options or {})
    accepted = inspect.signature(factory).parameters
    for option in options:
        if option not in accepted:
            raise UnknownName(f"option of {room} '{name}'", option, [p for p in accepted if p not in given])
    try:
        return factory(**{**{k: v for k, v in given.items() if k in accepted}, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The {room} '{name}' cannot be made with {options}: {error}") from error
