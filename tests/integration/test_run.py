"""A user's study from an empty folder, through the command line, on real processes."""

import json
import sqlite3
import textwrap

import pytest

from alearn.testing.checker import check

CONTRACT = {
    "study": str,
    "state": str,
    "arm": str,
    "members": {"queued": int, "running": int, "done": int, "killed": int, "failed": int, "lost": int},
    "samples": {"streamed": int, "stored": int, "duplicates_dropped": int},
    "rounds": int,
    "updates": int,
    "error": {"mean": object, "p95": object, "p99": object, "max": object, "n_test": int},
    "calibration": {"coverage95": object},
    "cost": {"simulated_steps": int, "saved_steps": int, "simulation_core_s": object},
    "control": object,
}


def assert_contract(status, contract=CONTRACT):
    for key, kind in contract.items():
        assert key in status
        if isinstance(kind, dict):
            assert_contract(status[key], kind)
        else:
            assert isinstance(status[key], kind)


def test_python_simulation_from_an_empty_folder(world):
    done = world.alearn(*world.run_words("wave", 8))
    assert done.returncode == 0, done.stdout + done.stderr
    status = world.status()
    assert_contract(status)
    assert status["state"] == "done"
    assert status["members"]["done"] + status["members"]["killed"] == 8
    assert status["samples"]["stored"] == status["cost"]["simulated_steps"] > 0
    assert status["updates"] > 0
    study = world.folder / "study"
    for name in ("config.yaml", "ledger.sqlite", "status.json", "archive.bp", "maps.npz", "report.html"):
        assert (study / name).exists(), name
    assert list((study / "snapshots").iterdir())
    assert check(study).problems == ()
    assert world.alearn("verify", "study").returncode == 0
    page = (study / "report.html").read_text()
    assert "http://" not in page
    assert "<img" in page or "<svg" in page


def test_prediction_from_the_command_line(world):
    assert world.alearn(*world.run_words("wave", 8)).returncode == 0
    done = world.alearn("predict", "study", "--at", "a=0.3", "--at", "b=0.5", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 10
    assert {"a", "b", "t", "y", "y_std", "energy", "energy_std"} <= set(rows[0])
    assert all(row["y_std"] > 0 for row in rows)
    (world.folder / "points.csv").write_text("a,b\n0.1,0.2\n0.3,0.4\n")
    table = world.alearn("predict", "study", "--csv", "points.csv", "--t", "0.5")
    assert table.returncode == 0, table.stderr
    assert len(table.stdout.strip().splitlines()) == 3
    for words, sentence in (
        (["--at", "a=0.3"], "b"),
        (["--at", "a=0.3", "--at", "c=1"], "c"),
        (["--at", "a=7", "--at", "b=0.5"], "a"),
        (["--at", "a=x", "--at", "b=0.5"], "x"),
        (["--csv", "nowhere.csv"], "nowhere.csv"),
    ):
        wrong = world.alearn("predict", "study", *words)
        assert wrong.returncode == 2
        assert sentence in wrong.stderr
        assert "Traceback" not in wrong.stderr


def test_control_arm_and_own_acquisition(world):
    words = world.run_words("wave", 6, "acquisition=python", "acquisition.target=my_file.py:my_score", "control.enabled=true")
    done = world.alearn(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    status = world.status()
    assert_contract(status["control"])
    assert status["control"]["arm"] == "control"
    assert status["control"]["members"]["done"] == 6
    assert (world.folder / "study" / "control" / "ledger.sqlite").exists()
    assert check(world.folder / "study" / "control").problems == ()


def test_a_plain_function_is_a_one_step_trajectory(world):
    done = world.alearn(*world.run_words("once", 8))
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.status()["samples"]["stored"] == 8


@pytest.mark.parametrize("exit_code", [0, 3])
def test_command_simulation_with_json_lines(world, exit_code):
    (world.folder / "solver.sh").write_text(
        textwrap.dedent(
            f"""\
            for i in 0 1 2 3 4; do
                echo "{{\\"t\\": 0.$i, \\"y\\": $1, \\"u\\": [$1, $2, $i]}}"
            done
            echo "this is no JSON"
            echo "the last words" >&2
            exit {exit_code}
            """
        )
    )
    argv = "[sh,solver.sh,'{a}','{b}']"
    done = world.alearn(
        "run", "simulation=command", f"simulation.argv={argv}", "space={a: [0, 1], b: [0, 1]}", "budget.members=6", "hydra.run.dir=study"
    )
    status = world.status()
    if exit_code == 0:
        assert done.returncode == 0, done.stdout + done.stderr
        assert status["members"]["done"] == 6
        assert status["samples"]["stored"] == 30
    else:
        assert status["members"]["failed"] == 6
        reasons = sqlite3.connect(world.folder / "study" / "ledger.sqlite").execute("select body from events").fetchall()
        assert any("the last words" in body for (body,) in reasons)


def test_failures_cost_their_member_only(world):
    done = world.alearn(*world.run_words("fragile", 12, "seed=1"))
    assert done.returncode == 0, done.stdout + done.stderr
    status = world.status()
    assert status["members"]["failed"] >= 2
    assert "active: failed m0" in done.stdout
    assert f"{status['members']['failed']} of 12 members failed; most often" in done.stdout
    assert status["members"]["done"] + status["members"]["killed"] + status["members"]["failed"] == 12
    bodies = " ".join(b for (b,) in sqlite3.connect(world.folder / "study" / "ledger.sqlite").execute("select body from events"))
    assert "the solver blew up" in bodies
    assert "NaN" in bodies or "not finite" in bodies
    assert check(world.folder / "study").problems == ()


def test_a_study_whose_members_all_fail_gives_up_with_a_sentence(world):
    done = world.alearn(*world.run_words("broken", 40))
    assert done.returncode == 1
    assert "always wrong" in done.stderr
    assert "Traceback" not in done.stderr
    assert world.status()["state"] == "failed"
    assert world.status()["members"]["failed"] < 20


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["simulation.target=my_file.py:wavee"], "Did you mean 'wave'"),
        (["simulation.target=my_fil.py:wave"], "does not exist"),
        (["space={a: [0, 1], c: [0, 1]}"], "c"),
        (["surrogate.estimatrs=4"], "Did you mean 'surrogate.estimators'"),
        (["surrogate.estimators=1"], "estimators"),
        (["reference=gray_scott"], "reference"),
        (["acquisition=stdd"], "Did you mean 'std'"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(world, words, sentence):
    done = world.alearn(*world.run_words("wave", 4), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (world.folder / "study" / "ledger.sqlite").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hydra.run.dir=/proc/nowhere"], "hydra.run.dir=DIR"),
        (["trainer.device=cuda:9"], "trainer.device is 'cuda:9'"),
        (["transport.kind=tpc"], "Did you mean 'tcp'"),
        (["transport=adios_sst", "transport.queue_mb=-4"], "transport.queue_mb is -4"),
        (["space={a: [0, 1], b: [2, 1]}"], "low end"),
    ],
)
def test_what_cannot_be_made_leaves_nothing_behind(world, words, sentence):
    done = world.alearn(*world.run_words("wave", 4), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (world.folder / "study").exists()


def test_an_existing_study_is_not_overwritten(world):
    assert world.alearn(*world.run_words("wave", 4)).returncode == 0
    again = world.alearn(*world.run_words("wave", 4))
    assert again.returncode == 2
    assert "alearn resume" in again.stderr
