"""The tables of a record say on how many documents each number stands, and compare what was measured on the same."""

from __future__ import annotations

from pathlib import Path

from swlottery.find import record as records
from swlottery.report.figures.forest import _labelled, forest
from swlottery.report.logs import published, verdicts

SCHEMA_1 = Path(__file__).parents[2] / "find" / "schema_1.json"


def effect(difference: float, low: float, documents: int, level: float) -> records.Record:
    interval = [low, 2 * difference - low]
    known = {"documents": documents, "level": level}
    return {"perplexity_ratio": 1.0, "nll_difference": difference, "nll_difference_interval": interval, **known}


def looked() -> records.Record:
    """A record whose weight was settled at 16 of 32 documents, and described on 8."""
    record = records.load(SCHEMA_1)
    (weight,) = record["super_weights"]
    weight |= effect(0.4, 0.2, 16, 0.998)
    doses = [{"factor": factor, **effect(0.5 - factor / 2, 0.01, 8, 0.95)} for factor in (0.5, 0.0)]
    weight |= {"restored": effect(0.1, 0.0, 8, 0.95), "row": effect(0.6, 0.1, 8, 0.95), "dose": doses}
    return record


def test_what_is_recovered_is_of_the_loss_on_the_same_documents() -> None:
    record = looked()
    assert " 80% " in verdicts.verdict_table(record)[1], "1 - 0.1 / 0.5, not 1 - 0.1 / 0.4"
    record["super_weights"][0]["dose"][-1]["nll_difference_interval"][0] = -0.01
    assert "%  " not in verdicts.verdict_table(record)[1].partition("99.8 %")[2], "no loss is shown there"
    assert " 99% " in verdicts.verdict_table(records.load(SCHEMA_1))[1]


def test_the_documents_and_the_level_are_in_every_table_and_in_the_figure() -> None:
    record = looked()
    assert "16, 99.8 %" in verdicts.verdict_table(record)[1]
    assert any("documents of both: 8, 95 %" in line for line in verdicts.verdict_table(record))
    assert verdicts.dose_table(record)[2].endswith("8, 95 %")
    weight = record["super_weights"][0] | {"found": True}
    row = published.published_table({"published": [weight], "published_joint": None})[1]
    assert row.endswith("16, 99.8 %")
    labels = [_labelled(row, 32) for row in forest(record)]
    assert labels[1].endswith("weak (16, 99.8 %)") and any(label.endswith("(8, 95 %)") for label in labels)
    record["super_weights"][0] |= effect(0.4, 0.2, 32, 0.95)
    assert _labelled(forest(record)[1], 32).endswith("weak")
    assert all("%" not in _labelled(row, 32) for row in forest(records.load(SCHEMA_1)))
