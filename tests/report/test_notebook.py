from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.image
import pytest

from alearn.report import ReportData, coverage_view, error_view, load_maps, save_maps, status_view, uncertainty_view


def test_views_of_a_finished_study_draw_themselves(tmp_path: Path, study_data: ReportData) -> None:
    assert study_data.active.maps is not None
    save_maps(tmp_path, study_data.active.maps)
    maps = load_maps(tmp_path)
    for view in (coverage_view(maps), coverage_view(maps, density=True), uncertainty_view(maps, maps, "K"), error_view(maps)):
        html = view._repr_html_()
        body = re.search(r"src='data:image/png;base64,([^']+)'", html)
        assert body is not None
        assert matplotlib.image.imread(io.BytesIO(base64.b64decode(body.group(1)))).std() > 0.01
        assert html.count("<div>") == html.count("</div>") == 1
    assert "F and k" in coverage_view(maps).caption


def test_a_view_can_be_saved(tmp_path: Path, study_data: ReportData) -> None:
    assert study_data.active.maps is not None
    view = coverage_view(study_data.active.maps)
    view.save(str(tmp_path / "a.svg"))
    view.save(str(tmp_path / "a.png"), dpi=40)
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert matplotlib.image.imread(tmp_path / "a.png").ndim == 3


def test_a_status_is_text_and_escaped(study_data: ReportData) -> None:
    from dataclasses import replace

    assert study_data.active.status is not None
    view = status_view(replace(study_data.active.status, study="<script>"))
    assert "<script>" not in view._repr_html_()
    assert "&lt;script&gt;" in view._repr_html_()
    with pytest.raises(ValueError, match="no figure"):
        view.save("nowhere.png")
