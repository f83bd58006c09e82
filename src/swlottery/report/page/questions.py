"""All sections of a report, in order."""

from __future__ import annotations

from typing import cast

from swlottery.report import words
from swlottery.report.page import (
    chance,
    cost,
    critical,
    first_runs,
    found,
    gradient,
    growth,
    matrices,
    rate,
    rewinding,
    size,
    survival,
)
from swlottery.report.page.answer import Row, Section, Table, listed
from swlottery.report.page.arms import Study
from swlottery.report.page.facts import UNREADABLE


def answers(study: Study) -> list[Section]:
    """What was run, then every question that the runs can say something of."""
    fixed, contrast = chance.section(study), rate.answer(study)
    first = first_runs.section(fixed, cast(Section, contrast))
    sections = [
        fixed, survival.answer(study), contrast, growth.answer(study), gradient.answer(study), critical.answer(study),
        size.answer(study), found.prediction(study), found.again(study), found.twins(study), matrices.answer(study), rewinding.answer(study),
        cost.answer(study),
    ]  # fmt: skip
    there = [cast(Section, section) for section in sections if section is not None]
    return [what_was_run(study), *([first, *there] if fixed and contrast else [*there, first])]


def what_was_run(study: Study) -> Section:
    """The arms, and every run that has not come to its end."""
    runs = study.facts["runs"]
    states = dict(zip(runs["run"], runs["state"].astype(str), strict=True))
    rows: list[Row] = []
    for arm in study.arms:
        kinds = sorted({study.kind(run) for run in arm.runs if study.own(run)})
        rows.append(
            {
                "arm": study.title(arm),
                "set-up": arm.setup,
                "networks": len(study.units(arm)),
                "runs": len(arm.runs),
                "finished": sum(states[run] == "finished" for run in arm.runs),
                "follows": listed(kinds) if kinds else None,
            }
        )
    networks = len({lineage for lineage in study.lineage.values() if lineage})
    readable = [state for state in states.values() if state not in UNREADABLE]
    done = readable.count("finished")
    answer = [
        f"{words.count(len(readable), 'run')} in {words.count(len(rows), 'arm')}, begun from {words.count(networks, 'initialisation')}; {'all' if readable and done == len(readable) else done} finished."
    ]
    tables = [
        Table(
            "arms",
            "the arms: rate × prunes, and what differs from global magnitude pruning with rewinding to the start",
            rows,
        )
    ]
    other = runs[runs["state"] != "finished"]
    if len(other):
        bad = other[other["state"].isin(UNREADABLE)]
        if len(bad):
            answer.append(f"Not readable, and left out: {listed(list(bad['run']))}.")
        why: list[Row] = [{"run": one.run, "state": one.state, "why": one.message} for one in other.itertuples()]
        tables.append(
            Table("unfinished", "runs that have not come to their end; what they have shown so far counts", why)
        )
    return Section.of("runs", "What was run", answer, tables, short=" ".join(answer))
