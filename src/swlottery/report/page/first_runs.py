"""The five first runs, as their logs say when they are read right, and what is wrong in how they were written up."""

from __future__ import annotations

from swlottery.report.page.answer import Answer, Row, Table
from swlottery.report.page.arms import Study

HEADS = ("run", "steps a round", "rate", "what became of it", "matrix kept, %", "in the write-up")
CHANCE = "called kept: one chance in four, if it is chance"
LOST = "called lost at 10 %: at 65.61 % remaining, where 20 % stands between its prunes 1 and 2"
AS_10 = "written up as 10 %, but speaks of 40.96 % remaining, which is 0.8⁴"
AS_20 = "written up as 20 %, but speaks of 81.00 % remaining, which is 0.9²"
ROWS = [
    ("876812", 10, "20 %", "gone at prune 1", 57.0, ""),
    ("876819", 10_000, "20 %", "alive after prune 4; prune 5 not known", 25.4, CHANCE),
    ("876823", 10_000, "10 %", "gone at prune 4", 60.2, LOST),
    ("877713", 3_000, "20 %", "gone at prune 3", 33.2, AS_10),
    ("877756", 3_000, "10 %", "gone at prune 1", 85.7, AS_20),
]
"""What became of (2, 447, 666), the keep rate of its matrix at that prune, and the mistake."""

THRESHOLDS = {"10 %": 4.807960e-03, "20 %": 9.359073e-03}
"""Their fifth-round thresholds."""


def answer(_: Study) -> Answer:
    """Why was (2, 447, 666) kept at 20 % and lost at 10 %? The same in every report: these runs are not its own."""
    rows: list[Row] = [dict(zip(HEADS, row, strict=True)) for row in ROWS]
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
        f"{THRESHOLDS['10 %']:.6e} at 10 %, {THRESHOLDS['20 %']:.6e} at 20 %. The larger rate has pruned more, so its "
        "threshold is larger.",
    )
