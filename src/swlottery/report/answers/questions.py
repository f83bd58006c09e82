"""All sections of a report, in order."""

from __future__ import annotations

from swlottery.report import words
from swlottery.report.answers import causes, chance, charts, critical, first_runs, found, kept, rate
from swlottery.report.answers.arms import Study
from swlottery.report.answers.facts import UNREADABLE
from swlottery.report.answers.sections import Picture, Row, Section, Table, listed


def answers(study: Study) -> list[Section]:
    """What was run, then every question that the runs can say something of."""
    fixed = chance.section(study)
    sections = [
        what_was_run(study), kept.survival(study), kept.size(study), rate.contrast(study), critical.section(study), fixed,
        causes.gradient(study), found.prediction(study), found.again(study), found.twins(study), causes.matrices(study),
        causes.rewinding(study), causes.cost(study), first_runs.section(fixed.answer if fixed else []),
    ]  # fmt: skip
    there = [section for section in sections if section is not None]
    for section in there:
        section.pictures = [picture for picture in _pictures(study, section) if picture is not None]
    return there


def _pictures(study: Study, section: Section) -> list[Picture | None]:
    rows = {table.name: table.rows for table in section.tables}
    first = section.tables[0].rows if section.tables else []
    circles = "One circle a network, the bar their mean, dashed: chance."
    match section.name:
        case "survival":
            return [charts.survival(study), charts.magnitude(study), charts.boxes(study)]
        case "size":
            return [
                charts.strip(
                    "ranks",
                    rows["size_points"],
                    "rank",
                    "rank among the controls after round 2: 0 below all, 1 above all",
                    circles,
                    reference=0.5,
                )
            ]
        case "contrast":
            return [
                charts.strip(
                    "rates",
                    rows["contrast_points"],
                    "rank of d",
                    "rank of d among the controls' d",
                    circles,
                    by="masks",
                    reference=0.5,
                )
            ]
        case "rewinding":
            return [
                charts.strip(
                    "rewound",
                    rows["rewinding_points"],
                    "rank of d",
                    "rank of d among the controls' d, after round 2",
                    circles,
                    reference=0.5,
                )
            ]
        case "chance":
            there = [row for row in rows.get("chance", []) if row["dispersion"] is not None]
            return [
                charts.strip(
                    "dispersion",
                    there,
                    "dispersion",
                    "dispersion over networks, times what chance gives",
                    "Dashed: chance.",
                    reference=1,
                )
            ]
        case "critical":
            return [
                charts.strip(
                    "falls",
                    rows.get("critical", []),
                    "least over all rounds",
                    "would fall at sparsity, %",
                    "One circle a run; dashed: what five rounds at 20 % reach.",
                    by="weight",
                    reference=critical.FIVE_ROUNDS,
                )
            ]
        case "twins":
            return [
                charts.strip(
                    "twin_percentiles",
                    first,
                    "percentile there",
                    "percentile of |w| in its matrix of the twin",
                    "One circle a pair of twins.",
                    by="found there",
                )
            ]
        case "again":
            share = [{**row, "share": row["kept"] / row["networks"]} for row in first]
            return [
                charts.strip(
                    "found_again",
                    share,
                    "share",
                    "share of networks in which it is found again",
                    "One circle a round, the bar their mean.",
                )
            ]
        case "prediction":
            return [charts.lines("auc", first, "by |θ_0|", "AUC of |θ_0|", "Mean over networks, and the range.")]
        case "gradient":
            return [charts.percentiles(first)]
        case "matrices":
            return [
                charts.lines(
                    "c_proj",
                    first,
                    "of c_proj, %",
                    "c_proj weights remaining, %",
                    "Mean over networks, and the range.",
                    x="of all, %",
                )
            ]
        case "perplexity":
            return [
                charts.lines(
                    "cost",
                    first,
                    "perplexity",
                    "validation perplexity, log scale",
                    "Median over runs, and the range.",
                    log=True,
                )
            ]
        case _:
            return []


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
    done = sum(state == "finished" for state in states.values())
    answer = [
        f"{words.count(len(states), 'run')} in {words.count(len(rows), 'arm')}, begun from {words.count(networks, 'initialisation')}; {'all' if done == len(states) else done} finished."
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
    return Section("runs", "What was run", answer, tables, leads=True)
