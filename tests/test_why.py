import json

import pytest

from alearn import events as ev
from alearn.chronicle import Chronicle
from alearn.cli import main
from alearn.ledger import Ledger


@pytest.fixture
def study(tmp_path):
    with Ledger.create(tmp_path / "s", study="s") as ledger:
        chronicle = Chronicle(ledger)
        chronicle.record(ev.StudyStarted(at=1.0, study="s", arm="active", seed=0))
        chronicle.record(ev.RoundDecided(at=1.0, round=0, q=1, acquisition="design"))
        design = {"origin": "design", "why": "initial space-filling design (Sobol)"}
        chronicle.record(ev.MemberQueued(at=1.0, member="m0000", parameters={"a": 0.25, "kind": "red"}, x=(0.25, 1.0, 0.0), **design))
        chronicle.record(ev.RoundDecided(at=2.0, round=1, q=2, acquisition="std_distance"))
        wide = {"origin": "acquisition", "score": 0.5, "why": "std 0.4 of the outputs' spread, 3.0x the median", "round": 1}
        chronicle.record(ev.MemberQueued(at=2.0, member="m0001", parameters={"a": 0.75, "kind": "blue"}, x=(0.75, 0.0, 1.0), **wide))
        chronicle.record(
            ev.MemberQueued(
                at=2.0, member="m0002", parameters={"a": 0.1, "kind": "red"}, x=(0.1, 1.0, 0.0), origin="holdout", why="hold-out", round=1
            )
        )
        chronicle.record(ev.MemberRescored(at=3.0, member="m0001", score=0.0, withdrawn=True, why="withdrawn: its score fell"))
    return tmp_path / "s"


def test_one_member(study, capsys):
    assert main(["why", str(study), "m0001"]) == 0
    said = capsys.readouterr().out
    assert "m0001: a=0.75, kind=blue" in said
    assert "in round 1 by std_distance (acquisition), score 0.5, when 0 members had data" in said
    assert "because  std 0.4 of the outputs' spread, 3.0x the median" in said
    assert "then     withdrawn: its score fell" in said
    assert "outcome" in said


def test_the_latest_members_by_round(study, capsys):
    assert main(["why", str(study)]) == 0
    said = capsys.readouterr().out
    assert said.index("round 0 (design)") < said.index("m0000") < said.index("round 1 (std_distance)") < said.index("m0001")
    assert "3 members: 1 design, 1 acquisition, 1 holdout." in said


def test_json(study, capsys):
    assert main(["why", str(study), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["member"] for c in found] == ["m0000", "m0001", "m0002"]
    assert found[0]["score"] is None
    assert found[2]["by"] == "sobol"


def test_wrong_members_and_folders_are_told(study, tmp_path, capsys):
    assert main(["why", str(study), "m0007"]) == 2
    assert "There is no member 'm0007'" in capsys.readouterr().err
    assert main(["why", str(tmp_path / "none")]) == 2
    assert "There is no study in" in capsys.readouterr().err
