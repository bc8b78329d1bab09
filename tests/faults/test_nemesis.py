"""A study that is struck again and again ends with the samples of one that is left in peace."""

import pytest

from alearn.testing.faults import FAULTS, Nemesis, Ordeal, problems


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    ordeal = Ordeal(tmp_path_factory.mktemp("calm"), members=6)
    verdict = ordeal.run(240.0)
    assert verdict.problems == (), ordeal.output
    assert len(verdict.samples) == 120
    return verdict


def test_a_random_fault_every_few_seconds(calm, tmp_path):
    ordeal = Ordeal(tmp_path, members=6, sleep_s=0.15)
    found = problems(ordeal.suffer(Nemesis(3, 3.0, count=5), 280.0), calm)
    assert found == [], "\n".join([*ordeal.log, ordeal.output])
    assert ordeal.tagged() == []
    assert len(ordeal.log) >= 5
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
