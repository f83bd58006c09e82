"""What public logs say: of the plan at full size, beside chance and this study, and of the five first runs."""

from __future__ import annotations

import numpy as np

from swlottery.report.page.answer import Answer, Row, Table
from swlottery.report.page.arms import Study
from swlottery.report.page.ranks import mean_interval

ANCHORS = [
    ("A2", 0.2, (3.7391, 3.7273, 3.6686, 3.6724, 3.7012), None, 10.9324),
    ("A2, again", 0.2, (3.7565, 3.7430, 3.6715, 3.6813, 3.7020), 1, 10.9324),
    ("A1", 0.1, (3.7478, 3.6791, 3.7918, 3.6466, 3.6808), 2, 10.9324),
    ("A1, again", 0.1, (3.7359, 3.7152, 3.6726, 3.6785, 3.6745), 1, 10.9557),
    ("B1", 0.1, (3.3789, 3.3930, 3.3749, 3.4054), None, 10.9324),
]
"""Arm; rate; held-out loss at the end of each training (the k-th is under m_{k−1}); the prune that took
(2, 447, 666), None: non-zero in all of these trainings; held-out loss at step 0."""
FIRST_HEADS = ("run", "steps a round", "rate", "what became of it", "matrix kept, %", "in the write-up")
CHANCE = "called kept: one chance in four, if it is chance"
LOST = "called lost at 10 %: at 65.61 % remaining, where 20 % stands between its prunes 1 and 2"
AS_10 = "written up as 10 %, but speaks of 40.96 % remaining, which is 0.8⁴"
AS_20 = "written up as 20 %, but speaks of 81.00 % remaining, which is 0.9²"
FIRST_RUNS = [
    ("876812", 10, "20 %", "gone at prune 1", 57.0, ""),
    ("876819", 10_000, "20 %", "alive after prune 4; prune 5 not known", 25.4, CHANCE),
    ("876823", 10_000, "10 %", "gone at prune 4", 60.2, LOST),
    ("877713", 3_000, "20 %", "gone at prune 3", 33.2, AS_10),
    ("877756", 3_000, "10 %", "gone at prune 1", 85.7, AS_20),
]
"""What became of (2, 447, 666), the keep rate of its matrix at that prune, and the mistake."""


def anchors(study: Study) -> Answer:
    """Five runs of GPT-2 124M: the same in every report, but for what its own arms of the same rate say."""
    facts: list[Row] = []
    beside: list[Row] = []
    for name, rate, losses, fell, start in ANCHORS:
        last = len(losses) - 1
        fate = "non-zero throughout" if fell is None else f"zero from training {fell + 1} on"
        chance = (1 - rate) ** last if fell is None else rate * (1 - rate) ** (fell - 1)
        facts.append(
            {
                "run": name,
                "rate, %": 100 * rate,
                "loss at step 0": start,
                **{f"loss {k + 1}": losses[k] if k <= last else None for k in range(5)},
                "last − first": round(losses[-1] - losses[0], 4),
                "(2, 447, 666)": fate,
                "chance of that, %": 100 * chance,
            }
        )
        for title, arm in study.rated.items():
            if arm.rate == rate and arm.rounds >= last and arm.finished:
                row = {"run": name, "(2, 447, 666)": fate, "arm": title, "chance of that, %": 100 * chance}
                beside.append({**row, **_here(study, arm.finished, last, fell)})
    caption = "held-out loss, nat, at the end of each training, and what became of the coordinate"
    here = "beside each, this study's plain arms of the same rate, after as many trainings"
    return Answer(
        "anchors",
        "What do public logs of the plan at full size say?",
        "no test: two initialisations, one coordinate",
        number="last − first training: −0.0670 to +0.0265 nat",
        networks=2,
        sentence="In five public runs of GPT-2 124M (A: 3,000 steps a training, B: 10,000) the loss of the last "
        "training lies −0.0670 to +0.0265 nat from that of the first. The foreign coordinate (2, 447, 666) was "
        "non-zero in all trainings of two.",
        tables=[
            Table("anchors", caption, facts),
            Table("anchors_here", here, beside),
        ],
        method="Chance: of a weight fixed beforehand, if its matrix is kept as all weights are; the logs do not say "
        "how much of it was. The k-th training is under the mask of prune k − 1. The fifth training of B1 is not "
        "finished. Four runs have one loss at step 0, so one θ_0: nothing is tested. Drawn: the share of the 1,000 "
        "coordinates drawn beforehand that met this fate here.",
    )


def _here(study: Study, runs: tuple[str, ...], last: int, fell: int | None) -> Row:
    """The same fate here: of coordinates fixed beforehand, and of the networks' own weights; and the change of loss."""
    fixed = study.rows("fixed", *runs).groupby("round")[["kept", "drawn"]].sum()
    left = {0: 1.0} | (fixed["kept"] / fixed["drawn"]).dropna().to_dict()
    before, after = (0, last) if fell is None else (fell - 1, fell)
    drawn = left.get(last) if fell is None else left[before] - left[after] if {before, after} <= left.keys() else None
    prunes = [study.kept(run).set_index("round")["alive"].astype(bool) for run in runs if run in study.own]
    known = [alive for alive in prunes if after in alive.index]
    met = [alive[after] if fell is None else not alive[after] and alive.get(before, True) for alive in known]
    losses = [(study.loss(run, last), study.loss(run, 0)) for run in runs]
    changes = [end - start for end, start in losses if end is not None and start is not None]
    return {
        "networks": len(runs),
        "drawn, of these, %": None if drawn is None else 100 * drawn,
        "own weights": len(met),
        "own, of these": int(sum(met)),
        "last − first": float(np.mean(changes)) if changes else None,
        "95 % interval": mean_interval(changes) if len(changes) > 1 else None,
    }


def first_runs(_: Study) -> Answer:
    """Why was (2, 447, 666) kept at 20 % and lost at 10 %? The same in every report: these runs are not its own."""
    rows: list[Row] = [dict(zip(FIRST_HEADS, row, strict=True)) for row in FIRST_RUNS]
    caption = "corrected: what became of (2, 447, 666), and the keep rate of its matrix at that prune"
    return Answer(
        "first_runs",
        "Why kept at 20 % and lost at 10 %? The first five runs",
        "a coordinate of another network, compared at different sparsities",
        number="five rounds leave 32.77 % at 20 %, 59.05 % at 10 %",
        networks=1,
        sentence="The coordinate (2, 447, 666) was found in the pretrained GPT-2 and tracked in networks trained from "
        "scratch, where it means nothing; and 10 % and 20 % were compared at equal rounds, where different numbers of "
        "weights remain.",
        tables=[Table("first_runs", caption, rows)],
        method="All five runs start from one initialisation, so they are one network. Their scripts pruned the mask "
        "and read the weights before the new mask was applied. What they print at a round was decided by the prune "
        "before, and is moved back here. Their fifth-round thresholds belong to 59.05 % and 32.77 % remaining: "
        "4.807960e-03 at 10 %, 9.359073e-03 at 20 %. The larger rate has pruned more, so its threshold is larger.",
    )
