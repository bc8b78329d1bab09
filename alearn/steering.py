"""Steering a running study by files dropped into its ``commands/`` directory: no open port can steer a job."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alearn.errors import ConfigError, UnknownName
from alearn.events import MemberRevoked
from alearn.ledger import Ledger
from alearn.ledger.folders import arm_folders
from alearn.ledger.lock import has_writer
from alearn.types import Member

COMMANDS = ("kill", "pause", "continue", "stop", "revoke")


@dataclass(frozen=True, slots=True)
class Command:
    """A wish of the user's: one of ``COMMANDS``; ``member`` for kill and revoke, ``reason`` for revoke."""

    command: str
    member: str | None = None
    reason: str = ""


def control_folder(directory: Path) -> Path:
    """Where commands are dropped."""
    return directory / "commands"


def request(directory: Path, command: str, member: str | None = None, reason: str = "") -> str:
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
    part.write_text(json.dumps({"command": command, "member": member, "reason": reason}))
    os.replace(part, folder / f"{name}.json")
    return f"asked the study in {directory} to {command}{' ' + member if member else ''}; a running controller acts within a second."


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
        ledger.append([MemberRevoked(at=time.time(), member=member, reason=reason)])
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
                found.append(Command(raw["command"], raw.get("member"), str(raw.get("reason", ""))))
        except (OSError, ValueError, AttributeError):
            pass
        path.unlink(missing_ok=True)
    return found
