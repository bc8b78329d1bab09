"""A study from Python: run with functions, ask and tell, and what is told when something is missing."""

import subprocess
import sys

import pytest

SCRIPT = """
from alearn import Study

def wave(a, b):
    for step in range(8):
        yield {"t": 0.1 * step, "y": a + b * step}

def corner(surrogate, X, context):
    return X.sum(-1)

if __name__ == "__main__":
    Study(space={"a": (0, 1), "b": (0, 1)}, simulation=wave, acquisition=corner, budget=6, directory="d", view="quiet").run()
"""

ASK = """
import math
from alearn import Study

def study():
    return Study(space={"a": (0, 1), "b": (0, 1)}, surrogate="gp", budget=20, directory="d")

s = study()
for _ in range(9):
    (point,) = s.ask()
    s.tell(point, {"y": math.sin(3 * point.parameters["a"]) + point.parameters["b"]})
s.close()
s = study()
points = s.ask(2)
assert [p.origin for p in points] == ["acquisition"] * 2, points
assert all(p.reason for p in points)
s.tell(points[0], {"y": 1.0})
try:
    s.tell({"a": 2.0, "b": 0.0}, {"y": 1.0})
except Exception as error:
    assert "outside its box" in str(error), error
else:
    raise SystemExit("a point outside the box was taken")
s.close()
assert Study.open("d").status().members.done == 10
assert Study.open("d").predict({"a": 0.5, "b": 0.5}).mean.shape == (1, 1, 1)
"""


def run(folder, code, *words):
    (folder / "script.py").write_text(code)
    return subprocess.run([sys.executable, *words, "script.py"], cwd=folder, capture_output=True, text=True, timeout=240)


def test_functions_of_a_script_are_found_again_on_resume(tmp_path):
    done = run(tmp_path, SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("active: members") == 0
    again = subprocess.run([sys.executable, "-m", "alearn.cli", "resume", "d"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr


def test_ask_and_tell_go_on_after_closing(tmp_path):
    done = run(tmp_path, ASK)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("Study(space={'a': (0, 1)}, budget=3).run()", "No simulation is named"),
        ("Study(space={'a': (1, 0)}, budget=3)", "low end"),
        ("Study(space={'a': (0, 1)}, simulation=lambda a: {'y': a}, budget=3)", "lambda"),
        ("Study(space={'a': (0, 1)}, bugdet=3)", "Did you mean 'budget'"),
        ("Study.open('nowhere')", "no study"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, code, words):
    done = run(tmp_path, f"from alearn import Study\n{code}\n")
    assert done.returncode != 0
    assert words in done.stderr.strip().splitlines()[-1]
