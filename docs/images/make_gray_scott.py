"""Compose docs/images/gray_scott.png from a finished default study: python docs/images/make_gray_scott.py STUDY."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from alearn.config import Config
from alearn.report import draw_all
from alearn.reporting import report_data

SHOWN = ("uncertainty", "error", "fields")
WIDTH = 1100
"""Pixels."""


def pixels(figure: Figure) -> np.ndarray:
    """The figure at the common width, ``height x width x 3``."""
    figure.set_dpi(WIDTH / figure.get_figwidth())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[..., :3]
    out = np.full((image.shape[0], WIDTH, 3), 255, np.uint8)
    out[:, : min(WIDTH, image.shape[1])] = image[:, :WIDTH]
    return out


def main(study: Path) -> None:
    """Draw the maps of both arms and a few of the patterns, one below the other."""
    figures = draw_all(report_data(study, Config.load(study / "config.yaml")))
    gap = np.full((18, WIDTH, 3), 255, np.uint8)
    parts = [part for name in SHOWN if name in figures for part in (pixels(figures[name]), gap)]
    target = Path(__file__).with_name("gray_scott.png")
    imsave(target, np.concatenate(parts[:-1]))
    print(target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
