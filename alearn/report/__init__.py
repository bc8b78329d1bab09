"""report: the status file, the live view, maps, figures, the verdict, report.html and notebook views.

Everything is loaded when it is first used: a status is read without numpy's cost, a map without matplotlib's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alearn.report.data import (
        ArmData,
        Calibration,
        KillAudit,
        ReportData,
        Snapshot2D,
        Trajectory,
        audit_kills,
        curve_of,
    )
    from alearn.report.figures import draw_all, save_figures
    from alearn.report.html import write_report
    from alearn.report.live import Gauge, KillNote, LiveView, NullView, PlainView, Snapshot, View, open_view
    from alearn.report.map_figures import map_figure
    from alearn.report.maps import Axis, Maps, build_maps, load_maps, save_maps
    from alearn.report.notebook import Shown, coverage_view, error_view, status_view, uncertainty_view
    from alearn.report.status import (
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
    from alearn.report.verdict import Comparison, Verdict, judge, kill_sentences

_WHERE = {
    "data": ("ArmData", "Calibration", "KillAudit", "ReportData", "Snapshot2D", "Trajectory", "audit_kills", "curve_of"),
    "figures": ("draw_all", "save_figures"),
    "html": ("write_report",),
    "live": ("Gauge", "KillNote", "LiveView", "NullView", "PlainView", "Snapshot", "View", "open_view"),
    "map_figures": ("map_figure",),
    "maps": ("Axis", "Maps", "build_maps", "load_maps", "save_maps"),
    "notebook": ("Shown", "coverage_view", "error_view", "status_view", "uncertainty_view"),
    "status": (
        "CalibrationSummary", "Cost", "ErrorSummary", "MemberCounts", "SampleCounts", "Status",
        "read_status", "render_status", "status_age", "write_status",
    ),
    "verdict": ("Comparison", "Verdict", "judge", "kill_sentences"),
}  # fmt: skip
_LAZY = {name: f"alearn.report.{module}" for module, names in _WHERE.items() for name in names}

__all__ = [
    "ArmData", "Axis", "Calibration", "CalibrationSummary", "Comparison", "Cost", "ErrorSummary", "Gauge", "KillAudit",
    "KillNote", "LiveView", "Maps", "MemberCounts", "NullView", "PlainView", "ReportData", "SampleCounts", "Shown",
    "Snapshot", "Snapshot2D", "Status", "Trajectory", "Verdict", "View", "audit_kills", "build_maps", "coverage_view",
    "curve_of", "draw_all", "error_view", "judge", "kill_sentences", "load_maps", "map_figure", "open_view", "read_status",
    "render_status", "save_figures", "save_maps", "status_age", "status_view", "uncertainty_view", "write_report",
    "write_status",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'alearn.report' has no attribute {name!r}; public names: {', '.join(sorted(__all__))}")
    return getattr(importlib.import_module(_LAZY[name]), name)
