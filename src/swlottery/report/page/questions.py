"""All answers of a report, in the order of the page. A new question is one function and one line in `QUESTIONS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from swlottery.report import words
from swlottery.report.page import (
    chance,
    cost,
    critical,
    found,
    gradient,
    growth,
    matrices,
    networks,
    plan,
    public_logs,
    rate,
    size,
    survival,
    variance,
)
from swlottery.report.page.answer import Answer, Row, Table, listed
from swlottery.report.page.arms import Study
from swlottery.report.page.facts import UNREADABLE
from swlottery.report.page.verdict import NOT_ASKED, TOO_FEW


def what_was_run(study: Study) -> Answer:
    """The arms, and every run that is not finished."""
    runs = study.facts["runs"]
    finished = set(runs[runs["state"] == "finished"]["run"])
    unreadable = runs[runs["state"].isin(UNREADABLE)]["run"].tolist()
    kinds = {arm: sorted({study.kind(run) for run in arm.runs if run in study.own}) for arm in study.arms}
    rows: list[Row] = [
        {
            "arm": arm.title,
            "set-up": arm.setup,
            "networks": len(arm.networks),
            "runs": len(arm.runs),
            "finished": len(finished.intersection(arm.runs)),
            "follows": listed(follows) if follows else None,
        }
        for arm, follows in kinds.items()
    ]
    readable = len(runs) - len(unreadable)
    networks = len({lineage for lineage in study.lineage.values() if lineage})
    done = "all" if finished and len(finished) == readable else str(len(finished))
    short = f"{words.count(readable, 'run')} in {words.count(len(rows), 'arm')}, {done} finished"
    left_out = f" Not readable, and left out: {listed(unreadable)}." if unreadable else ""
    other = runs[(runs["state"] != "finished") | (runs["message"] != "")]
    unfinished: list[Row] = [{"run": one.run, "state": one.state, "why": one.message} for one in other.itertuples()]
    caption = "the arms: rate × prunes, and what differs from global magnitude pruning with rewinding to the start"
    return Answer(
        "runs",
        "What was run?",
        short,
        networks=networks,
        sentence=f"{short}, begun from {words.count(networks, 'initialisation')}.{left_out}",
        tables=[
            Table("arms", caption, rows),
            Table("unfinished", "runs that have not come to their end; what they have shown so far counts", unfinished),
        ],
        method="Networks count once, by their initialisation: further runs of one network are no further evidence.",
    )


def the_plan(study: Study) -> list[Answer]:
    """The questions of the plan: those that compare arms are corrected together."""
    compared = plan.compared(study)
    about = [networks.answer(study), survival.falls(study)]
    found = [*about, *plan.answers(compared), *variance.answers(study, compared), public_logs.anchors(study)]
    return [answer for answer in found if answer is not None]


QUESTIONS: list[Callable[[Study], Answer | None]] = [
    survival.answer,
    rate.answer,
    size.answer,
    chance.drawn,
    chance.elsewhere,
    chance.foreign,
    growth.answer,
    gradient.answer,
    critical.answer,
    found.prediction,
    found.again,
    found.twins,
    matrices.answer,
    rate.rewinding,
    cost.answer,
    public_logs.first_runs,
]


def answers(study: Study) -> list[Answer]:
    """What was run, then the answer to every question that the runs can say something of."""
    others = [answer for question in QUESTIONS if (answer := question(study)) is not None]
    found = [what_was_run(study), *the_plan(study), *others]
    if study.rated:
        return found
    return [replace(one, verdict=NOT_ASKED) if (one.verdict, one.number) == (TOO_FEW, "") else one for one in found]
