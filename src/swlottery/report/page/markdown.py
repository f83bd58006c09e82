"""A report as Markdown, with its tables and figures as files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swlottery.report.page.answer import Section, Table, cell

LONG = 24
"""A table of more rows is only linked."""


def text(title: str, sections: Sequence[Section], made: str, files: str) -> str:
    """The page. files: the folder of its tables (``<name>.csv``) and figures (``<name>.svg``), as a link from the page."""
    return "\n".join(_lines(title, sections, made, files)) + "\n"


def _lines(title: str, sections: Sequence[Section], made: str, files: str) -> Iterator[str]:
    yield from (f"# {title}", "", made, "")
    yield from (f"- **{_plain(section.title)}** {_plain(section.short)}" for section in sections)
    for section in sections:
        yield from ("", f"## {section.title}", "")
        yield from (line for sentence in section.answer for line in (_plain(sentence), ""))
        for picture in section.pictures:
            yield from (
                f"![{_plain(picture.alternative)}]({files}/{picture.name}.svg)",
                "",
                f"*{_plain(picture.caption)}*",
                "",
            )
        for table in section.tables:
            yield from _table(table, files)
        if section.remark:
            yield from (_plain(section.remark), "")


def _table(table: Table, files: str) -> Iterator[str]:
    long = f", {len(table.rows)} rows." if len(table.rows) > LONG else ":"
    yield from (f"{_plain(table.caption)} ([{table.name}.csv]({files}/{table.name}.csv)){long}", "")
    if len(table.rows) <= LONG:
        yield "| " + " | ".join(map(_plain, table.heads)) + " |"
        yield "|" + "---|" * len(table.heads)
        yield from ("| " + " | ".join(_plain(cell(value)) for value in row) + " |" for row in table.cells)
        yield ""


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
