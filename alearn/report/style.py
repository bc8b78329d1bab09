"""One look for every figure: colours that the colour-blind can tell apart, quiet axes, no global state left behind."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alearn.types import MemberState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#22303c"
FAINT = "#8795a1"
GRID = "#e3e8ec"
ACTIVE = "#0072b2"
CONTROL = "#d55e00"

# Okabe & Ito (2008), "Color Universal Design"
STATE_COLOURS = {
    MemberState.DONE.value: "#0072b2",
    MemberState.RUNNING.value: "#009e73",
    MemberState.STARTING.value: "#56b4e9",
    MemberState.QUEUED.value: "#b8c2cc",
    MemberState.KILLED.value: "#e69f00",
    MemberState.FAILED.value: "#d55e00",
    MemberState.LOST.value: "#cc79a7",
}
STATE_MARKERS = {
    MemberState.DONE.value: "o",
    MemberState.RUNNING.value: "D",
    MemberState.STARTING.value: "d",
    MemberState.QUEUED.value: ".",
    MemberState.KILLED.value: "X",
    MemberState.FAILED.value: "s",
    MemberState.LOST.value: "v",
}
KILL_COLOURS = ("#e69f00", "#a8690c", "#f6d27a", "#6b4a16")

MAP_COLOURS = {"distance": "cividis", "density": "cividis", "uncertainty": "viridis", "error": "magma"}

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "alearn",
    "text.usetex": False,
    "text.parse_math": False,
}


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's settings of the report, for the time of a ``with`` block; the user's own come back afterwards."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams  # its stub spells out every key
        settings.update(_RC)
        yield


def new_figure(width: float, height: float, *, arranged: bool = True) -> Figure:
    """An empty figure of ``width`` x ``height`` inches that belongs to no window and no pyplot state.

    Args:
        width: inches.
        height: inches.
        arranged: let matplotlib find room for every label (slow with many panels).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if arranged else None)
    FigureCanvasAgg(figure)
    return figure


def say_nothing(axes: Axes, why: str) -> None:
    """An empty panel that says why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=FAINT, transform=axes.transAxes, wrap=True)


def render(figure: Figure, kind: str = "png", dpi: int = 160) -> bytes:
    """A figure's bytes.

    Args:
        figure: what to draw.
        kind: "png" or "svg".
        dpi: pixels per inch of a png.
    """
    out = io.BytesIO()
    with house_style():
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=dpi, metadata=metadata)
    return out.getvalue()


def data_uri(figure: Figure, kind: str = "png", dpi: int = 160) -> str:
    """A figure as the ``src`` of an ``img``, with nothing outside it."""
    mime = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    return f"data:{mime};base64,{base64.b64encode(render(figure, kind, dpi)).decode('ascii')}"
