"""``swlottery evaluate``: what a few lines of transformers give; and the model card of a final ticket."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import swlottery
from lottery.runs import events, table
from odd import find, model, refused, run, train
from swlottery.config import TrainSettings
from swlottery.find import record as records
from swlottery.flags import parser
from swlottery.report.logs.card import card
from swlottery.runtime import sums
from swlottery.settings_file import from_file

pytestmark = pytest.mark.usefixtures("no_figures")

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
FEW = {"eval_text": "held.txt", "eval_tokens": 640, "device": "cpu"}
HELD = "Jackdaws love my big sphinx of quartz, and a wizard's job is to vex chumps quickly in fog.\n\n" * 60


def evaluate(name: object, *flags: str, **changes: object):
    given = [part for key, value in {**FEW, **changes}.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    return run("evaluate", str(name), *given, *flags)


def plain(folder: Path, length: int = 20, bos: bool = False) -> list[float]:
    """The loss of each of 32 documents, evenly spread over the text, by transformers alone. A token is a byte."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids, first = torch.tensor(tokenizer(HELD)["input_ids"][bos:]), [tokenizer.bos_token_id] * bos
    body = length - bos
    starts = [nth * (len(ids) - body) // 31 for nth in range(32)]
    documents = [torch.tensor([[*first, *ids[start : start + body].tolist()]]) for start in starts]
    with torch.no_grad():
        return [network(input_ids=one, labels=one).loss.item() for one in documents]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model m, a run of it, and a text that the run was not trained on."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        model(folder / "m", bos_token_id=0, eos_token_id=0)
        assert train("m", "--prune-rate", "0.5").code == 0
        Path("held.txt").write_text(HELD)
    return folder


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder, seen from the folder above all."""
    monkeypatch.chdir(made)
    (folder,) = Path("runs").iterdir()
    return folder


@pytest.fixture
def copied(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, to be changed."""
    shutil.copytree(there.parents[1], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return there


def test_it_is_what_a_few_lines_of_transformers_give(there: Path) -> None:
    said = evaluate(there, "--out", "new/o.json")
    assert said.code == 0 and said.err == "", said
    ticket, dense = json.loads(Path("new/o.json").read_text())["networks"]
    losses, others = plain(there / "final"), plain(there / "round_1")
    scored = [HELD[s + 1 : s + 20] for s in (nth * (len(HELD) - 20) // 31 for nth in range(32))]
    for entry, own in ((ticket, losses), (dense, others)):
        nll = sum(own) / 32
        assert entry["baseline_nll"] == pytest.approx(nll, rel=1e-6)
        assert entry["baseline_perplexity"] == pytest.approx(math.exp(nll), abs=1e-4)
        assert entry["bits_per_byte"] == pytest.approx(nll / math.log(2), rel=1e-6)
        assert math.log(entry["word_perplexity"]) == pytest.approx(
            19 * 32 * nll / sum(len(text.split()) for text in scored), rel=1e-6
        )
    assert ticket["nll_difference"] == pytest.approx((sum(losses) - sum(others)) / 32, abs=1e-6)
    low, high = ticket["nll_difference_interval"]
    assert low < ticket["nll_difference"] < high and ticket["documents"] == 32
    assert ticket["sparsity"] == pytest.approx(0.5, abs=1e-4) and dense["sparsity"] == 0
    assert dense["network"] == "dense (round 1)" in said.out and "note" not in said.out
    assert f"{ticket['baseline_perplexity']:,.2f}" in said.out and f"{ticket['nll_difference']:+.4f} nats" in said.out
    sums.check(there)
    assert (there / "evaluation.json").exists() is False


def test_the_numbers_are_those_of_a_find_and_of_the_library(there: Path) -> None:
    flags = ["--eval-text", "held.txt", "--out", "r.json", "--plots", "p"]
    assert find(there / "final", *flags).code == 0
    ticket, dense = swlottery.evaluate(there, **FEW)
    assert swlottery.evaluate(there / "final", there / "round_1", **FEW)[0] == {
        **ticket, "network": "model", "sparsity": None
    }  # fmt: skip
    (alone,) = swlottery.evaluate(str(there / "round_1"), **FEW)
    assert alone["baseline_nll"] == dense["baseline_nll"] != ticket["baseline_nll"]
    record = records.load(Path("r.json"))
    same = record.keys() & ticket.keys() - {"note", "model"}
    assert {"weights_sha256", "baseline_nll", "word_perplexity", "bits_per_byte", "eval_text_sha256"} < same
    assert {name: record[name] for name in same} == {name: ticket[name] for name in same}
    for name in ("kappa", "out", "eval_txt"):
        with pytest.raises(swlottery.BadInput, match=name):
            swlottery.evaluate(there, **{name: 3})


def test_text_that_the_run_was_trained_on_is_named(there: Path) -> None:
    assert "the run was trained on this text" in evaluate(there, eval_text="./t.txt").out


def test_documents_are_no_longer_than_the_sequences_of_a_training_from_scratch(here: Path) -> None:
    """A position that no sequence had was never trained."""
    model(here / "m")
    Path("held.txt").write_text(HELD)
    scratch = ["--start", "scratch", "--tokenizer", "m", "--super-weights", "none"]
    assert train("gpt2-mini", *scratch).code == 0
    (folder,) = Path("runs").iterdir()
    ticket, dense = swlottery.evaluate(folder, **FEW | {"eval_tokens": 4096})
    assert (ticket["context"], ticket["documents"]) == (32, 128) == (dense["context"], dense["documents"])
    (alone,) = swlottery.evaluate(folder / "final", **FEW | {"eval_tokens": 4096})
    assert alone["context"] == 128, "the model takes 256"


def test_a_first_token_stands_before_every_document(here: Path) -> None:
    model(here / "m")
    Path("held.txt").write_text(HELD)
    scratch = ["--start", "scratch", "--tokenizer", "m", "--super-weights", "none", "--first-token"]
    assert train("gpt2-mini", *scratch).code == 0
    (folder,) = Path("runs").iterdir()
    ticket, _ = swlottery.evaluate(folder, **FEW)
    assert ticket["baseline_nll"] == pytest.approx(sum(plain(folder / "final", bos=True)) / 32, rel=1e-6)


def test_a_network_that_was_masked_from_the_start_is_not_called_dense(here: Path, planted_gpt2, found_record) -> None:
    Path("held.txt").write_text(HELD)
    shutil.copytree(planted_gpt2[0], "m")
    said = train("m", "--super-weights", str(found_record), "--force-prune", "sw")
    assert said.code == 0, said
    (folder,) = Path("runs").iterdir()
    said = evaluate(folder)
    assert "round 1 (1 masked)" in said.out and "dense" not in said.out


def test_a_run_without_a_dense_network_and_another_one_beside_it(copied: Path) -> None:
    shutil.rmtree(copied / "round_1")
    said = evaluate(copied)
    assert said.code == 0 and "--beside" in said.out and "against" not in said.out
    ticket, other = swlottery.evaluate(copied, "m", **FEW)
    assert other["network"] == "beside it" and "nll_difference" in ticket and not ticket["note"]
    model(Path("short"), n_positions=24)
    assert swlottery.evaluate("short", "m", **FEW | {"eval_tokens": 1023})[1]["documents"] == 42
    refused(evaluate("m", "--beside", "short", eval_tokens=1023), "short takes 24 tokens at most", "other way round")
    model(Path("llama"), "llama", tokenizer=False)
    shutil.copytree("m", "other")
    content = json.loads(Path("other/tokenizer.json").read_text())
    content["model"]["merges"] = []
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    Path("other/tokenizer.json").write_text(json.dumps(content))
    refused(evaluate(copied, "--beside", "other", "--out", "o.json"), "other tokens")
    assert not Path("o.json").exists()


def test_what_cannot_be_evaluated(copied: Path) -> None:
    refused(evaluate("nowhere/at/all"), "no such file or folder")
    refused(evaluate("runs"), "holds no model")
    refused(evaluate(copied, "--revision", "main"), "--revision main changes nothing")
    refused(evaluate(copied, "--protocol", "wikitext2"), "--eval-tokens 640 changes nothing")
    refused(evaluate(copied, "--beside", ""), "cannot load the model ''")
    refused(evaluate(copied, "--beside", "./nothing"), "no such file or folder: ./nothing")
    refused(evaluate(copied, "--out", "runs"), "it is a folder")
    refused(evaluate(copied, eval_text="short.txt"), "short.txt")
    damaged = copied / "round_1" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    refused(evaluate(copied), "round_1", "damaged")
    (copied / "rounds.csv").write_text("round,total\n")
    refused(evaluate(copied), "rounds.csv is damaged")
    (copied / sums.NAME).unlink()
    refused(evaluate(copied), "its settings.json or rounds.csv is damaged")
    shutil.rmtree(copied / "final")
    refused(evaluate(copied), "no final ticket yet")


def test_the_page_names_its_flags() -> None:
    flags = {
        flag for action in parser().parse_args(["evaluate", "m"]).parser._actions for flag in action.option_strings
    }
    in_table = "".join(line for line in PAGE.splitlines() if line.startswith("| `--"))
    assert set(re.findall(r"`(--[a-z-]+)`", in_table)) == flags - {"-h", "--help"}
    lines = re.findall(r"^    \.venv/bin/swlottery (evaluate .*)$", PAGE, re.MULTILINE)
    assert len(lines) == 2 and all(parser().parse_args(line.split()).command == "evaluate" for line in lines)


# --- the model card


def test_the_card_loads_the_ticket_and_its_masks(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (there / "final" / "README.md").read_text()
    assert "final/README.md" in (there / sums.NAME).read_text()
    monkeypatch.chdir(there.parent)
    left: dict = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        before = {name: value.clone() for name, value in left["model"].state_dict().items()} if left else {}
        exec(code, left)
    parameters = dict(left["model"].named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in left["model"].state_dict().items())
    masked = sum(int((~mask).sum()) for mask in left["masks"].values())
    assert f"{masked:,} of the {sum(mask.numel() for mask in left['masks'].values()):,} weights in scope" in text
    assert all(not parameters[name][~mask].any() for name, mask in left["masks"].items())
    assert left["tokenizer"]("ab")["input_ids"]


def test_the_card_says_what_was_done(there: Path, tmp_path: Path) -> None:
    text = (there / "final" / "README.md").read_text()
    settings = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert settings
    (tmp_path / "c.yaml").write_text(settings[1])
    again = run("train", "--config", str(tmp_path / "c.yaml"))
    assert again.code == 0 and f"{there} is done" in again.out, "the same settings, the same run"
    for row in table(there, "rounds.csv"):
        assert f"| {float(row['train_loss']):,.4f} | {float(row['val_loss']):,.4f} |" in text
    (start,) = events(there, "start")
    assert start["lineage"] in text and start["data"]["sha256"] in text and "sparsity of 50.00 %" in text
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["library_name"] == "transformers" and "base_model" not in metadata
    trained = TrainSettings(**from_file(tmp_path / "c.yaml"))
    history = [json.loads(line) for line in (there / "metrics.jsonl").read_text().splitlines()]
    assert text == card(there, trained, history)
    hub = card(there, dataclasses.replace(trained, model="owner/name", data="a\nb`|"), history)
    assert yaml.safe_load(hub.split("---\n")[1])["base_model"] == "owner/name"
