"""``report.html``: a study on one self-contained page, readable without scripts, network or alearn."""

from __future__ import annotations

import html
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alearn.report.data import METRICS, ArmData, ReportData
from alearn.report.figures import draw_all
from alearn.report.status import ErrorSummary, MemberCounts, idle_words
from alearn.report.style import data_uri
from alearn.report.verdict import Verdict, judge, kill_sentences
from alearn.report.words import count, duration, number, percent, plural
from alearn.types import Member, MemberState, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.html"
_STYLE = Path(__file__).with_name("page.css")
_VECTOR = ("learning", "calibration", "trajectories")
_MOST_ROWS = 200
_TITLES = {
    "coverage": "Coverage",
    "density": "Where the members went",
    "uncertainty": "Uncertainty",
    "error": "Error",
    "learning": "Learning curves",
    "timeline": "Members",
    "calibration": "Calibration",
    "trajectories": "Trajectories",
    "fields": "Fields",
}
_WORDS = {"won": "active learning won", "lost": "the control won", "mixed": "mixed", "draw": "a draw", "unknown": "no comparison"}


def write_report(directory: Path | str, data: ReportData) -> Path:
    """Write ``report.html`` into the study's directory, replacing it atomically.

    Args:
        directory: the study's directory.
        data: what to draw; whatever is missing is left out or said to be missing.

    Returns:
        The page's path.
    """
    path = Path(directory) / REPORT_FILE
    temporary = path.with_name(f".{REPORT_FILE}.{os.getpid()}")
    try:
        temporary.write_text(render_report(data), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render_report(data: ReportData) -> str:
    """The page as text."""
    verdict = judge(data.active, data.control)
    figures = draw_all(data)
    sections = [
        _maps(data, figures),
        _learning(data, verdict, figures),
        _members(data, figures),
        _calibration(data, figures),
        _outputs(data, figures),
        _preprocessing(data),
        _failures(data),
        _making(data),
    ]
    body = "\n".join(s for s in sections if s)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{_e(data.study)}: report</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body>\n{_header(data, verdict)}\n<main>\n{body}\n</main>\n{_footer(data)}\n</body></html>\n"
    )


def _e(text: object) -> str:
    """Escaped for HTML text and attributes; bytes that cannot be written are replaced."""
    return html.escape(str(text), quote=True).encode("utf-8", "replace").decode("utf-8")


def _sentences(items: Iterable[str], tag: str = "p", cls: str = "") -> str:
    mark = f' class="{cls}"' if cls else ""
    return "".join(f"<{tag}{mark}>{_e(item)}</{tag}>" for item in items if item)


def _section(name: str, title: str, *parts: str) -> str:
    return f'<section id="{name}">\n<h2>{_e(title)}</h2>\n' + "\n".join(p for p in parts if p) + "\n</section>"


def _picture(figures: Mapping[str, Figure], name: str, caption: str = "") -> str:
    figure = figures.get(name)
    if figure is None:
        return ""
    kind = "svg" if name in _VECTOR else "png"
    width = round(figure.get_figwidth() * 96)
    under = f"<figcaption>{_e(caption)}</figcaption>" if caption else ""
    return (
        f'<figure id="figure-{name}"><img alt="{_e(_TITLES[name])}" style="width:{width}px" src="{data_uri(figure, kind)}">{under}</figure>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = (), cls: str = "") -> str:
    right = set(numbers)

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if i in right else ''}>{_e(cell)}</{tag}>" for i, cell in enumerate(row))

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{cls}"><thead><tr>{cells("th", head)}</tr></thead><tbody>{lines}</tbody></table></div>'


def _header(data: ReportData, verdict: Verdict) -> str:
    facts = [f for f in (data.simulation, data.surrogate) if f]
    how = {"done": "is done", "stopped": "was stopped", "failed": "failed", "running": "is still running"}.get(data.state, data.state)
    ended = f"The study {how}" + (f": {data.reason}." if data.reason else ".") if data.state else ""
    kills = kill_sentences(data.active.kills)[:1]
    box = _sentences([verdict.headline], cls="headline") + _sentences([*verdict.sentences, *kills])
    notes = _sentences([ended, *data.notes], cls="note")
    badge = f'<p class="badge">{_e(_WORDS[verdict.outcome])}</p>'
    top = f'<p class="kicker">alearn report</p>\n<h1>{_e(data.study)}</h1>\n{_sentences([" · ".join(facts)], cls="what")}'
    return f'<header>\n{top}<div class="verdict {verdict.outcome}">{badge}{box}</div>\n{_tiles(data)}{notes}\n</header>'


def _counts(arm: ArmData) -> MemberCounts:
    if arm.status is not None:
        return arm.status.members
    return MemberCounts.of(m.state for m in arm.members if m.attempt or m.state is not MemberState.KILLED)  # not the withdrawn


def _tiles(data: ReportData) -> str:
    """The few figures that one looks for first."""
    arm = data.active
    members = _counts(arm)
    tiles = [(count(members.total), "members", f"{members.done} done, {members.killed} killed, {members.failed} failed")]
    if arm.status is not None:
        cost = arm.status.cost
        tiles.append((count(arm.status.samples.stored), "samples stored", f"{plural(arm.status.updates, 'update')} of the surrogate"))
        total = cost.simulated_steps + cost.saved_steps
        saved = percent(cost.saved_steps / total) if total else "–"
        tiles.append((saved, "simulation saved by kills", f"{count(cost.saved_steps)} of {count(total)} steps"))
    error = _last_error(arm)
    if error.mean is not None:
        tail = f"p99 {number(error.p99)}, max {number(error.max)}, {plural(error.n_test, 'test member')}"
        tiles.append((number(error.mean), f"mean {data.error_short}", tail))
    length = arm.end - arm.begin
    if math.isfinite(length):
        seconds = arm.status.cost.simulation_core_s if arm.status is not None else None
        idle = idle_words(arm.status.idle) if arm.status is not None else None
        more = [f"{number(seconds)} core-seconds of simulation"] if seconds is not None else []
        tiles.append((duration(length), "wall time", "; ".join([*more, *([f"idle: {idle}"] if idle else [])])))
    return '<div class="tiles">' + "".join(
        f'<div class="tile"><p class="value">{_e(v)}</p><p class="name">{_e(n)}</p><p class="more">{_e(m)}</p></div>' for v, n, m in tiles
    ) + "</div>"  # fmt: skip


def _last_error(arm: ArmData) -> ErrorSummary:
    if arm.evaluations:
        last = ErrorSummary.of(max(arm.evaluations, key=lambda e: (e.at, e.simulated_steps)).error)
        if last.mean is not None and math.isfinite(last.mean):
            return last
    return arm.status.error if arm.status is not None else ErrorSummary()


def _maps(data: ReportData, figures: Mapping[str, Figure]) -> str:
    captions = {
        "coverage": "Distance from each point of the parameter box to the nearest member with data: the smaller, the better covered.",
        "density": "How densely members lie, relative to a uniform design: active learning should crowd where there is something to learn.",
        "uncertainty": "The surrogate's predictive standard deviation: where it is large, it would still like to simulate.",
        "error": "The surrogate's error at the test members (circles), interpolated between them. The test members are never trained on.",
    }
    drawn = [_picture(figures, name, caption) for name, caption in captions.items()]
    if not any(drawn):
        return _section("maps", "Maps", '<p class="empty">No maps: no member delivered data.</p>')
    return _section("maps", "Maps of the parameter box", '<div class="gallery">' + "".join(drawn) + "</div>")


def _learning(data: ReportData, verdict: Verdict, figures: Mapping[str, Figure]) -> str:
    caption = f"Error on the fixed test members against what was simulated. What is measured: {data.error_name}."
    picture = _picture(figures, "learning", caption)
    if not picture:
        return _section("learning", "Learning curves", '<p class="empty">The surrogate was never measured on test members.</p>')
    tables = []
    for comparison in (verdict.members, verdict.steps):
        if comparison is None:
            continue
        what = "members" if comparison.along == "members" else "simulated steps"
        rows = [
            [m, number(comparison.active[m]), number(comparison.control[m]), number(comparison.ratios[m])] for m in METRICS
        ]  # fmt: skip
        tables.append(
            f"<div><h3>With the same {_e(count(comparison.at))} {what}</h3>"
            + _table(["error", data.active.name, data.control.name if data.control else "", "ratio"], rows, (1, 2, 3))
            + "</div>"
        )
    note = (
        "<p class=note>A ratio above 1 is in favour of active learning. One study is one seed: small differences are chance.</p>"
        if tables
        else ""
    )
    return _section("learning", "Learning curves", picture, f'<div class="pair">{"".join(tables)}</div>' if tables else "", note)


def _members(data: ReportData, figures: Mapping[str, Figure]) -> str:
    rows = []
    for arm in data.arms:
        c = _counts(arm)
        rows.append([arm.name, arm.acquisition, *(count(n) for n in (c.total, c.done, c.killed, c.failed, c.lost, c.running + c.queued))])
    table = _table(["arm", "points chosen by", "members", "done", "killed", "failed", "lost", "unfinished"], rows, range(2, 8))
    kills = _sentences(kill_sentences(data.active.kills))
    return _section("members", "Members and kills", _picture(figures, "timeline", "Each bar is one member's life."), kills, table)


def _calibration(data: ReportData, figures: Mapping[str, Figure]) -> str:
    picture = _picture(figures, "calibration", "On the diagonal, a 90 % interval holds 90 % of the truth.")
    covered = data.active.status.calibration.coverage95 if data.active.status is not None else None
    said = f"The 95 % interval of the surrogate held {percent(covered)} of the test values." if covered is not None else ""
    if not picture and not said:
        return _section("calibration", "Calibration", '<p class="empty">Calibration was not measured.</p>')
    return _section("calibration", "Calibration", _sentences([said]), picture)


def _outputs(data: ReportData, figures: Mapping[str, Figure]) -> str:
    drawn = [
        _picture(figures, "trajectories", "Simulated (lines) and predicted (dashed, with the 95 % band where there is one)."),
        _picture(figures, "fields", "Fields of a few members at their last stored step."),
    ]
    return _section("outputs", "What the simulations gave", *drawn) if any(drawn) else ""


def _preprocessing(data: ReportData) -> str:
    told = data.preprocessing
    if told is None:
        return ""
    table = _table(["transforms", "steps", "predicted, ms a step", "measured, ms a step", ""], told.table, (1, 2, 3), "short")
    note = "What a step takes with the transforms at either place: a member's share of it, or the reader's loop, whichever is longer."
    return _section("preprocessing", "Pre-processing", _sentences(told.sentences()), table, _sentences([note], cls="note"))


def _point(member: Member) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in member.parameters.items())


def _value(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _failures(data: ReportData) -> str:
    wanted = (MemberState.FAILED, MemberState.LOST)
    failed = [(arm, m) for arm in data.arms for m in arm.members if m.state in wanted]
    killed = [(arm, m) for arm in data.arms for m in arm.members if m.state is MemberState.KILLED]

    def rows(items: list[tuple[ArmData, Member]]) -> list[list[str]]:
        return [
            [m.id, arm.name, m.state.value, m.reason or "no reason recorded", _point(m), count(m.steps)] for arm, m in items[:_MOST_ROWS]
        ]

    head = ["member", "arm", "state", "reason", "parameters", "steps"]
    if failed:
        first = _table(head, rows(failed), (5,), "members") + _more(len(failed))
    else:
        first = '<p class="empty">No member failed.</p>'
    table = _table(head, rows(killed), (5,), "members") + _more(len(killed))
    second = f"<details><summary>All {_e(count(len(killed)))} killed members</summary>{table}</details>"
    return _section("failures", "Failed members", first, second if killed else "")


def _more(n: int) -> str:
    return f'<p class="note">{_e(count(n - _MOST_ROWS))} more are in the ledger.</p>' if n > _MOST_ROWS else ""


def _making(data: ReportData) -> str:
    parts = []
    if data.reproduce:
        lines = "\n".join(data.reproduce)
        parts.append(f"<h3>Run it again</h3><pre>{_e(lines)}</pre>")
    if data.seed is not None:
        parts.append(f"<p>Seed {_e(data.seed)}.</p>")
    if data.versions:
        parts.append("<h3>Versions</h3>" + _table(["package", "version"], [[k, v] for k, v in data.versions.items()], cls="short"))
    if data.config:
        parts.append(f"<h3>Configuration</h3><details><summary>The resolved configuration</summary><pre>{_e(data.config)}</pre></details>")
    return _section("reproduce", "How it was made", *parts) if parts else ""


def _footer(data: ReportData) -> str:
    made = time.strftime(" on %Y-%m-%d %H:%M:%S UTC", time.gmtime(data.created_at)) if math.isfinite(data.created_at) else ""
    origin = "The numbers come from the ledger of the study; this page needs nothing beside itself."
    return f"<footer><p>Written by alearn{_e(made)}. {origin}</p></footer>"
