from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alearn.errors import ConfigError, LedgerCorrupt
from alearn.report import (
    CalibrationSummary,
    Cost,
    ErrorSummary,
    MemberCounts,
    SampleCounts,
    Status,
    read_status,
    render_status,
    status_age,
    write_status,
)
from alearn.report.status import Idle
from alearn.types import MemberState

CONTRACT = {
    "study": "gs",
    "state": "running",
    "arm": "active",
    "members": {"queued": 1, "running": 2, "done": 3, "killed": 4, "failed": 5, "lost": 6, "withdrawn": 7},
    "samples": {"streamed": 30, "stored": 28, "duplicates_dropped": 2},
    "rounds": 7,
    "updates": 900,
    "error": {"mean": 0.1, "p95": 0.2, "p99": 0.3, "max": 0.4, "n_test": 64},
    "calibration": {"coverage95": 0.93},
    "cost": {"simulated_steps": 28, "saved_steps": 12, "simulation_core_s": 1.5},
    "control": None,
}


def full_status(**changes: object) -> Status:
    status = Status(
        "gs", "running", "active", MemberCounts(1, 2, 3, 4, 5, 6, 7), SampleCounts(30, 28, 2), 7, 900,
        ErrorSummary(0.1, 0.2, 0.3, 0.4, 64), CalibrationSummary(0.93), Cost(28, 12, 1.5),
    )  # fmt: skip
    return replace(status, **changes)  # type: ignore[arg-type]


def test_the_file_is_exactly_the_contract_and_in_its_order(tmp_path: Path) -> None:
    path = write_status(tmp_path, full_status())
    raw = json.loads(path.read_text())
    assert path.name == "status.json"
    assert raw == CONTRACT
    assert list(raw) == list(CONTRACT)
    assert read_status(tmp_path) == full_status()


def test_a_file_of_before_members_were_counted_as_withdrawn_can_be_read(tmp_path: Path) -> None:
    path = write_status(tmp_path, full_status())
    path.write_text(path.read_text().replace(',\n    "withdrawn": 7', ""))
    assert "withdrawn" not in path.read_text()
    assert read_status(tmp_path).members == replace(full_status().members, withdrawn=0)


def test_the_control_arm_is_the_same_object_inside(tmp_path: Path) -> None:
    control = full_status(arm="control", state="done")
    write_status(tmp_path, full_status(control=control))
    raw = json.loads((tmp_path / "status.json").read_text())
    assert raw["control"] == CONTRACT | {"arm": "control", "state": "done"}
    assert read_status(tmp_path).control == control


def test_who_was_idle_is_told_and_may_be_missing(tmp_path: Path) -> None:
    write_status(tmp_path, full_status(idle=Idle(0.25, 0.5)))
    assert json.loads((tmp_path / "status.json").read_text())["idle"] == {"slots": 0.25, "learner": 0.5}
    assert "idle         slots 25 %, learner 50 % of the time" in render_status(read_status(tmp_path))
    write_status(tmp_path, full_status())
    assert "idle" not in json.loads((tmp_path / "status.json").read_text())
    assert read_status(tmp_path).idle == Idle()


def test_who_leads_is_told_where_surrogates_compete(tmp_path: Path) -> None:
    write_status(tmp_path, full_status(lead="gp leads: error 0.1, ensemble 0.2 (30 members, prequential)"))
    assert json.loads((tmp_path / "status.json").read_text())["lead"].startswith("gp leads")
    assert "surrogate    gp leads" in render_status(read_status(tmp_path))


def test_unknown_numbers_are_null_and_never_nan(tmp_path: Path) -> None:
    status = Status(
        "gs",
        error=ErrorSummary.of({"mean": math.nan, "p95": math.inf, "n_test": math.nan}),
        calibration=CalibrationSummary(float("-inf")),
        cost=Cost(np.int64(3), 0, np.float64("nan")),  # type: ignore[arg-type]
    )
    text = write_status(tmp_path, status).read_text()

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    raw = json.loads(text, parse_constant=refuse)
    assert raw["error"] == {"mean": None, "p95": None, "p99": None, "max": None, "n_test": 0}
    assert raw["calibration"] == {"coverage95": None}
    assert raw["cost"] == {"simulated_steps": 3, "saved_steps": 0, "simulation_core_s": None}
    assert read_status(tmp_path).error.mean is None


def test_members_are_counted_by_state_and_starting_is_running() -> None:
    states = [MemberState.STARTING, MemberState.RUNNING, MemberState.DONE, MemberState.LOST, "killed"]
    counts = MemberCounts.of(states)
    assert (counts.running, counts.done, counts.lost, counts.killed, counts.total, counts.ended) == (2, 1, 1, 1, 5, 3)


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    write_status(tmp_path, full_status())
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            write_status(tmp_path, full_status(study="gs" * (1 + n % 400), updates=n))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {read_status(tmp_path).updates for _ in range(400)}
    finally:
        stop.set()
        writer.join(10)
    assert len(seen) > 1
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    write_status(tmp_path, full_status())
    with pytest.raises((TypeError, ValueError)):
        write_status(tmp_path, full_status(rounds="seven"))
    assert read_status(tmp_path) == full_status()
    assert len(list(tmp_path.iterdir())) == 1


def test_missing_directories_and_other_directories_get_sentences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no directory"):
        read_status(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="not a study's directory"):
        read_status(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        read_status(tmp_path / "file")
    assert status_age(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a status file"),
        ("{", "not a status file"),
        ("[]", "an object is expected, and list was found"),
        (json.dumps(CONTRACT | {"state": "flying"}), "'state' is 'flying', not one of running"),
        (json.dumps(CONTRACT | {"study": 3}), "'study' must be a string, and is 3"),
        (json.dumps(CONTRACT | {"rounds": -1}), "'rounds' must be a count, and is -1"),
        (json.dumps(CONTRACT | {"members": {"done": True}}), "'members.queued' must be a count, and is missing"),
        (json.dumps(CONTRACT | {"error": {"mean": "small"}}), "'error.mean' must be a number or null, and is 'small'"),
        (json.dumps(CONTRACT | {"calibration": {}}), "'calibration.coverage95' is missing"),
        (json.dumps({k: v for k, v in CONTRACT.items() if k != "control"}), "'control' is missing"),
        (json.dumps(CONTRACT | {"control": {"study": "x"}}), "'state' must be a string, and is missing"),
    ],
)
def test_a_garbled_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(LedgerCorrupt) as caught:
        read_status(tmp_path)
    assert said in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(LedgerCorrupt, match="is not text"):
        read_status(tmp_path)


def test_keys_of_later_versions_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(CONTRACT | {"mood": "good", "members": CONTRACT["members"] | {"asleep": 1}}))  # type: ignore[operator]
    assert read_status(tmp_path) == full_status()


def test_rendered_for_people(tmp_path: Path) -> None:
    text = render_status(full_status(control=full_status(arm="control", state="done", error=ErrorSummary())))
    for said in ("gs: running", "3 done", "4 killed", "28 stored of 30 streamed", "2 duplicates dropped", "p95 0.200", "64 test members",
                 "12 saved by kills (30 %)", "control arm (done)", "not measured"):  # fmt: skip
        assert said in text
    assert "last sign of life" not in text
    assert "last sign of life 1:30 min ago" in render_status(full_status(), age_s=90)
    assert "last sign of life" not in render_status(full_status(state="done"), age_s=90)
    write_status(tmp_path, full_status())
    os.utime(tmp_path / "status.json", (1, 1))
    assert (status_age(tmp_path) or 0) > 1e6
