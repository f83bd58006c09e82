"""A report as HTML and as Markdown. The texts are in ``page.html.j2`` and ``page.md.j2``.

The HTML page needs nothing else: no network, no other file. The Markdown has its tables and figures beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from swlottery.report.page.answer import Answer, Picture, cell
from swlottery.report.page.svg import svg
from swlottery.report.page.verdict import RULE


def html(
    title: str, answers: Sequence[Answer], lead: Picture | None, made: str, runs: Sequence[Mapping[str, object]]
) -> str:
    """The page as text. lead: the figure that comes first. made: a line that says from what the page was made.

    runs: of each run its ``name``, ``state``, ``settings``, those ``changed`` from their default, and its ``log``.
    """
    return _render("page.html.j2", True, title=title, answers=answers, lead=lead, made=made, runs=runs)


def markdown(title: str, answers: Sequence[Answer], lead: Picture | None, made: str, files: str) -> str:
    """The same. files: the folder of its tables and figures (``<name>.csv``, ``<name>.svg``), relative to the page."""
    return _render("page.md.j2", False, title=title, answers=answers, lead=lead, made=made, files=files)


def _render(name: str, autoescape: bool, **values: Any) -> str:
    loader = PackageLoader("swlottery.report.page", ".")
    environment = Environment(loader=loader, autoescape=autoescape, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "cell": cell,
        "prose": _prose,
        "svg": _svg,
        "sortable": _sortable,
        "quoted": partial(quote, errors="backslashreplace"),  # a file's name may be no UTF-8
        "plain": _plain,
        "anchor": _anchor,
    }
    environment.tests["text"] = _is_text
    return environment.get_template(name).render(rule=RULE, **values).strip() + "\n"


UNBROKEN = re.compile(r" (?=[%×])|(?<=×) |(?<=\bp) (?=[=<])|(?<=\bp [=<]) |(?<=,) (?=[^ ]*\])")
"""Spaces inside ``20 % × 5``, ``p = 0.03`` and an interval."""


def _prose(sentence: str) -> str:
    """Without a line break where it would hurt."""
    return UNBROKEN.sub("\N{NO-BREAK SPACE}", sentence)


def _svg(picture: Picture) -> Markup:
    return Markup(svg(picture, page=True))


def _is_text(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float | None)


def _sortable(value: object) -> str:
    """What the page's script sorts by: numbers in full, and nothing where there is no value."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _plain(text: str) -> str:
    """As Markdown: no HTML, no link, one line."""
    text = re.sub(r"[\\|*]|(?<=\])(?=\()", r"\\\g<0>", text.replace("<", "&lt;"))
    return re.sub(r"\s*[\r\n]\s*", " ", text)


def _anchor(heading: str) -> str:
    """The id that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
