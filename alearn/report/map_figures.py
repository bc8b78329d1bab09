"""Figures of maps: coverage, uncertainty and error over the parameter box, members drawn by state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from alearn.report.maps import Axis, Maps
from alearn.report.style import FAINT, INK, MAP_COLOURS, STATE_COLOURS, STATE_MARKERS, house_style, new_figure, say_nothing
from alearn.report.words import tick
from alearn.types import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

LABELS = {
    "distance": "distance to the nearest member (unit box)",
    "density": "members per unit box (1 = uniform)",
    "uncertainty": "predictive standard deviation",
    "error": "interpolated test error",
}
_LOG_RANGE = 30.0


def map_figure(
    maps: Maps,
    what: str = "distance",
    *,
    beside: Maps | None = None,
    titles: tuple[str, str] = ("active", "control"),
    label: str = "",
    show_members: bool = True,
) -> Figure:
    """One map: a curve for one parameter, a picture for two, a triangle of pairs for more.

    Args:
        maps: the arm's maps.
        what: "distance", "density", "uncertainty" or "error".
        beside: another arm's maps, drawn to the right on the same colour scale (two parameters at most).
        titles: what the two are called.
        label: what the colours mean, with the unit; a default for each map.
        show_members: draw the members (on an error map: the test members).
    """
    label = label or LABELS[what]
    both = [m for m in (maps, beside) if m is not None and getattr(m, what) is not None]
    with house_style():
        if not both:
            figure = new_figure(5.2, 2.0)
            say_nothing(figure.subplots(), f"No map: {_why_not(what)}")
            return figure
        if maps.d == 1:
            return _curves(maps, what, beside, titles, label, show_members)
        if maps.d == 2:
            return _pictures(maps, what, beside, titles, label, show_members)
        return _triangle(maps, what, label, show_members)


def _why_not(what: str) -> str:
    return {
        "distance": "no member delivered data.",
        "density": "no member delivered data.",
        "uncertainty": "no surrogate was trained.",
        "error": "no test member was measured.",
    }[what]


def _shown(maps: Maps, what: str) -> dict[str, Floats]:
    """The points to draw, by state; test members on an error map."""
    if what == "error":
        return {"test": maps.test} if len(maps.test) else {}
    return {state: maps.members[maps.states == state] for state in STATE_COLOURS if (maps.states == state).any()}


def _norm(arrays: list[Floats], what: str, from_zero: bool = True) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    values = np.concatenate([a[np.isfinite(a)].ravel() for a in arrays])
    if not len(values):
        return Normalize(0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if what in ("uncertainty", "error") and low > 0 and high / low > _LOG_RANGE:
        return LogNorm(low, high)
    base = min(0.0, low) if from_zero else low
    return Normalize(base, high if high > base else base + 1.0)


def dress(axes: Axes, axis: Axis, along: str) -> None:
    """Scale, limits, ticks and label of one side of a panel from a parameter."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    ends = axis.values(np.asarray([0.0, 1.0]))
    side = axes.xaxis if along == "x" else axes.yaxis
    if axis.log:
        (axes.set_xscale if along == "x" else axes.set_yscale)("log")
        side.set_major_formatter(FuncFormatter(tick))
        side.set_minor_formatter(NullFormatter())
    else:
        side.set_major_locator(MaxNLocator(5))
    (axes.set_xlim if along == "x" else axes.set_ylim)(float(ends[0]), float(ends[1]))
    if axis.labels:
        n = len(axis.labels)
        side.set_ticks(axis.values((np.arange(n) + 0.5) / n), labels=list(axis.labels))
    side.set_label_text(axis.label)


def _mesh(axes: Axes, maps: Maps, pair: int, what: str, norm: Normalize) -> Any:
    i, j = maps.pairs[pair]
    values = _finer(getattr(maps, what)[pair], 4 if maps.d == 2 else 2)
    edges = np.linspace(0.0, 1.0, len(values) + 1)
    mesh = axes.pcolormesh(
        maps.axes[i].values(edges),
        maps.axes[j].values(edges),
        np.ma.masked_invalid(values),
        cmap=MAP_COLOURS[what],
        norm=norm,
        rasterized=True,
    )
    dress(axes, maps.axes[i], "x")
    dress(axes, maps.axes[j], "y")
    axes.grid(False)
    return mesh


def _finer(array: Floats, factor: int) -> Floats:
    """A square map with ``factor`` times as many cells along a side, linear between the cells' centres."""
    n = len(array)
    at = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), max(0, n - 2))
    high, share = np.minimum(low + 1, n - 1), at - low
    rows = array[low] * (1 - share)[:, None] + array[high] * share[:, None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share)


def _scatter(axes: Axes, maps: Maps, i: int, j: int, what: str, scale: float = 1.0) -> None:
    groups = _shown(maps, what)
    total = max(1, sum(len(p) for p in groups.values()))
    size = float(np.clip(4000 / total, 5, 34)) * scale
    for state, points in groups.items():
        axes.scatter(
            maps.axes[i].values(points[:, i]),
            maps.axes[j].values(points[:, j]),
            s=size if state != "test" else 0.6 * size,
            marker=STATE_MARKERS.get(state, "o"),
            facecolor=STATE_COLOURS.get(state, "none"),
            edgecolor="white",
            linewidth=0.6 if scale == 1.0 else 0.3,
            zorder=3,
            clip_on=False,
        )


def _legend(figure: Figure, arms: list[Maps], what: str) -> None:
    from matplotlib.lines import Line2D

    tally: dict[str, int] = {}
    for maps in arms:
        for state, points in _shown(maps, what).items():
            # both arms are measured on the same test members
            tally[state] = len(points) if state == "test" else tally.get(state, 0) + len(points)
    if not tally:
        return
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=STATE_MARKERS.get(state, "o"),
            markersize=6.5,
            markerfacecolor=STATE_COLOURS.get(state, "none"),
            markeredgecolor="white" if state in STATE_COLOURS else FAINT,
            label=f"{state} ({n})" if state != "test" else f"test members ({n})",
        )
        for state, n in tally.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handletextpad=0.2, columnspacing=1.4)


def _colorbar(figure: Figure, mesh: Any, label: str, **options: Any) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    bar = figure.colorbar(mesh, label=label, **options)
    if isinstance(mesh.norm, LogNorm):
        few = float(mesh.norm.vmax or 1.0) / float(mesh.norm.vmin or 1.0) < 300
        bar.locator = LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=12)
    bar.outline.set_visible(False)
    bar.formatter = FuncFormatter(tick)
    bar.minorformatter = NullFormatter()
    bar.update_ticks()
    if options.get("orientation") == "horizontal":
        bar.ax.tick_params(axis="x", labelrotation=35, labelsize=8)


def _pictures(maps: Maps, what: str, beside: Maps | None, titles: tuple[str, str], label: str, show_members: bool) -> Figure:
    arms = [(m, t) for m, t in zip((maps, beside), titles, strict=True) if m is not None and getattr(m, what) is not None]
    figure = new_figure(4.1 * len(arms) + 1.3, 4.3)
    panels = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
    norm = _norm([getattr(m, what) for m, _ in arms], what)
    mesh = None
    for axes, (arm, title) in zip(panels, arms, strict=True):
        mesh = _mesh(axes, arm, 0, what, norm)
        if show_members:
            _scatter(axes, arm, *arm.pairs[0], what)
        if beside is not None:
            axes.set_title(title)
        if axes is not panels[0]:
            axes.set_ylabel("")
    _colorbar(figure, mesh, label, ax=list(panels), aspect=28, pad=0.02)
    if show_members:
        _legend(figure, [m for m, _ in arms], what)
    return figure


def _curves(maps: Maps, what: str, beside: Maps | None, titles: tuple[str, str], label: str, show_members: bool) -> Figure:
    from alearn.report.style import ACTIVE, CONTROL

    figure = new_figure(7.4, 3.8)
    axes = figure.subplots()
    drawn = []
    for maps_of_arm, colour, title in zip((maps, beside), (ACTIVE, CONTROL), titles, strict=True):
        values = getattr(maps_of_arm, what) if maps_of_arm is not None else None
        if maps_of_arm is None or values is None:
            continue
        drawn.append(maps_of_arm)
        axes.plot(maps.axes[0].values(maps_of_arm.centres), values[0], color=colour, label=title)
    dress(axes, maps.axes[0], "x")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    if show_members:
        transform = axes.get_xaxis_transform()
        for state, points in _shown(maps, what).items():
            x = maps.axes[0].values(points[:, 0])
            axes.scatter(
                x,
                np.full(len(x), 0.02),
                s=26,
                marker=STATE_MARKERS.get(state, "o"),
                zorder=3,
                transform=transform,
                facecolor=STATE_COLOURS.get(state, "white"),
                edgecolor="white" if state in STATE_COLOURS else INK,
                linewidth=0.6,
            )
        _legend(figure, [maps], what)
    if len(drawn) > 1:
        axes.legend(loc="best")
    return figure


def _triangle(maps: Maps, what: str, label: str, show_members: bool) -> Figure:
    d = maps.d
    side = 1.5 if d > 4 else 2.2
    width, height = side * (d - 1) + 1.1, side * (d - 1) + 1.5
    figure = new_figure(width, height, arranged=False)
    grid = figure.add_gridspec(
        d - 1, d - 1, left=0.8 / width, right=1 - 0.3 / width, bottom=1.0 / height, top=1 - 0.45 / height, wspace=0.1, hspace=0.1
    )
    norm = _norm([getattr(maps, what)], what, from_zero=False)
    mesh = None
    for row in range(d - 1):
        for column in range(row + 1):
            axes = figure.add_subplot(grid[row, column])
            mesh = _mesh(axes, maps, maps.pairs.index((column, row + 1)), what, norm)
            if show_members:
                _scatter(axes, maps, column, row + 1, what, scale=0.35)
            axes.tick_params(labelsize=7.5)
            if row < d - 2:
                axes.set_xlabel("")
                axes.tick_params(labelbottom=False)
            else:
                axes.tick_params(axis="x", labelrotation=35)
            if column:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
    how = {"mean": "mean over the other parameters", "slice": "cut through one point of the other parameters"}[maps.kind]
    how = "projected on each pair" if what == "density" else how
    more = f"; {d} of {maps.parameters} parameters, those that matter most" if maps.parameters > d else ""
    figure.text(0.5, 1 - 0.1 / height, f"each cell: {how}{more}", ha="center", va="top", fontsize=9, color=FAINT)
    bar = figure.add_axes((1 - (0.3 + 0.42 * (d - 1) * side) / width, 1 - 0.7 / height, 0.42 * (d - 1) * side / width, 0.14 / height))
    _colorbar(figure, mesh, label, cax=bar, orientation="horizontal")
    if show_members:
        _legend(figure, [maps], what)
    return figure
