"""A report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from swlottery.report.page.answer import Picture, Section, Table, cell
from swlottery.report.page.svg import svg

LONG = 14
"""Rows from which on a table is folded up."""
WRAPPED = 40
"""Characters from which on a cell may be broken into lines."""


@dataclass(frozen=True)
class RunPage:
    """What the page holds of one run: its settings, those that are not at their default, and its log."""

    name: str
    state: str
    settings: Mapping[str, object]
    changed: Mapping[str, object]
    log: str


STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1b1b;--soft:#555;--line:#d5d5d5;--grid:#ddd;--panel:#f5f6f8;--link:#0b57a4;
--c1:#0072b2;--c2:#d55e00;--c3:#00805d;--c4:#b8558f;--c5:#8a6d00;--c6:#2b87bd;--c7:#7b4ea3;--c8:#767676}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--ink:#e8e8e8;--soft:#adb1b7;--line:#3b3f45;--grid:#34383e;--panel:#1e2126;--link:#8cc2ff;
--c1:#5ab4ee;--c2:#ff8f4d;--c3:#37c79b;--c4:#e79bc6;--c5:#d9b945;--c6:#8fd0f5;--c7:#b997e0;--c8:#a5a5a5}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main,header,footer{max-width:62rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.7rem;line-height:1.2;margin:1.6rem 0 .3rem}h2{font-size:1.25rem;margin:2.6rem 0 .4rem;border-top:1px solid var(--line);padding-top:1.2rem}
p{margin:.5rem 0}a{color:var(--link)}.soft,figcaption{color:var(--soft);font-size:.875rem}
nav{background:var(--panel);border-left:4px solid var(--c1);padding:.6rem 1rem;margin:1rem 0}nav a{display:block;font-weight:600;text-decoration:none}nav a:hover{text-decoration:underline}
figure{margin:1.2rem 0}svg{width:100%;height:auto;display:block}
.scroll{overflow-x:auto;margin:1rem 0;outline-offset:2px}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;white-space:nowrap}td.long{white-space:normal;min-width:20rem}
th:first-child,td:first-child,.text{text-align:left}thead th{white-space:normal;background:var(--panel);vertical-align:bottom}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible,summary:focus-visible,a:focus-visible,.scroll:focus-visible{outline:2px solid var(--link)}
th[aria-sort=ascending] button::after{content:" ▲"}th[aria-sort=descending] button::after{content:" ▼"}
details{margin:.6rem 0}summary{cursor:pointer}pre{overflow-x:auto;background:var(--panel);padding:.7rem;font-size:.74rem;line-height:1.4}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem}
@media(max-width:40rem){body{font-size:15px}h1{font-size:1.4rem}figure{overflow-x:auto}figure svg{min-width:34rem}}
@media print{:root{color-scheme:light;--bg:#fff;--ink:#000}.scroll{overflow:visible}.csv,.runs{display:none}h2,figure,tr{break-inside:avoid}table{font-size:.55rem}th,td{padding:.15rem .3rem;white-space:normal}}
"""

SCRIPT = """
document.querySelectorAll('th button').forEach(function (button) {
  button.addEventListener('click', function () {
    var head = button.parentNode, table = head.closest('table'), body = table.tBodies[0];
    var column = Array.prototype.indexOf.call(head.parentNode.children, head), down = head.getAttribute('aria-sort') === 'ascending';
    head.parentNode.querySelectorAll('th').forEach(function (other) { other.setAttribute('aria-sort', 'none'); });
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (a, b) {
      var x = a.cells[column].dataset.value, y = b.cells[column].dataset.value;
      var order = x === y ? 0 : x === '' ? 1 : y === '' ? -1 : isNaN(x) || isNaN(y) ? x.localeCompare(y, 'en', { numeric: true }) : x - y;
      return x === '' || y === '' || !down ? order : -order;
    });
    rows.forEach(function (row) { body.appendChild(row); });
  });
});
var opened = [];
window.addEventListener('beforeprint', function () {
  opened = Array.prototype.slice.call(document.querySelectorAll('section details:not([open])'));
  opened.forEach(function (one) { one.open = true; });
});
window.addEventListener('afterprint', function () { opened.forEach(function (one) { one.open = false; }); });
"""


def page(title: str, sections: Sequence[Section], runs: Sequence[RunPage], made: str) -> str:
    """The whole page. made: a line that says from what it was made."""
    return "".join(_page(title, sections, runs, made))


def _page(title: str, sections: Sequence[Section], runs: Sequence[RunPage], made: str) -> Iterator[str]:
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    yield "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
    yield f"<meta http-equiv='Content-Security-Policy' content=\"{policy}\">"
    yield "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    yield f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><a class='skip' href='#answers'>to the answers</a>"
    yield f"<header><h1>{escape(title)}</h1><p class='soft'>{escape(made)}</p></header><main id='answers'>"
    yield "<nav aria-label='The answers in short'>"
    for section in sections:
        yield f"<p><a href='#{section.name}'>{escape(section.title)}</a> {_prose(section.short)}</p>"
    yield ("<p><a href='#each-run'>Each run: settings and log</a></p>" if runs else "") + "</nav>"
    for section in sections:
        yield f"<section id='{section.name}' aria-labelledby='{section.name}-title'><h2 id='{section.name}-title'>{escape(section.title)}</h2>"
        yield "".join(f"<p>{_prose(sentence)}</p>" for sentence in section.answer)
        for picture in section.pictures:
            yield _figure(picture)
        for table in section.tables:
            yield _table(table)
        yield f"<p class='soft'>{escape(section.remark)}</p>" if section.remark else ""
        yield "</section>\n"
    if runs:
        yield "<section id='each-run' class='runs' aria-labelledby='each-run-title'><h2 id='each-run-title'>Each run: settings and log</h2>"
        for run in runs:
            yield _run(run)
        yield "</section>"
    yield f"</main><footer><p class='soft'>{escape(made)}</p></footer><script>{SCRIPT}</script></body></html>\n"


def _prose(sentence: str) -> str:
    """Without a line break inside ``20 % × 5``."""
    return escape(sentence).replace(" %", "\N{NO-BREAK SPACE}%").replace(" × ", "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}")


def _figure(picture: Picture) -> str:
    drawing = svg(picture.figure, f"figure-{picture.name}", escape(picture.alternative, quote=True), page=True)
    return f"<figure tabindex='0'>{drawing}<figcaption>{escape(picture.caption)}</figcaption></figure>\n"


def _table(table: Table) -> str:
    columns = zip(table.heads, zip(*table.cells, strict=True), strict=True)
    heads = "".join(
        f"<th scope='col' aria-sort='none'{' class=text' if any(map(_is_text, values)) else ''}><button type='button'>{escape(head)}</button></th>"
        for head, values in columns
    )
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.cells)
    link = f"<a class='csv soft' download='{table.name}.csv' href='data:text/csv;charset=utf-8,{quote(as_csv(table))}'>{table.name}.csv</a>"
    whole = (
        f"<p class='soft' id='table-{table.name}'>{escape(table.caption)}</p><div class='scroll' role='region' tabindex='0' aria-labelledby='table-{table.name}'>"
        f"<table aria-labelledby='table-{table.name}'><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{link}"
    )
    if len(table.rows) < LONG:
        return whole
    return f"<details><summary>Table of {len(table.rows)} rows: {escape(table.caption)}</summary>{whole}</details>"


def _is_text(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float | None)


def _cell(value: object) -> str:
    sorts = "" if value is None or value != value else str(value) if _is_text(value) else repr(value)
    written = cell(value)
    kind = "" if not _is_text(value) else " class='text long'" if len(written) > WRAPPED else " class='text'"
    return f"<td{kind} data-value='{escape(sorts, quote=True)}'>{escape(written)}</td>"


def _run(run: RunPage) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class='text'>{escape(str(value))}</td><td class='text'>{'given' if name in run.changed else 'default'}</td></tr>"
        for name, value in run.settings.items()
    )
    settings = f"<details><summary>settings</summary><div class='scroll' role='region' tabindex='0' aria-label='settings of {escape(run.name, quote=True)}'><table><thead><tr><th scope='col'>setting</th><th scope='col'>value</th><th scope='col'>where from</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    log = (
        f"<details><summary>log</summary><pre>{escape(run.log)}</pre></details>"
        if run.log
        else "<p class='soft'>Its log is not here: only its tables were given.</p>"
    )
    return f"<details class='run'><summary>{escape(run.name)}: {escape(run.state)}</summary>{settings}{log}</details>"


def as_csv(table: Table) -> str:
    """A table as CSV, with numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.heads)
    writer.writerows(["" if value is None or value != value else value for value in row] for row in table.cells)
    return text.getvalue()
