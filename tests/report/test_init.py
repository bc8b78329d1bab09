from __future__ import annotations

import json
import subprocess
import sys

import pytest

import alearn.report


def test_every_public_name_is_there_and_a_wrong_one_gets_the_list() -> None:
    assert sorted(alearn.report._LAZY) == sorted(alearn.report.__all__)
    for name in alearn.report.__all__:
        assert getattr(alearn.report, name) is not None
    with pytest.raises(AttributeError, match="public names: ArmData"):
        alearn.report.nothing  # noqa: B018


def test_a_status_is_read_without_matplotlib_and_nothing_brings_torch_or_hydra() -> None:
    code = """
import json, sys
from alearn.report import read_status, open_view
light = sorted(sys.modules)
import alearn.report
for name in alearn.report.__all__:
    getattr(alearn.report, name)
print(json.dumps([light, sorted(sys.modules)]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    light, whole = json.loads(out.stdout)
    assert not {"matplotlib", "rich", "torch", "hydra"} & set(light)
    assert not {"torch", "hydra", "omegaconf", "botorch", "gpytorch", "matplotlib.pyplot"} & set(whole)
