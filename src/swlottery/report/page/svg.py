"""Figures that are drawn once for light and dark: colours are the page's own variables.

Matplotlib is given stand-ins for colours, which `svg` replaces: by CSS variables in a page, by a light theme's colours in a file.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID = "#010101", "#020202"
COLOURS = [f"#0a000{n}" for n in range(1, 9)]
THEME = {
    INK: ("currentColor", "#222222"), GRID: ("var(--grid)", "#dddddd"),
    **{stand_in: (f"var(--c{n})", colour) for n, (stand_in, colour) in enumerate(zip(
        COLOURS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7b4ea3", "#767676"), strict=True), 1)},
}  # fmt: skip
"""Each stand-in: what it is in a page, and in a file."""
LOOK = {
    "svg.fonttype": "none", "svg.hashsalt": "swlottery", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 9,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "text.parse_math": False, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}  # fmt: skip
WIDTH = 8.6
MARKERS = "osD^vPX*"


@contextmanager
def look() -> Iterator[None]:
    """Draw inside this."""
    with style.context(["default", LOOK]):
        yield


def svg(figure: Figure, name: str, alternative: str, page: bool) -> str:
    """A figure as SVG text; page: with the page's colours. name: unique in the page."""
    with look():
        figure.set_layout_engine("constrained")
        whole = io.StringIO()
        figure.savefig(whole, format="svg", metadata={"Date": None, "Creator": None})
    text = whole.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)  # two figures may not share an id
    for stand_in, (inside, outside) in THEME.items():
        text = text.replace(stand_in, inside if page else outside)
    if page:
        named = escape(alternative).replace("\\", r"\\")
        text = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", text)
        text = re.sub(
            r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
            rf'<svg viewBox="\1" role="img" aria-label="{named}">',
            text,
            count=1,
        )
    return text


def panels(number: int, height: float = 2.3, shared: bool = True) -> tuple[Figure, list[Axes]]:
    """So many panels, two in a row."""
    columns = min(2, number)
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.5))
    grid = list(figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).flatten())
    for axes in grid[number:]:
        axes.axis("off")
    return figure, grid[:number]
