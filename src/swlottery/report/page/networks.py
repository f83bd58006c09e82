"""Do the networks have a super weight?"""

from __future__ import annotations

from collections import Counter

from pandas import DataFrame

from swlottery.report.page.answer import Answer, Row, Table, interval, listed
from swlottery.report.page.arms import Study
from swlottery.study import statistics

VERDICTS = ("critical", "jointly critical", "weak", "undetermined", "inert")
NOTHING = "nothing found"


def _in_words(networks: list[Row]) -> str:
    """Whether they have a super weight, and with which verdicts: the first line of the page too."""
    has = sum(row["tracks"] == "super weight" for row in networks)
    judged = Counter(row["verdict"] for row in networks if row["verdict"])
    text = f"{has} of {len(networks)} networks have a super weight"
    if not has:
        text = "No network here has a super weight: what is tracked is the leader of each"
    if judged:
        parts = [f"{one} in {judged[one]}" for one in (*VERDICTS, NOTHING) if judged[one]]
        return f"{text}; the finder's verdicts on {judged.total()} of them: {listed(parts)}."
    return f"{text}{'; whether they matter, these runs do not say' if has else ''}."


def answer(study: Study) -> Answer | None:
    """Each network that a first training gave: its super weight or leader, and the finder's verdict."""
    networks = _networks(study)
    if not networks:
        return None
    rows: list[Row] = []
    for (setup, init), own in DataFrame(networks).groupby(["set-up", "init"], sort=False):
        has, verdicts = int((own["tracks"] == "super weight").sum()), Counter(own["verdict"])
        low, high = statistics.proportion(has, len(own))
        share = {"with a super weight": has, "95 % interval, %": interval(100 * low, 100 * high)}
        counts = {one: verdicts[one] for one in (*VERDICTS, NOTHING)}
        where = {"set-up": setup, "init": init, "networks": len(own)}
        rows.append({**where, **share, "looked at by the finder": sum(counts.values()), **counts})
    has = sum(row["with a super weight"] for row in rows)
    numbers = [f"{row['set-up']}, {row['init']}: {row['with a super weight']} of {row['networks']}" for row in rows]
    caption = "each of them; ΔNLL: what the loss rises by without the weight that the verdict is on"
    return Answer(
        "super_weights",
        "Do these networks have a super weight?",
        f"{has} of {len(networks)}",
        number="; ".join(numbers),
        networks=len(networks),
        sentence=_in_words(networks),
        tables=[
            Table("super_weights", "trained networks by their first training, and the gravest verdict in each", rows),
            Table("networks", caption, networks),
        ],
        method="A super weight: the finder inside the run saw one after round 1. Verdicts: swlottery find on the "
        "run's round_1/, with its record in round_1/record.json; of several weights the gravest verdict.",
    )


def _networks(study: Study) -> list[Row]:
    """One row for each network in which the tracked weight was found."""
    records = study.facts["records"]
    by_network = dict(iter(records.groupby(records["run"].map(study.network))))
    rows: dict[str, Row] = {}
    for arm in study.arms:
        for run in arm.runs:
            settings, network = study.settings[run], study.network[run]
            if settings["super_weights"] != "discover":  # known before any training
                network = study.lineage[run]
            if not network or run not in study.own or network in rows:
                continue
            rows[network] = {
                "set-up": arm.setup,
                "init": settings["init"] if settings["start"] == "scratch" else "pretrained",
                "run": run,
                "tracks": study.kind(run),
                "weight": study.own[run],
                **_verdict(by_network.get(network)),
            }
    return list(rows.values())


def _verdict(records: DataFrame | None) -> Row:
    """The gravest verdict of a record, and the weight that it is on."""
    if records is None:
        return dict.fromkeys(("verdict", "verdict on", "ΔNLL", "95 % interval"))
    places = [VERDICTS.index(one) if one in VERDICTS else len(VERDICTS) for one in records["verdict"]]
    row = records.iloc[places.index(min(places))]
    has = row["nll_difference"] == row["nll_difference"]
    return {
        "verdict": row["verdict"] or NOTHING,
        "verdict on": row["weight"] or None,
        "ΔNLL": float(row["nll_difference"]) if has else None,
        "95 % interval": interval(row["low"], row["high"]) if has else None,
    }
