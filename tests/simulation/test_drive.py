import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from alearn.simulation import PythonSimulation
from alearn.simulation.drive import parse_step
from alearn.types import ExitCause


@pytest.fixture
def write(tmp_path):
    def write(code, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(code))
        return f"{tmp_path / name}:f"

    return write


def test_generator(bench, write):
    target = write("""
        import numpy as np
        def f(a, b=1.0):
            for step in range(4):
                yield {"t": step / 10, "y": a * step + b, "u": np.full((2, 3), step)}
    """)
    run = bench.run(PythonSimulation(target, steps=4), {"a": 2.0})
    assert run.exit.cause is ExitCause.DONE
    assert [s.t for s in run.samples] == [0, 0.1, 0.2, 0.3]
    assert [float(s.values["y"]) for s in run.samples] == [1, 3, 5, 7]
    assert run.samples[3].values["u"].tolist() == [[3] * 3] * 2
    assert (run.ends[0].status, run.ends[0].steps) == ("done", 4)
    assert run.hellos[0].steps_total == 4
    assert run.hellos[0].parameters == {"a": 2.0}


@pytest.mark.parametrize(("body", "t"), [('return {"y": a}', 0.0), ('return {"t": 3, "y": a}', 3.0), ('return [{"y": a}]', 0.0)])
def test_plain_function(bench, write, body, t):
    run = bench.run(PythonSimulation(write(f"def f(a): {body}")), {"a": 0.1})
    assert run.exit.cause is ExitCause.DONE
    assert [(s.t, float(s.values["y"])) for s in run.samples] == [(t, 0.1)]


def test_t_defaults_to_the_number_of_the_step(bench, write):
    run = bench.run(PythonSimulation(write("def f():\n    for n in range(3): yield {'y': n}")), {})
    assert [s.t for s in run.samples] == [0, 1, 2]


def test_arguments(bench, write):
    target = write("def f(a, *, n, label):\n    assert label == 'x'\n    for i in range(n): yield {'y': a}")
    simulation = PythonSimulation(target, arguments={"n": 2, "label": "x"})
    simulation.check(["a"])
    assert len(bench.run(simulation, {"a": 1.0}).samples) == 2


def test_exception(bench, write):
    target = write("def f(a):\n    yield {'y': 1}\n    raise ValueError(f'the mesh folded at {a}')")
    run = bench.run(PythonSimulation(target), {"a": 0.5})
    assert (run.exit.cause, run.exit.code, run.exit.detail) == (ExitCause.EXCEPTION, 1, "ValueError: the mesh folded at 0.5")
    assert len(run.samples) == 1
    assert (run.ends[0].status, run.ends[0].reason) == ("failed", "ValueError: the mesh folded at 0.5")
    assert "mine.py" in run.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(a): return 3", "returned a int; it must be a generator"),
        ("def f(a):\n    yield 3", "Step 0 is a int; yield a dict for each time step"),
        ("def f(a):\n    yield {'y': 'red'}", "numeric arrays are needed"),
        ("def f(a):\n    yield {'y': 1}\n    yield {'z': 1}", "every step must carry"),
    ],
)
def test_what_is_no_trajectory_fails_with_a_sentence(bench, write, code, said):
    run = bench.run(PythonSimulation(write(code)), {"a": 0.5})
    assert run.exit.cause is ExitCause.EXCEPTION
    assert said in run.exit.detail


def test_a_polite_stop_closes_the_generator_and_is_a_clean_exit(bench, write):
    target = write("""
        import time
        def f():
            try:
                for n in range(10_000):
                    yield {"y": n}
                    time.sleep(0.01)
            finally:
                print("tidied", flush=True)
    """)
    bench.start(PythonSimulation(target), {})
    bench.owner.until(lambda o: o.steps("m0001") > 3, "some steps")
    bench.owner.reader.stop("m0001", 1)
    run = bench.end()
    assert (run.exit.cause, run.exit.code) == (ExitCause.DONE, 0)
    assert run.ends[0].status == "stopped"
    assert run.stdout == "tidied\n"


def test_cancel_closes_the_generator_and_keeps_what_was_streamed(bench, write):
    target = write("""
        import time
        def f():
            try:
                for n in range(3):
                    yield {"y": n}
                while True:
                    try: time.sleep(60)
                    except Exception: pass   # must not swallow the end
            finally:
                print("tidied", flush=True)
    """)
    bench.start(PythonSimulation(target), {})
    bench.owner.until(lambda o: o.steps("m0001") == 3, "three steps")
    bench.launcher.cancel("m0001", 1)
    run = bench.end()
    assert (run.exit.cause, run.exit.code) == (ExitCause.CANCELLED, 128 + signal.SIGTERM)
    assert run.ends[0].status == "stopped"
    assert run.exit.wall_s < 5  # it heeded the SIGTERM, so the grace was not used up
    assert run.stdout == "tidied\n"
    assert len(run.samples) == 3


def test_sigterm_from_elsewhere_is_not_done(bench, write):
    bench.start(PythonSimulation(write("import time\ndef f():\n    yield {'y': 1}\n    time.sleep(60)")), {})
    bench.owner.until(lambda o: o.steps("m0001") == 1, "a step")
    os.kill(bench.launcher.pids()["m0001", 1], signal.SIGTERM)
    assert bench.end().exit.cause is ExitCause.EXIT_CODE


def test_another_attempt_does_not_send_again_what_is_acknowledged(bench, write):
    target = write("import os\ndef f():\n    for n in range(4):\n        yield {'y': n}\n    print(os.getcwd())")
    assert len(bench.run(PythonSimulation(target), {}).samples) == 4
    bench.start(PythonSimulation(target), {}, attempt=2)
    run = bench.end()
    assert run.exit.cause is ExitCause.DONE
    assert len(bench.owner.arrived) == 4


def test_a_member_can_be_tried_by_hand(write):
    target = write("def f(a):\n    print('a is', a)\n    yield {'y': a}")
    argv = [sys.executable, "-P", "-m", "alearn.simulation.drive", "python", target]
    env = {k: v for k, v in os.environ.items() if not k.startswith("ALEARN")}
    done = subprocess.run(argv, env={**env, "ALEARN_PARAMETERS": '{"a": 7}'}, capture_output=True, text=True, check=True)
    assert done.stdout == "a is 7\n"


def test_usage():
    argv = [sys.executable, "-m", "alearn.simulation.drive", "pythn", "x"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_the_driver_imports_no_more_than_it_needs(write):
    target = write("import sys\nprint(*sys.modules)\ndef f(): return {'y': 1.0}")
    argv = [sys.executable, "-P", "-m", "alearn.simulation.drive", "python", target]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "hydra", "asyncio", "multiprocessing", "alearn.types", "alearn.simulation.python"} & set(loaded)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"t": 0.1, "y": 1}\n', {"t": 0.1, "y": 1}),
        (b'  {"y": [1, 2]}\r\n', {"y": [1, 2]}),
        (b"step 1\n", None),
        (b"[1, 2]\n", None),
        (b'{"t": 0.1, "y": \n', None),
        (b"{'y': 1}\n", None),
        (b"", None),
    ],
)
def test_parse_step(line, expected):
    assert parse_step(line) == expected


@pytest.mark.parametrize("nan", [b"NaN", b"nan", b"-nan", b"NAN"])
@pytest.mark.parametrize("inf", [b"Infinity", b"inf", b"INF", b"+inf"])
def test_parse_step_with_the_nan_of_any_language(nan, inf):
    values = parse_step(b'{"t":0,"y":' + nan + b',"u":[1, ' + inf + b",-Infinity," + nan + b'], "nan":2}')
    assert math.isnan(values["y"])
    assert values["u"][1:3] == [math.inf, -math.inf]
    assert math.isnan(values["u"][3])
    assert values["nan"] == 2
