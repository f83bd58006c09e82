"""Which files a source has: folders with links, hidden files and odd bytes; short names and folders of that name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import odd
from sources import FakeHub, refusal, tokenizer_with
from swlottery.config import TrainSettings
from swlottery.data.evaluation import read_text
from swlottery.data.folders import text_files
from swlottery.data.sources import find_source, is_on_hub
from swlottery.data.tokens import prepare, token_limit
from swlottery.lottery import start

pytestmark = pytest.mark.usefixtures("here")


def write(**contents: str) -> None:
    """Files of the folder ``corpus``; a double underscore is a slash, a single one a dot."""
    for name, content in contents.items():
        path = Path("corpus", name.replace("__", "/").replace("_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def files() -> list[str]:
    return [str(path.relative_to("corpus")) for path in text_files(Path("corpus"))[0]]


# --- Folders ---------------------------------------------------------------------------------------------------------


def test_suffixes_of_any_case_and_folders_behind_links_are_read() -> None:
    write(a_txt="1", C_TXT="2", d_Md="3")
    Path("elsewhere/deep").mkdir(parents=True)
    Path("elsewhere/deep/e.rst").write_text("4")
    Path("corpus/linked").symlink_to(Path("elsewhere").absolute())
    assert files() == ["C.TXT", "a.txt", "d.Md", "linked/deep/e.rst"]
    assert read_text("corpus").content == "2\n\n1\n\n3\n\n4" and read_text("corpus").note == ""


def test_links_that_loop_are_no_trap() -> None:
    write(a_txt="1", sub__b_txt="2")
    for name, target in {"self": "self", "up": "..", "sub/top": "..", "sub/round": ".", "here": "."}.items():
        Path("corpus", name).symlink_to(target)
    Path("outside.txt").write_text("no")  # beside corpus, and behind corpus/up
    assert files() == ["a.txt", "sub/b.txt"]
    assert text_files(Path("corpus"))[1] == ["here", "self", "sub/round", "sub/top", "up"]
    Path("one").mkdir()
    Path("two").mkdir()
    Path("one/two").symlink_to("../two")
    Path("two/one").symlink_to("../one")
    Path("two/x.txt").write_text("x")
    assert [str(path) for path in text_files(Path("one"))[0]] == ["one/two/x.txt"]


def test_a_folder_that_is_also_linked_to_is_read_once_and_under_its_own_name() -> None:
    write(z__x_txt="x", m_txt="m")
    before = find_source("corpus").identity
    Path("corpus/a").symlink_to("z")
    assert files() == ["m.txt", "z/x.txt"] and find_source("corpus").identity == before


def test_what_is_hidden_is_left_out_and_said() -> None:
    write(a_txt="word " * 500)
    before = find_source("corpus").identity
    for name in (".DS_Store", "._a.txt", ".git/HEAD.txt", "code.py", "NOTES"):
        Path("corpus", name).parent.mkdir(exist_ok=True)
        Path("corpus", name).write_bytes(b"\0\xff")
    source = find_source("corpus")
    assert source.identity == before and source.name == "corpus (1 files)"
    assert source.note.startswith("5 in corpus (.DS_Store, ._a.txt, .git, …): only .txt, .md, .rst are read")
    assert read_text("corpus").note == source.note
    said: list[str] = []
    prepare("corpus", tokenizer_with(), say=said.append)
    assert said == [f"left out: {source.note}"]


def test_both_logs_say_what_is_left_out() -> None:
    write(a_txt=odd.TEXT, b_dat="?", C_TXT=odd.TEXT)
    model = odd.model(Path("m"))
    for said in (odd.find(model, "--eval-text", "corpus"), odd.train(model, "--data", "corpus")):
        assert said.code == 0 and "left out" in said.out and "1 in corpus (b.dat)" in said.out, said


def test_a_hidden_folder_that_is_named_is_read() -> None:
    write(a_txt="1")
    Path("corpus").rename(".corpus")
    assert read_text(".corpus").content == "1"


@pytest.mark.parametrize("make", ["pipe", "dangling"])
def test_a_text_that_is_no_file_is_refused(make: str) -> None:
    write(a_txt="1")
    odd_one = Path("corpus/odd.txt")
    os.mkfifo(odd_one) if make == "pipe" else odd_one.symlink_to("nowhere")
    for of in (read_text, find_source):
        words = "odd.txt is no regular file" if make == "pipe" else "odd.txt is a link to nothing: remove or mend it"
        assert words in refusal("corpus", of=of)


def test_a_folder_that_cannot_be_listed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write(a_txt="1", locked__b_txt="2")
    listed = Path.iterdir

    def denied(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    assert "corpus/locked cannot be read (Permission denied)" in refusal("corpus", of=read_text)


# --- Bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"wo\0rds", "byte 2 is NUL"),
        (b"x" * 70_000 + b"\0", "byte 70000 is NUL"),
        ("words".encode("utf-16"), "is not UTF-8"),
        ("words".encode("utf-16-le"), "byte 1 is NUL"),
        (b"words \xed\xa0\x80", "is not UTF-8 (byte 6"),
    ],
    ids=["nul", "nul later", "utf-16", "utf-16 without mark", "surrogate"],
)
def test_what_is_no_text_is_refused(content: bytes, words: str) -> None:
    Path("x.txt").write_bytes(content)
    model = odd.model(Path("m"))
    odd.refused(odd.find(model, "--eval-text", "x.txt"), "x.txt", words)
    odd.refused(odd.train(model, "--data", "x.txt"), "x.txt", words)
    assert not Path("runs").exists() and not Path("super_weights").exists()


def test_a_device_without_end_is_refused() -> None:
    assert "/dev/zero is no text" in refusal("/dev/zero", of=read_text)
    assert "/dev/zero is no regular file" in refusal("/dev/zero", of=find_source)


MEASURED = """
import resource, sys
import odd
said = (odd.find if sys.argv[-2] != "--data" else odd.train)("m", *sys.argv[1:])
assert said.code == int(sys.argv[-1] == "p.txt") * 2, said
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [["--prompt-file", "p.txt"], ["--eval-text", "x.txt"], ["--data-tokens", "1000000", "--data", "x.txt"]]
)
def test_one_line_of_200_mb_takes_less_than_2_gb(flags: list[str]) -> None:
    odd.model(Path("m"))
    with Path(flags[-1]).open("wb") as file:
        file.write("🙂".encode())  # four bytes a character from here on
        for _ in range(200):
            file.write(b"x" * 1_000_000)
    python = [sys.executable, "-c", MEASURED, *flags]
    here = {"PYTHONPATH": os.pathsep.join([str(Path(odd.__file__).parent), *sys.path])}
    done = subprocess.run(python, env={**os.environ, **here}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2000


# --- Short names -----------------------------------------------------------------------------------------------------


def test_a_short_name_wins_over_a_folder_of_that_name(fake_hub: FakeHub, few_docstrings: None) -> None:
    fake_hub.splits = {"train": [{"text": "words " * 100}] * 100}
    for name in ("wikitext", "openwebtext", "builtin"):
        Path(name).mkdir()
        Path(name, "x.txt").write_text("a file")
    assert is_on_hub("wikitext") and not is_on_hub("./wikitext") and not is_on_hub("builtin")
    assert [find_source(name).on_hub for name in ("wikitext", "./wikitext", "openwebtext")] == [True, False, True]
    assert find_source("builtin").name.startswith("builtin (docstrings")
    assert find_source("./builtin").name == "./builtin (1 files)"
    assert prepare("openwebtext", tokenizer_with()).name == "Skylion007/openwebtext"

    def settings(data: str) -> TrainSettings:
        return TrainSettings(model="gpt2", start="scratch", data=data)

    assert start.tokenizer_name(settings("wikitext")) == "openai-community/gpt2"
    assert start.tokenizer_name(settings("./wikitext")) == "builtin"
    assert token_limit(settings("wikitext"), 32) is not None and token_limit(settings("./wikitext"), 32) is None
