"""``swlottery report``: the facts of runs, the answers to the questions, and the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.report.logs.train import TrainLog
from swlottery.report.page import pages, pictures
from swlottery.report.page.answer import Answer, Picture, Row
from swlottery.report.page.arms import Study
from swlottery.report.page.facts import Facts, collect
from swlottery.report.page.questions import answers
from swlottery.report.page.rows import DAMAGE
from swlottery.report.page.svg import svg
from swlottery.report.run_files import read_events
from swlottery.report.words import count
from swlottery.runtime import files, sums
from swlottery.version import __version__

TITLE = "Super weights and the lottery: what these runs say"


def make(paths: list[Path], out: Path, into: Path | None = None) -> list[Path]:
    """Write the page ``out`` and beside it ``<stem>_tables/``. Returns what was written.

    into: a Markdown file as well, with tables and figures in ``<stem>/`` beside it.

    Raises:
        BadInput: a path that is no folder, or no run in any of them.
    """
    facts = collect(paths)
    made = f"Made by swlottery {__version__} report, from {count(len(facts['runs']), 'run')}."
    tables = out.with_name(f"{out.stem}_tables")
    try:
        study = Study(facts)
        found = answers(study)
        lead = lead_of(study, found)
        page = pages.html(TITLE, found, lead, made, runs_of(study))
    except Exception as error:
        if not facts.stored:
            raise
        words = f"{type(error).__name__}: {error}"
        raise BadInput(
            f"the tables in {facts.stored[0]} are damaged ({words}): make them again from the runs"
        ) from None
    _write_tables(facts, found, tables)
    files.write_text(out, page)
    if into is None:
        return [out, tables]
    beside = into.with_suffix("")
    _write_tables(facts, found, beside)
    for picture in filter(None, [*(picture for answer in found for picture in answer.pictures), lead]):
        files.write_text(beside / f"{picture.name}.svg", svg(picture, page=False))
    files.write_text(into, pages.markdown(TITLE, found, lead, made, beside.name))
    return [out, tables, into, beside]


def lead_of(study: Study, found: Sequence[Answer]) -> Picture | None:
    """The figure that comes first: survival. Where there are many arms, of those alone that differ in their rate."""
    if len(study.rated) < len(study.arms) and (short := pictures.survival(study, study.rated.values(), "lead")):
        return short
    return next((picture for answer in found for picture in answer.pictures if picture.name == "survival"), None)


def runs_of(study: Study) -> list[Row]:
    """What the page says of each run."""
    defaults = asdict(TrainSettings())
    rows: list[Row] = []
    for row in study.facts["runs"].itertuples():
        settings = study.settings.get(row.run, {})
        changed = {name: value for name, value in settings.items() if defaults.get(name) != value}
        state = str(row.state) + (f" ({row.message})" if row.message else "")
        log = log_of(study.facts.folders[row.run]) if row.run in study.facts.folders else ""
        rows.append({"name": row.run, "state": state, "settings": settings, "changed": changed, "log": log})
    return rows


def log_of(folder: Path) -> str:
    """A run's log, written again from its history; of a damaged one as much as can be."""
    lines: list[str] = []
    log = TrainLog(bars=False, write=lines.append)
    try:
        for name in ("settings.json", "metrics.jsonl"):
            sums.check(folder / name)
        settings: Mapping[str, object] = files.read_json(folder / "settings.json")
        for event in read_events(folder):
            if event["event"] == "start":
                log.header(settings, event, asdict(TrainSettings()))
            else:
                log.event(event)
    except DAMAGE as error:
        lines.append(f"(the history ends here: {type(error).__name__}: {error})")
    return "\n".join(lines)


def _write_tables(facts: Facts, found: Sequence[Answer], folder: Path) -> None:
    """The facts, from which the report can be made again, and the tables that it shows."""
    facts.write(folder)
    for answer in found:
        for table in answer.tables:
            files.write_text(folder / f"{table.name}.csv", table.csv())
