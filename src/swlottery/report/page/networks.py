"""Do the networks have a super weight, and at which sparsity would pruning take it?"""

from __future__ import annotations

from collections import Counter

from pandas import DataFrame

from swlottery.report.page import charts
from swlottery.report.page.answer import Answer, Row, Table, by_arm, interval, listed
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.plan import ALL, WITH
from swlottery.report.page.verdict import by_share, together
from swlottery.study import statistics

VERDICTS = ("critical", "jointly critical", "weak", "undetermined", "inert")
NOTHING = "nothing found"
WHO = "networks that count"


def _in_words(networks: list[Row]) -> str:
    """Whether they have a super weight, and with which verdicts: the first line of the page too."""
    has = sum(row["tracks"] == "super weight" for row in networks)
    judged = Counter(row["verdict"] for row in networks if row["verdict"])
    text = f"{has} of {len(networks)} networks have a super weight"
    if not has:
        text = "No network here has a super weight: what is tracked is the leader of each"
    if judged:
        parts = [f"{judged[one]} {one}" for one in (*VERDICTS, NOTHING) if judged[one]]
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
    return Answer(
        "super_weights",
        "Do these networks have a super weight?",
        f"{has} of {len(networks)}",
        number="; ".join(
            f"{row['set-up']}, {row['init']}: {row['with a super weight']} of {row['networks']}" for row in rows
        ),
        networks=len(networks),
        sentence=_in_words(networks),
        tables=[
            Table("super_weights", "trained networks by their first training, and the gravest verdict in each", rows),
            Table(
                "networks",
                "each of them; ΔNLL: what the loss rises by without the weight that the verdict is on",
                networks,
            ),
        ],
        method="A super weight: the finder inside the run saw one after round 1. Verdicts: `swlottery find` on the "
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


def falls(study: Study) -> Answer | None:
    """Kept to the end of the plain arms, and how much remains when each weight falls or would fall."""
    each = [row for arm in study.rated.values() for row in _falls(study, arm)]
    rows: list[Row] = []
    judged: dict[str, Row] = {}
    for title in study.rated:
        own = [row for row in each if row["arm"] == title]
        for who, some in ((ALL, own), (WITH, [row for row in own if row["tracks"] == "super weight"])):
            if some:
                rows.append({"arm": title, WHO: who, **_kept(DataFrame(some))})
                if who == ALL or len(some) >= statistics.FEWEST:
                    judged[title] = rows[-1]
    if not rows:
        return None
    shares = {arm: statistics.proportion(row["kept"], row["networks"]) for arm, row in judged.items()}
    numbers = {
        arm: f"{row['kept']} of {row['networks']} {'super weights' if row[WHO] == WITH else 'weights'} kept, the first "
        f"falls when {row['first falls at remaining, %']:.3g} % remain"
        for arm, row in judged.items()
    }
    parts = [
        f"{numbers[arm]} ({arm}, which leaves {row['remaining, %']:.2f} %, and {row['matrix kept, %']:.1f} % of their "
        "matrices)"
        for arm, row in judged.items()
    ]
    label, caption = "remaining, %, at which it would be pruned", "One circle a network, the bar their mean."
    return Answer(
        "plan_survival",
        "Does a network's weight survive, and at which sparsity would pruning take it?",
        together({arm: by_share(*ends) for arm, ends in shares.items()}),
        number=by_arm(numbers),
        networks=min(row["networks"] for row in judged.values()),
        sentence=f"Of the networks' own: {listed(parts)}.",
        tables=[
            Table("plan_survival", "kept to the last mask, and how much remains when each falls or would fall", rows),
            Table("plan_survival_points", "the same in each network", each),
        ],
        pictures=[charts.strip("plan_survival", each, "falls at remaining, %", label, caption)],
        method="Finished runs. It falls at the largest such number of all rounds. Yes: the Clopper–Pearson interval "
        "of the kept share lies above one half; no: below. With six super weights or more these alone are judged. A "
        "weight found after round 1 is large there: prune 1 says nothing. Its matrix' keep rate is the chance of a "
        "weight fixed beforehand.",
    )


def _falls(study: Study, arm: Arm) -> list[Row]:
    """Of each finished network of an arm."""
    rows: list[Row] = []
    for run in arm.finished:
        prunes, at = study.kept(run), 100 * study.rows("own", run)["q"].dropna()
        if len(prunes) and len(at):
            last, gone = prunes.iloc[-1], prunes[~prunes["alive"].astype(bool)]["round"]
            rows.append(
                {
                    "arm": arm.title,
                    "run": run,
                    "tracks": study.kind(run),
                    "weight": study.own[run],
                    "pruned by prune": int(gone.iloc[0]) if len(gone) else None,
                    "falls at remaining, %": float(at.max()),
                    "falls at sparsity, %": 100 - float(at.max()),
                    "remaining, %": 100 * float(last["remaining_fraction"]),
                    "matrix kept, %": 100 * float(last["matrix_kept"] / last["matrix_size"]),
                    "controls kept": int(last["control_rank"]),
                    "controls": int(last["control_rank_n"]),
                }
            )
    return rows


def _kept(table: DataFrame) -> Row:
    """What became of the weights of some networks of an arm."""
    kept, at = int(table["pruned by prune"].isna().sum()), table["falls at remaining, %"]
    low, high = statistics.proportion(kept, len(table))
    controls = table["controls"].sum()
    return {
        "networks": len(table),
        "kept": kept,
        "95 % interval, %": interval(100 * low, 100 * high),
        "first falls at sparsity, %": 100 - float(at.max()),
        "first falls at remaining, %": float(at.max()),
        "median": float(at.median()),
        "last": float(at.min()),
        **{name: float(table[name].mean()) for name in ("remaining, %", "matrix kept, %")},
        "controls kept, %": float(100 * table["controls kept"].sum() / controls) if controls else None,
    }
