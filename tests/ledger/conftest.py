from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for ledger_support, in this process and its children


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"
