"""b. Does the rate matter? Two rates are compared in networks that share round 1, under masks that leave nearly as much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, interval, listed, p_value, within
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import SD, Values, family, is_bracketed, powered, rank_test, tested
from swlottery.study import statistics as inference

NEAR = 1.1
"""Two masks match where one leaves at most so many times the weights of the other."""


def contrast(study: Study) -> Section | None:
    """Does the rate matter? At matched masks, in networks that share round 1."""
    rows: list[Row] = []
    points: list[Row] = []
    answer: list[str] = []
    short: list[str] = []
    for coarse, fine in rates(study):
        pairs = study.pairs(coarse, fine)
        masks = matched(study, pairs)
        own: list[Row] = []
        for mask, other in masks[:2] + masks[2:][-1:]:
            there = falls(study, pairs, mask + 1, other + 1)
            if there:
                where = {
                    "first arm": study.title(coarse),
                    "second arm": study.title(fine),
                    "masks": f"{mask} ~ {other}",
                }
                more = {"remaining, %": study.left(there, mask), "left out": len(pairs) - len(there)}
                row, each = tested(there, where | more, " of d")
                own.append(row | _bracketed(study, there, row))
                lines = f"{where['first arm']}, {where['second arm']}: {where['masks']}"
                points += [{"masks": lines, "run": one["run"], "rank of d": one["rank of d"]} for one in each]
        family(own)
        rows += own
        if own and own[0]["networks"] > 1:
            answer.append(_conclusion(study.title(coarse), study.title(fine), own))
            short.append(_in_short(study.title(coarse), study.title(fine), own))
    if not rows:
        return None
    tables = [Table("contrast", "d = log q(first arm) − log q(second arm): above 0, the first rate brings the weight nearer to its fall than the second does", rows),
              Table("contrast_points", "the rank of d in each network", points)]  # fmt: skip
    remark = ("q: the fraction of the weights in scope to which pruning would have to go for this weight to fall, given the network trained under that mask. d is compared with the d of the controls that both arms have in "
              "common, within each network. Left out: pruned in round 1. The masks that are compared leave amounts within a tenth of each other, not the same.")  # fmt: skip
    picture = charts.strip(
        "rates", points, "rank of d", "rank of d among the controls' d", charts.CIRCLES, by="masks", reference=0.5
    )
    title = "Does the rate matter, at equal remaining weights?"
    return Section.of("contrast", title, answer, tables, [picture], remark, short=" ".join(short))


def rates(study: Study) -> Iterator[tuple[Arm, Arm]]:
    """Pairs of arms that differ in their rate alone, the larger rate first."""
    for arms in study.rates:
        yield from combinations(arms, 2)


def matched(study: Study, pairs: list[tuple[str, str]]) -> list[tuple[int, int]]:
    """Masks of two arms that leave nearly as much: of each mask of the first the nearest of the second. All finished runs of
    an arm have the same masks."""
    found = []
    for first, second in pairs[:1]:
        ours, theirs = study.remaining(first), study.remaining(second)
        for mask in sorted(ours)[1:]:
            other = min(theirs, key=lambda one: abs(math.log(theirs[one] / ours[mask])))
            if other and max(theirs[other] / ours[mask], ours[mask] / theirs[other]) <= NEAR:
                found.append((mask, other))
    return found


def falls(study: Study, pairs: list[tuple[str, str]], round_: int, other_round: int) -> Values:
    """d = log q of the first run of each pair − log q of the second, of the followed weight and of its common controls. Weights
    that prune 1 took are left out: their controls are alive after it by choice."""
    found: Values = {}
    for run, other in pairs:
        (a, controls_a), (b, controls_b) = study.fall(run, round_), study.fall(other, other_round)
        d = _log_ratios(controls_a, controls_b)
        if (
            a
            and b
            and d
            and study.own(run) == study.own(other)
            and study.stood_prune_1(run)
            and study.stood_prune_1(other)
        ):
            found[run] = (math.log(a / b), d)
    return found


def paired(study: Study, value: Callable[[str, int], float | None]) -> tuple[list[Row], list[Row]]:
    """A number of each network, first rate − second rate at equal remaining weights: the interval of typical values, and each one.

    No two masks leave the same, and what a number does as weights go may be more than what the rate does to it: so the second
    run's number is interpolated, in log(remaining), between the masks on either side of the first run's.
    """
    rows: list[Row] = []
    points: list[Row] = []
    for coarse, fine in rates(study):
        pairs = study.pairs(coarse, fine)
        for mask in sorted({mask for run, _ in pairs for mask in study.remaining(run)} - {0}):
            there = {
                run: first - second
                for run, twin in pairs
                if (first := value(run, mask)) is not None
                and (second := _between(study, twin, study.remaining(run).get(mask), value)) is not None
            }
            if len(there) > 1:
                left, each = study.left(there, mask), list(there.values())
                rows.append({"first arm": study.title(coarse), "second arm": study.title(fine), "remaining, %": left, "networks": len(each), "difference": float(np.mean(each)),
                             "95 % interval": interval(*inference.typical_values(each)), "least": min(each), "most": max(each)})  # fmt: skip
                at = f"{study.title(coarse)}, {study.title(fine)}: {left:.1f} %"
                points += [{"at": at, "run": run, "difference": one} for run, one in there.items()]
    return rows, points


def in_words(differences: list[Row], digits: int, unit: str = "") -> str:
    """What `paired` has found."""
    parts = [
        f"{row['difference']:+.{digits}f}{unit}{within(row['95 % interval'])} at {row['remaining, %']:.1f} %"
        for row in differences
    ]
    has_intervals = any(within(row["95 % interval"]) for row in differences)
    return f"{listed(parts)} ({'each interval for itself' if has_intervals else 'too few networks for an interval'})"


def _between(study: Study, run: str, left: float | None, value: Callable[[str, int], float | None]) -> float | None:
    """A run's number where so much remains, between its masks; None beyond its last."""
    known = {mask: math.log(one) for mask, one in study.remaining(run).items() if left and one}
    above = [mask for mask, log in known.items() if left and log >= math.log(left)]
    below = [mask for mask, log in known.items() if left and log <= math.log(left)]
    if not left or not above or not below:
        return None
    first, second = max(above), min(below)
    ends = value(run, first), value(run, second)
    if ends[0] is None or ends[1] is None:
        return None
    part = (known[first] - math.log(left)) / (known[first] - known[second]) if first != second else 0.0
    return ends[0] + part * (ends[1] - ends[0])


def _log_ratios(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {
        weight: math.log(value / second[weight])
        for weight, value in first.items()
        if value > 0 and second.get(weight, 0) > 0
    }


def _bracketed(study: Study, there: Values, row: Row) -> Row:
    """What the bracketed networks say, and whether an effect of half a standard deviation is excluded."""
    inside = {run: pair for run, pair in there.items() if is_bracketed(study, run)}
    low, high = rank_test(there).interval
    return {
        "bracketed networks": len(inside), "their mean rank": rank_test(inside).mean if inside else None,
        "within ½ sd": bool(row[SD]) and max(abs(low), abs(high)) <= 0.5 * row[SD],
    }  # fmt: skip


def _in_short(coarse: str, fine: str, rows: list[Row]) -> str:
    told = [row for row in rows if row["p (Holm)"] < 0.05]
    if borne := _borne_out(told):
        nearer = {row["shift of d"] > 0 for row in borne}
        way = ("nearer to its fall than" if True in nearer else "less near to its fall than") if len(nearer) == 1 else "now nearer, now less near to its fall than"  # fmt: skip
        return f"Yes: {coarse} brings the followed weight {way} {fine} does."
    if not told and all(row["within ½ sd"] for row in rows):
        return f"No: {coarse} and {fine} bring the followed weight as near to its fall, to half a standard deviation of its controls."
    if told:
        return f"Not shown: a difference between {coarse} and {fine} is not borne out where controls stand on both sides of the weight."
    return f"Not shown: no difference between {coarse} and {fine} was found, and {rows[0]['networks']} networks are too few to exclude a small one."


def _borne_out(told: list[Row]) -> list[Row]:
    """The differences whose sign the bracketed networks have too."""
    return [
        row
        for row in told
        if row["their mean rank"] is not None and (row["their mean rank"] > 0.5) == (row["mean rank of d"] > 0.5)
    ]


def _conclusion(coarse: str, fine: str, rows: list[Row]) -> str:
    told = [row for row in rows if row["p (Holm)"] < 0.05]
    if told:
        parts = [
            f"at {row['remaining, %']:.1f} % remaining (shift of d {row['shift of d']:+.3f}, {row['95 % interval']}, {p_value(row['p (Holm)'])} by Holm)"
            for row in told
        ]
        same = _borne_out(told)
        where = "where controls stand on both sides of it"
        if len(same) == len(told):
            then = f"the networks {where} say the same"
        elif same:
            then = f"the networks {where} say the same of {len(same)} of these"
        elif any(row["bracketed networks"] for row in told):
            then = f"the networks {where} do not say the same, so the rate is not shown to matter"
        else:
            then = f"there is no network {where} to say the same, so the rate is not shown to matter"
        return (
            f"{coarse} and {fine} treat the followed weight differently, against its controls, {listed(parts)}; {then}."
        )
    verdict = (
        "the intervals lie within half a standard deviation of the controls: no effect"
        if all(row["within ½ sd"] for row in rows)
        else "the intervals are too wide to exclude one of half a standard deviation (undetermined)"
    )
    return (f"Between {coarse} and {fine}, at equal remaining weights, no difference was found in how near the followed weight comes to its fall, against its controls "
            f"(smallest {p_value(min(row['p (Holm)'] for row in rows))} by Holm, {rows[0]['networks']} networks); {verdict}; {powered(rows)}.")  # fmt: skip
