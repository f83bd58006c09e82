"""Figures that are drawn once for light and dark: colours are the page's own variables.

Matplotlib is given stand-ins for colours, which `svg` replaces: by CSS variables in a page, by a light theme's colours
in a file.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape

from matplotlib import style

from swlottery.report.figures import style as project
from swlottery.report.page.answer import Picture

INK, GRID = "#010101", "#020202"
COLOURS = [f"#0a000{n}" for n in range(1, len(project.COLOURS) + 1)]
PAGE = {INK: "currentColor", GRID: "var(--grid)"} | {c: f"var(--c{n})" for n, c in enumerate(COLOURS, start=1)}
FILE = {INK: "#222222", GRID: "#dddddd"} | dict(zip(COLOURS, project.COLOURS, strict=True))
"""What each stand-in becomes in a page, and in a file."""
LOOK = {
    **project.STYLE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "grid.color": GRID,
    "svg.fonttype": "none",
    "svg.hashsalt": "swlottery",
}
WIDTH = 8.6
MARKERS = "osD^vPX*"


def look() -> AbstractContextManager[None]:
    """Draw inside this."""
    return style.context(["default", LOOK])


def svg(picture: Picture, page: bool) -> str:
    """A picture as SVG text. page: with the page's colours, else with those of a light theme."""
    with look():
        picture.figure.set_layout_engine("constrained")
        drawing = io.StringIO()
        picture.figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    text = drawing.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>figure-{picture.name}-", text)  # two figures may not share an id
    for stand_in, colour in (PAGE if page else FILE).items():
        text = text.replace(stand_in, colour)
    if not page:
        return text
    text = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", text)
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg {box.group() if box else ""} role="img" aria-label="{escape(picture.alternative)}">'
    return head + text[text.index(">") + 1 :]
