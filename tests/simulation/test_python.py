import functools
import math
import subprocess
import sys
import textwrap

import pytest

from alearn.errors import ConfigError, UnknownName
from alearn.registry import build, load_object
from alearn.simulation import PythonSimulation
from alearn.types import ExitCause


def at_the_top(a, b=2.0):
    yield {"y": a + b}


@pytest.fixture
def write(tmp_path):
    def write(code, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(code))
        return f"{tmp_path / name}:f"

    return write


@pytest.mark.parametrize("target", [None, "", "mine.py", "mine.py:", ":f"])
def test_bad_targets(target):
    with pytest.raises(ConfigError, match=r"FILE\.py:FUNCTION"):
        build("simulation", "python", {"target": target})


def test_relative_files_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert PythonSimulation("mine.py:f").target == f"{tmp_path / 'mine.py'}:f"


def test_check_does_not_run_the_file(write):
    simulation = PythonSimulation(write("raise SystemExit\ndef f(a, *, b, c=1): yield {}"))
    simulation.check(["a", "b"])
    simulation.check(["a", "b", "c"])
    with pytest.raises(ConfigError, match="needs the parameter 'b', which the space does not have"):
        simulation.check(["a"])
    with pytest.raises(UnknownName, match=r"'bb'\. Did you mean 'b'"):
        simulation.check(["a", "b", "bb"])


@pytest.mark.parametrize(
    "code",
    [
        "from functools import wraps\ndef w(g):\n    @wraps(g)\n    def h(**k): return g(**k)\n    return h\n@w\ndef f(a, b=1): yield {}",
        "def g(a, b=1): yield {}\nf = g",
        "class F:\n    def __call__(self, a, b=1): yield {}\nf = F()",
    ],
)
def test_check_of_what_the_source_does_not_tell(write, code):
    simulation = PythonSimulation(write(code))
    simulation.check(["a"])
    with pytest.raises(ConfigError, match="'a'"):
        simulation.check(["b"])
    with pytest.raises(UnknownName, match="'x'"):
        simulation.check(["a", "x"])


def test_check_with_any_keyword(write):
    PythonSimulation(write("def f(a, **rest): yield {}")).check(["a", "b", "c"])


def test_check_by_position_only(write):
    with pytest.raises(ConfigError, match="by position only"):
        PythonSimulation(write("def f(a, /): yield {}")).check(["a"])


def test_check_of_missing_things(write, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        PythonSimulation(str(tmp_path / "no.py") + ":f").check([])
    with pytest.raises(UnknownName, match="'f'"):
        PythonSimulation(write("def g(): pass")).check([])
    with pytest.raises(ConfigError, match="cannot be imported"):
        PythonSimulation("no_such_module:f").check([])
    with pytest.raises(ConfigError, match="not valid Python"):
        PythonSimulation(write("def f(:")).check([])
    with pytest.raises(ConfigError, match="a function is needed"):
        PythonSimulation(write("f = 3")).check([])


def test_a_simulator_of_the_package(bench):
    simulation = PythonSimulation("alearn.simulators.gray_scott:gray_scott", arguments={"frames": 2, "steps_per_frame": 2, "grid": 32})
    simulation.check(["F", "k"])
    run = bench.run(simulation, {"F": 0.03, "k": 0.06})
    assert run.exit.cause is ExitCause.DONE
    assert run.samples[1].values["v"].shape == (32, 32)


def test_of_a_function_in_a_module(bench):
    simulation = PythonSimulation.of(at_the_top)
    assert simulation.target == f"{__file__}:at_the_top"
    assert float(bench.run(simulation, {"a": 1.0}).samples[0].values["y"]) == 3.0


def test_of_a_function_in_a_package_with_relative_imports(bench, tmp_path, monkeypatch):
    (tmp_path / "solvers").mkdir()
    (tmp_path / "solvers" / "__init__.py").write_text("")
    (tmp_path / "solvers" / "tools.py").write_text("K = 5.0\n")
    (tmp_path / "solvers" / "mine.py").write_text("from .tools import K\ndef f(a): return {'y': a * K}\n")
    monkeypatch.syspath_prepend(tmp_path)
    simulation = PythonSimulation.of(load_object("solvers.mine:f"))
    assert simulation.target == "solvers.mine:f"
    simulation.check(["a"])
    assert float(bench.run(simulation, {"a": 2.0}).samples[0].values["y"]) == 10.0


SCRIPT = """
import math
import xml.dom
import numpy as np
import os.path as osp
from pathlib import Path
from math import tau as turn, sqrt

SCALE = 2.0
TABLE = {"a": [1, 2.5, (3,)], "nothing": None, "far": float("inf")}
WEIGHTS = np.linspace(0, 1, 5)

class Stepper:
    size = SCALE
    def __init__(self, dt): self.dt = dt
    def advance(self, y): return y + self.dt * helper(y)

def helper(y):
    return -y * SCALE if y > 1e-9 else helper(1.0)

def memo(g):
    return g

@memo
def simulation(a, dt=SCALE / 20, *, n=len(WEIGHTS)):
    open = 3  # a local name like a builtin
    stepper, y = Stepper(dt), a
    for i in range(n):
        y = stepper.advance(y)
        yield {"t": i * dt, "y": y, "w": WEIGHTS * TABLE["a"][1], "z": [math.pi, turn, sqrt(4), np.linalg.norm(WEIGHTS),
               len(xml.dom.NotFoundErr.__name__), osp.basename("a/b") == "b", Path("x").name == "x", math.isinf(TABLE["far"])]}

def use(directory):
    from alearn.simulation import PythonSimulation
    return PythonSimulation.of(simulation, directory).target

study = open(__file__)  # something that cannot be written, and that the simulation does not use
"""


def test_of_a_function_in_main(bench, tmp_path):
    """A script without a guard around its study: the member must not run the study again."""
    (tmp_path / "script.py").write_text(SCRIPT + "\nfrom pathlib import Path as P\nimport sys\nprint(use(P(sys.argv[1])))\nstudy.close()\n")
    argv = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "study")]
    target = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    assert target == f"{tmp_path / 'study' / 'simulation.py'}:simulation"
    text = (tmp_path / "study" / "simulation.py").read_text()
    assert "study = " not in text
    simulation = PythonSimulation(target)
    run = bench.run(simulation, {"a": 1.0})
    assert run.exit.cause is ExitCause.DONE, run.stderr
    assert [float(s.values["y"]) for s in run.samples] == pytest.approx([0.8**n for n in range(1, 6)])
    assert run.samples[0].values["w"].tolist() == [0, 0.625, 1.25, 1.875, 2.5]
    assert run.samples[0].values["z"].tolist() == pytest.approx([math.pi, math.tau, 2, 1.875**0.5, 11, 1, 1, 1])


def test_of_a_function_in_a_notebook(bench, tmp_path):
    """IPython keeps the source of its cells where inspect finds it; here as it does, by hand."""
    import linecache

    cells = {"<cell 1>": "import numpy as np\nK = np.float32(0.5)\n", "<cell 2>": "def wave(a):\n    yield {'y': np.sin(a) * K}\n"}
    scope = {"__name__": "__main__"}
    for name, cell in cells.items():
        linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
        exec(compile(cell, name, "exec"), scope)  # noqa: S102 - as a notebook does
    run = bench.run(PythonSimulation.of(scope["wave"], tmp_path / "study"), {"a": 1.0})
    assert float(run.samples[0].values["y"]) == pytest.approx(math.sin(1) / 2)


def test_of_a_function_inside_another(bench, tmp_path):
    def inner(a):
        yield {"y": a * len(textwrap.dedent("  x"))}

    with pytest.raises(ConfigError, match="at no module's top"):
        PythonSimulation.of(inner)
    assert float(bench.run(PythonSimulation.of(inner, tmp_path / "study"), {"a": 4.0}).samples[0].values["y"]) == 4.0


def test_of_what_has_no_source(tmp_path):
    factor = 3

    def closure(a):
        yield {"y": a * factor}

    scope = {"__name__": "__main__", "handle": object()}
    exec("def unseen(a):\n    yield {'y': handle}", scope)  # noqa: S102
    for function, said in [
        (lambda a: {"y": a}, "lambda"),
        (closure, "uses 'factor' of the function around it"),
        (scope["unseen"], "cannot be found"),
        (functools.partial(at_the_top, b=1), "plain function"),
        (print, "plain function"),
    ]:
        with pytest.raises(ConfigError, match=said):
            PythonSimulation.of(function, tmp_path / "study")
    assert not (tmp_path / "study").exists()


handle = object()


def test_of_a_global_that_cannot_be_written(tmp_path):
    def inner(a):
        yield {"y": id(handle)}

    with pytest.raises(ConfigError, match="inner uses 'handle'"):
        PythonSimulation.of(inner, tmp_path / "study")
