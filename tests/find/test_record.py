"""The record: written whole or not at all, read through one validating loader."""

import copy
import json
import os
from pathlib import Path

import pytest

from swlottery.errors import BadInput
from swlottery.find import record as records

FIRST = Path(__file__).with_name("schema_1.json")  # written by the release before schema 2


@pytest.fixture(scope="module")
def record(found_record):
    return records.load(found_record)


def test_the_record_of_a_real_run_is_valid_and_comes_back_as_it_was(record, tmp_path):
    path = tmp_path / "copy.json"
    records.save(record, path)
    assert records.load(path) == record
    assert list(tmp_path.iterdir()) == [path]
    for name in [
        "schema",
        "model",
        "revision",
        "weights_sha256",
        "dtype",
        "prompts",
        "kappa",
        "nulls",
        "false_positive_rate",
        "leader",
        "baseline_perplexity",
        "eval_text",
        "eval_tokens",
        "super_weights",
        "joint",
        "controls",
        "protocol",
        "context",
        "word_perplexity",
        "bits_per_byte",
        "forward_tokens",
    ]:
        assert name in record


def spoil(record, path, value):
    spoilt = copy.deepcopy(record)
    place = spoilt
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return spoilt


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["schema"], 3, "schema version 3; this swlottery reads versions 1 and 2"),
        (["schema"], KeyError, "schema version None"),
        (["weights_sha256"], "abc", "weights_sha256"),
        (["super_weights", 0, "verdict"], "super", "super_weights/0"),
        (["super_weights", 0, "layer"], -1, "super_weights/0"),
        (["super_weights", 0, "in"], "5", "super_weights/0"),
        (["super_weights", 0, "out"], KeyError, "super_weights/0"),
        (["nulls", 0, "p_value"], 0, "nulls/0"),
        (["documents"], 20, "documents"),
        (["joint"], {}, "joint"),
        (["protocol"], "slow", "protocol"),
        (["bits_per_byte"], KeyError, "bits_per_byte"),
        (["generation"], KeyError, "generation"),
        (["super_weights", 0, "dose"], KeyError, "super_weights/0"),
        (["super_weights", 0, "row"], [], "super_weights/0"),
        (["generation", "intact", "repeated_4grams"], 1.5, "generation"),
    ],
)
def test_a_record_that_is_not_as_the_schema_says(record, tmp_path, path, value, words):
    file = tmp_path / "r.json"
    file.write_text(json.dumps(spoil(record, path, value)))
    with pytest.raises(BadInput, match=words) as error:
        records.load(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "[" * 100_000])
def test_what_is_no_record_at_all(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(BadInput):
        records.load(tmp_path / "r.json")
    with pytest.raises(BadInput, match="cannot read"):
        records.load(tmp_path / "absent.json")


def test_an_invalid_or_interrupted_write_leaves_the_old_record(record, tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    records.save(record, path)
    with pytest.raises(BadInput):
        records.save(spoil(record, ["kappa"], "forty"), path)
    changed = spoil(record, ["seed"], 99)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        records.save(changed, path)
    monkeypatch.undo()
    assert records.load(path) == record
    assert list(tmp_path.iterdir()) == [path]


def test_the_lineage_is_checked(record):
    records.check_lineage(record, record["weights_sha256"], "it")
    with pytest.raises(BadInput, match="a coordinate means nothing in another network"):
        records.check_lineage(record, "0" * 64, "another")


def test_a_record_of_schema_1_is_read_as_it_was(record, tmp_path):
    first = records.load(FIRST)
    assert first["schema"] == 1 and "generation" not in first
    assert [weight["verdict"] for weight in first["super_weights"]] == ["weak"] and records.not_found(first)
    records.save(first, tmp_path / "copy.json")
    assert records.load(tmp_path / "copy.json") == first
    (tmp_path / "copy.json").write_text(json.dumps({**first, "schema": 2}))
    with pytest.raises(BadInput, match="not a valid record"):
        records.load(tmp_path / "copy.json")
    assert record["schema"] == 2 and record["generation"]["joint"]["text"]


def test_logs_figures_and_training_read_schema_1_too(here, planted_gpt2):
    from swlottery.config import TrainSettings
    from swlottery.lottery.start import network
    from swlottery.report.figures.find import draw
    from swlottery.report.logs import verdicts
    from swlottery.watch.tracked import beforehand

    first = records.load(FIRST)
    assert "(1, 5, 60)" in "".join(verdicts.verdict_table(first)) and verdicts.dose_table(first) == []
    assert "The 2 controls" in "".join(verdicts.sentences(first))
    assert all(path.stat().st_size > 5000 for path in draw(first, here))
    settings = TrainSettings(model=str(planted_gpt2[0]), super_weights=str(FIRST), device="cpu", allow_foreign=True)
    (tracked,) = beforehand(network(settings), settings)
    assert tuple(tracked.coordinate)[:3] == (1, 5, 60)
