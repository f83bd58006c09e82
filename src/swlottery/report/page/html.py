"""A report as one HTML page that needs nothing else: no network, no other file. Its text is in ``page.html.j2``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from swlottery.report.page.answer import Answer, Picture, cell
from swlottery.report.page.svg import svg
from swlottery.report.page.verdict import RULE


@dataclass(frozen=True)
class RunPage:
    """What the page holds of one run: its settings, those that are not at their default, and its log."""

    name: str
    state: str
    settings: Mapping[str, object]
    changed: Mapping[str, object]
    log: str


def templates(autoescape: bool) -> Environment:
    """The templates beside this file, with the filters that both pages use."""
    loader = PackageLoader("swlottery.report.page", ".")
    environment = Environment(loader=loader, autoescape=autoescape, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    return environment


def page(title: str, answers: Sequence[Answer], lead: Picture | None, runs: Sequence[RunPage], made: str) -> str:
    """The page as text. lead: the figure that comes first. made: a line that says from what the page was made."""
    environment = templates(autoescape=True)
    environment.filters |= {"prose": _prose, "svg": _svg, "sortable": _sortable, "quoted": quote}
    environment.tests["text"] = _is_text
    template = environment.get_template("page.html.j2")
    return template.render(title=title, answers=answers, lead=lead, runs=runs, made=made, rule=RULE).lstrip() + "\n"


UNBROKEN = re.compile(r" (?=[%×])|(?<=×) |(?<=\bp) (?=[=<])|(?<=\bp [=<]) |(?<=,) (?=[^ ]*\])")
"""Spaces inside ``20 % × 5``, ``p = 0.03`` and an interval."""


def _prose(sentence: str) -> str:
    """Without a line break where it would hurt."""
    return UNBROKEN.sub("\N{NO-BREAK SPACE}", sentence)


def _svg(picture: Picture) -> Markup:
    return Markup(svg(picture.figure, f"figure-{picture.name}", picture.alternative, page=True))


def _is_text(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float | None)


def _sortable(value: object) -> str:
    """What the page's script sorts by: numbers in full, and nothing where there is no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)
