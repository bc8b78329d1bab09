"""Figures of a study's life: learning curves, timeline, calibration, trajectories, fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alearn.report.data import METRICS, ArmData, ReportData, Snapshot2D, Trajectory
from alearn.report.map_figures import map_figure
from alearn.report.style import ACTIVE, CONTROL, FAINT, INK, KILL_COLOURS, STATE_COLOURS, house_style, new_figure, render, say_nothing
from alearn.report.verdict import judge
from alearn.report.words import number, reason_kind, tick
from alearn.types import Member, MemberState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = {"mean": "mean", "p95": "95th percentile", "p99": "99th percentile", "max": "maximum"}
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#22303c", "#a8690c")


def learning_curves(active: ArmData, control: ArmData | None = None, error_name: str = "error", error_unit: str = "") -> Figure:
    """Error against simulated steps, four metrics, both arms; the numbers at the ends are the last errors.

    Without a test set the mean is that of the arriving members, before they were learned from (prequential).
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    with house_style():
        figure = new_figure(9.2, 5.6)
        panels = figure.subplots(2, 2, sharex=True)
        arms = [(active, ACTIVE, "o"), *([(control, CONTROL, "s")] if control is not None else [])]
        verdict = judge(active, control)
        ratios = verdict.judged.ratios if verdict.judged is not None else {}
        tested = any(np.isfinite(arm.curve.errors["mean"]).any() for arm, _, _ in arms)
        for metric, axes in zip(METRICS, panels.flat, strict=True):
            positive, drawn = True, 0
            arriving = metric == "mean" and not tested
            for arm, colour, marker in arms:
                curve = arm.curve
                x, y = curve.steps, curve.prequential if arriving else curve.errors[metric]
                good = np.isfinite(x) & np.isfinite(y)
                if not good.any():
                    continue
                drawn += 1
                positive &= bool((y[good] > 0).all())
                label = arm.name + (f" ({arm.acquisition})" if arm.acquisition else "")
                axes.plot(x[good], y[good], color=colour, marker=marker, markersize=3.2, markevery=_few(int(good.sum())), label=label)
                axes.annotate(number(float(y[good][-1])), (x[good][-1], y[good][-1]), xytext=(6, 0), textcoords="offset points",
                              color=colour, fontsize=8.5, va="center", annotation_clip=False)  # fmt: skip
            if not drawn:
                say_nothing(axes, f"{_PANEL[metric]}: not measured")
                continue
            if positive:
                axes.set_yscale("log")
                low, high = axes.get_ylim()
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8) if high > 4 * low else MaxNLocator(5))
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(tick))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            ratio = ratios.get(metric, math.nan)
            axes.set_title(
                _PANEL[metric]
                + (", of members as they arrived" if arriving else "")
                + (f"   control / active = {number(ratio)}" if math.isfinite(ratio) else "")
            )
        for axes in panels[1]:
            axes.set_xlabel("simulated time steps")
        figure.supylabel(f"{error_name} [{error_unit}]" if error_unit else error_name, fontsize=9.5)
        handles, labels = next((h for axes in panels.flat if (h := axes.get_legend_handles_labels())[0]), ([], []))
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return figure


def _few(n: int) -> int:
    return max(1, n // 25)


def timeline(arms: Sequence[ArmData]) -> Figure:
    """Every member's life as a bar coloured by its final state, killed ones by the kind of reason."""
    with house_style():
        shown = [(arm, _lives(arm)) for arm in arms]
        shown = [(arm, lives) for arm, lives in shown if lives]
        if not shown:
            figure = new_figure(9.2, 1.6)
            say_nothing(figure.subplots(), "No member was started.")
            return figure
        heights = [float(np.clip(0.085 * len(lives), 1.5, 6.5)) for _, lives in shown]
        figure = new_figure(9.2, sum(heights) + 1.1)
        panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        kinds: dict[str, int] = {}
        for _, lives in shown:
            for m, _, _ in lives:
                if m.state is MemberState.KILLED:
                    kinds[reason_kind(m.reason)] = kinds.get(reason_kind(m.reason), 0) + 1
        common = sorted(kinds, key=lambda kind: -kinds[kind])
        colours = {kind: KILL_COLOURS[min(k, len(KILL_COLOURS) - 1)] for k, kind in enumerate(common)}
        for axes, (arm, lives) in zip(panels, shown, strict=True):
            _bars(axes, arm, lives, colours)
        panels[-1].set_xlabel("seconds since the arm started")
        _timeline_legend(figure, shown, kinds, common)
        return figure


def _lives(arm: ArmData) -> list[tuple[Member, float, float]]:
    """Members that started, with start and duration in seconds since the arm began."""
    begin, end = arm.begin, arm.end
    lives = []
    for m in arm.members:
        if math.isfinite(m.started_at):
            stop = m.ended_at if math.isfinite(m.ended_at) else end
            lives.append((m, m.started_at - begin, max(0.0, stop - m.started_at)))
    return sorted(lives, key=lambda life: (life[1], life[0].id))


def _bars(axes: Axes, arm: ArmData, lives: list[tuple[Member, float, float]], colours: dict[str, str]) -> None:
    rows = np.arange(len(lives))
    fill = [colours[reason_kind(m.reason)] if m.state is MemberState.KILLED else STATE_COLOURS[m.state.value] for m, _, _ in lives]
    axes.barh(rows, [width for _, _, width in lives], left=[start for _, start, _ in lives], height=0.82, color=fill, linewidth=0)
    marked = [(row, life) for row, life in enumerate(lives) if life[0].state in (MemberState.FAILED, MemberState.LOST)]
    middle = max(start + width for _, start, width in lives) / 2
    if len(marked) <= 12:
        for row, (m, start, width) in marked:
            early = start + width / 2 < middle
            text = axes.annotate(
                f"{m.id} {m.reason}"[:60],
                (start + width if early else start, row),
                xytext=(4 if early else -4, 0),
                textcoords="offset points",
                ha="left" if early else "right",
                va="center",
                fontsize=7.5,
                color=INK,
            )
            text.set_in_layout(False)
    axes.set_ylim(len(lives) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_ylabel("member, in order of start")
    axes.grid(axis="y", visible=False)
    axes.set_title(f"{arm.name}: {len(lives)} members")


def _timeline_legend(
    figure: Figure, shown: list[tuple[ArmData, list[tuple[Member, float, float]]]], kinds: dict[str, int], common: list[str]
) -> None:
    from matplotlib.patches import Patch

    tally: dict[str, int] = {}
    for _, lives in shown:
        for m, _, _ in lives:
            tally[m.state.value] = tally.get(m.state.value, 0) + 1
    handles = [
        Patch(color=colour, label=f"{state} ({tally[state]})")
        for state, colour in STATE_COLOURS.items()
        if state in tally and state != "killed"
    ]
    for k, kind in enumerate(common[: len(KILL_COLOURS)]):
        last = k == len(KILL_COLOURS) - 1 and len(common) > len(KILL_COLOURS)
        n = sum(kinds[other] for other in common[k:]) if last else kinds[kind]
        handles.append(Patch(color=KILL_COLOURS[k], label=f"killed: {'other reasons' if last else kind} ({n})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))


def calibration(arms: Sequence[ArmData]) -> Figure:
    """Empirical against nominal coverage of central intervals; the diagonal is right, below it is overconfident."""
    with house_style():
        figure = new_figure(4.6, 4.4)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
        drawn = False
        for arm, colour in zip(arms, (ACTIVE, CONTROL), strict=False):
            data = arm.calibration
            if data is None or not len(data.nominal):
                continue
            drawn = True
            axes.plot(
                data.nominal,
                data.empirical,
                color=colour,
                marker="o",
                markersize=3.5,
                label=f"{arm.name} ({data.n:,} values)" if data.n else arm.name,
            )
        if not drawn:
            axes.clear()
            say_nothing(axes, "Calibration was not measured.")
            return figure
        axes.text(0.97, 0.06, "overconfident", ha="right", color=FAINT)
        axes.text(0.03, 0.92, "too cautious", color=FAINT)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal coverage of the interval", ylabel="share of test values inside")
        axes.set_aspect("equal")
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.9))
        return figure


def trajectories(items: Sequence[Trajectory], most_outputs: int = 4) -> Figure:
    """Outputs of a few members over simulation time: simulation as lines, prediction dashed with its 95 % band."""
    with house_style():
        outputs = list(dict.fromkeys(item.output for item in items))[:most_outputs]
        if not outputs:
            figure = new_figure(9.2, 1.6)
            say_nothing(figure.subplots(), "No trajectory was kept.")
            return figure
        columns = min(2, len(outputs))
        rows = math.ceil(len(outputs) / columns)
        figure = new_figure(9.2, 2.9 * rows + 0.7)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        labels = list(dict.fromkeys(item.label for item in items))
        for axes, output in zip(panels, outputs, strict=False):
            mine = [item for item in items if item.output == output]
            for item in mine:
                colour = _LINES[labels.index(item.label) % len(_LINES)]
                axes.plot(item.t, item.values, color=colour, linewidth=1.5, label=item.label)
                if item.predicted_t is not None and item.predicted is not None:
                    axes.plot(item.predicted_t, item.predicted, color=colour, linewidth=1.2, linestyle=(0, (3, 2)))
                    if item.std is not None:
                        low, high = item.predicted - 1.96 * item.std, item.predicted + 1.96 * item.std
                        axes.fill_between(item.predicted_t, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_title(f"{output} [{mine[0].unit}]" if mine[0].unit else output)
            axes.set_xlabel(f"t [{mine[0].t_unit}]" if mine[0].t_unit else "t")
        for axes in panels[len(outputs) :]:
            axes.set_visible(False)
        handles: dict[str, Any] = {}
        for axes in panels[: len(outputs)]:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize=8.5)
        return figure


def fields(items: Sequence[Snapshot2D], most: int = 8) -> Figure:
    """Fields of a few members side by side, one colour scale for each field name."""
    with house_style():
        items = list(items)[:most]
        if not items:
            figure = new_figure(9.2, 1.6)
            say_nothing(figure.subplots(), "No field was kept.")
            return figure
        columns = min(4, len(items))
        rows = math.ceil(len(items) / columns)
        figure = new_figure(2.4 * columns + 0.9, 2.65 * rows + 0.2)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        spans = {name: _span([i.array for i in items if i.field == name]) for name in {i.field for i in items}}
        images: dict[str, tuple[object, list[Axes]]] = {}
        for axes, item in zip(panels, items, strict=False):
            array = np.squeeze(np.asarray(item.array, dtype=np.float64))
            low, high = spans[item.field]
            axes.set_title(item.label.replace(": ", "\n", 1), fontsize=8, fontweight="normal", loc="center")
            if array.ndim == 2:
                image = axes.imshow(array, cmap="cividis", vmin=low, vmax=high, origin="lower", interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                for spine in axes.spines.values():
                    spine.set_visible(False)
                images.setdefault(item.field, (image, []))[1].append(axes)
            elif array.ndim == 1:
                axes.plot(array, color=ACTIVE, linewidth=1.2)
                axes.set_ylim(low, high)
                axes.set_ylabel(item.field)
            else:
                say_nothing(axes, f"{item.field} has {array.ndim} dimensions")
        for axes in panels[len(items) :]:
            axes.set_visible(False)
        for name, (image, used) in images.items():
            unit = next((i.unit for i in items if i.field == name and i.unit), "")
            bar = figure.colorbar(image, ax=used, label=f"{name} [{unit}]" if unit else name, aspect=30, pad=0.02)  # type: ignore[arg-type]
            bar.outline.set_visible(False)
        return figure


def _span(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    values = [np.asarray(a, dtype=np.float64)[np.isfinite(a)] for a in arrays]
    values = [v for v in values if v.size]
    if not values:
        return 0.0, 1.0
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    return low, high if high > low else low + 1.0


def draw_all(data: ReportData) -> dict[str, Figure]:
    """Every figure that the data allows, by name: coverage, density, uncertainty, error, learning, timeline,
    calibration, trajectories, fields."""
    out: dict[str, Figure] = {}
    maps, control = data.active.maps, data.control.maps if data.control is not None else None
    titles = (data.active.name, data.control.name if data.control is not None else "control")
    unit = f" [{data.error_unit}]" if data.error_unit else ""
    names = {"coverage": "distance", "density": "density", "uncertainty": "uncertainty", "error": "error"}
    for name, what in names.items():
        if maps is not None and getattr(maps, what) is not None:
            other = control if control is not None and maps.d <= 2 and getattr(control, what) is not None else None
            label = {"error": f"{data.error_short}{unit}"}.get(what, "")
            out[name] = map_figure(maps, what, beside=other, titles=titles, label=label)
    if any(len(arm.evaluations) for arm in data.arms):
        out["learning"] = learning_curves(data.active, data.control, data.error_short, data.error_unit)
    if any(_lives(arm) for arm in data.arms):
        out["timeline"] = timeline(data.arms)
    if any(arm.calibration is not None for arm in data.arms):
        out["calibration"] = calibration(data.arms)
    if data.trajectories:
        out["trajectories"] = trajectories(data.trajectories)
    if data.fields:
        out["fields"] = fields(data.fields)
    return out


def save_figures(directory: Path | str, data: ReportData, dpi: int = 160) -> list[Path]:
    """Write every figure as ``figures/NAME.png`` under the study's directory; returns the paths."""
    folder = Path(directory) / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in draw_all(data).items():
        path = folder / f"{name}.png"
        path.write_bytes(render(figure, "png", dpi))
        paths.append(path)
    return paths
