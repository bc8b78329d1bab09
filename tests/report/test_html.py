from __future__ import annotations

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from alearn.report import ArmData, Axis, ReportData, Snapshot2D, Trajectory, build_maps, write_report
from alearn.types import Member, MemberState

EVIL = "<script>alert('x')</script>\"'&$\\frac{"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Parses a page strictly: tags must nest, and what it holds is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.sources: dict[str, str] = {}
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        text = path.read_text(encoding="utf-8")
        self.raw = text
        self.feed(text)
        self.close()
        assert self.stack == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "img":
            self.sources[str(found["alt"])] = str(found["src"])
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)


def check_images(page: Page) -> None:
    for name, source in page.sources.items():
        head, _, body = source.partition(";base64,")
        data = base64.b64decode(body, validate=True)
        if head == "data:image/png":
            assert matplotlib.image.imread(io.BytesIO(data), format="png").std() > 0.005, name
        else:
            assert head == "data:image/svg+xml"
            assert ET.fromstring(data).tag.endswith("svg")


def check_self_contained(page: Page) -> None:
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert str(value).startswith("data:")
    outside = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", page.raw)
    assert "http:" not in outside
    assert "https:" not in outside
    assert "url(" not in outside
    assert "@import" not in outside


def test_a_whole_report(tmp_path: Path, study_data: ReportData) -> None:
    path = write_report(tmp_path, study_data)
    assert path == tmp_path / "report.html"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    page = Page(path)
    assert [i for i in page.ids if not i.startswith("figure-")] == [
        "maps", "learning", "members", "calibration", "outputs", "failures", "reproduce",
    ]  # fmt: skip
    assert {i.removeprefix("figure-") for i in page.ids if i.startswith("figure-")} == {
        "coverage", "density", "uncertainty", "error", "learning", "timeline", "calibration", "trajectories", "fields",
    }  # fmt: skip
    assert len(page.sources) == 9
    check_images(page)
    check_self_contained(page)
    for said in ("Active learning won. With the same 48 members", "1.83 on the mean", "With the same 1,632 simulated steps", "Kills saved",
                 "nothing left to teach", "FloatingPointError: v became NaN at step 7", "the budget of 48 members is spent", "Seed 7",
                 "alearn run experiment=gray_scott seed=7", "torch 2.13.0", "F: [0.01, 0.08]", "2023-11-14 22:13:20 UTC",
                 "2 condemned members ran on as ghosts"):  # fmt: skip
        assert said in page.text, said
    assert "nan" not in re.findall(r"[a-z]+", page.text)


def test_a_loss_is_the_headline_when_it_lost(tmp_path: Path, study_data: ReportData) -> None:
    assert study_data.control is not None
    swapped = replace(study_data, active=replace(study_data.control, name="active"), control=replace(study_data.active, name="control"))
    assert "Active learning is not helping here." in Page(write_report(tmp_path, swapped)).text


def evil_report() -> ReportData:
    member = Member("m0<b>", {EVIL: EVIL}, (0.2, 0.3), MemberState.FAILED, reason=EVIL, started_at=1.0, ended_at=2.0)
    killed = replace(member, state=MemberState.KILLED)
    axes = (Axis(EVIL, 0, 1, EVIL), Axis("b", labels=(EVIL, "x")))
    maps = build_maps(axes, np.asarray([[0.2, 0.3]]), uncertainty=lambda x: x[:, 0], resolution=6)
    return ReportData(
        study=EVIL, active=ArmData(EVIL, EVIL, [member, killed], maps=maps), control=ArmData(EVIL, EVIL), state=EVIL, reason=EVIL,
        simulation=EVIL, surrogate=EVIL, error_name=EVIL, error_unit=EVIL,
        trajectories=[Trajectory(EVIL, EVIL, np.arange(3.0), np.arange(3.0), EVIL, EVIL)], fields=[Snapshot2D(EVIL, EVIL, np.eye(3), EVIL)],
        config=EVIL, versions={EVIL: EVIL}, reproduce=[EVIL], notes=[EVIL, "lone \ud800 surrogate"],
    )  # fmt: skip


def test_strings_of_the_user_are_text_and_nothing_else(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, evil_report()))
    check_self_contained(page)
    check_images(page)
    assert "<script" not in page.raw
    assert page.text.count("<script>alert('x')</script>") > 10


@pytest.mark.parametrize("d", [1, 7])
def test_one_and_seven_parameters(tmp_path: Path, d: int) -> None:
    rng = np.random.default_rng(0)
    axes = tuple(Axis(f"p{i}") for i in range(d))
    maps = build_maps(axes, rng.random((5, d)), uncertainty=lambda x: x[:, 0], resolution=5, spread=2)
    page = Page(write_report(tmp_path, ReportData("s", ArmData("active", maps=maps))))
    assert set(page.sources) == {"Coverage", "Where the members went", "Uncertainty"}
    check_images(page)


def test_a_study_without_control_test_set_or_members_is_a_good_page_too(tmp_path: Path, study_data: ReportData) -> None:
    page = Page(write_report(tmp_path, replace(study_data, control=None)))
    assert "no control arm" in page.text
    check_images(page)

    page = Page(write_report(tmp_path, ReportData("empty", ArmData("active"))))
    for said in ("empty", "The surrogate's error was not measured.", "No maps: no member delivered data.", "No member failed.",
                 "Calibration was not measured.", "never measured on test members"):  # fmt: skip
        assert said in page.text, said
    assert page.sources == {}

    failed = [Member(f"m{i}", {"a": 1.5}, (0.1,), MemberState.FAILED, reason="exit code 3", started_at=float(i)) for i in range(300)]
    maps = build_maps((Axis("a"),), np.zeros((0, 1)))
    page = Page(
        write_report(tmp_path, ReportData("s", ArmData("active", members=failed, maps=maps), state="failed", reason="too many failed"))
    )
    assert "The study failed: too many failed." in page.text
    assert "100 more are in the ledger." in page.text
    assert "a = 1.5" in page.text


def test_times_that_are_not_known_do_not_matter(tmp_path: Path) -> None:
    member = Member("m0", {}, (0.5,), MemberState.LOST, started_at=math.nan)
    assert "no reason recorded" in Page(write_report(tmp_path, ReportData("s", ArmData("active", members=[member])))).text
