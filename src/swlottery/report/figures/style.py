"""The one style of all figures: colours, look, header, ticks of a logarithmic axis, and writing a small PNG file."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from swlottery.runtime import files

BLUE, VERMILLION, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
OCHRE, SKY, VIOLET, GREY = "#8a6d00", "#56b4e9", "#7b4ea3", "#767676"
COLOURS = (BLUE, VERMILLION, GREEN, PINK, OCHRE, SKY, VIOLET, GREY)
"""Safe for every kind of colour vision (after Okabe & Ito); on white and on dark paper. Shapes differ as well."""
WIDTH, LINE, DPI = 7.5, 0.16, 160  # of a figure and of a line of text, in inches; pixels an inch
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # the name of a model may hold a $
}
"""What all figures of the project share. A page adds colours of text and grid, for light and dark."""
LOOK = STYLE | {"grid.color": "#dddddd", "axes.grid.axis": "y", "legend.fontsize": 8, "lines.markersize": 5}


@contextmanager
def look() -> Iterator[None]:
    """Draw inside this, so that neither the user's settings nor a name that the font lacks change anything."""
    with style.context(["default", LOOK]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box in a name is no news
        yield


def page(what: str, name: str, height: float, remarks: list[str]) -> Figure:
    """An empty figure of ``height`` inches under a header: what is shown, the name of the model, remarks in grey."""
    small = [line for text in remarks for line in textwrap.wrap(short(text, 420), 122)]
    header = 0.52 + LINE * len(small)
    height += header
    figure = Figure(figsize=(WIDTH, height))
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - header / height), wspace=0.04)
    figure.text(0.01, 1 - 0.08 / height, what, va="top", fontsize=11, fontweight="bold")
    figure.text(0.01, 1 - 0.29 / height, short(name, 75), va="top", fontsize=9)
    figure.text(0.01, 1 - 0.47 / height, "\n".join(small), va="top", fontsize=8, color=GREY)
    return figure


def panels(figure: Figure, number: int, columns: int, **shared: Any) -> list[Axes]:
    """So many panels, ``columns`` in a row; below the last of each column the axis of x has its numbers."""
    rows = -(-number // columns)
    grid = list(figure.subplots(rows, columns, squeeze=False, **shared).flatten())
    for axes in grid[number:]:
        axes.axis("off")
    for axes in grid[max(number - columns, 0) : number]:
        axes.tick_params(labelbottom=True)
    return grid[:number]


def legend(figure: Figure, grid: Sequence[Axes], loc: str, **how: Any) -> None:
    """One legend for all panels, with each label once."""
    handles: dict[str, Any] = {}
    for axes in grid:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(handles=list(handles.values()), loc=loc, **how)


def nothing(figure: Figure, why: str) -> Figure:
    """Say why a figure is empty."""
    figure.text(0.5, 0.4, why, ha="center", fontsize=9, color=GREY)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file of 64 colours (a third of the bytes), whole or not at all."""
    canvas = FigureCanvasAgg(figure)  # not `savefig`: its PNG file would be unpacked here to reduce the colours
    figure.set_dpi(DPI)
    canvas.draw()
    pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    image = pixels.convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, lambda unfinished: image.save(unfinished, format="png", optimize=True, dpi=(DPI, DPI)))
    return path


def log_ticks(axis: Axis, written: str | Callable[[float, float], str]) -> None:
    """Ticks at powers of ten, or finer ones where the axis is short. written: a format of ``x``, or a function."""
    low, high = sorted(axis.get_view_interval())
    fine = [1, 1.1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]
    axis.set_major_locator(LogLocator(subs=[1] if high / low > 50 else [1, 2, 5] if high / low > 3 else fine))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(written)


def short(text: str, longest: int) -> str:
    """Text from a file: without what cannot be drawn on a line, and without its middle where it is long."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-longest // 2 :]}"
