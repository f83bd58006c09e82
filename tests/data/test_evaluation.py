"""Sources become texts, texts become windows: `swlottery.data.evaluation`."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sources
from sources import FakeHub, answer, python, tokenizer_with
from swlottery.data import evaluation as texts
from swlottery.data.evaluation import Text, evaluation_text, evenly, quick, read_text, wikitext2


def refusal(*args: Any, of: Any = read_text, **kwargs: Any) -> str:
    return sources.refusal(*args, of=of, **kwargs)


def text_of(content: str) -> Text:
    return Text("a test", content, hashlib.sha256(content.encode()).hexdigest())


pytestmark = pytest.mark.usefixtures("here")


def test_importing_the_module_imports_nothing_heavy() -> None:
    code = "import json, sys, swlottery.data.evaluation; print(json.dumps(sorted(sys.modules)))"
    assert not {"torch", "numpy", "datasets", "transformers"} & set(answer(python(code)))


# --- Files and folders ---------------------------------------------------------------------------------------------


def test_a_file_is_read_verbatim(here: Path) -> None:
    stored = " Grüße,\r\nworld\n\n".encode()
    (here / "notes").write_bytes(stored)
    text = read_text("notes")
    assert text == Text("notes", " Grüße,\r\nworld\n\n", hashlib.sha256(stored).hexdigest())
    assert len(text.content) == 16


def test_a_tilde_is_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "x.txt").write_text("words")
    assert read_text("~/x.txt").content == "words"


def test_a_folder_is_its_text_files_by_relative_path(here: Path) -> None:
    for name, content in {"b.rst": "3", "a/z.md": "2", "a.txt": "1", "a/code.py": "no", "txt": "no"}.items():
        path = here / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    text = read_text("corpus")
    assert text.content == "1\n\n2\n\n3"
    assert text.name == "corpus (3 files)"


def test_a_folder_without_text_is_refused(here: Path) -> None:
    (here / "corpus").mkdir()
    (here / "corpus" / "code.py").write_text("x = 1")
    assert "corpus holds no .txt, .md, .rst file" in refusal("corpus")


def test_builtin_and_short_names_come_before_files_and_those_before_other_data_sets(
    here: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wikitext", "builtin", "owner/name"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("a file")
    (here / "openwebtext").mkdir()
    (here / "openwebtext" / "x.txt").write_text("a folder")
    monkeypatch.setattr(texts, "builtin_text", lambda: text_of("built in"))
    named = [read_text(source).content for source in ("builtin", "wikitext", "owner/name", "openwebtext")]
    assert named == ["built in", "words", "a file", "words"]
    local = [read_text(source).content for source in ("./builtin", "./wikitext", f"{here}/openwebtext")]
    assert local == ["a file", "a file", "a folder"]


@pytest.mark.parametrize("source", ["bad.txt", "."])
def test_bytes_that_are_not_utf8_are_refused_with_file_and_offset(here: Path, source: str) -> None:
    (here / "bad.txt").write_bytes("Grüße".encode() + b"\xff")
    assert "bad.txt is not UTF-8 (byte 7:" in refusal(source)


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_a_text_without_text_is_refused(here: Path, content: str) -> None:
    (here / "empty.txt").write_text(content)
    assert "empty.txt holds no text" in refusal("empty.txt")
    assert "holds no text" in refusal(".")


def test_a_file_that_cannot_be_read_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, mode: str) -> Any:
        raise PermissionError(13, "Permission denied")

    (here / "x.txt").write_text("words")
    monkeypatch.setattr(Path, "open", denied)
    assert "x.txt cannot be read (Permission denied)" in refusal("x.txt")


NOWHERE = ["", "x.txt", "notes.md", "owner/notes.rst", "./x", "../x/y", "/no/such", "~/no-such", "~nobody/x", "a/b/c"]
NO_DATA_SETS = ["owner/name/", "builtn", "wikitext-2", "two words", "own er/name", "owner/name:", "nul\0/x"]


@pytest.mark.parametrize("source", NOWHERE + NO_DATA_SETS)
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(source: str, hub: FakeHub) -> None:
    message = refusal(source)
    assert "no such file or folder" in message and "'builtin'" in message
    assert not hub.asked


# --- The hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub()
    monkeypatch.setattr("datasets.load_dataset", hub.load_dataset)
    return hub


@pytest.mark.parametrize(
    ("source", "name", "config"),
    [
        ("wikitext", "Salesforce/wikitext", "wikitext-2-raw-v1"),
        ("openwebtext", "Skylion007/openwebtext", None),
        ("own.er/na-me_1", "own.er/na-me_1", None),
        ("owner/name:20220301.en", "owner/name", "20220301.en"),
    ],
)
def test_names_of_data_sets(hub: FakeHub, source: str, name: str, config: str | None) -> None:
    text = read_text(source)
    assert hub.asked == [(name, config)]
    assert text.content == "words"
    assert text.name == f"{name}:{config} (test)" if config else f"{name} (test)"


@pytest.mark.parametrize(
    ("splits", "taken"),
    [
        (["train", "validation", "test"], "test"),
        (["train", "validation"], "validation"),
        (["train"], "train"),
        (["extra"], None),
    ],
)
def test_splits(hub: FakeHub, splits: list[str], taken: str | None) -> None:
    hub.splits = {split: [{"text": f"the words of {split}"}] for split in splits}
    if taken is None:
        assert f"no split test, only {splits[0]}" in refusal("owner/name")
    else:
        text = read_text("owner/name")
        assert (text.name, text.content) == (f"owner/name ({taken})", f"the words of {taken}")


def test_rows_are_joined_by_blank_lines_and_empty_ones_stay(hub: FakeHub) -> None:
    hub.splits["test"] = [{"text": row} for row in (" = A = \n", "", None, "words")]
    assert read_text("wikitext").content == " = A = \n\n\n\n\n\n\nwords"


def test_the_only_column_of_strings_is_the_text(hub: FakeHub) -> None:
    hub.splits["test"] = [{"id": 1, "content": "a"}, {"id": 2, "content": "b"}]
    assert read_text("owner/name").content == "a\n\nb"
    hub.splits["test"] = [{"title": "no", "text": "yes", "id": 1}]
    assert read_text("owner/name").content == "yes"
    hub.splits["test"] = [{"title": "?", "body": "?", "id": 1}]
    assert "title, body, id" in refusal("owner/name")
    hub.splits["test"] = [{"id": 1}]
    assert "among id" in refusal("owner/name")
    hub.splits["test"] = [{"text": "a"}, {"text": ["b", "c"]}]
    assert "owner/name has lists in its column 'text'" in refusal("owner/name")


def test_a_data_set_without_rows_is_refused(hub: FakeHub) -> None:
    hub.splits["test"] = []
    assert "owner/name (test) holds no text" in refusal("owner/name")


def test_a_large_data_set_is_not_read_beyond_the_cap(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    read = itertools.count()
    hub.splits["test"] = ({"text": "x" * 10} for _ in read)  # endless
    monkeypatch.setattr(texts, "MAX_CHARACTERS", 100)
    text = read_text("owner/name")
    assert len(text.content) == 100
    assert text.name == "owner/name (test, first 100 characters)"
    assert next(read) == 9  # nine rows and their blank lines are 108 characters, without the last blank line 106
    hub.splits["test"] = [{"text": "x" * 10}] * 8
    assert read_text("owner/name").name == "owner/name (test)"


def test_whatever_the_library_raises_becomes_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("gated,\n  or worse " + "and worse " * 100)

    def broken_rows() -> Iterator[dict[str, str]]:
        yield {"text": "words"}
        raise OSError("connection lost")

    hub.splits["test"] = broken_rows()
    assert "connection lost" in refusal("owner/name")
    monkeypatch.setattr("datasets.load_dataset", fail)
    message = refusal("owner/name:part")
    assert "owner/name:part cannot be read (gated, or worse" in message and len(message) < 800
    assert "datasets.load_dataset('owner/name', 'part') on the login node" in message


OFFLINE = """
import json
from swlottery.data.evaluation import read_text
from swlottery.errors import BadInput
try:
    text = read_text("wikitext")
    print(json.dumps([text.name, text.content]))
except BadInput as error:
    print(json.dumps(str(error)))
"""


def test_a_hub_out_of_reach_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    message = answer(python(OFFLINE, HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(tmp_path / "datasets")))
    assert isinstance(message, str) and "\n" not in message
    assert "Salesforce/wikitext" in message and "'builtin'" in message and "HF_HUB_OFFLINE=1" in message


def test_a_data_set_prepared_beforehand_is_read_offline(tmp_path: Path) -> None:
    """The advice in that line works: what ``load_dataset`` leaves in its cache is found again without network."""
    from datasets import load_dataset_builder

    rows = tmp_path / "test.jsonl"
    rows.write_text('{"text": "one"}\n{"text": "two"}\n')
    builder = load_dataset_builder("json", data_files={"test": str(rows)}, cache_dir=str(tmp_path / "made"))
    builder.download_and_prepare()
    prepared = tmp_path / "datasets" / "Salesforce___wikitext" / "wikitext-2-raw-v1" / "0.0.0" / "0123abc"
    prepared.mkdir(parents=True)
    made = Path(builder.cache_dir)
    info = json.loads((made / "dataset_info.json").read_text())
    info.update(config_name="wikitext-2-raw-v1", dataset_name="wikitext")
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    (made / "json-test.arrow").rename(prepared / "wikitext-test.arrow")

    read = answer(python(OFFLINE, HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(tmp_path / "datasets")))
    assert read == ["Salesforce/wikitext:wikitext-2-raw-v1 (test)", "one\n\ntwo"]


# --- Windows -------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), size=st.integers(1, 20), spare=st.just(0) | st.integers(0, 2000))
def test_windows_are_in_order_apart_and_spread(count: int, size: int, spare: int) -> None:
    total = count * size + spare
    starts = evenly(total, size, count)
    steps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert len(starts) == count and starts[0] == 0
    assert all(step >= size for step in steps)  # in order, and apart
    if count > 1:
        assert starts[-1] + size == total
        assert max(steps) - min(steps) <= 1  # evenly


@pytest.mark.parametrize(("before", "body"), [("", 16), ("<s>", 15)])
def test_a_text_one_token_short_is_refused(before: str, body: int) -> None:
    text, tokenizer = "x" * (32 * body), tokenizer_with(before)
    message = refusal(text_of(text[1:]), tokenizer, 512, 1024, of=quick)
    assert f"{32 * body - 1} tokens" in message and f"32 windows of 16 need {32 * body}:" in message
    rows = quick(text_of(text), tokenizer, 512, 1024).windows
    assert rows.shape == (32, 16) and rows.dtype == torch.long


# --- Documents of an evaluation ------------------------------------------------------------------------------------

WORDS = " ".join(f"word{i:06d}" for i in range(20_000))


def test_the_test_tokenizer_has_a_token_a_byte() -> None:
    assert len(tokenizer_with()(WORDS[:500])["input_ids"]) == 500


@pytest.mark.parametrize(
    ("tokens", "context", "shape"),
    [
        (3200, 1024, (32, 100)),  # the tokens shared out
        (3231, 1024, (32, 100)),
        (543, 1024, (32, 16)),  # a rest that would make one more of them is left
        (3200, 50, (64, 50)),  # more documents of the whole context
        (3249, 50, (64, 50)),
        (3200, 100, (32, 100)),
        (512, 1024, (32, 16)),  # the shortest
        (320, 8, (40, 8)),  # a model whose whole context is shorter
    ],
)
def test_how_many_documents_of_what_length(tokens: int, context: int, shape: tuple[int, int]) -> None:
    rows = quick(text_of(WORDS), tokenizer_with(), tokens, context).windows
    assert rows.shape == shape and rows.dtype == torch.long


def test_too_few_tokens_are_refused_with_the_smallest_number() -> None:
    message = refusal(text_of(WORDS), tokenizer_with(), 511, 1024, of=quick)
    assert "set --eval-tokens to 512 or more" in message
    assert quick(text_of(WORDS), tokenizer_with(), 512, 1024).windows.numel() == 512


def test_a_text_too_short_is_refused_with_both_numbers() -> None:
    tokenizer = tokenizer_with("<s>")
    message = refusal(text_of("x" * 3167), tokenizer, 3200, 1024, of=quick)
    assert "3167 tokens" in message and "need 3168" in message  # 32 windows of 99 and BOS
    assert quick(text_of("x" * 3168), tokenizer, 3200, 1024).windows.shape == (32, 100)


@pytest.mark.parametrize(
    ("before", "after", "prefix"),
    [
        ("", "", []),
        ("<s>", "", [0]),
        ("", "</s>", []),
        ("<s>", "</s>", [0]),
        ("</s>", "", [1]),
        ("<s> </s>", "", [0, 1]),
    ],
    ids=["gpt2", "llama", "t5", "both", "opt", "two"],
)
def test_documents_begin_as_the_tokenizer_begins_a_text(before: str, after: str, prefix: list[int]) -> None:
    tokenizer = tokenizer_with(before, after, bos_token="<s>", eos_token="</s>")
    rows = quick(text_of(WORDS), tokenizer, 640, 1024).windows
    assert rows.shape == (32, 20)
    assert rows[:, : len(prefix)].tolist() == [prefix] * 32
    texts = [tokenizer.decode(row) for row in rows[:, len(prefix) :].tolist()]
    assert all(text in WORDS for text in texts)
    assert not torch.isin(rows[:, len(prefix) :], torch.tensor([0, 1])).any()


def test_a_long_text_is_not_tokenised_whole_yet_read_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, seen = tokenizer_with(), []
    call = type(tokenizer).__call__

    def watched(self: Any, content: str, **settings: Any) -> Any:
        seen.append(len(content))
        return call(self, content, **settings)

    monkeypatch.setattr(type(tokenizer), "__call__", watched)
    tokens, documents = 512, texts.DOCUMENTS
    assert len(WORDS) > 10 * texts.CHARACTERS_PER_TOKEN * tokens
    rows = quick(text_of(WORDS), tokenizer, tokens, 1024).windows
    assert max(seen) <= texts.CHARACTERS_PER_TOKEN * tokens + len("\n\n") * documents
    places = [WORDS.find(tokenizer.decode(row)) for row in rows.tolist()]
    found = [place for place in places if place >= 0]  # a window may hold the seam of two passages
    assert len(found) >= documents - 2
    assert found == sorted(found)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0, *found, len(WORDS)])]
    assert max(gaps) <= 2.2 * len(WORDS) / documents


def test_a_text_just_below_the_bar_is_tokenised_whole() -> None:
    tokens = 512
    content = WORDS[: texts.CHARACTERS_PER_TOKEN * tokens]
    rows = quick(text_of(content), tokenizer_with(), tokens, 1024).windows
    whole = tokenizer_with()(content)["input_ids"]
    assert rows.tolist() == [whole[start : start + 16] for start in evenly(len(whole), 16, 32)]


def test_no_warning_of_a_text_longer_than_the_context(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "transformers")  # a command that another test ran may have asked for less
    tokenizer = tokenizer_with(model_max_length=64)
    quick(text_of(WORDS), tokenizer, 640, 64)
    assert "longer than" not in caplog.text
    tokenizer(WORDS)  # it would have been seen
    assert "longer than" in caplog.text


# --- The scored text -----------------------------------------------------------------------------------------------

ODD = "Grüße, Welt:  zwei Lücken\n\nund   œuvre 漢字 " * 2000


@pytest.mark.parametrize("before", ["", "<s>"])
@pytest.mark.parametrize("content", [WORDS, ODD], ids=["ascii", "odd"])
@pytest.mark.parametrize("fast", [True, False])
def test_words_and_bytes_are_those_of_the_tokens_whose_loss_is_counted(before: str, content: str, fast: bool) -> None:
    """A token is a byte here. Of a window without BOS the first one is not scored."""
    tokenizer = tokenizer_with(before)
    if not fast:
        tokenizer = Slow(tokenizer)
    documents = quick(text_of(content), tokenizer, 3200, 1024)
    scored = [tokenizer.decode(row[1:]) for row in documents.windows.tolist()]
    assert documents.words == pytest.approx(sum(len(text.split()) for text in scored), abs=0 if content == WORDS else 8)
    exact = documents.windows[:, 1:].numel()
    cut = 0 if content == WORDS else 2 * len(scored)  # letters of which a window has a part
    assert abs(documents.bytes - exact) <= cut


class Slow:
    """A tokenizer that cannot say where in the text its tokens are."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self.inner, self.decode = inner, inner.decode

    def __call__(self, content: str, return_offsets_mapping: bool = False, **settings: Any) -> Any:
        assert not return_offsets_mapping
        return self.inner(content, **settings)


def test_text_that_the_tokenizer_does_not_know_is_scored_text_too() -> None:
    """What a decoder makes of unknown tokens is another text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "known": 1}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    content = "known verylongunknownword " * 400
    documents = quick(text_of(content), PreTrainedTokenizerFast(tokenizer_object=inner), 640, 1024)
    unknown = int((documents.windows[:, 1:] == 0).sum())
    assert documents.words == 32 * 19
    assert documents.bytes == len(" known") * (32 * 19 - unknown) + len(" verylongunknownword") * unknown


# --- The protocol wikitext2 ----------------------------------------------------------------------------------------


def article(tokens: int) -> str:
    """Lines as in the files of WikiText, blank ones too, of so many bytes at least."""
    lines = [" \n", " = A heading = \n", " \n", " Some words @-@ and <unk> , and a number 12 @.@ 5 . \n", "\n"]
    return "".join(lines) * (tokens // 60)


@pytest.mark.parametrize("before", ["", "<s>"])
def test_the_first_32_windows_of_2048_tokens_one_after_the_other(before: str) -> None:
    tokenizer, text = tokenizer_with(before), text_of(WORDS)
    documents = wikitext2(text, tokenizer, 8192)
    assert documents.windows.shape == (32, 2048)
    whole = tokenizer(WORDS)["input_ids"]  # what a few lines of transformers take
    assert documents.windows.flatten().tolist() == whole[:65536]
    assert (documents.windows == 0).sum() == (before == "<s>"), "BOS once, where the tokenizer puts it"
    assert documents.bytes == 32 * 2047


def test_a_shorter_context_has_the_same_tokens_in_more_windows() -> None:
    whole = torch.tensor(tokenizer_with()(WORDS)["input_ids"])
    for context, count in ((1024, 64), (1000, 65), (64, 1024)):
        rows = wikitext2(text_of(WORDS), tokenizer_with(), context).windows
        assert rows.shape == (count, context) and torch.equal(rows.flatten(), whole[: count * context])


def test_a_text_too_short_for_the_protocol_is_refused() -> None:
    assert wikitext2(text_of("x" * 65536), tokenizer_with(), 2048).words == 32
    message = refusal(text_of("x" * 65535), tokenizer_with(), 2048, of=wikitext2)
    assert "65535 tokens" in message and "takes 65536" in message


def test_a_file_of_the_split_is_the_text_of_the_hubs_rows(here: Path, hub: FakeHub) -> None:
    """As the data set's own script makes rows of the file: a line each, a blank one empty."""
    content = article(600)
    (here / "wiki.test.raw").write_bytes(content.encode())
    (here / "windows.txt").write_bytes(content.replace("\n", "\r\n").encode())
    with open("wiki.test.raw", encoding="utf-8") as file:
        hub.splits = {"test": [{"text": row if row.strip() else ""} for row in file], "train": [{"text": "no"}]}
    streamed = evaluation_text("builtin", "wikitext2")
    assert hub.asked == [("Salesforce/wikitext", "wikitext-2-raw-v1")]
    assert streamed.content.startswith("\n\n = A heading = \n\n\n\n\n")
    for name in ("wiki.test.raw", "windows.txt"):
        local = evaluation_text(name, "wikitext2")
        assert (local.content, local.sha256) == (streamed.content, streamed.sha256)
    assert evaluation_text("wiki.test.raw", "quick").content == content


@pytest.mark.parametrize(("source", "words"), [("folder", "is a folder"), ("a/b", "is about wikitext, not a/b")])
def test_the_protocol_reads_nothing_else(here: Path, hub: FakeHub, source: str, words: str) -> None:
    (here / "folder").mkdir()
    assert words in refusal(source, "wikitext2", of=evaluation_text)
    assert hub.asked == []
