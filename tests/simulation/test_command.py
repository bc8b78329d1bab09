import json
import math
import sys
import textwrap

import pytest

from alearn.errors import ConfigError, UnknownName
from alearn.registry import build
from alearn.simulation import CommandSimulation
from alearn.testing.launcher import alive
from alearn.types import ExitCause


@pytest.fixture
def program(tmp_path):
    def program(code, *words, **options):
        (tmp_path / "sim.py").write_text(textwrap.dedent(code))
        return CommandSimulation([sys.executable, str(tmp_path / "sim.py"), *words], **options)

    return program


def test_steps_and_log(bench, program):
    simulation = program(
        """
        import sys, json
        a = float(sys.argv[2])
        print("starting", sys.argv[1])
        for n in range(3):
            print(json.dumps({"t": n / 10, "y": a * n, "u": [n, float("nan")]}))
        print("bye", file=sys.stderr)
        """,
        "--a",
        "{a}",
        steps=3,
    )
    simulation.check(["a"])
    run = bench.run(simulation, {"a": 0.1})
    assert (run.exit.cause, run.exit.code) == (ExitCause.DONE, 0)
    assert [s.t for s in run.samples] == [0, 0.1, 0.2]
    assert [float(s.values["y"]) for s in run.samples] == [0, 0.1, 0.2]
    assert math.isnan(run.samples[2].values["u"][1])
    assert run.hellos[0].steps_total == 3
    assert run.stdout == "starting --a\n"
    assert run.stderr == "bye\n"


def test_exit_code(bench, program):
    run = bench.run(program("import sys\nprint('{\"y\": 1}')\nprint('no convergence', file=sys.stderr)\nsys.exit(7)"), {})
    assert (run.exit.cause, run.exit.code, run.exit.detail) == (ExitCause.EXIT_CODE, 7, "exit code 7: no convergence")
    assert len(run.samples) == 1
    assert (run.ends[0].status, run.ends[0].reason) == ("failed", "exit code 7")


def test_signal(bench, program):
    run = bench.run(program("import os\nprint('{\"y\": 1}', flush=True)\nos.kill(os.getpid(), 11)"), {})
    assert (run.exit.cause, run.exit.signal) == (ExitCause.SIGNAL, 11)
    assert run.ends[0].reason == "ended by SIGSEGV"


def test_exception_of_a_python_program(bench, program):
    run = bench.run(program("raise RuntimeError('singular')"), {})
    assert (run.exit.cause, run.exit.detail) == (ExitCause.EXCEPTION, "RuntimeError: singular")


def test_cancel_ends_the_program(bench, program):
    simulation = program("import os, time\nprint('{\"y\": %d}' % os.getpid(), flush=True)\ntime.sleep(60)")
    bench.start(simulation, {})
    bench.owner.until(lambda o: o.steps("m0001") == 1, "a step")
    bench.launcher.cancel("m0001", 1)
    run = bench.end()
    assert run.exit.cause is ExitCause.CANCELLED
    assert run.exit.wall_s < 5
    assert not alive(int(run.samples[0].values["y"]))


def test_a_polite_stop_ends_the_program(bench, program):
    bench.start(program("import os, time\nwhile True:\n    print('{\"y\": %d}' % os.getpid(), flush=True)\n    time.sleep(0.01)"), {})
    bench.owner.until(lambda o: o.steps("m0001") > 2, "steps")
    bench.owner.reader.stop("m0001", 1)
    run = bench.end()
    assert (run.exit.cause, run.exit.code) == (ExitCause.DONE, 0)
    assert run.ends[0].status == "stopped"
    assert not alive(int(run.samples[0].values["y"]))


def test_steps_arrive_while_it_runs_even_from_c_stdio(bench, tmp_path):
    """Without a terminal awk keeps its line in a block; with one it arrives at once."""
    code = 'BEGIN { printf "{\\"t\\": %s, \\"y\\": 1}\\n", 0.5; system("sleep 60 >&2") }'
    bench.start(CommandSimulation(["awk", code.replace("{", "{{").replace("}", "}}")], terminal=True), {})
    bench.owner.until(lambda o: o.steps("m0001") == 1, "the step")
    bench.launcher.cancel("m0001", 1)
    run = bench.end()
    assert run.samples[0].t == 0.5


def test_terminal_ends_cleanly(bench, program):
    run = bench.run(program("import sys\nprint('{\"y\": 1}')\nprint(sys.stdout.isatty())", terminal=True), {})
    assert run.exit.cause is ExitCause.DONE
    assert run.stdout == "True\n"


def test_format_client(bench, program):
    code = "from alearn.client import connect\nwith connect() as run:\n    run.put(t=1, y=run.parameters['a'])"
    run = bench.run(program(code, format="client"), {"a": 3.0})
    assert [(s.t, float(s.values["y"])) for s in run.samples] == [(1.0, 3.0)]


def test_the_program_cannot_write_into_the_stream_by_accident(bench, program):
    run = bench.run(program("import os, json\nprint(json.dumps({'y': sum(k in os.environ for k in ('ALEARN_STREAM', 'ALEARN_KEY'))}))"), {})
    assert float(run.samples[0].values["y"]) == 0


@pytest.mark.parametrize(
    ("word", "value", "expected"),
    [
        ("{a}", 0.1, "0.1"),
        ("--a={a}", 1e-20, "--a=1e-20"),
        ("{a:.3f}", 0.12345, "0.123"),
        ("{a}", 3, "3"),
        ("{a}", "rk4; rm -rf $HOME", "rk4; rm -rf $HOME"),
        ("{{a}}", 1, "{a}"),
        ('{{"a": {a}}}', 0.5, '{"a": 0.5}'),
    ],
)
def test_templates(word, value, expected):
    assert CommandSimulation(["echo", word], format="client").command({"a": value}).argv[1] == expected


def test_parameters_are_in_the_environment_too():
    assert json.loads(CommandSimulation(["echo"]).command({"a": 0.1}).env["ALEARN_PARAMETERS"]) == {"a": 0.1}


def test_files_of_the_present_folder_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "solver").write_text("#!/bin/sh\n")
    (tmp_path / "solver").chmod(0o755)
    (tmp_path / "grid").mkdir()
    simulation = CommandSimulation(["./solver", "grid", "-n", "{a}"])
    assert simulation.argv == (str(tmp_path / "solver"), "grid", "-n", "{a}")
    simulation.check(["a"])


def test_unknown_placeholder():
    with pytest.raises(UnknownName, match=r"'kapa'\. Did you mean 'kappa'"):
        CommandSimulation(["echo", "{kapa}"]).check(["kappa"])
    with pytest.raises(UnknownName, match="'kapa'"):
        CommandSimulation(["echo", "{kapa}"]).command({"kappa": 1})


def test_unused_parameter():
    with pytest.raises(ConfigError, match="does not use the parameter 'b'"):
        CommandSimulation(["echo", "{a}"]).check(["a", "b"])
    CommandSimulation(["echo"]).check(["a", "b"])  # reads ALEARN_PARAMETERS


def test_missing_program():
    with pytest.raises(ConfigError, match="'no-such-solver' is not there"):
        CommandSimulation(["no-such-solver"]).check([])


@pytest.mark.parametrize(
    "options",
    [
        {"argv": []},
        {"argv": "./solver --a {a}"},
        {"argv": ["x", "{a.b}"]},
        {"argv": ["x", "{0}"]},
        {"argv": ["x", "{a"]},
        {"argv": ["x"], "format": "csv"},
        {"argv": ["x"], "steps": -1},
    ],
)
def test_bad_options(options):
    with pytest.raises(ConfigError):
        build("simulation", "command", options)


def test_a_format_that_does_not_fit_the_value():
    with pytest.raises(ConfigError, match=r"cannot format 'red'"):
        CommandSimulation(["x", "{a:.3f}"]).command({"a": "red"})


def test_links_are_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(sys.executable)
    assert CommandSimulation([str(tmp_path / "link")]).argv == (str(tmp_path / "link"),)


def test_a_child_that_holds_the_output_open_does_not_hold_the_member(bench, program):
    simulation = program(
        """
        import subprocess, sys
        print('{"y": 1}', flush=True)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        print('{"y": 2}')
        """
    )
    run = bench.run(simulation, {})
    assert run.exit.cause is ExitCause.DONE
    assert [float(s.values["y"]) for s in run.samples] == [1, 2]
    assert run.exit.wall_s < 30  # the child sleeps for a minute
