"""Tokens that mean nothing: unknown ones, and those that the embedding has no row for; in both commands."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import odd
from sources import refusal, tokenizer_with
from swlottery.data import store as stores
from swlottery.data.tokens import prepare
from swlottery.data.vocabulary import unknown_share, unknown_token
from swlottery.models.load import load_tokenizer

pytestmark = pytest.mark.usefixtures("here")


def wordwise(*words: str, kind: str = "WordLevel", unknown: str | None = "<unk>", **names: str) -> Path:
    """A model whose tokenizer knows these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: token for token, word in enumerate([*([unknown] if unknown else []), *words])}
    inner = Tokenizer(
        models.WordLevel(vocabulary, unk_token=unknown or "[none]")
        if kind == "WordLevel"
        else models.BPE(vocabulary, [], unk_token=unknown)
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = odd.model(Path("m"), tokenizer=False)
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return folder


KNOWN = ("--eval-text", "known.txt", "--prompt", "one two three one two three one two three one two three")


def known() -> None:
    Path("known.txt").write_text("one two three " * 1000)


# --- Unknown to the tokenizer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [{}, {"unk_token": "<unk>"}, {"unk_token": "<unk>", "eos_token": "<unk>"}], ids=["unnamed", "named", "end"]
)
def test_a_tokenizer_that_knows_no_word_is_refused(names: dict[str, str]) -> None:
    model = wordwise("one", "two", "three", **names)
    known()
    odd.refused(odd.find(model), "knows nothing of the prompt 'Apple Inc.", "--prompt and --eval-text")
    odd.refused(odd.find(model, *KNOWN[2:]), "knows nothing of t.txt", "--eval-text")
    odd.refused(odd.train(model), "knows nothing of the prompt", "--super-weights none")
    odd.refused(odd.train(model, "--super-weights", "none"), "knows nothing of t.txt")
    assert not Path("runs").exists() and not Path("super_weights").exists()
    said = odd.find(model, *KNOWN, "--out", "r.json")
    assert said.code == 0 and "unknown" not in said.out, said
    said = odd.train(model, "--super-weights", "none", "--data", "known.txt")
    assert said.code == 0 and ("unknown" in said.out) == ("eos_token" in names), said  # then the document's end is


def test_one_prompt_of_several_that_nothing_is_known_of_is_named() -> None:
    known()
    odd.refused(odd.find(wordwise("one", "two", "three"), *KNOWN, "--prompt", "vier fünf"), "prompt 'vier fünf'")


def test_the_share_of_unknown_tokens_is_said() -> None:
    model = wordwise("one", "two", "three")
    Path("half.txt").write_text("one two vier five " * 1000)
    said = odd.find(model, "--eval-text", "half.txt", "--prompt", "one two three vier " * 5)
    assert said.code == 0, said
    assert "25.00 % of its tokens are unknown" in said.out and "half.txt; 50.00 % of its tokens are unknown" in said.out
    said = odd.train(model, "--super-weights", "none", "--data", "half.txt")
    assert said.code == 0 and "note: 50.00 % of the tokens of half.txt are unknown" in said.out, said


def test_what_ends_a_document_is_not_counted() -> None:
    Path("texts").mkdir()
    for number in range(200):
        Path("texts", f"{number}.txt").write_text("one vier")
    model = wordwise("one", "two", "three", "</s>", eos_token="</s>")
    said = odd.run("prepare", "--model", str(model), "--data", "texts", "--context", "8", "--eval-sequences", "2")
    assert said.code == 0 and "note: 50.00 % of the tokens of texts (200 files) are unknown" in said.out, said


def test_a_tokenizer_without_an_unknown_token_is_refused_in_one_line() -> None:
    model = wordwise("one", "two", "three", unknown=None)
    known()
    odd.refused(odd.find(model), "cannot make tokens of a prompt")
    odd.refused(odd.find(model, *KNOWN[2:]), "cannot make tokens of t.txt")
    odd.refused(odd.train(model, "--super-weights", "none"), "cannot make tokens of")
    assert not Path("runs").exists()


def test_a_tokenizer_that_drops_what_it_does_not_know() -> None:
    model = wordwise(*"xyz", kind="BPE", unknown=None)
    odd.refused(odd.find(model, "--prompt", "ABC"), "knows nothing of the prompt 'ABC'")
    odd.refused(odd.find(model, "--prompt", "xyz" * 9, "--eval-text", "no.txt"), "no such file")
    Path("no.txt").write_text("ABC " * 1000)
    odd.refused(odd.find(model, "--prompt", "xyz" * 9, "--eval-text", "no.txt"), "knows nothing of no.txt")
    odd.refused(odd.train(model, "--super-weights", "none", "--data", "no.txt"), "no.txt")


def test_which_token_is_the_unknown_one() -> None:
    assert unknown_token(tokenizer_with(unk_token="<s>", eos_token="<s>")) is None  # GPT-2: bytes, all of them known
    slow = SimpleNamespace(unk_token_id=3, eos_token_id=2)
    assert unknown_token(slow) == 3 and unknown_token(SimpleNamespace(unk_token_id=2, eos_token_id=2)) is None
    assert unknown_token(load_tokenizer(str(wordwise("one")))[0]) == 0
    assert unknown_share([3, 1, 3, 2], slow) == 0.5 and unknown_share([3, 1, 3, 2, 2], slow, [2]) == pytest.approx(
        2 / 3
    )
    assert unknown_share([], slow) == 1 and unknown_share([2, 2], slow, [2]) == 1


def test_a_unigram_tokenizers_unknown_token() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    assert unknown_token(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")) == 0


def test_a_word_without_a_token_is_one_line_from_a_worker_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "SMALL", 300)
    tokenizer = load_tokenizer(str(wordwise("one", "two", "three", "</s>", unknown=None, eos_token="</s>")))[0]
    Path("x.txt").write_text("one two three\n\n" * 20_000 + "vier")
    assert "cannot make tokens of the text" in refusal("x.txt", tokenizer, cores=2, of=prepare)


# --- Without a row in the embedding ----------------------------------------------------------------------------------


def padded(rows: int) -> Path:
    """A model with so many rows; its tokenizer has 256 bytes, <s> (256), </s> (257) and [PAD] (258), used by none."""
    model = odd.model(Path(f"rows{rows}"), vocab_size=rows)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(model)
    return model


def test_a_token_that_nobody_uses_needs_no_row() -> None:
    model = padded(258)
    for said in (odd.find(model), odd.train(model)):
        assert said.code == 0, said.err


def test_a_used_token_without_a_row_is_named() -> None:
    model = padded(257)  # none for </s>, which ends a document
    assert odd.find(model).code == 0
    odd.refused(odd.train(model), "t.txt has the token '</s>' (257), the end of a document", "only 257 rows")
    model = padded(256)  # nor for <s>
    odd.refused(odd.find(model), "has the token '<s>' (256)", "only 256 rows", "--bos")
    assert odd.find(model, "--bos", "without").code == 0
    model = padded(200)  # nor for letters
    odd.refused(odd.find(model, "--bos", "without"), "a prompt has the token 'Ġ' (220)", "only 200 rows")
    odd.refused(odd.train(model), "only 200 rows")
    Path("m.txt").write_text("[PAD]" + odd.TEXT)
    odd.refused(odd.find(padded(258), "--eval-text", "m.txt"), "m.txt has the token '[PAD]' (258)", "only 258 rows")
    odd.refused(odd.train(padded(258), "--data", "m.txt"), "m.txt has the token '[PAD]' (258)")
    assert not Path("runs").exists()


def test_a_network_without_a_row_for_bos_is_looked_at_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from swlottery.config import TrainSettings
    from swlottery.lottery import look, start

    def modes(rows: int) -> set[bool]:
        settings = TrainSettings(model=str(padded(rows)), device="cpu")
        return set(look.probe_of(start.network(settings)).with_bos)

    assert modes(256) == {False} and modes(257) == {False, True}
    file = Path("rows256", "tokenizer_config.json")
    odd.change(file, eos_token="\u0120")  # a token that has a row
    said = odd.train("rows256")
    assert said.code == 0, said.err
