"""b. Does the rate matter? Two rates are compared in networks that share round 1, under masks that leave nearly as much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import numpy as np

from swlottery import inference
from swlottery.report.answers import charts
from swlottery.report.answers.arms import Arm, Study
from swlottery.report.answers.kept import Values, is_bracketed, rank_test
from swlottery.report.answers.sections import Row, Section, Table, interval, listed, p_value, powered, ranked

NEAR = 1.1
"""Two masks match where one leaves at most so many times the weights of the other."""


def contrast(study: Study) -> Section | None:
    """Does the rate matter? At matched masks, in networks that share round 1."""
    rows: list[Row] = []
    points: list[Row] = []
    answer: list[str] = []
    for coarse, fine in rates(study):
        pairs = study.pairs(coarse, fine)
        masks = matched(study, pairs)
        own: list[Row] = []
        for mask, other in masks[:2] + masks[2:][-1:]:
            there = falls(study, pairs, mask + 1, other + 1)
            if there:
                found = rank_test(there)
                own.append(_contrast(study, coarse, fine, (mask, other), there, found, len(pairs) - len(there)))
                points += [
                    {
                        "masks": f"{study.title(coarse)}, {study.title(fine)}: {mask} ~ {other}",
                        "run": run,
                        "rank of d": rank,
                    }
                    for run, rank in zip(there, found.by_network, strict=True)
                ]
        ranked(own)
        rows += own
        if own and own[0]["networks"] > 1:
            answer.append(_conclusion(study.title(coarse), study.title(fine), own))
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
    return Section.of("contrast", title, answer, tables, [picture], remark, leads=True)


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
    """A number of each network and mask, first rate − second rate, at matched masks: the interval of typical values, and each one."""
    rows: list[Row] = []
    points: list[Row] = []
    for coarse, fine in rates(study):
        pairs = study.pairs(coarse, fine)
        for mask, other in matched(study, pairs):
            there = {
                run: a - b
                for run, twin in pairs
                if (a := value(run, mask)) is not None and (b := value(twin, other)) is not None
            }
            each = list(there.values())
            if len(each) > 1:
                masks = f"{study.title(coarse)}, {study.title(fine)}: {mask} ~ {other}"
                points += [{"masks": masks, "run": run, "difference": one} for run, one in there.items()]
                rows.append({"first arm": study.title(coarse), "second arm": study.title(fine), "masks": f"{mask} ~ {other}", "remaining, %": study.left([run for run, _ in pairs], mask),
                             "networks": len(each), "difference": float(np.mean(each)), "95 % interval": interval(*inference.typical_values(each)), "least": min(each), "most": max(each)})  # fmt: skip
    return rows, points


def _log_ratios(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {
        weight: math.log(value / second[weight])
        for weight, value in first.items()
        if value > 0 and second.get(weight, 0) > 0
    }


def _contrast(
    study: Study, coarse: Arm, fine: Arm, masks: tuple[int, int], there: Values, found: inference.Ranked, out: int
) -> Row:
    spread = [np.var(list(controls.values()), ddof=1) for _, controls in there.values() if len(controls) > 1]
    inside = {run: pair for run, pair in there.items() if is_bracketed(study, run)}
    return {
        "first arm": study.title(coarse), "second arm": study.title(fine), "masks": f"{masks[0]} ~ {masks[1]}", "remaining, %": study.left(there, masks[0]), "networks": len(there), "left out": out,
        "mean rank of d": found.mean, "shift of d": found.shift, "95 % interval": interval(*found.interval), "p": found.p, "p (Holm)": None,
        "sd of the controls' d": float(np.sqrt(np.mean(spread))) if spread else None, "bracketed networks": len(inside), "their mean rank": rank_test(inside).mean if inside else None,
        "within ½ sd": bool(spread) and max(abs(end) for end in found.interval) <= 0.5 * math.sqrt(float(np.mean(spread))),
    }  # fmt: skip


def _conclusion(coarse: str, fine: str, rows: list[Row]) -> str:
    told = [row for row in rows if row["p (Holm)"] < 0.05]
    if told:
        parts = [
            f"at {row['remaining, %']:.1f} % remaining (shift of d {row['shift of d']:+.3f}, {row['95 % interval']}, {p_value(row['p (Holm)'])} by Holm)"
            for row in told
        ]
        same = all(
            row["their mean rank"] is not None and (row["their mean rank"] > 0.5) == (row["mean rank of d"] > 0.5)
            for row in told
        )
        return (f"{coarse} and {fine} treat the followed weight differently, against its controls, {listed(parts)}; the networks where controls stand on both sides of it "
                + ("say the same." if same else "do not say the same, so the rate is not shown to matter."))  # fmt: skip
    verdict = (
        "the intervals lie within half a standard deviation of the controls: no effect"
        if all(row["within ½ sd"] for row in rows)
        else "the intervals are too wide to exclude one: undetermined"
    )
    return (f"Between {coarse} and {fine}, at equal remaining weights, no difference was found in how near the followed weight comes to its fall, against its controls "
            f"(smallest {p_value(min(row['p (Holm)'] for row in rows))} by Holm, {rows[0]['networks']} networks; {powered(rows)}); {verdict}.")  # fmt: skip
