"""Does the rate matter, and where the weights go back to? Two arms, in networks that share round 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations

from swlottery.report.page import charts, ranks
from swlottery.report.page.answer import Answer, Row, Table
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import SD, Parts, Values, is_bracketed, rank_test, tested
from swlottery.report.page.verdict import ALPHA, NO, TOO_FEW, YES, together

NEAR = 1.1
"""Two masks match where one leaves at most so many times the weights of the other."""
MARGIN = 0.5
"""A shift of at most so many standard deviations of the controls counts as none."""
Value = Callable[[str, int], float | None]
"""A number of the network that a run has trained under a mask."""
Pairs = list[tuple[str, str]]
"""Runs of two arms that share round 1."""
CAPTION = "d = log q(first arm) − log q(second arm): above 0, the first brings the weight nearer to pruning"
METHOD = (
    "q is the fraction of all weights that remain when pruning reaches this one, in a network trained under a mask. "
    "The test shown is that with the smallest p. Yes needs the same sign in the bracketed networks, no needs all "
    "intervals within half a standard deviation of the controls. Weights that prune 1 took are left out."
)
REWINDING = (
    "q is the fraction of all weights that remain when pruning reaches this one. Holm over the arms of a set-up. "
    "Without rewinding a network has trained r·T steps after round r, so its perplexity is not compared."
)


def answer(study: Study) -> Answer | None:
    """At matched masks: is the tracked weight nearer to pruning at one rate than at the other, among its controls?"""
    families: dict[str, list[Row]] = {}
    points: list[Row] = []
    for coarse, fine in rates(study):
        own, each = ranks.joined(_compared(study, coarse, fine))
        ranks.family(own)
        if own:
            families[f"{coarse.title} against {fine.title}"] = own
            points += each
    if not families:
        return None
    least = {names: min(rows, key=lambda row: float(row["p (Holm)"])) for names, rows in families.items()}
    verdicts = {names: _verdict(rows) for names, rows in families.items()}
    label = f"how much nearer to pruning the first arm brings the weight than the second:\n{charts.RANK}"
    line = f"{charts.CIRCLES} 1 ~ 2: the first arm's mask 1 and the second's mask 2, which leave nearly as much."
    return Answer(
        "contrast",
        "Does the rate matter, at equal remaining weights?",
        **ranks.summary(least, "d", " of d", "; above 0, the first brings it nearer to pruning")
        | {"verdict": together(verdicts)},
        tables=[
            Table("contrast", CAPTION, [row for rows in families.values() for row in rows]),
            Table("contrast_points", "the rank of d in each network", points),
        ],
        pictures=[charts.strip("rates", points, "rank of d", label, line, by="masks", reference=0.5)],
        method=METHOD,
    )


def rates(study: Study) -> Iterator[tuple[Arm, Arm]]:
    """Pairs of arms that differ in their rate alone, the larger rate first."""
    for arms in study.rates:
        yield from combinations(arms, 2)


def matched(study: Study, pairs: Pairs) -> list[tuple[int, int]]:
    """Masks of two arms that leave nearly as much: of each mask of the first the nearest of the second.

    All finished runs of an arm have the same masks.
    """
    found = []
    for first, second in pairs[:1]:
        ours, theirs = study.remaining(first), study.remaining(second)
        for mask in sorted(ours)[1:]:
            other = min(theirs, key=lambda one: abs(math.log(theirs[one] / ours[mask])))
            if other and max(theirs[other] / ours[mask], ours[mask] / theirs[other]) <= NEAR:
                found.append((mask, other))
    return found


def log_ratios(study: Study, pairs: Pairs, round_: int, other_round: int) -> Values:
    """d = log q of the first run of each pair − log q of the second, of the tracked weight and of its common controls.

    Weights that prune 1 took are left out: their controls are alive after it by choice.
    """
    found: Values = {}
    for run, other in pairs:
        ratio = ranks.log_ratio(study.pruning_point(run, round_), study.pruning_point(other, other_round))
        is_same = study.own.get(run) == study.own.get(other)
        if ratio and ratio[1] and is_same and study.survived_prune_1(run) and study.survived_prune_1(other):
            found[run] = ratio
    return found


def paired(study: Study, value: Value, what: str, name: str, each_name: str) -> tuple[Table, Table]:
    """First rate − second rate at equal remaining weights: the interval of typical values, and each network.

    what: is compared. name, each_name: of the tables.
    """
    rows: list[Row] = []
    points: list[Row] = []
    for coarse, fine in rates(study):
        arms = {"first arm": coarse.title, "second arm": fine.title}
        for mask, there in differences(study, study.pairs(coarse, fine), value):
            left, ends = study.left(there, mask), {"least": min(there.values()), "most": max(there.values())}
            rows.append({**arms, "remaining, %": left, **ranks.mean_of(there), **ends})
            at = f"{', '.join(arms.values())}: {left:.1f} %"
            points += [{"at": at, "run": run, "difference": one} for run, one in there.items()]
    caption = f"{what}, first arm − second arm at equal remaining weights, and the interval of typical values"
    return Table(name, caption, rows), Table(each_name, "the same in each network", points)


def log_of(study: Study, column: str) -> Value:
    """log|value| of a column of the tracked weight, for `paired`."""

    def log(run: str, mask: int) -> float | None:
        value, _ = study.at(run, mask + 1, column)
        return math.log(abs(value)) if value else None

    return log


def differences(study: Study, pairs: Pairs, value: Value) -> Iterator[tuple[int, dict[str, float]]]:
    """By mask of the first run of each pair: its number − that of the second at equal remaining weights, by network.

    No two masks of two rates leave the same, and what a number does as weights go may be more than what the rate does
    to it. So the second run's number is interpolated, in log(remaining), between its masks on either side.
    """
    for mask in sorted({mask for run, _ in pairs for mask, left in study.remaining(run).items() if left < 1}):
        there = {}
        for run, twin in pairs:
            first = value(run, mask)
            second = _between(study.remaining(twin), study.remaining(run).get(mask), partial(value, twin))
            if first is not None and second is not None:
                there[run] = first - second
        if len(there) > 1:
            yield mask, there


def _between(remaining: Mapping[int, float], left: float | None, value: Callable[[int], float | None]) -> float | None:
    """A run's number where so much remains, between its masks; None beyond its last."""
    if not left:
        return None
    logs = {mask: math.log(one) for mask, one in remaining.items() if one}
    above = [mask for mask, log in logs.items() if log >= math.log(left)]
    below = [mask for mask, log in logs.items() if log <= math.log(left)]
    if not above or not below:
        return None
    first, second = max(above), min(below)
    start, end = value(first), value(second)
    if start is None or end is None:
        return None
    part = (logs[first] - math.log(left)) / (logs[first] - logs[second]) if first != second else 0.0
    return start + part * (end - start)


def _compared(study: Study, coarse: Arm, fine: Arm) -> Parts:
    """Two rates at their first two matched masks and their last: one family of tests, and the rank in each network."""
    pairs = study.pairs(coarse, fine)
    masks = matched(study, pairs)
    arms = {"first arm": coarse.title, "second arm": fine.title}
    for mask, other in masks[:2] + masks[2:][-1:]:
        there = log_ratios(study, pairs, mask + 1, other + 1)
        if there:
            where = {**arms, "masks": f"{mask} ~ {other}", "remaining, %": study.left(there, mask)}
            row, each = tested(there, {**where, "left out": len(pairs) - len(there)}, " of d")
            lines = f"{', '.join(arms.values())}: {where['masks']}"
            points = [{"masks": lines, "run": one["run"], "rank of d": one["rank of d"]} for one in each]
            yield row | _bracketed(study, there, row), points


def _bracketed(study: Study, there: Values, row: Row) -> Row:
    """What the bracketed networks say, and whether an effect of half a standard deviation is excluded."""
    inside = {run: pair for run, pair in there.items() if is_bracketed(study, run)}
    low, high = rank_test(there).interval
    return {
        "bracketed networks": len(inside),
        "their mean rank": rank_test(inside).mean if inside else None,
        "within ½ sd": bool(row[SD]) and max(abs(low), abs(high)) <= MARGIN * row[SD],
    }


def _verdict(rows: list[Row]) -> str:
    """As docs/study.md has it: one difference is enough, if the bracketed networks have its sign."""
    different = [row for row in rows if row["p (Holm)"] < ALPHA]
    ranks = [(row["mean rank of d"], row["their mean rank"]) for row in different]
    if any(inside is not None and (inside > 0.5) == (rank > 0.5) for rank, inside in ranks):
        return YES
    return NO if not different and all(row["within ½ sd"] for row in rows) else TOO_FEW


def rewinding(study: Study) -> Answer | None:
    """The distance of the tracked weight to pruning after round 2, against the plain arm of the same rate."""
    rows: list[Row] = []
    points: list[Row] = []
    for arms, plains in zip(study.setups, study.rates, strict=True):
        own, each = ranks.joined(_rewound(study, arms, plains))
        ranks.family(own)
        rows += own
        points += each
    if not rows:
        return None
    then = "; above 0, the arm brings it nearer to pruning than the plain arm"
    caption = "d = log q(arm) − log q(plain arm), after round 2: above 0, the arm brings it nearer to pruning"
    label = f"after round 2, how much nearer to pruning the arm brings it than the plain arm:\n{charts.RANK}"
    return Answer(
        "rewinding",
        "Does rewinding matter?",
        **ranks.summary({row["arm"]: row for row in rows}, "d", " of d", then),
        tables=[
            Table("rewinding", caption, rows),
            Table("rewinding_points", "the rank of d in each network", points),
        ],
        pictures=[charts.strip("rewound", points, "rank of d", label, charts.CIRCLES, reference=0.5)],
        method=REWINDING,
    )


def _rewound(study: Study, arms: list[Arm], plains: list[Arm]) -> Parts:
    """The arms of a set-up that differ from a plain one in the rewinding alone: one family, and the ranks."""
    plain = {arm.rate: arm for arm in plains}
    for arm in arms:
        base, (_, *changes) = plain.get(arm.rate), arm.name.split(", ")
        if base is None or len(changes) != 1 or not changes[0].startswith("rewind"):
            continue
        there = log_ratios(study, study.pairs(arm, base), 2, 2)
        if there:
            yield ranks.tested(there, {"arm": arm.title, "against": base.title}, " of d")
