"""The examples in C and Fortran, compiled as their READMEs say and run against the real reader."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alearn.clients import folder
from alearn.testing.streams import PATIENCE_S, Owner, finished, started
from alearn.transport import SocketReader

EXAMPLES = Path(__file__).parents[2] / "examples"


def streamed(program, runs):
    reader = SocketReader()
    owner = Owner(reader)
    for number, parameters in enumerate(runs):
        env = {**reader.address(f"m{number}", 1), "ALEARN_PARAMETERS": json.dumps(parameters)}
        with started(program, env=env) as writer:
            owner.until(lambda o, number=number: len(o.ends) > number, "the end")
            out, _ = finished(writer)
        assert "after 40 steps" in out
    reader.close()
    return owner


def test_the_folder_is_printed():
    said = subprocess.run([sys.executable, "-m", "alearn.clients"], capture_output=True, text=True, timeout=PATIENCE_S).stdout
    assert Path(said.strip()) == folder()
    assert {"alearn.h", "alearn_client.f90", "alearn_fortran.c"} <= {p.name for p in folder().iterdir()}


def test_the_example_in_c(c_example):
    owner = streamed(c_example, [{"threshold": 0.1, "growth": 1.5}, {"threshold": 0.8, "growth": 1.5}])
    assert owner.hellos[0].schema.names == ("front", "u")
    begin, advanced, retreated = (owner.kept[key].values["front"] for key in (("m0", 0), ("m0", 39), ("m1", 39)))
    assert advanced > begin + 5
    assert retreated < begin - 5
    assert owner.kept["m0", 39].values["u"].sum() * 0.25 == pytest.approx(advanced)


def test_the_example_in_fortran(fortran_example):
    owner = streamed(fortran_example, [{"conductivity": 0.2, "spot": 0.3}, {"conductivity": 2.0, "spot": 0.3}])
    assert [(f.name, f.shape, f.unit) for f in owner.hellos[0].schema.fields] == [
        ("hottest", (), "K"),
        ("mean", (), "K"),
        ("u", (101,), "K"),
    ]
    slow, fast = (owner.kept[member, 39].values for member in ("m0", "m1"))
    assert slow["hottest"] > 3 * fast["hottest"]
    assert slow["hottest"] == slow["u"].max()
    assert 25 < np.argmax(slow["u"]) < 35
