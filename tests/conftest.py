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

TOGETHER = ("launcher", "clients")
"""Folders whose tests share a server or a compiled program: one process runs all of a folder."""
FIRST = ("integration", "test_readme", "test_notebooks")
"""What takes longest is started first, so that two processes end at about the same time."""


def _group(nodeid: str) -> str:
    path = Path(nodeid.partition("::")[0]).with_suffix("").relative_to("tests")
    return path.parts[0] if path.parts[0] in TOGETHER else path.as_posix()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand the tests out by file, or by folder where they share a server (``pytest -n 2``)."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest."""
    turns = (*FIRST, *TOGETHER)
    items.sort(key=lambda item: next((i for i, name in enumerate(turns) if _group(item.nodeid).startswith(name)), len(turns)))
