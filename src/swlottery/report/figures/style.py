"""A page of a figure: colours, look, header, ticks of a logarithmic axis, and writing it as a small PNG file."""

from __future__ import annotations

import os
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

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
LOOK = STYLE | {"grid.color": "#dddddd", "axes.grid.axis": "y", "legend.fontsize": 8}


@contextmanager
def look() -> Iterator[None]:
    """Draw inside this, so that neither the user's settings nor a name that the font lacks change anything."""
    with style.context(["default", LOOK]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box in a name is no news
        yield


def page(title: str, what: str, height: float, remarks: list[str]) -> Figure:
    """An empty figure of ``height`` inches under a header: a title, what is shown, and remarks in small print."""
    small = [line for text in remarks for line in textwrap.wrap(short(text, 420), 140)]
    header = 0.5 + LINE * len(small)
    height += header
    figure = Figure(figsize=(WIDTH, height))
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - header / height), wspace=0.04)
    figure.text(0.01, 1 - 0.08 / height, short(title, 75), va="top", fontsize=11, fontweight="bold")
    figure.text(0.01, 1 - 0.29 / height, what, va="top", fontsize=9)
    figure.text(0.01, 1 - 0.48 / height, "\n".join(small), va="top", fontsize=7.5, color=GREY)
    return figure


def nothing(figure: Figure, why: str) -> None:
    """Say why a figure is empty."""
    figure.text(0.5, 0.4, why, ha="center", fontsize=9, color=GREY)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file of 256 colours (a third of the bytes), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `savefig`, which packs the pixels into a PNG file that would be unpacked here.
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    canvas.draw()
    pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    image = pixels.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    with tempfile.TemporaryDirectory(prefix=".figures-", dir=path.parent) as unfinished:
        image.save(Path(unfinished, path.name), dpi=(DPI, DPI))
        os.replace(Path(unfinished, path.name), path)
    return path


def log_ticks(axis: Axis, limits: tuple[float, float], written: Callable[[float], str]) -> None:
    """Ticks at powers of ten, or finer ones where the axis is short."""
    low, high = sorted(limits)
    fine = [1, 1.1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]
    axis.set_major_locator(LogLocator(subs=[1] if high / low > 50 else [1, 2, 5] if high / low > 3 else fine))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))


def short(text: str, longest: int) -> str:
    """Text from a file: without what cannot be drawn on a line, and without its middle where it is long."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-longest // 2 :]}"
