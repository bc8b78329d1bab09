"""Views for notebooks: an object whose ``_repr_html_`` draws itself, from an opened study's arrays."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alearn.report.map_figures import map_figure
from alearn.report.maps import Maps
from alearn.report.status import Status, render_status
from alearn.report.style import data_uri, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Shown:
    """Something that a notebook draws: a figure with a line under it.

    Args:
        title: what it shows.
        figure: the matplotlib figure, free to be changed or saved; None for text only.
        caption: a sentence under it.
        text: preformatted text, instead of a figure.
    """

    title: str
    figure: Figure | None = field(default=None, repr=False)
    caption: str = ""
    text: str = field(default="", repr=False)

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        parts = [f"<p style='margin:0 0 4px;font-weight:600'>{html.escape(self.title)}</p>"]
        if self.text:
            parts.append(f"<pre style='line-height:1.35'>{html.escape(self.text)}</pre>")
        if self.figure is not None:
            width = round(self.figure.get_figwidth() * 80)
            parts.append(
                f"<img alt='{html.escape(self.title, quote=True)}' style='max-width:100%;width:{width}px' src='{data_uri(self.figure)}'>"
            )
        if self.caption:
            parts.append(f"<p style='margin:4px 0 0;color:#5b6b78'>{html.escape(self.caption)}</p>")
        return "<div>" + "".join(parts) + "</div>"

    def save(self, path: str, dpi: int = 160) -> None:
        """Write the figure as a PNG or, for a path that ends so, an SVG.

        Raises:
            ValueError: there is no figure.
        """
        if self.figure is None:
            raise ValueError(f"'{self.title}' is text and has no figure to save.")
        with open(path, "wb") as file:
            file.write(render(self.figure, "svg" if path.endswith(".svg") else "png", dpi))


def _where(maps: Maps) -> str:
    names = [a.name for a in maps.axes]
    over = " and ".join(names) if len(names) <= 2 else f"each pair of {', '.join(names)}"
    return f"over {over}; {len(maps.members)} members"


def coverage_view(maps: Maps, beside: Maps | None = None, *, density: bool = False) -> Shown:
    """Where members lie: distance to the nearest one, or their density.

    Args:
        maps: the study's maps (``load_maps(directory)``).
        beside: the control arm's, drawn next to it (two parameters at most).
        density: draw the density instead of the distance.
    """
    figure = map_figure(maps, "density" if density else "distance", beside=beside)
    return Shown("Coverage", figure, f"{'Density of members' if density else 'Distance to the nearest member'} {_where(maps)}.")


def uncertainty_view(maps: Maps, beside: Maps | None = None, label: str = "") -> Shown:
    """Where the surrogate is unsure.

    Args:
        maps: the study's maps.
        beside: the control arm's.
        label: what the colours mean, with the unit.
    """
    return Shown(
        "Uncertainty", map_figure(maps, "uncertainty", beside=beside, label=label), f"Predictive standard deviation {_where(maps)}."
    )


def error_view(maps: Maps, beside: Maps | None = None, label: str = "") -> Shown:
    """Where the surrogate errs on the test members.

    Args:
        maps: the study's maps.
        beside: the control arm's.
        label: what the colours mean, with the unit.
    """
    return Shown("Error", map_figure(maps, "error", beside=beside, label=label), f"Interpolated between {len(maps.test)} test members.")


def status_view(status: Status) -> Shown:
    """A study's status as text."""
    return Shown(f"Study {status.study}", text=render_status(status))
