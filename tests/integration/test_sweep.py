"""A sweep over whole studies, with a population in each, as a user runs them."""

import csv
import json

SWEEP = (
    "run",
    "--multirun",
    "surrogate=population",
    "surrogate.grid.width=[4,12]",
    "surrogate.grid.depth=[1]",
    "surrogate.grid.lr=[0.0001,0.01]",
    "surrogate.evidence=3",
    "surrogate.survivors=1",
    "surrogate.max_updates=200",
    "simulation=python",
    "simulation.target=my_file.py:once",
    "space={a: [0, 1], b: [0, 1]}",
    "budget.members=14",
    "design.initial=6",
    "reference=3",
    "trainer.refit_updates=40",
    "hydra.sweep.dir=sweep",
    "view=quiet",
)


def test_a_sweep_ends_with_a_table_of_its_studies(world):
    done = world.alearn(*SWEEP, "seed=1,2")
    assert done.returncode == 0, done.stderr
    assert "2 studies in sweep" in done.stdout
    with (world.folder / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(r["changed"] for r in rows) == ["seed=1", "seed=2"]
    assert [float(r["mean"]) for r in rows] == sorted(float(r["mean"]) for r in rows)
    assert all((r["state"], r["members"]) == ("done", "14") for r in rows)
    for row in rows:
        assert json.loads((world.folder / "sweep" / row["study"] / "status.json").read_text())["error"]["mean"] == float(row["mean"])
    told = world.alearn("population", "sweep/0", "--json")
    models = json.loads(told.stdout)
    assert len(models) == 4
    assert [m["answers"] for m in models] == [True, False, False, False]
    assert all(m["dropped"] for m in models[1:])
    assert f"{models[0]['name']} is best" in world.status("sweep/0")["lead"]


def test_a_sweep_with_one_wrong_value_starts_nothing(world):
    done = world.alearn(*SWEEP, "design.kind=sobol,sobel")
    assert done.returncode == 2
    assert "sobol" in done.stderr
    assert not (world.folder / "sweep").exists()
