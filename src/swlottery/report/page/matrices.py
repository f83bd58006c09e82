"""Which initialisation and criterion keep c_proj?"""

from __future__ import annotations

import re

from swlottery.report.page import pictures
from swlottery.report.page.answer import Answer, Row, Table, listed
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import Parts, joined, spread

PRUNES = 3
"""The prune after which arms are compared: all have made it."""
NOTHING_TO_COMPARE = "nothing to compare: one initialisation and criterion"
TOLERANCE = 1.0
"""Points by which random pruning may differ between c_proj and all weights: chance, in small networks."""
METHOD = (
    "GPT-2 initialises c_proj, which writes into the residual stream, smaller by √(2·layers), so a global threshold "
    "takes more of it. Random pruning and layer-wise magnitude keep its share by construction. Brackets: range over "
    "networks."
)


def answer(study: Study) -> Answer | None:
    """What each way of pruning leaves of the c_proj matrices, and of the tracked weight."""
    rows, of_layers = joined(part for arm in study.arms for part in _by_prune(study, arm))
    if not rows:
        return None
    pairs = [(arms, third) for arms in study.setups if len(third := _compared(study, arms, rows)) > 1]
    compared = [third for _, third in pairs]
    return Answer(
        "matrices",
        "Which initialisation and criterion keep c_proj?",
        "; ".join(_verdict(study, arms, third) for arms, third in pairs) or NOTHING_TO_COMPARE,
        number="; ".join(_number(third[0]) for third in compared),
        networks=min((row["networks"] for third in compared for row in third), default=None),
        sentence=(" ".join(map(_sentence, compared)) + _check(study, rows)).strip(),
        tables=[Table("matrices", "what remains of c_proj, by arm and prune: mean over networks, and range", rows)],
        pictures=[pictures.layers(of_layers)],
        method=METHOD,
    )


def _by_prune(study: Study, arm: Arm) -> Parts:
    for number, now in study.rows("fixed", *arm.networks).groupby("round"):
        prune = int(str(number))
        by_run = now.groupby("run")[["matrix_kept", "size"]].sum()
        by_matrix = now.groupby("matrix", sort=False)[["matrix_kept", "size"]].sum()
        of_matrix = 100 * by_matrix["matrix_kept"] / by_matrix["size"]
        where = {"arm": arm.title, "prune": prune, "of all, %": study.left(now["run"], prune)}
        row, _ = spread(where, "of c_proj, %", 100 * (by_run["matrix_kept"] / by_run["size"]))
        shares = {f"layer {'.'.join(re.findall(r'[0-9]+', str(one)))}": share for one, share in of_matrix.items()}
        shares["all layers"] = row["of c_proj, %"]
        each = [{**where, "layer": layer, "of c_proj, %": share} for layer, share in shares.items()]
        kept = study.kept(*arm.networks)
        alive = kept[kept["round"] == prune]["alive"]
        ends = {"of one matrix, least": float(of_matrix.min()), "of one, most": float(of_matrix.max())}
        yield {**row, **ends, "followed kept": f"{alive.sum()} of {len(alive)}" if len(alive) else None}, each


def _compared(study: Study, arms: list[Arm], rows: list[Row]) -> list[Row]:
    """One arm of each initialisation and criterion, of those with the usual rate: what keeps most of c_proj first."""
    ways = {arm.title: tuple(study.settings[arm.runs[0]][key] for key in ("init", "criterion")) for arm in arms}
    third = [row for row in rows if row["arm"] in ways and row["prune"] == PRUNES]
    lefts = [round(row["of all, %"], 1) for row in third]
    same = [row for row in third if round(row["of all, %"], 1) == max(set(lefts), key=lefts.count)]
    first = {ways[row["arm"]]: row for row in reversed(same)}
    return sorted(first.values(), key=lambda row: -float(row["of c_proj, %"]))


def _verdict(study: Study, arms: list[Arm], third: list[Row]) -> str:
    """Whether it takes Xavier, as the plan asks (docs/study.md); else what keeps most."""
    init = {arm.title: study.settings[arm.runs[0]]["init"] for arm in arms}
    xavier = [row for row in third if init[row["arm"]] == "xavier"]
    others = [row for row in third if init[row["arm"]] != "xavier"]
    if not xavier or not others:
        most, *rest = third
        surely = ", in every network" if most["least"] > max(row["most"] for row in rest) else ""
        return f"{most['arm']} keeps most{surely}"
    best, known = xavier[0], others[0]
    if best["of c_proj, %"] <= known["of c_proj, %"]:
        return f"not only Xavier: {known['arm']} keeps at least as much"
    surely = best["least"] > max(row["most"] for row in others)
    return f"only Xavier, {'in every network' if surely else 'but not in every network'}"


def _check(study: Study, rows: list[Row]) -> str:
    """Random pruning keeps of c_proj what it keeps of all weights, whatever else is wrong."""
    titles = {arm.title for arm in study.arms if study.settings[arm.runs[0]]["criterion"] == "random"}
    off = [abs(row["of c_proj, %"] - row["of all, %"]) for row in rows if row["arm"] in titles]
    if not off:
        return ""
    said = "as it must" if max(off) < TOLERANCE else "too far off: something is wrong in the pruning"
    return f" Random pruning keeps of c_proj what it keeps of all weights to {max(off):.2f} points, {said}."


def _number(row: Row) -> str:
    return f"{row['of c_proj, %']:.1f} % [{row['least']:.1f}, {row['most']:.1f}]"


def _sentence(third: list[Row]) -> str:
    parts = [
        f"{_number(row)} under {row['arm']}"
        + (f" (tracked weight kept in {row['followed kept']})" if row["followed kept"] else "")
        for row in third
    ]
    return f"With {third[0]['of all, %']:.1f} % of all weights remaining, c_proj keeps {listed(parts)}."
