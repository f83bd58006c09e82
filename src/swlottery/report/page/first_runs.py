"""The five first runs, as their logs tell them when they are read right, and what is wrong in how they were written up."""

from __future__ import annotations

from swlottery.report.page.answer import Row, Section, Table

HEADS = ("run", "steps a round", "rate", "what became of it", "matrix kept, %", "in the write-up")
ROWS = [
    ("876812", 10, "20 %", "gone at prune 1", 57.0, ""),
    (
        "876819",
        10_000,
        "20 %",
        "alive after prune 4; prune 5 not known",
        25.4,
        "called kept: one chance in four, if it is chance",
    ),
    (
        "876823",
        10_000,
        "10 %",
        "gone at prune 4",
        60.2,
        "called lost at 10 %: at 65.61 % remaining, where 20 % stands between its prunes 1 and 2",
    ),
    (
        "877713",
        3_000,
        "20 %",
        "gone at prune 3",
        33.2,
        "written up as 10 %, but speaks of 40.96 % remaining, which is 0.8⁴",
    ),
    (
        "877756",
        3_000,
        "10 %",
        "gone at prune 1",
        85.7,
        "written up as 20 %, but speaks of 81.00 % remaining, which is 0.9²",
    ),
]
"""What became of (2, 447, 666), the keep rate of its matrix at that prune, and the mistake."""

THRESHOLDS = {"10 %": 4.807960e-03, "20 %": 9.359073e-03}
"""Their fifth-round thresholds."""


TITLE = "Why kept at 20 % and lost at 10 %? The first five runs"
SHORT = (
    "Their coordinate came from another network, and equal rounds leave different numbers of weights: five leave 32.77 % at 20 % and 59.05 % at 10 %. "
    "What the runs here say of either comes next."
)
ALONE = "What is wrong in how they were written up; the runs here do not bear on it."


def section(chance: Section | None, contrast: Section | None) -> Section:
    """The table; chance, contrast: what the data at hand say of coordinates that were fixed beforehand, and of the two rates."""
    answer = [
        "The coordinate (2, 447, 666) was found in the pretrained GPT-2 and followed in networks trained from scratch, where it means nothing: if nothing but chance is at work, it is kept with the rate of its matrix.",
        *(chance.answer[:2] if chance else ()),
        "All five runs start from one initialisation, so they are not five independent observations; and 10 % and 20 % were compared at equal rounds, where different numbers of weights remain.",
        *(contrast.answer if contrast else ()),
    ]  # fmt: skip
    rows: list[Row] = [dict(zip(HEADS, row, strict=True)) for row in ROWS]
    table = Table(
        "first_runs", "corrected: what became of (2, 447, 666), and the keep rate of its matrix at that prune", rows
    )
    remark = (
        "Those scripts pruned the mask and then read the weights before the new mask was applied: what they print at a round was decided by the prune before, and is moved back here. "
        f"Their fifth-round thresholds, {THRESHOLDS['10 %']:.6e} at 10 % and {THRESHOLDS['20 %']:.6e} at 20 %, belong to 59.05 % and 32.77 % remaining: at equal rounds the larger rate has pruned more, and so has the larger threshold."
    )
    return Section.of(
        "first_runs", TITLE, answer, [table], remark=remark, short=SHORT if chance and contrast else ALONE
    )
