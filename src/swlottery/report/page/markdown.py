"""A report as Markdown, with its tables and figures as files beside it. Its text is in ``page.md.j2``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swlottery.report.page.answer import Answer, Picture
from swlottery.report.page.html import templates
from swlottery.report.page.verdict import RULE


def text(title: str, answers: Sequence[Answer], lead: Picture | None, made: str, files: str) -> str:
    """The page. files: the folder of its tables and figures (``<name>.csv``, ``<name>.svg``), relative to the page."""
    environment = templates(autoescape=False)
    environment.filters |= {"plain": _plain, "anchor": _anchor}
    template = environment.get_template("page.md.j2")
    written = template.render(title=title, answers=answers, lead=lead, made=made, files=files, rule=RULE)
    return written.rstrip() + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _anchor(heading: str) -> str:
    """The id that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
