"""Sources become tokens on disk, tokens become batches: `swlottery.data.tokens`."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources import FakeHub, answer, python, refusal, tokenizer_with
from swlottery.data import builtin, preparation
from swlottery.data import shards as shard_files
from swlottery.data import sources as documents
from swlottery.data import store as stores
from swlottery.data import tokenize as encode
from swlottery.data.batches import batch, validation_windows
from swlottery.data.shards import Shard
from swlottery.data.tokens import Tokens, prepare
from swlottery.runtime import files, sums

END = 1  # </s> of the tests' tokenizer, which otherwise has a token a byte


def tokenizer() -> Any:
    return tokenizer_with("<s>", "</s>", bos_token="<s>", eos_token="</s>")


def ids(*texts: str) -> list[int]:
    """The tokens of documents, each with the end of text behind it."""
    plain = tokenizer_with()
    return [token for text in texts for token in (*plain(text, add_special_tokens=False)["input_ids"], END)]


def everything(tokens: Tokens) -> list[int]:
    return [*tokens.train[:].tolist(), *tokens.validation[:].tolist()]


pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def hub(fake_hub: FakeHub) -> FakeHub:
    return fake_hub


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where prepared sources are kept."""
    return tmp_path / "cache" / "tokens"


def copies(store: Path) -> list[Path]:
    """The prepared sources, beside which nothing but their locks may be left; in them nothing unfinished."""
    found = sorted(path for path in store.iterdir() if path.suffix != ".lock")
    assert not [file for path in found for file in path.iterdir() if file.name.startswith(".")]
    return found


def shards(copy: Path) -> list[Path]:
    return sorted(copy.glob("*.safetensors"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few hundred characters."""
    monkeypatch.setattr(stores, "SMALL", 300)
    monkeypatch.setattr(stores, "LARGE", 600)
    monkeypatch.setattr(stores, "FEW", 3)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- Documents -----------------------------------------------------------------------------------------------------


def test_a_file_is_one_document(here: Path) -> None:
    (here / "x.txt").write_bytes("Grüße,\r\n\r\nworld\n".encode())
    tokens = prepare("x.txt", tokenizer())
    assert tokens.name == "x.txt"
    assert everything(tokens) == ids("Grüße,\r\n\r\nworld\n")


def test_each_file_of_a_folder_is_a_document_and_blank_ones_are_none(here: Path) -> None:
    for name, content in {"b.rst": "three", "a/z.md": "two", "a.txt": "one", "c.txt": " \n", "a/code.py": "no"}.items():
        path = here / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    tokens = prepare("corpus", tokenizer())
    assert tokens.name == "corpus (4 files)" and tokens.manifest["documents"] == 3
    assert everything(tokens) == ids("one", "two", "three")


def test_each_docstring_of_the_builtin_text_is_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "docstrings", lambda: ["first\n\nof two", "second"])
    tokens = prepare("builtin", tokenizer())
    assert tokens.name.startswith("builtin (docstrings of Python ")
    assert everything(tokens) == ids("first\n\nof two", "second")


def test_each_row_of_a_data_set_is_a_document(hub: FakeHub) -> None:
    hub.splits = {"train": [{"text": row} for row in ("one", "", None, " \n", "two")], "test": [{"text": "no"}]}
    tokens = prepare("openwebtext", tokenizer())
    assert hub.asked == [("Skylion007/openwebtext", None)]
    assert [*tokens.validation[:].tolist(), *tokens.train[:].tolist()] == ids("one", "two")


def test_an_article_of_wikitext_is_a_document(hub: FakeHub) -> None:
    rows = ["", " = One = \n", "", " Words . \n", " = = Section = = \n", "more\n", "", " = Two = \n", "words\n"]
    hub.splits = {"train": [{"text": row} for row in rows]}
    tokens = prepare("wikitext", tokenizer())
    assert [*tokens.validation[:].tolist(), *tokens.train[:].tolist()] == ids("".join(rows[1:7]), "".join(rows[7:]))


def test_a_blank_line_stands_between_documents_where_no_token_ends_a_text(here: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (here / name).write_text(name)
    tokens = prepare(".", tokenizer_with())
    assert tokenizer_with().decode(everything(tokens)) == "a.txt\n\nb.txt\n\n"


words = st.text("ab .é\r\n", max_size=200)


@given(content=words, size=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_the_pieces_of_a_file_are_the_file(content: str, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.txt"
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(documents, "PIECE", size)
        pieces = list(documents._mark_last(documents.read_pieces(path)))
    if not content.strip():
        assert not any(text.strip() for text, _ in pieces)
    else:
        assert "".join(text for text, _ in pieces) == content
    assert [ends for _, ends in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


def test_a_file_in_pieces_has_the_tokens_of_the_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from swlottery.data.tokenizer import builtin_tokenizer

    prose = "Some words of it, and more. " * 8
    monkeypatch.setattr(builtin, "docstrings", lambda: [prose])  # what the tokenizer is trained on
    real = builtin_tokenizer()
    content = "\n\n\n".join(f"{prose}\n  {i} words\n\n" for i in range(50))
    (here / "x.txt").write_text(content)
    monkeypatch.setattr(documents, "PIECE", 1000)
    assert sum(1 for _ in documents.read_pieces(here / "x.txt")) > 10
    whole = real(content, add_special_tokens=False)["input_ids"]
    assert everything(prepare("x.txt", real)) == [*whole, real.eos_token_id]


def test_a_damaged_tokenizer_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from swlottery.data.tokenizer import builtin_tokenizer

    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builtin, "docstrings", lambda: ["Some words of it, and more. " * 8])
    made = builtin_tokenizer().get_vocab()
    (path,) = (tmp_path / "cache").glob("bpe-*.json")
    content = path.read_text()
    for damaged in (content.replace('"Some"', '"Sone"'), content.replace('": 60,', '": 61,'), content[:-9], "[]"):
        assert damaged != content
        path.write_text(damaged)
        assert builtin_tokenizer().get_vocab() == made and path.read_text() == content


@pytest.mark.parametrize("size", [1, 3, 4, 7, 8, 1000])
def test_bytes_that_are_not_utf8_are_refused_with_file_and_offset(
    here: Path, store: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(documents, "PIECE", size)
    (here / "bad.txt").write_bytes("Grüße".encode() + b"\xff and more")
    assert "bad.txt is not UTF-8 (byte 7: invalid start byte)" in refusal("bad.txt", tokenizer(), of=prepare)
    (here / "bad.txt").write_bytes("Grüße".encode() + b"\xc3")
    assert "bad.txt is not UTF-8 (byte 7: unexpected end of data)" in refusal("bad.txt", tokenizer(), of=prepare)
    assert not copies(store)


# --- What is stored ------------------------------------------------------------------------------------------------


def write_corpus(here: Path, count: int = 40, length: int = 50) -> list[str]:
    """A folder of documents, no two alike."""
    rng = random.Random(0)
    texts = [f"{i:04d} " + "".join(rng.choices("abcdefgh ", k=length)) + "." for i in range(count)]
    (here / "corpus").mkdir()
    for i, text in enumerate(texts):
        (here / "corpus" / f"{i:04d}.txt").write_text(text)
    return texts


def test_the_manifest_says_what_is_there(here: Path, store: Path) -> None:
    texts = write_corpus(here)
    tokens = prepare("corpus", tokenizer())
    (copy,) = copies(store)
    stored = np.array(ids(*texts), np.uint16).tobytes()
    assert tokens.folder == copy and tokens.manifest == sums.read_sealed(copy / "manifest-all.json")
    manifest = tokens.manifest
    assert everything(tokens) == ids(*texts)
    assert copy.name.startswith("corpus-")
    expected = {
        "name": "corpus (40 files)",
        "documents": len(texts),
        "characters": sum(map(len, texts)),
        "tokens": len(ids(*texts)),
        "train_tokens": len(tokens.train),
        "validation_tokens": len(tokens.validation),
        "vocabulary": 258,
        "dtype": "uint16",
        "bytes": len(stored),
        "sha256": sha256(stored),
    }
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["key"]["tokenizer"] == encode.fingerprint(tokenizer())
    assert set(manifest["versions"]) == {"python", "numpy", "tokenizers", "transformers", "datasets"}


def test_stored_tokens_are_memory_mapped_and_cannot_be_written_to(here: Path) -> None:
    write_corpus(here)
    tokens = prepare("corpus", tokenizer())
    for part in (tokens.train, tokens.validation):
        assert part.dtype == part[:].dtype == np.uint16 and not part[:].flags.owndata
        with pytest.raises(ValueError):
            part[:][0] = 0
        with pytest.raises(TypeError):
            part[0] = 0  # type: ignore[index]


def test_prepared_once_it_is_found_again_without_the_source(hub: FakeHub, store: Path) -> None:
    hub.splits = {"train": [{"text": "words"}] * 10}
    first = prepare("owner/name:part", tokenizer())
    before = [path.stat().st_mtime_ns for path in shards(copies(store)[0])]
    called = tokenizer()
    called.pad_token = "</s>"
    called("pads, or cuts", padding="max_length", truncation=True, max_length=3)  # and remembers that
    second = prepare("owner/name:part", called)
    assert len(hub.asked) == 1  # the second time nobody was asked
    assert [path.stat().st_mtime_ns for path in shards(copies(store)[0])] == before
    assert everything(second) == everything(first) and second.manifest == first.manifest


def test_whatever_decides_the_tokens_has_a_copy_of_its_own(here: Path, store: Path) -> None:
    texts = write_corpus(here)
    other = tokenizer()
    other.add_tokens(["0001"])
    made = [prepare("corpus", tokenizer()), prepare("corpus", tokenizer_with()), prepare("corpus", other)]
    (here / "corpus" / "0000.txt").write_text("changed")
    made.append(prepare("corpus", tokenizer()))
    assert len(copies(store)) == len(made) == len({tokens.manifest["sha256"] for tokens in made})
    (here / "corpus" / "0000.txt").write_text(texts[0])
    (here / "corpus").rename(here / "moved")
    (here / "elsewhere").mkdir()
    (here / "moved").rename(here / "elsewhere" / "corpus")
    assert prepare("elsewhere/corpus", tokenizer()).name == "elsewhere/corpus (40 files)"
    assert len(copies(store)) == len(made)  # the same documents under another path


def test_a_folder_can_be_given(here: Path, tmp_path: Path) -> None:
    write_corpus(here)
    prepare("corpus", tokenizer(), folder=tmp_path / "own")
    assert len(copies(tmp_path / "own")) == 1 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("vocabulary", "dtype"), [(300, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_a_large_vocabulary_is_stored_in_four_bytes(here: Path, vocabulary: int, dtype: str) -> None:
    large = tokenizer()
    large.add_tokens([f"<{i}>" for i in range(vocabulary - 258)])
    last = f"<{vocabulary - 259}>"
    (here / "x.txt").write_text(f"a{last}b")
    tokens = prepare("x.txt", large)
    assert tokens.manifest["vocabulary"] == vocabulary and tokens.manifest["dtype"] == dtype
    assert everything(tokens)[1] == vocabulary - 1
    assert tokens.train.dtype == np.dtype(dtype)
    assert batch(np.asarray(everything(tokens), dtype), 3, 2, 0, 0).max() == vocabulary - 1
    assert tokens.train[:].dtype == np.dtype(dtype)


@pytest.mark.parametrize("limit", [1, 57, 58, 59, 1000, 10**6])
def test_a_limit_takes_the_first_tokens(here: Path, limit: int, small: None) -> None:
    everywhere = ids(*write_corpus(here))
    tokens = prepare("corpus", tokenizer(), tokens=limit, cores=1)
    assert everything(tokens) == everywhere[:limit]
    assert tokens.manifest["tokens"] == min(limit, len(everywhere))
    assert tokens.manifest["documents"] == min(-(-limit // 57), 40)


def test_a_limit_ends_the_reading_of_an_endless_set(hub: FakeHub, small: None) -> None:
    hub.splits = {
        "train": ({"text": f"row {i}"} for i in iter(int, 1)),
        "validation": ({"text": "v"} for _ in iter(int, 1)),
    }
    tokens = prepare("owner/name", tokenizer(), tokens=1000, cores=1)
    assert len(tokens.train) == 1000
    assert len(tokens.validation) == 600  # of an endless one so much as a shard takes


# --- Validation ----------------------------------------------------------------------------------------------------


def test_a_validation_split_is_used(hub: FakeHub) -> None:
    hub.splits = {"train": [{"text": "train"}] * 9, "validation": [{"text": "held out"}], "test": [{"text": "no"}]}
    tokens = prepare("owner/name", tokenizer())
    assert tokens.train[:].tolist() == ids(*["train"] * 9)
    assert tokens.validation[:].tolist() == ids("held out")
    assert tokens.manifest["validation"] == "the data set's own" and tokens.manifest["documents"] == 10
    hub.splits["validation"] = [{"text": ""}]  # is none
    assert len(prepare("owner/other", tokenizer()).validation) > 0


@pytest.mark.parametrize(("minimum", "share"), [(0, 0.05), (10**6, 0.2), (200, 200 / 2280)])
def test_else_the_last_documents_are_held_out(
    here: Path, monkeypatch: pytest.MonkeyPatch, minimum: int, share: float
) -> None:
    monkeypatch.setattr(preparation, "MIN_VALIDATION", minimum)
    texts = write_corpus(here)
    tokens = prepare("corpus", tokenizer())
    total = 57 * len(texts)
    assert share * total <= len(tokens.validation) < share * total + 57
    train, validation = tokens.train[:].tolist(), tokens.validation[:].tolist()
    assert train[-1] == END and len(train) % 57 == len(validation) % 57 == 0  # whole documents
    assert train + validation == ids(*texts)
    in_train = {tuple(train[i : i + 57]) for i in range(0, len(train), 57)}
    assert not in_train & {tuple(validation[i : i + 57]) for i in range(0, len(validation), 57)}


@pytest.mark.parametrize("limit", [None, 100, 500, 1500])
def test_of_a_set_without_such_a_split_the_same_documents_are_held_out_whatever_the_count(
    hub: FakeHub, small: None, limit: int | None
) -> None:
    texts = [f"document {i:04d}" for i in range(150)]  # 14 tokens each, 2100 in all
    hub.splits = {"train": [{"text": text} for text in texts]}
    tokens = prepare("owner/name", tokenizer(), tokens=limit, cores=1)
    everywhere = ids(*texts)
    assert tokens.validation[:].tolist() == everywhere[:70]  # five documents: at least a fifth of the first shard's 322
    assert tokens.train[:].tolist() == everywhere[70:][:limit]
    assert tokens.manifest["validation"] == "the first tokens"
    assert tokens.manifest["documents"] == min(150, 5 + -(-(limit or 2100) // 14))


def test_of_a_short_set_as_much_is_held_out_as_of_a_file(hub: FakeHub) -> None:
    hub.splits = {"train": [{"text": "x" * 57}] * 40}
    tokens = prepare("owner/name", tokenizer())
    assert (len(tokens.validation), len(tokens.train)) == (464, 1856)  # a fifth: eight documents of 58 tokens
    hub.splits = {"train": [{"text": "x" * 999}]}
    tokens = prepare("owner/other", tokenizer())
    assert (len(tokens.validation), len(tokens.train)) == (200, 800)


def test_of_a_single_document_the_end_is_held_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "MIN_VALIDATION", 0)
    (here / "x.txt").write_text("x" * 999)
    tokens = prepare("x.txt", tokenizer())
    assert (len(tokens.train), len(tokens.validation)) == (950, 50)


# --- Bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["", "no-such.txt", "/no/such/folder", "builtn", "own er/name"])
def test_an_unknown_source_is_refused(source: str, hub: FakeHub, store: Path) -> None:
    message = refusal(source, tokenizer(), of=prepare)
    assert "no such file or folder" in message and not hub.asked and not store.exists()


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_a_source_without_text_is_refused(here: Path, store: Path, content: str) -> None:
    (here / "empty.txt").write_text(content)
    assert "empty.txt holds no text" in refusal("empty.txt", tokenizer(), of=prepare)
    assert not copies(store)


def test_what_is_no_regular_file_is_refused(here: Path) -> None:
    os.mkfifo(here / "pipe")
    assert "pipe is no regular file" in refusal("pipe", tokenizer(), of=prepare)


def test_no_tokens_at_all_make_no_sense(here: Path) -> None:
    assert "give at least 1" in refusal("builtin", tokenizer(), tokens=0, of=prepare)


def test_a_set_without_a_training_split_is_refused(hub: FakeHub) -> None:
    assert "owner/name has no split train, only test" in refusal("owner/name", tokenizer(), of=prepare)


def test_a_connection_lost_midway_leaves_whole_shards_to_go_on_from(hub: FakeHub, store: Path, small: None) -> None:
    def rows() -> Iterator[dict[str, str]]:
        for _ in range(100):
            yield {"text": "words"}
        raise OSError(errno.ENOSPC, "connection lost")  # an error of the source, whatever its number

    hub.splits = {"train": rows()}
    message = refusal("owner/name", tokenizer(), cores=1, of=prepare)
    assert "owner/name cannot be read" in message and "connection lost" in message
    (copy,) = copies(store)
    left = {path.name: path.stat().st_mtime_ns for path in shards(copy)}
    assert list(left) == ["train-00000.safetensors", "validation-00000.safetensors"]
    hub.splits = {"train": [{"text": "words"}] * 200}
    tokens = prepare("owner/name", tokenizer(), cores=1)
    assert len(tokens.train) + len(tokens.validation) == 1200
    assert left.items() <= {path.name: path.stat().st_mtime_ns for path in shards(copy)}.items()


OFFLINE = """
import json
from swlottery.data.tokens import prepare
from swlottery.errors import BadInput
from sources import tokenizer_with
try:
    prepare("wikitext", tokenizer_with())
except BadInput as error:
    print(json.dumps(str(error)))
"""


def test_a_hub_out_of_reach_is_one_line_that_says_what_to_do(tmp_path: Path, store: Path) -> None:
    message = answer(python(OFFLINE, HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(tmp_path / "datasets")))
    assert isinstance(message, str) and "\n" not in message
    assert "Salesforce/wikitext" in message and "'builtin'" in message and "HF_HUB_OFFLINE=1" in message
    assert not store.exists() or not copies(store)


def test_too_few_tokens_are_refused_with_both_numbers(here: Path) -> None:
    write_corpus(here)
    tokens = prepare("corpus", tokenizer())  # 2280 tokens, 456 of them held out
    assert (len(tokens.train), len(tokens.validation)) == (1824, 456)
    tokens.require(455, sequences=4)
    message = refusal(456, sequences=4, of=tokens.require)
    assert "has 1824 tokens to train on" in message and "4 × 457 tokens needs 1828" in message
    message = refusal(500, of=tokens.require)
    assert "has 456 tokens for validation" in message and "needs 501" in message
    assert "2 × 456 tokens needs 912" in refusal(455, windows=2, of=tokens.require)
    assert "10 tokens" in (line := refusal(np.arange(10), 10, 1, 0, 0, of=batch)) and "needs 11" in line
    assert "10 tokens" in (line := refusal(np.arange(10), 5, 2, of=validation_windows)) and "need 12" in line


# --- Disks and folders that refuse ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("moment", ["write", "sync", "replace"])
def test_a_disk_that_refuses_is_one_line_and_leaves_nothing(
    here: Path, store: Path, monkeypatch: pytest.MonkeyPatch, code: int, moment: str
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    write_corpus(here)
    with monkeypatch.context() as refusing:
        target, name = {"write": (files, "write"), "sync": (files, "sync"), "replace": (os, "replace")}[moment]
        refusing.setattr(target, name, refuse)
        message = refusal("corpus", tokenizer(), of=prepare)
    assert ("no space for" in message) == (code != errno.EIO)
    assert os.strerror(code) in message and str(store) in message and "SWLOTTERY_CACHE" in message
    assert not [path for copy in copies(store) for path in copy.iterdir()]
    assert prepare("corpus", tokenizer()).manifest["documents"] == 40


def test_a_disk_that_is_full(here: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        write_corpus(here, 100, 1000)
        message = refusal("corpus", tokenizer(), folder=disk, of=prepare)
        assert "no space for the tokens of corpus (100 files)" in message
        assert not [path for copy in copies(disk) for path in copy.iterdir()]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_cache_that_is_no_folder_is_refused(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(here)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "file"))
    assert "cannot write the tokens of corpus (40 files)" in refusal("corpus", tokenizer(), of=prepare)


# --- Damaged shards ------------------------------------------------------------------------------------------------


def damage(shard: Path, how: str) -> None:
    content = shard.read_bytes()
    if how == "short":
        shard.write_bytes(content[:-2])
    elif how == "long":
        shard.write_bytes(content + b"\0\0")
    elif how == "bit":
        shard.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif how == "empty":
        shard.write_bytes(b"")
    elif how == "no header":
        shard.write_bytes(b"\xff" * 8 + content[8:])
    elif how == "no JSON":
        shard.write_bytes(content[:8] + b"x" + content[9:])
    else:
        shard.write_bytes(content.replace(b'number\\": 1', b'number\\": 7'))
        assert shard.read_bytes() != content


@pytest.mark.parametrize("how", ["short", "long", "bit", "empty", "no header", "no JSON", "another's"])
def test_a_damaged_shard_is_made_again(here: Path, store: Path, how: str, small: None) -> None:
    write_corpus(here)
    prepare("corpus", tokenizer(), cores=1)
    (copy,) = copies(store)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    others = {path: path.stat().st_mtime_ns for path in shards(copy) if path != shards(copy)[1]}
    damage(shards(copy)[1], how)
    said: list[str] = []
    prepare("corpus", tokenizer(), say=said.append, cores=1)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert len(said) == 1 and f"{shards(copy)[1]} is damaged" in said[0]


@pytest.mark.parametrize("hashed", [1 << 30, 1])
def test_every_bit_of_a_shard_counts(
    hashed: int, here: Path, store: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except, of very many tokens, those of the tokens themselves."""
    write_corpus(here)
    first = prepare("corpus", tokenizer(), cores=1)
    monkeypatch.setattr(shard_files, "HASHED", hashed)
    path = shards(copies(store)[0])[1]
    sound = path.read_bytes()
    shard = Shard(path)
    inside = {name: range(*(shard._start + at for at in between)) for name, between in shard._at.items()}
    unread = inside["tokens"] if hashed == 1 else range(0)
    draw = random.Random(2024)
    for at in [*draw.sample(range(len(sound)), 80), *inside["ends"]]:
        flipped = bytes([sound[at] ^ 1 << draw.randrange(8)])
        path.write_bytes(sound[:at] + flipped + sound[at + 1 :])
        said: list[str] = []
        again = prepare("corpus", tokenizer(), say=said.append, cores=1)
        if path.read_bytes() == sound:
            assert f"{path} is damaged" in said[0]
        else:  # a place that nobody reads, such as a tensor's type in the header
            now = Shard(path)
            assert at in unread or (list(now.tokens), list(now.ends)) == (list(shard.tokens), list(shard.ends))
            assert {**shard.about, **now.about} == now.about and not said
        assert again.manifest == first.manifest
        path.write_bytes(sound)


def test_every_bit_of_what_is_kept_beside_the_shards_counts(here: Path, store: Path) -> None:
    write_corpus(here)
    first = prepare("corpus", tokenizer()).manifest
    kept = stores.Store(copies(store)[0], "key", "corpus")
    kept.write_place("train", 0, 5, {"file": 3, "row": 17})
    draw = random.Random(2024)
    for path in (kept.folder / "manifest-all.json", kept.path("train", 0).with_suffix(".json")):
        sound = path.read_bytes()
        for at in draw.sample(range(len(sound)), 60):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << draw.randrange(8)]) + sound[at + 1 :])
            assert kept.read_place("train", 0, 5) in (None, {"file": 3, "row": 17})
            again = prepare("corpus", tokenizer()).manifest
            assert {**again, **first} == again  # a flip in the name of the hash: one entry more
            path.write_bytes(sound)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"of": "another"}'])
def test_a_damaged_manifest_is_made_again(here: Path, store: Path, content: str) -> None:
    write_corpus(here)
    manifest = prepare("corpus", tokenizer()).manifest
    (copies(store)[0] / "manifest-all.json").write_text(content)
    assert prepare("corpus", tokenizer()).manifest == manifest


def test_a_store_that_may_only_be_read_is_enough(here: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(here)
    prepare("corpus", tokenizer())
    monkeypatch.setattr(files, "write", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert len(prepare("corpus", tokenizer(), tokens=100).train) == 80


def test_of_very_many_tokens_only_the_sizes_are_checked(
    here: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(here)
    first = prepare("corpus", tokenizer())
    monkeypatch.setattr(shard_files, "HASHED", 100)
    damage(shards(copies(store)[0])[0], "bit")
    assert prepare("corpus", tokenizer()).manifest == first.manifest
    damage(shards(copies(store)[0])[0], "short")
    said: list[str] = []
    prepare("corpus", tokenizer(), say=said.append)
    assert said


def test_very_many_tokens_of_a_set_are_known_by_the_hashes_of_their_shards(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.splits = {"train": [{"text": "words"}] * 200}
    monkeypatch.setattr(shard_files, "HASHED", 100)
    first, second = (prepare("owner/name", tokenizer(), tokens=count).manifest["sha256"] for count in (100, 101))
    assert first != second and prepare("owner/name", tokenizer(), tokens=100).manifest["sha256"] == first


# --- Several jobs, and jobs that are killed ------------------------------------------------------------------------

SLOW = """
import json, os, time
from swlottery.data import store as stores
from swlottery.data import tokenize as encode
from swlottery.data import tokens as data
from swlottery.runtime import files
from sources import tokenizer_with

encode.BATCH, stores.SMALL = 300, 600
made, waited = [], []
{trap}

def progress(done, total):
    if done == 0:  # asked while another job is at work
        return
    made.append(done)
    print(done, flush=True)
    time.sleep({pause})

tokenizer = tokenizer_with("<s>", "</s>", eos_token="</s>")
tokens = data.prepare("corpus", tokenizer, progress=progress, say=waited.append, cores=1)
print(json.dumps([len(made), waited, tokens.manifest["sha256"]]))
"""


def slow(pause: float, trap: str = "") -> str:
    return SLOW.format(pause=pause, trap=trap)


def test_a_job_that_waits_for_another_can_be_asked_to_stop(here: Path, tmp_path: Path) -> None:
    write_corpus(here)
    at_work = python(slow(pause=0.5))
    assert at_work.stdout is not None and at_work.stdout.readline()
    waiting = python(
        "from swlottery.runtime.files import lock\n"
        "from pathlib import Path\n"
        "from swlottery.runtime.stop import Stopped, raise_if_asked\n"
        f"(place,) = Path({str(tmp_path / 'cache' / 'tokens')!r}).glob('*.lock')\n"
        "try:\n"
        "    with lock(place.with_suffix(''), print, lambda: raise_if_asked(lambda: True)):\n"
        "        print('mine')\n"
        "except Stopped:\n"
        "    print('stopped')\n"
    )
    out, _ = waiting.communicate(timeout=60)
    at_work.kill()
    at_work.wait()
    assert "waiting for another job" in out and out.endswith("stopped\n")


def test_two_jobs_at_once_end_with_one_good_copy(here: Path, store: Path) -> None:
    texts = write_corpus(here)
    jobs = [python(slow(pause=0.2)) for _ in range(2)]
    results = sorted(answer(job) for job in jobs)
    digest = sha256(np.array(ids(*texts), np.uint16).tobytes())
    assert [result[2] for result in results] == [digest] * 2
    idle, busy = results
    assert idle[0] == 0 and "waiting for another job" in idle[1][0] and len(idle[1]) == 1
    assert busy[0] > 1 and not busy[1]
    assert len(copies(store)) == 1


def test_two_jobs_without_locks_end_with_one_good_copy(here: Path, store: Path) -> None:
    """As on an NFS mount whose server has no lock daemon."""
    texts = write_corpus(here)
    no_locks = "def flock(*_): raise OSError(37, 'No locks available')\nfiles.fcntl.flock = flock"
    jobs = [python(slow(pause=0.2, trap=no_locks)) for _ in range(2)]
    digest = sha256(np.array(ids(*texts), np.uint16).tobytes())
    for _, waited, found in (answer(job) for job in jobs):
        assert not waited and found == digest
    assert len(copies(store)) == 1


def test_a_waiting_job_takes_over_from_a_killed_one(here: Path, store: Path) -> None:
    write_corpus(here)
    first = python(slow(pause=60))
    assert first.stdout is not None and first.stdout.readline()
    second = python(slow(pause=0))
    time.sleep(1)
    first.kill()
    made, waited, _ = answer(second)
    assert made > 1 and len(waited) <= 1
    assert len(copies(store)) == 1
    first.communicate()


def test_what_a_killed_job_has_left_goes_when_nobody_has_written_to_it_for_a_while(
    here: Path, store: Path, small: None
) -> None:
    write_corpus(here)
    prepare("corpus", tokenizer(), cores=1)
    (copy,) = copies(store)
    damage(shards(copy)[0], "short")
    fresh, old = copy / ".train-00000.safetensors.fresh", copy / ".train-00000.safetensors.old"
    for leftover, age in ((fresh, 0.0), (old, stores.ABANDONED + 60)):
        leftover.write_bytes(b"half")
        os.utime(leftover, (time.time() - age,) * 2)
    prepare("corpus", tokenizer(), cores=1)
    assert fresh.exists() and not old.exists()


def test_the_lock_goes_with_the_work(here: Path, store: Path) -> None:
    write_corpus(here)
    prepare("corpus", tokenizer())
    (lock,) = store.glob("*.lock")
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        prepare("corpus", tokenizer())  # what is there is found without it


def test_progress_ends_with_the_number_of_tokens(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH", 300)
    write_corpus(here)
    seen: list[tuple[int, int | None]] = []
    tokens = prepare("corpus", tokenizer(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2280, 2280) and tokens.manifest["tokens"] == 2280
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and len(seen) > 5
    assert all(total is not None and abs(total - 2280) <= 57 for _, total in seen)  # estimated well from the start
    limited: list[tuple[int, int | None]] = []
    elsewhere = here / "elsewhere"
    prepare("corpus", tokenizer(), 700, lambda done, total: limited.append((done, total)), elsewhere)
    assert limited[-1] == (700, 700) and all(total == 700 for _, total in limited)


def test_progress_knows_no_end_where_a_set_does_not_say(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH", 100)
    hub.splits = {"train": [{"text": "words"}] * 100}
    seen: list[tuple[int, int | None]] = []
    prepare("owner/name", tokenizer(), progress=lambda done, total: seen.append((done, total)))
    assert seen[0][1] is None and seen[-1] == (600, 600)
