"""Steering a running study by files dropped into its ``commands/`` directory: no open port can steer a job."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alearn.errors import ConfigError, UnknownName
from alearn.events import MemberRevoked
from alearn.ledger import Ledger
from alearn.ledger.folders import arm_folders
from alearn.ledger.lock import has_writer
from alearn.types import Member

COMMANDS = ("kill", "pause", "continue", "stop", "revoke", "steer", "slots")


@dataclass(frozen=True, slots=True)
class Command:
    """A wish of the user's: one of ``COMMANDS``; ``member``, ``reason`` and ``values`` are for those that take them."""

    command: str
    member: str | None = None
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def control_folder(directory: Path) -> Path:
    """Where commands are dropped."""
    return directory / "commands"


def request(directory: Path, command: str, member: str | None = None, reason: str = "", values: Mapping[str, Any] | None = None) -> str:
    """Drop a command for the study in ``directory``; returns a sentence for the user.

    Raises:
        ConfigError: there is no study, or no such command.
    """
    if command not in COMMANDS:
        raise UnknownName("command", command, COMMANDS)
    if not (directory / "ledger.sqlite").is_file():
        raise ConfigError(f"There is no study in {directory} (no ledger.sqlite); give a study directory.")
    arms = arm_folders(directory)
    if not any(has_writer(arm) for arm in arms):
        raise ConfigError(
            f"Nobody runs the study in {directory} now, so there is nothing to {command}; `alearn resume {directory}` goes on with it."
        )
    if member is not None:
        _check_member(arms, member)
    folder = control_folder(directory)
    folder.mkdir(exist_ok=True)
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    part = folder / f".{name}.part"
    part.write_text(json.dumps({"command": command, "member": member, "reason": reason, "values": dict(values or {})}))
    os.replace(part, folder / f"{name}.json")
    return f"asked the study in {directory} to {command}{' ' + member if member else ''}; a running controller acts within a second."


def steer(directory: Path, member: str, assignments: Sequence[str]) -> str:
    """Hand new values to a running simulation, which takes them when it next asks (``run.steered``); returns a sentence.

    Args:
        directory: of the study.
        member: whose simulation.
        assignments: ``name=value``; a value is a number, true, false or else a text.

    Raises:
        ConfigError: the member does not run, or a value cannot be handed over, or is one that samples are filed under.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(f"'{text}' is no assignment; write name=value.")
        values[name] = _value(text, value)
    found = [known for arm in arm_folders(directory) for known in _members(arm) if known.id == member]
    if found and not any(known.state.active for known in found):
        raise ConfigError(f"Member {member} is {found[0].state}; only a running one can be steered.")
    fixed = sorted({n for known in found for n in values if n in known.parameters})
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} of member {member} cannot be steered: its samples are learned under the values that it was "
            f"launched with. Kill it (`alearn kill {directory} {member}`), or steer what is no parameter of the space."
        )
    return request(directory, "steer", member, values=values) + " The simulation takes it when it next asks; the ledger says when."


def _value(text: str, value: str) -> Any:
    try:
        found = json.loads(value)
    except ValueError:
        return value
    if not isinstance(found, (bool, int, float, str)) or (isinstance(found, float) and not math.isfinite(found)):
        raise ConfigError(f"'{text}' hands over neither a finite number, true, false nor a text.")
    return found


def revoke(directory: Path, member: str, reason: str = "") -> str:
    """Take a member's samples back: they leave the training and the archive's views, and stay in the ledger.

    A running study does it within a second. In one that nobody runs it is written down at once, and the next resume
    trains anew without the member, also if the study was done.

    Raises:
        ConfigError: there is no study, or no such member, or it is revoked already.
    """
    reason = reason or "no reason given"
    if not (directory / "ledger.sqlite").is_file():
        raise ConfigError(f"There is no study in {directory} (no ledger.sqlite); give a study directory.")
    if any(has_writer(arm) for arm in (directory, directory / "control")):
        return request(directory, "revoke", member, reason)
    with Ledger.open(directory) as ledger:
        known = {m.id: m for m in ledger.members()}
        if member not in known:
            raise UnknownName("member", member, known, shown=["m0000 and so on, as in the ledger"])
        if known[member].revoked:
            raise ConfigError(f"{member} is revoked already ({known[member].revoked}).")
        ledger.append([MemberRevoked(at=ledger.now(), member=member, reason=reason)])
        ledger.set_meta("finished", False)
        steps = known[member].steps
    return (
        f"{member} is revoked: its {steps} stored steps are in no archive view any more. The surrogate was trained with them; "
        f"`alearn resume {directory}` trains anew without."
    )


def _check_member(arms: Sequence[Path], member: str) -> None:
    known = {m.id for arm in arms for m in _members(arm)}
    if member not in known:
        raise UnknownName("member", member, known, shown=["m0000 and so on, as in the ledger"])


def _members(arm: Path) -> list[Member]:
    with Ledger.open(arm, readonly=True) as ledger:
        return ledger.members()


def commands(directory: Path) -> Sequence[Command]:
    """Take the commands that wait for the study, oldest first; a file that is no command is removed."""
    folder = control_folder(directory)
    if not folder.is_dir():
        return []
    found: list[Command] = []
    for path in sorted(folder.glob("*.json")):
        try:
            raw = json.loads(path.read_text())
            if raw.get("command") in COMMANDS:
                found.append(Command(raw["command"], raw.get("member"), str(raw.get("reason", "")), dict(raw.get("values") or {})))
        except (OSError, ValueError, AttributeError, TypeError):
            pass
        path.unlink(missing_ok=True)
    return found
