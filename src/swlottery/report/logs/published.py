"""What became of the published weights of a model: a table and sentences, for the log and for `bench/references.py`."""

from __future__ import annotations

from swlottery.find import published
from swlottery.find.effects import INERT
from swlottery.find.record import Record
from swlottery.models.coordinates import Coordinate
from swlottery.report.logs.log import Log
from swlottery.report.logs.verdicts import EFFECT, effect_cells
from swlottery.report.words import NOTHING, table


def section(log: Log, record: Record) -> None:
    """Write what is published of the model and what the search makes of it; nothing where nothing is."""
    if "published" not in record:
        return
    log.section(f"What is published of {record['published_model']}")
    if record["published_by_name"]:
        log.line(f"said to be {record['published_model']} by its name: nothing else says that it is that network")
    log.lines(published_table(record))
    for sentence in sentences(record):
        log.paragraph(sentence, 4, "  ")


def published_table(record: Record) -> list[str]:
    """A row for each published weight: its value, as which removal it was found, its verdict, its effect alone."""
    rows = []
    for weight in record["published"]:
        found = f"removal {weight['removal']}" if weight["found"] else "not found"
        value = NOTHING if weight["value"] is None else f"{weight['value']:.4g}"
        rows.append([str(Coordinate.of(weight)), value, found, weight["verdict"] or NOTHING, *effect_cells(weight)])
    if joint := record["published_joint"]:
        rows.append(["all of them together", NOTHING, NOTHING, NOTHING, *effect_cells(joint)])
    return table(["published", "weight", "found as", "verdict", *EFFECT], rows) if rows else []


def sentences(record: Record) -> list[str]:
    """Why weights were not found, what was found beyond them, and what the sources say."""
    said = []
    for weight in record["published"]:
        if not weight["found"]:
            idle = ", and idle alone" if is_idle(weight) else ""
            said.append(f"{Coordinate.of(weight)} was not found: {weight['why']}{idle}.")
    more = extras(record)
    which = ", ".join(f"{Coordinate.of(weight)} ({weight['verdict']})" for weight in more)
    said.append(f"Found and not published: {which}." if more else "Nothing was found that is not published.")
    if negative(record["published_model"]):
        critical = sum("critical" in weight["verdict"] for weight in record["super_weights"])
        said.append(f"A negative control, where no critical weight is expected: {critical or 'none'} found.")
    return [*said, *sources(record["published_model"])]


def is_idle(weight: Record) -> bool:
    """Whether a weight alone does nothing that can be seen: its interval is inside ±0.01 nat."""
    low, high = weight["nll_difference_interval"] or (-1, 1)
    return bool(low > -INERT and high < INERT)


def extras(record: Record) -> list[Record]:
    """The super weights of a record that are not published."""
    known = {Coordinate.of(weight) for weight in record["published"]}
    return [weight for weight in record["super_weights"] if Coordinate.of(weight) not in known]


def negative(model: str) -> bool:
    """Whether no critical weight is expected in ``model``."""
    return any(one.negative for one in published.table()[model])


def sources(model: str) -> list[str]:
    """Each source on ``model``, with what it says of the weights."""
    said: dict[str, list[str]] = {}
    for one in published.table()[model]:
        notes = said.setdefault(one.source, [])
        if one.note:
            notes.append(f"{one.coordinate}: {one.note}" if one.coordinate else one.note)
    return [f"Source: {source}" + "".join(f"; {note}" for note in notes) + "." for source, notes in said.items()]
