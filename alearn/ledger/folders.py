"""Where the arms of a study keep their ledgers."""

from __future__ import annotations

from pathlib import Path

ARMS = {"test": "test", "active": ".", "control": "control"}
"""Folder of each arm in the study's directory, in the order in which the arms run."""


def arm_folders(directory: Path) -> list[Path]:
    """The folders of the arms that have a ledger, the study's own directory first if it is among them."""
    found = [directory / folder for folder in ARMS.values() if (directory / folder / "ledger.sqlite").is_file()]
    return sorted(found, key=lambda folder: folder != directory)
