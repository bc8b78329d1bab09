import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alearn.errors import ConfigError, UnknownName
from alearn.simulators.gray_scott import BOX, OUTPUTS, STEPS, gray_scott
from alearn.simulators.reference import DATA, REFERENCE_SEED, Reference, load_reference, make_reference


def decay(a, b):
    for t in range(3):
        yield {"t": t, "y": a * np.exp(-b * t), "z": a + b}


DECAY_BOX = {"a": (1.0, 2.0), "b": (0.0, 0.5)}


def test_written_and_read_back(tmp_path):
    made = make_reference(decay, DECAY_BOX, ("y", "z"), 16, provenance={"by": "test"})
    read = Reference.read(made.write(tmp_path / "deep" / "decay.npz"))
    assert read.names == ("a", "b")
    assert read.outputs == ("y", "z")
    assert read.box == DECAY_BOX
    assert read.provenance == {"by": "test", "seed": REFERENCE_SEED, "design": "scrambled Sobol"}
    assert len(read) == 16
    assert np.array_equal(read.points, made.points)
    assert np.array_equal(read.values, made.values)
    point = read.parameters[3]
    assert read.values[3, :, 0] == pytest.approx([f["y"] for f in decay(**point)], rel=1e-6)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["decay.npz"]


def test_points_fill_the_box():
    made = make_reference(decay, DECAY_BOX, ("y",), 64)
    unit = (made.points - [1.0, 0.0]) / [1.0, 0.5]
    assert ((unit >= 0) & (unit <= 1)).all()
    assert np.histogram2d(*unit.T, bins=(4, 4), range=[[0, 1], [0, 1]])[0].min() == 4


def test_the_shipped_gray_scott_reference_is_what_the_simulator_says():
    shipped = load_reference("gray_scott")
    assert (shipped.names, shipped.outputs, dict(shipped.box)) == (tuple(BOX), OUTPUTS, BOX)
    assert shipped.values.shape == (256, STEPS, len(OUTPUTS))
    assert (DATA / "gray_scott.npz").stat().st_size < 200_000
    # a member that ends uniform: chaotic ones differ in the last digits from one machine to another
    calm = int(np.argmin(np.abs(shipped.values[:, -1, 1]) + (shipped.values[:, -1, 0] < 0.1)))
    frames = list(gray_scott(**shipped.parameters[calm]))
    assert shipped.t == pytest.approx([f["t"] for f in frames])
    assert shipped.values[calm] == pytest.approx(np.array([[f[o] for o in OUTPUTS] for f in frames]), abs=1e-4)


def test_unknown_reference_lists_those_that_ship():
    with pytest.raises(UnknownName, match="Did you mean 'gray_scott'"):
        load_reference("grey_scott")


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(ConfigError, match="make_reference"):
        Reference.read(tmp_path / "none.npz")


def test_what_is_not_a_reference_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="is not a reference"):
        Reference.read(path)
    np.savez(path, points=np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="is not a reference"):
        Reference.read(path)
    np.savez(path, points=np.array([{"an": "object"}], dtype=object), about=np.zeros(2, dtype=np.uint8))
    with pytest.raises(ConfigError, match="is not a reference"):
        Reference.read(path)


def test_members_that_fail_or_differ_in_length_are_refused():
    def blowing_up(a):
        yield {"t": 0, "y": np.nan}

    def uneven(a):
        for t in range(1 + int(a > 0.5)):
            yield {"t": t, "y": a}

    with pytest.raises(ConfigError, match="NaN or infinity"):
        make_reference(blowing_up, {"a": (0, 1)}, ("y",), 4)
    with pytest.raises(ConfigError, match="2 different series of times"):
        make_reference(uneven, {"a": (0, 1)}, ("y",), 4)


def test_inconsistent_shapes_are_refused():
    with pytest.raises(ConfigError, match="must be N x 1"):
        Reference(("a",), np.zeros((4, 1)), np.zeros(3), ("y",), np.zeros((4, 2, 1)))


def test_the_script_makes_a_reference(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "make_reference.py"
    out = tmp_path / "gs.npz"
    done = subprocess.run(
        [sys.executable, str(script), "gray_scott", "--points", "2", "--output", str(out)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "2 members x 60 frames x 3 outputs" in done.stdout
    assert len(Reference.read(out)) == 2
