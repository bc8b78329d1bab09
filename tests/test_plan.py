"""A plan from the ledger of a finished run: the run itself is a virtual one whose costs are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from alearn import events as ev
from alearn.assembly import make_policy
from alearn.config import Config
from alearn.errors import ConfigError, LedgerError
from alearn.launcher.virtual import CostModel, LearnerModel
from alearn.ledger import Ledger
from alearn.plan import plan, plan_command
from alearn.testing.virtual import VirtualStudy

RAW = {
    "simulation": {"name": "python", "target": "alearn.simulators.oscillator:oscillator"},
    "space": {"a": [0.0, 1.0]},
    "study": "known",
    "budget": {"members": 24},
    "kill": {"name": "never"},
    "acquisition": {"name": "random"},
    "design": {"batch": 4, "initial": 8},
}


def write(directory: Path, events: list[ev.Event]) -> None:
    ledger = Ledger.create(directory, study="known")
    ledger.append(events)
    ledger.close()
    Config.from_mapping(RAW).save(directory / "config.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("plan") / "study"
    given = CostModel.given(startup_s=5.0, step_s=2.0, steps=20, spread=0.2)
    costs = CostModel(given.lives, given.fail, given.value, LearnerModel(refit_s=3.0, acquire_s=0.5, errors={"mean": (0.0, 0.4)}))
    config = Config.from_mapping(RAW)
    study = VirtualStudy(make_policy(config), costs, nodes=2, budget=config.budget.limits(), burst=2, monitors={})
    assert study.run().state == "done"
    write(directory, study.ledger.events)
    return directory


def test_the_run_itself_is_told_again(run):
    told = plan(run, nodes=[2])
    (row,) = told.rows
    assert "within a factor of 1" in told.check
    assert (row.slots, row.members, row.batch, row.steps) == (2, 24, 4, 480)
    assert row.core_h == pytest.approx(24 * 45.0 / 3600, rel=0.2)
    assert row.error == pytest.approx(480**-0.4, rel=0.1)
    assert row.saved_core_h == 0.0


def test_more_nodes_are_faster_until_the_rounds_are_too_small(run):
    rows = plan(run, nodes=[1, 4, 1000], seeds=1).rows
    assert [r.nodes for r in rows] == [1, 4, 4, 1000, 1000] or [r.nodes for r in rows] == [1, 4, 1000, 1000]
    one, four, many, wide = rows[0], rows[1], rows[-2], rows[-1]
    assert one.wall_s > 1.9 * four.wall_s
    assert one.utilisation > 0.7 > many.utilisation
    assert (many.batch, wide.batch) == (4, 24)  # as many as the budget has
    assert wide.wall_s < many.wall_s


def test_the_budget_batch_and_faults_of_the_question_count(run):
    (row,) = plan(run, nodes=[10], budget={"members": 60.0}, batch=10, seeds=1).rows
    assert (row.members, row.batch) == (60, 10)
    (waits,) = plan(run, nodes=[10], budget={"members": 60.0}, batch=10, queue_s=600.0, seeds=1).rows
    assert waits.wall_s > 2 * row.wall_s
    (loses,) = plan(run, nodes=[10], budget={"members": 60.0}, batch=10, preempt_s=40.0, seeds=1).rows
    assert loses.core_h > row.core_h
    (short,) = plan(run, nodes=[10], budget={"wall_s": 200.0}, batch=10, seeds=1).rows
    assert short.wall_s < 260.0


def test_the_command_prints_a_table_and_what_it_assumes(run, capsys):
    assert plan_command([str(run), "--nodes", "2,8", "--members", "30", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Plan of 'known'")
    assert "24 ended attempts of the run" in out
    assert "within members=30" in out
    assert plan_command([str(run), "--nodes", "2", "--seeds", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["nodes"] == 2
    assert math.isfinite(told["rows"][0]["wall_s"])


def test_what_cannot_be_planned_is_said_in_one_sentence(run, tmp_path):
    with pytest.raises(ConfigError, match="at least one node"):
        plan(run, nodes=[0])
    with pytest.raises(ConfigError, match="--nodes"):
        plan_command([str(run), "--nodes", "ten"])
    with pytest.raises(LedgerError):
        plan(tmp_path / "nothing")
    write(tmp_path / "new", [ev.StudyStarted(at=0.0, study="known", arm="active", seed=0, budget={"members": 24.0})])
    with pytest.raises(ConfigError, match="let a short run"):
        plan(tmp_path / "new")
