"""How large is the variance between seeds, and is any difference of the plan significant?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from swlottery.report.page.answer import Answer, Row, Table, counted, interval, listed
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.plan import MARGIN, Compared, distance
from swlottery.report.page.verdict import NO, TOO_FEW, YES
from swlottery.study import statistics

NEEDED = "question; compared; pairs; pairs share; sd of the difference; sd within a network; margin; pairs needed"
FAMILY = (
    "question; compared; first arm; second arm; pairs share; remaining, %; networks that count; networks; difference; "
    "95 % interval; p; p (Holm); margin; answer"
)
"""The columns of the two tables."""


def answers(study: Study, found: Sequence[Compared]) -> list[Answer]:
    """Both, where something was compared."""
    rows = [_judged(one, one.judged) for one in found if one.judged]
    if not rows:
        return []
    enough = [row["question"] for row in rows if row["pairs"] >= row["pairs needed"]]
    short = [row["question"] for row in rows if row["question"] not in enough]
    by_arm = [row for arm in study.arms if (row := _spread(study, arm))]
    needed = sorted(row["pairs needed"] for row in rows)
    needs = "what each question's paired difference scatters by, and the pairs it needs"
    variance = Answer(
        "plan_variance",
        "How large is the variance between seeds, and do they suffice?",
        YES if len(enough) == len(rows) else f"{YES} for {listed(enough)}; {NO} for {listed(short)}" if enough else NO,
        number=f"{len(enough)} of {len(rows)} questions have the pairs that their margin needs",
        networks=counted(row["pairs"] for row in rows),
        sentence="To see a difference as large as the margin, the questions need "
        f"{needed[0]} to {needed[-1]} pairs of networks.",
        tables=[
            Table("plan_variance", "over networks, of the last mask: standard deviations of loss and distance", by_arm),
            Table("plan_needed", needs, _columns(rows, NEEDED)),
        ],
        method="Yes: the seeds suffice for every question; no: for none. Intervals of standard deviations, and the "
        "pairs needed for 80 % power at 5 %, are by a normal law. Within a network: that of the difference over √2.",
    )
    significant = [row["question"] for row in rows if row["answer"].startswith(YES)]
    all_no = all(row["answer"] == NO for row in rows)
    tests = [row for row in rows if row["p (Holm)"] is not None]
    least = f"; the least p (Holm) is {min(row['p (Holm)'] for row in tests):.2g}" if tests else ""
    caption = "the questions of the plan that were asked: one family, corrected by Holm"
    significance = Answer(
        "plan_significance",
        "Is any of it significant?",
        YES if significant else NO if all_no else TOO_FEW,
        number=f"{len(significant)} of {len(rows)} questions",
        sentence=f"Of the {len(rows)} questions that compare arms {len(tests)} could be tested{least}"
        + (f"; significant: {listed(significant)}." if significant else "."),
        tables=[Table("plan_family", caption, _columns(rows, FAMILY))],
        method=f"Yes: at least one p (Holm) is below 0.05; no: every question is answered no. From {statistics.FEWEST} "
        "pairs on a test is made; the least p that n pairs can give is 2/2ⁿ, before the correction.",
    )
    return [variance, significance]


def _judged(one: Compared, row: Row) -> Row:
    """The row that answers a question, with what the answer needs."""
    sd, margin = row["sd of the difference"], MARGIN[one.comparison.outcome]
    return {
        **row,
        "question": one.comparison.name,
        "compared": one.comparison.outcome,
        "pairs": row["networks"],
        "sd within a network": None if row["pairs share"] == "batches" else sd / math.sqrt(2),
        "margin": margin,
        "pairs needed": statistics.pairs_needed(sd, margin),
        "answer": one.verdict,
    }


def _columns(rows: Sequence[Row], names: str) -> list[Row]:
    return [{name: row[name] for name in names.split("; ")} for row in rows]


def _spread(study: Study, arm: Arm) -> Row | None:
    """Standard deviations over the finished networks of an arm; None where there is one network."""
    row: Row = {"arm": arm.title, "networks": len(arm.finished)}
    for name, value in (("loss", study.loss), ("distance", partial(distance, study))):
        last = [value(run, max(study.remaining(run))) for run in arm.finished]
        there = [one for one in last if one is not None]
        found = statistics.deviation(there) if len(there) > 1 else None
        row[f"sd of the {name}"] = found[0] if found else None
        row[f"95 % interval, {name}"] = interval(*found[1:]) if found else None
    return row if row["sd of the loss"] is not None else None
