"""Settings of the whole suite: time on a busy machine is no failure, so hypothesis judges results only.

The suite draws the same examples every time, so that a change is judged by what it changed. New examples are what
``HYPOTHESIS_PROFILE=explore`` is for; what that finds becomes a test of its own.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("alearn", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("alearn"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "alearn"))

HERE = Path(__file__).parent
TOGETHER = ("launcher", "clients")
"""Folders whose tests share a server or a compiled program: one process runs all of a folder."""
FIRST = ("integration", "test_readme", "test_notebooks")
"""What takes longest is started first, so that two processes end at about the same time."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests for ``pytest -n 2 --dist loadgroup``: by file, or by folder where they share a server."""

    def group(item: pytest.Item) -> str:
        path = item.path.relative_to(HERE)
        return path.parts[0] if path.parts[0] in TOGETHER else path.with_suffix("").as_posix()

    def turn(item: pytest.Item) -> int:
        return next((i for i, name in enumerate((*FIRST, *TOGETHER)) if group(item).startswith(name)), len(FIRST) + len(TOGETHER))

    items.sort(key=turn)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
