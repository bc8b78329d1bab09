"""What is said of transforms at the end of a study."""

import dataclasses
import json

from alearn.report.data import ArmData, ReportData
from alearn.report.html import render_report
from alearn.report.preprocessing import Preprocessing, read_preprocessing
from alearn.transform import Planner

TOLD = Preprocessing(
    place="writer",
    why="predicted 10.0 ms a step, against 10.5 ms at the reader",
    raw_bytes=36888,
    out_bytes=160,
    steps={"writer": 623, "reader": 240},
    predicted_s={"writer": 0.010, "reader": 0.0105},
    measured_s={"writer": 0.0114, "reader": 0.0081},
    codecs=({"field": "v", "version": 13, "what": "30 of 32 modes", "exact": 26, "lossy": 1},),
)


def test_predicted_stands_beside_measured():
    lines = TOLD.lines()
    assert "36.9 kB a step became 160 B, 231 times less" in lines[0]
    assert "30 of 32 modes in version 13; 26 fields kept raw" in lines[1]
    assert "1 field beyond the stated error" in lines[1]
    assert lines[2].split() == ["ms", "a", "step", "steps", "predicted", "measured"]
    assert lines[3].split() == ["at", "the", "writer", "623", "10.0", "11.4", "chosen"]
    assert lines[4].split() == ["at", "the", "reader", "240", "10.5", "8.10"]


def test_without_a_comparison_there_is_no_table():
    assert len(dataclasses.replace(TOLD, predicted_s={}, codecs=()).lines()) == 1
    assert "too few members to choose" in dataclasses.replace(TOLD, place="", why="").sentences()[0]
    assert dataclasses.replace(TOLD, on_read=True, read=100).sentences()[0] == (
        "Raw steps of 36.9 kB are stored; 100 of 863 steps were transformed to be learned."
    )


def test_the_accounts_of_a_planner_are_read_and_damaged_ones_are_none(tmp_path):
    assert read_preprocessing(tmp_path) is None
    path = tmp_path / "transform" / "plan.json"
    path.parent.mkdir()
    account = {**Planner("reader").account(), "steps": {"writer": 0, "reader": 3}, "read": 0, "on_read": False, "codecs": []}
    path.write_text(json.dumps(account))
    assert read_preprocessing(tmp_path).steps == {"writer": 0, "reader": 3}
    path.write_text('{"place": ')
    assert read_preprocessing(tmp_path) is None


def test_the_page_has_a_section_for_it():
    arm = ArmData(name="active", acquisition="std", members=[], evaluations=[])
    assert 'id="preprocessing"' not in render_report(ReportData("study", arm))
    page = render_report(ReportData("study", arm, preprocessing=TOLD))
    assert 'id="preprocessing"' in page
    assert "<td>at the writer</td><td class=n>623</td><td class=n>10.0</td><td class=n>11.4</td><td>chosen</td>" in page
