"""Do the networks have a super weight?"""

from __future__ import annotations

from collections import Counter

from pandas import DataFrame

from swlottery.report.page.answer import Answer, Row, Table, by_arm, counted, interval, listed
from swlottery.report.page.arms import Study
from swlottery.report.page.verdict import together
from swlottery.study import statistics

VERDICTS = ("critical", "jointly critical", "weak", "undetermined", "inert")
NOTHING = "nothing found"
HAS, INTERVAL = "with a super weight", "95 % interval, %"
FEW = 4
"""The first line names up to so many set-ups."""


def answer(study: Study) -> Answer | None:
    """Each network that a first training gave: its super weight or leader, and the finder's verdict."""
    networks = _networks(study)
    if not networks:
        return None
    rows = _by_setup(networks)
    has = {f"{row['set-up']}, {row['init']}": f"{row[HAS]} of {row['networks']}" for row in rows}
    shares = {
        name: f"{100 * row[HAS] / row['networks']:.0f} % {row[INTERVAL]}" for name, row in zip(has, rows, strict=True)
    }
    caption = "each of them; ΔNLL: what the loss rises by without the weight that the verdict is on"
    return Answer(
        "super_weights",
        "Do these networks have a super weight?",
        together(has),
        number=by_arm(shares),
        networks=counted(row["networks"] for row in rows),
        sentence=_sentence(networks, has),
        tables=[
            Table("super_weights", "trained networks by their first training, and the gravest verdict in each", rows),
            Table("networks", caption, networks),
        ],
        method="A super weight: the finder inside the run saw one after round 1. Verdicts: swlottery find on the "
        "run's round_1/, with its record in round_1/record.json; of several weights the gravest verdict.",
    )


def _sentence(networks: list[Row], has: dict[str, str]) -> str:
    """Whether they have a super weight, and with which verdicts: the first line of the page too."""
    count = sum(row["tracks"] == "super weight" for row in networks)
    text = f"{count} of {len(networks)} trained networks have a super weight"
    if not count:
        text = "No network here has a super weight: what is tracked is the leader of each"
    elif 1 < len(has) <= FEW:
        text += f" ({'; '.join(f'{name}: {number}' for name, number in has.items())})"
    if verdicts := verdicts_on(networks, "of them"):
        return f"{text}; {verdicts}."
    return f"{text}{'; whether they matter, these runs do not say' if count else ''}."


def verdicts_on(rows: list[Row], what: str) -> str:
    """How often the finder gave which verdict; empty where it gave none."""
    judged = Counter(row["verdict"] for row in rows if row["verdict"])
    parts = [f"{one} in {judged[one]}" for one in (*VERDICTS, NOTHING) if judged[one]]
    return f"the finder's verdicts on {judged.total()} {what}: {listed(parts)}" if parts else ""


def _by_setup(networks: list[Row]) -> list[Row]:
    """How many have one, and how many have which verdict."""
    rows: list[Row] = []
    for (setup, init), own in DataFrame(networks).groupby(["set-up", "init"], sort=False):
        has, verdicts = int((own["tracks"] == "super weight").sum()), Counter(own["verdict"])
        low, high = statistics.proportion(has, len(own))
        share = {HAS: has, INTERVAL: interval(100 * low, 100 * high)}
        counts = {one: verdicts[one] for one in (*VERDICTS, NOTHING)}
        where = {"set-up": setup, "init": init, "networks": len(own)}
        rows.append({**where, **share, "looked at by the finder": sum(counts.values()), **counts})
    return rows


def _networks(study: Study) -> list[Row]:
    """One row for each network in which the tracked weight was found."""
    records = study.facts["records"].query("of != 'final'")
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
                **verdict(by_network.get(network)),
            }
    return list(rows.values())


def verdict(records: DataFrame | None) -> Row:
    """The gravest verdict of a record, and the weight that it is on."""
    if records is None or records.empty:
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
