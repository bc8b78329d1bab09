from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from alearn.events import Evaluated
from alearn.report import ArmData, Axis, ReportData, Snapshot2D, build_maps, draw_all, map_figure, save_figures
from alearn.report.figures import calibration, fields, learning_curves, timeline, trajectories
from alearn.report.style import STATE_COLOURS, house_style, new_figure, render
from alearn.types import Member, MemberState


def pixels(figure: object, dpi: int = 50) -> np.ndarray:
    image = matplotlib.image.imread(io.BytesIO(render(figure, "png", dpi)), format="png")  # type: ignore[arg-type]
    assert image.ndim == 3
    return image


def texts(figure: object) -> list[str]:
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]  # type: ignore[attr-defined]


def test_every_figure_is_drawn_and_saved(tmp_path: Path, study_data: ReportData) -> None:
    paths = save_figures(tmp_path, study_data, dpi=40)
    assert [p.stem for p in paths] == [
        "coverage", "density", "uncertainty", "error", "learning", "timeline", "calibration", "trajectories", "fields",
    ]  # fmt: skip
    for path in paths:
        image = matplotlib.image.imread(path)
        assert image.std() > 0.01, f"{path.name} is blank"


def test_drawing_leaves_the_users_matplotlib_alone(study_data: ReportData) -> None:
    import sys

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30.0}):
        pixels(learning_curves(study_data.active))  # a user's usetex must not reach the report
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("d", [1, 3, 8])
def test_maps_of_any_number_of_parameters(d: int) -> None:
    rng = np.random.default_rng(0)
    axes = tuple(Axis(f"p{i}", 0.1, 10.0, "m", log=i % 2 == 1) for i in range(d))
    maps = build_maps(axes, rng.random((9, d)), uncertainty=lambda x: x[:, 0] + 0.1, resolution=6, spread=2)
    figure = map_figure(maps, "uncertainty")
    assert pixels(figure, 30).std() > 0.01
    said = texts(figure)
    assert "predictive standard deviation" in said
    assert "p0 [m]" in said
    if d > 2:
        assert any("mean over the other parameters" in t for t in said)
    if d > 7:
        assert any("7 of 8 parameters, those that matter most" in t for t in said)


def test_a_missing_map_says_why() -> None:
    maps = build_maps((Axis("a"), Axis("b")), np.zeros((0, 2)))
    for what, why in (("distance", "no member"), ("uncertainty", "no surrogate"), ("error", "no test member")):
        assert any(why in t for t in texts(map_figure(maps, what)))
        pixels(map_figure(maps, what), 30)


def test_members_are_drawn_by_state_and_both_arms_share_one_scale(study_data: ReportData) -> None:
    assert study_data.control is not None
    assert study_data.active.maps is not None
    figure = map_figure(study_data.active.maps, "distance", beside=study_data.control.maps)
    meshes = [c for ax in figure.axes for c in ax.collections if type(c).__name__ == "QuadMesh" and ax.get_xlabel()]
    assert len(meshes) == 2
    assert meshes[0].norm is meshes[1].norm
    assert any(t.startswith("killed (") for t in texts(figure))


@pytest.mark.parametrize("value", [0.0, 5.0, math.nan])
def test_flat_and_nan_maps_are_drawn(value: float) -> None:
    maps = build_maps((Axis("a"), Axis("b")), np.full((2, 2), 0.5), uncertainty=lambda x: np.full(len(x), value), resolution=5)
    pixels(map_figure(maps, "uncertainty"), 30)


def test_names_with_dollars_and_foreign_letters_are_drawn_as_they_are() -> None:
    axes = (Axis(r"$\frac{", 0, 1, "µ$"), Axis("温度", labels=("<b>", "$x")))
    maps = build_maps(axes, np.full((2, 2), 0.5), resolution=5)
    figure = map_figure(maps)
    pixels(figure, 30)
    assert r"$\frac{ [µ$]" in texts(figure)


def test_learning_curves_show_both_arms_and_survive_nan_zero_and_nothing(study_data: ReportData) -> None:
    figure = learning_curves(study_data.active, study_data.control, "relative error", "m")
    said = texts(figure)
    assert "mean   control / active = 1.83" in said
    assert "active (std_distance)" in said
    assert "relative error [m]" in said
    assert len(figure.axes[0].lines) == 2
    nan = Evaluated(at=1.0, simulated_steps=3, members=1, error={"mean": math.nan, "p95": 0.0})
    pixels(learning_curves(ArmData("active", evaluations=[nan, nan]), ArmData("control")), 30)
    assert "mean: not measured" in texts(learning_curves(ArmData("active", evaluations=[nan])))


def test_without_a_test_set_the_mean_is_that_of_the_arriving_members() -> None:
    seen = [Evaluated(at=float(i), simulated_steps=10 * i, members=i, error={}, prequential={"mean": 1.0 / i}) for i in range(1, 5)]
    said = texts(learning_curves(ArmData("active", evaluations=seen)))
    assert "mean, of members as they arrived" in said
    assert "0.250" in said
    assert "95th percentile: not measured" in said


def test_the_timeline_colours_states_and_names_kill_reasons(study_data: ReportData) -> None:
    figure = timeline(study_data.arms)
    said = texts(figure)
    assert any(t.startswith("killed: nothing left to teach (") for t in said)
    assert any(t.startswith("killed: diverging (") for t in said)
    bars = figure.axes[0].patches
    members = sorted(study_data.active.members, key=lambda m: m.started_at)
    assert len(bars) == len(members)
    for bar, member in zip(bars, members, strict=True):
        if member.state is MemberState.DONE:
            assert matplotlib.colors.to_hex(bar.get_facecolor()) == STATE_COLOURS["done"]
        assert bar.get_width() == pytest.approx(member.ended_at - member.started_at, abs=1e-5)


def test_a_member_that_still_runs_reaches_to_the_end_of_what_is_known() -> None:
    members = [
        Member("m0", {}, (0.5,), MemberState.DONE, started_at=10.0, ended_at=20.0),
        Member("m1", {}, (0.5,), MemberState.RUNNING, started_at=12.0),
        Member("m2", {}, (0.5,), MemberState.QUEUED),
    ]
    figure = timeline([ArmData("active", members=members)])
    assert [bar.get_width() for bar in figure.axes[0].patches] == [10.0, 8.0]
    assert "No member was started." in texts(timeline([ArmData("active", members=members[2:])]))


def test_empty_and_odd_inputs_say_so(study_data: ReportData) -> None:
    assert "Calibration was not measured." in texts(calibration([ArmData("active")]))
    assert "No trajectory was kept." in texts(trajectories([]))
    assert "No field was kept." in texts(fields([]))
    odd = [
        Snapshot2D("line", "u", np.arange(5.0), "K"),
        Snapshot2D("flat", "v", np.full((4, 4), math.nan)),
        Snapshot2D("cube", "w", np.zeros((2, 2, 2))),
        Snapshot2D("int", "v", np.arange(16, dtype=np.uint8).reshape(4, 4)),
    ]
    pixels(fields(odd), 30)
    bare = [replace(t, predicted=None, predicted_t=None, std=None) for t in study_data.trajectories]
    pixels(trajectories(bare), 30)
    assert draw_all(ReportData("empty", ArmData("active"))) == {}


def test_svg_is_well_formed_and_the_same_every_time(study_data: ReportData) -> None:
    first, second = (render(calibration(study_data.arms), "svg") for _ in range(2))
    assert ET.fromstring(first).tag.endswith("svg")
    assert first == second


def test_house_style_ends_with_its_block() -> None:
    before = matplotlib.rcParams["font.size"]
    with house_style():
        new_figure(1, 1)
        assert matplotlib.rcParams["font.size"] == 9.5
    assert matplotlib.rcParams["font.size"] == before


def test_finer_maps_keep_their_values_and_orientation() -> None:
    from alearn.report.map_figures import _finer

    coarse = np.asarray([[0.0, 1.0], [10.0, 11.0]])
    fine = _finer(coarse, 4)
    assert fine.shape == (8, 8)
    assert (fine[0, 0], fine[0, -1], fine[-1, 0], fine[-1, -1]) == (0.0, 1.0, 10.0, 11.0)
    assert fine.mean() == pytest.approx(coarse.mean())
    assert _finer(np.asarray([[3.0]]), 2).tolist() == [[3.0, 3.0], [3.0, 3.0]]
