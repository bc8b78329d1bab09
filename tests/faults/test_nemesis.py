"""A study that is struck again and again ends with the samples of one that is left in peace."""

import pytest

from alearn.cli import main
from alearn.testing.faults import FAULTS, Nemesis, Ordeal, problems


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    ordeal = Ordeal(tmp_path_factory.mktemp("calm"), members=6)
    verdict = ordeal.run(240.0)
    assert verdict.problems == (), ordeal.output
    assert len(verdict.samples) == 120
    return ordeal, verdict


def test_launched_stored_and_trained_agree_and_the_decisions_can_be_derived_again(calm, capsys):
    study = str(calm[0].study)
    assert main(["status", study, "--verify"]) == 0
    said = capsys.readouterr().out
    assert "120 samples stored, each once and as it was sent; 120 of them trained on, 120 compared value by value" in said
    assert main(["replay", study]) == 0
    assert "today's code decides all of them alike" in capsys.readouterr().out
    assert main(["replay", study, "--policy", "value"]) == 0
    assert "wrote down no score of a running member" in capsys.readouterr().out
    assert main(["replay", study, "--set", "threshold=0.1"]) == 2
    assert main(["revoke", study, "m0001", "--reason", "wrong mesh"]) == 0
    capsys.readouterr()
    assert main(["status", study, "--verify"]) == 1
    assert "m0001 is revoked, and the newest snapshot was trained on it" in capsys.readouterr().out


def test_a_random_fault_every_few_seconds(calm, tmp_path):
    ordeal = Ordeal(tmp_path, members=6, sleep_s=0.15)
    found = problems(ordeal.suffer(Nemesis(3, 3.0, count=3), 280.0), calm[1])
    assert found == [], "\n".join([*ordeal.log, ordeal.output])
    assert ordeal.tagged() == []
    assert len(ordeal.log) >= 3
    assert "Traceback" not in ordeal.output


def test_every_fault_has_a_name_and_a_meaning():
    assert set(FAULTS) == {
        "kill controller",
        "kill tree",
        "stop controller",
        "stop member",
        "kill supervisor",
        "corrupt snapshot",
        "litter",
        "step clock",
        "failpoint",
    }
    nemesis = Nemesis(0)
    armed = {nemesis.failpoint().partition(":")[0] for _ in range(200)}
    assert {"", "ledger.before_commit", "ledger.write"} <= armed
    assert Nemesis(0, count=0).failpoint() == ""
