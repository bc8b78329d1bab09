import json
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from alearn.errors import ConfigError, SimulationError, UnknownName
from alearn.simulation import CommandSimulation
from alearn.simulation.collect import Collector
from alearn.types import ExitCause


def ended():
    return False


def collected(folder, files, reader="auto"):
    return list(Collector(files, reader).steps(folder, ended))


@pytest.fixture
def program(tmp_path):
    def program(code, collect, *words):
        (tmp_path / "sim.py").write_text(textwrap.dedent(code))
        return CommandSimulation([sys.executable, str(tmp_path / "sim.py"), *words], collect=collect)

    return program


def test_an_external_program_that_leaves_files_streams(bench):
    example = Path(__file__).parents[2] / "examples" / "08_files"
    simulation = CommandSimulation(
        [str(example / "solver.sh"), "{kappa}"], collect={"files": "profile_*.dat", "reader": f"{example}/read.py:step"}
    )
    simulation.check(["kappa"])
    run = bench.run(simulation, {"kappa": 0.2})
    assert (run.exit.cause, run.exit.code) == (ExitCause.DONE, 0), run.stderr
    assert [s.t for s in run.samples] == pytest.approx([0.1 * n for n in range(21)])
    middles = [float(s.values["middle"]) for s in run.samples]
    assert middles[0] == 1.0
    assert middles == sorted(middles, reverse=True)
    assert run.samples[0].values["u"].shape == (17,)
    assert run.stdout == "normal termination\n"


def test_steps_arrive_while_the_program_runs_and_a_stop_ends_it(bench, program):
    simulation = program(
        """
        import itertools, json, os, time
        for n in itertools.count():
            with open(f"out_{n}.json", "w") as file:
                file.write('{"t": %d, "y": ' % n)
                file.flush()
                time.sleep(0.02)
                file.write('%d}' % os.getpid())
            time.sleep(0.05)
        """,
        {"files": "out_*.json"},
    )
    bench.start(simulation, {})
    bench.owner.until(lambda o: o.steps("m0001") > 11, "steps")  # past out_9 and out_10
    bench.owner.reader.stop("m0001", 1)
    run = bench.end()
    assert run.ends[0].status == "stopped"
    assert [s.t for s in run.samples] == list(range(len(run.samples)))
    with pytest.raises(ProcessLookupError):
        os.kill(int(run.samples[0].values["y"]), 0)


def test_a_failing_program_keeps_what_it_left(bench, program):
    code = "import json, sys\njson.dump({'y': 1}, open('a.json', 'w'))\nprint('no convergence', file=sys.stderr)\nsys.exit(3)"
    run = bench.run(program(code, {"files": "*.json"}), {})
    assert (run.exit.cause, run.exit.detail) == (ExitCause.EXIT_CODE, "exit code 3: no convergence")
    assert len(run.samples) == 1
    assert run.ends[0].reason == "exit code 3"


def test_a_file_that_cannot_be_read_costs_the_member(bench, program):
    run = bench.run(program("open('a.json', 'w').write('{')\nopen('b.json', 'w').write('{}')", {"files": "*.json"}), {})
    assert run.exit.cause is ExitCause.EXCEPTION
    assert "auto cannot read the file a.json: JSONDecodeError" in run.exit.detail


def test_no_file_at_all_is_told(bench, program):
    run = bench.run(program("open('out.txt', 'w').write('1')", {"files": "*.csv"}), {})
    assert "no file matches '*.csv'" in run.exit.detail
    assert "out.txt" in run.exit.detail


def test_a_file_is_read_when_it_settles_or_a_later_one_is_there(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("alearn.simulation.collect.time.monotonic", lambda: clock[0])
    moves = [
        lambda: (tmp_path / "o_1.json").write_text('{"y": '),
        lambda: (tmp_path / "o_1.json").write_text('{"y": 1}'),
        lambda: None,  # unchanged for a second: settled
        lambda: (tmp_path / "o_2.json").write_text('{"y": 2}'),
        lambda: (tmp_path / "o_10.json").write_text('{"y": 10}'),  # a later one is there
    ]
    got, looks = [], []

    def sleep(seconds):
        clock[0] += 1.0
        looks.append(len(got))
        if moves:
            moves.pop(0)()

    monkeypatch.setattr("alearn.simulation.collect.time.sleep", sleep)
    for step in Collector("o_*.json", settle_s=1.0).steps(tmp_path, lambda: bool(moves)):
        got.append(step["y"])
    assert got == [1, 2, 10]
    assert looks == [0, 0, 0, 1, 1]  # o_1 only once it had settled


def test_the_named_readers(tmp_path):
    (tmp_path / "a.csv").write_text("x, u\n0, 1.5\n1, nan\n")
    (tmp_path / "b.csv").write_text("t,y\n0.5,3\n")
    (tmp_path / "c.json").write_text('[{"t": 0, "y": 1}, {"t": 1, "y": 2}]')
    (tmp_path / "d.jsonl").write_text('{"y": 1}\n\n{"y": 2}\n')
    np.save(tmp_path / "e.npy", np.eye(2))
    np.savez(tmp_path / "f.npz", t=2.5, u=np.arange(3))
    (a,) = collected(tmp_path, "a.csv")
    assert a["x"] == [0.0, 1.0]
    assert a["u"][0] == 1.5
    assert np.isnan(a["u"][1])
    assert collected(tmp_path, "b.csv") == [{"t": 0.5, "y": 3.0}]
    assert [s["x"] for s in collected(tmp_path, "a.csv", "csv_rows")] == [0.0, 1.0]
    assert [s["t"] for s in collected(tmp_path, "c.json")] == [0, 1]
    assert [s["y"] for s in collected(tmp_path, "d.jsonl")] == [1, 2]
    assert np.array_equal(collected(tmp_path, "e.npy")[0]["values"], np.eye(2))
    (f,) = collected(tmp_path, "f.npz")
    assert f["t"] == 2.5
    assert np.array_equal(f["u"], [0, 1, 2])


def test_a_table_that_grows_is_followed_line_by_line(bench, program):
    simulation = program(
        """
        import time
        with open("history.csv", "w") as file:
            file.write("t, y\\n")
            for n in range(400):
                file.write(f"{n}, {n}")  # half a line
                file.flush()
                time.sleep(0.01)
                file.write(".5\\n")
                file.flush()
        """,
        {"files": "*.csv", "reader": "csv_rows"},
    )
    bench.start(simulation, {})
    bench.owner.until(lambda o: o.steps("m0001") > 5, "rows")
    bench.owner.reader.stop("m0001", 1)
    run = bench.end()
    assert run.ends[0].status == "stopped"
    assert 5 < len(run.samples) < 400
    assert [float(s.values["y"]) for s in run.samples] == [n + 0.5 for n in range(len(run.samples))]


def test_what_the_supervisor_writes_is_not_collected(bench, program):
    run = bench.run(program("print('hello')\nopen('z.json', 'w').write('{\"y\": 3}')", {"files": "*.*o*"}), {})
    assert run.exit.cause is ExitCause.DONE, run.stderr
    assert [float(s.values["y"]) for s in run.samples] == [3.0]
    assert run.stdout == "hello\n"


@pytest.mark.parametrize(("text", "said"), [("t,y\n0,1\n1\n", "it has 1 values, and the header names 2"), ("t,y\n0,x\n", "ValueError")])
def test_a_row_that_is_no_step_is_told(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SimulationError, match=said):
        collected(tmp_path, "a.csv", "csv_rows")


def test_no_code_is_loaded_from_an_array_file(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SimulationError, match="cannot read the file"):
        collected(tmp_path, "*.npy")


@pytest.mark.parametrize(
    ("collect", "said"),
    [
        ({"files": "/tmp/*.csv"}, "a pattern within the member's folder"),
        ({"files": "../*.csv"}, "a pattern within the member's folder"),
        ({"files": "*.csv", "reader": "cvs"}, "Did you mean 'csv'"),
        ({"file": "*.csv"}, "Did you mean 'files'"),
        ({"files": "*.csv", "poll_s": 0}, "give seconds"),
    ],
)
def test_wrong_options_are_told(collect, said):
    with pytest.raises(ConfigError, match=said):
        CommandSimulation(["true"], collect=collect)


def test_a_missing_reader_is_told_before_anything_starts(tmp_path):
    simulation = CommandSimulation(["true"], collect={"files": "*.csv", "reader": f"{tmp_path}/read.py:step"})
    with pytest.raises(ConfigError, match=r"The file .*read\.py of the target"):
        simulation.check([])
    with pytest.raises(ConfigError, match="does not go with it"):
        CommandSimulation(["true"], format="client", collect={"files": "*.csv"})
    with pytest.raises(UnknownName):
        CommandSimulation(["true"], collect=json.loads('{"files": "*", "reader": "pickle"}'))
