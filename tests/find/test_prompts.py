"""Prompts: from files of any system, cut to short contexts, refused where nothing of them is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import odd
from swlottery.commands.find import PROMPTS, prompts
from swlottery.config import FindSettings
from swlottery.errors import BadInput

pytestmark = pytest.mark.usefixtures("here")


def read(content: bytes) -> list[str]:
    Path("prompts.txt").write_bytes(content)
    return prompts(FindSettings(model="m", prompt_file="prompts.txt"))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("\ufeffone\r\ntwo\r\n", ["one", "two"]),
        ("one\n\n \t\r\n\ntwo", ["one", "two"]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n", ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"]),
        ("one\rstill one\n two \n", ["one\rstill one", " two "]),
    ],
    ids=["windows", "blank lines", "separators", "spaces"],
)
def test_a_line_of_the_file_is_a_prompt(content: str, lines: list[str]) -> None:
    assert read(content.encode()) == lines


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty prompt"),
        (b"\xef\xbb\xbf\r\n \r\n", "empty prompt"),
        ("Grüße".encode("latin-1"), "prompts.txt is not UTF-8 .*: convert it"),
        ("words".encode("utf-16"), "prompts.txt is not UTF-8 .*: convert it"),
        ("words".encode("utf-16-le"), "is no text"),
        (b"one\ntw\0o\n", "is no text"),
        (b"\xed\xa0\x80", "prompts.txt is not UTF-8"),
        (b"x" * (PROMPTS + 1), "more than 4,000,000 bytes"),
    ],
    ids=["empty", "blank", "latin-1", "utf-16", "utf-16 without mark", "nul", "surrogate", "long"],
)
def test_what_is_no_file_of_prompts_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(content)


@pytest.mark.parametrize("name", [".", "/nowhere", "nul\0.txt", "/dev/zero"])
def test_what_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="--prompt-file"):
        prompts(FindSettings(model="m", prompt_file=name))


def test_half_a_character_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'a\\udcff' is no text"):  # as Python reads bytes of the command line
        prompts(FindSettings(model="m", prompt=["a\udcff"]))


def test_a_file_from_windows_is_found_with_line_by_line() -> None:
    model = odd.model(Path("m"))
    Path("p.txt").write_bytes("\ufeffA first prompt.\r\n\r\nA second\u2028one.\r\n".encode())
    said = odd.find(model, "--prompt-file", "p.txt", "--out", "r.json")
    assert said.code == 0, said.err
    assert json.loads(Path("r.json").read_text())["prompts"] == ["A first prompt.", "A second\u2028one."]


@pytest.mark.parametrize("context", [64, 16, 8, 4, 2])
def test_prompts_are_cut_to_a_short_context_and_the_log_says_it(context: int) -> None:
    said = odd.find(odd.model(Path("m"), n_positions=context), "--out", "r.json")
    assert said.code == 0, said.err
    assert f"of the prompts, to the model's context of {context} tokens" in said.out
    record = json.loads(Path("r.json").read_text())
    cut = [min(len(prompt), context - 1) for prompt in record["prompts"]]  # a token a byte
    assert record["probe_tokens"] == 2 * sum(cut) + len(cut)  # each with and without BOS
    assert record["eval_tokens"] // record["documents"] == min(context, 20)  # 640 tokens in 32 documents, or more


def test_a_prompt_that_just_fits_is_not_cut() -> None:
    model = odd.model(Path("m"), n_positions=16)
    for length, bos, cut in ((15, "both", ""), (16, "without", ""), (16, "both", "1 of the"), (17, "without", "1 of")):
        said = odd.find(model, "--prompt", "x" * length, "--bos", bos)
        assert said.code == 0 and ("cut  " in said.out) == bool(cut) and cut in said.out, said


@pytest.mark.parametrize("context", [64, 16, 4, 2])
def test_a_network_of_a_short_context_is_trained_and_looked_at(context: int) -> None:
    said = odd.train(odd.model(Path("m"), n_positions=context), "--context", str(context))
    assert said.code == 0, said.err


def test_a_network_that_takes_one_token_is_refused() -> None:
    model = odd.model(Path("m"), n_positions=1)
    odd.refused(odd.find(model), "takes 1 token at a time")
    odd.refused(odd.train(model), "takes 1 token at a time")
    assert not Path("runs").exists()


def test_a_long_prompt_among_many() -> None:
    odd.model(Path("m"))
    many = [*(f"Short one {number}." for number in range(20_000)), "And a long one: " + "x" * 200]
    Path("many.txt").write_text("\n".join(many))
    odd.refused(odd.find("m", "--prompt-file", "many.txt"), "20,001 prompts", "give fewer")


def test_a_prompt_that_is_given_twice_counts_once() -> None:
    odd.model(Path("m"))
    for name, given in (("once", ["One.", "Another one."]), ("twice", ["One.", "Another one.", "One."])):
        flags = [flag for prompt in given for flag in ("--prompt", prompt)]
        assert odd.find("m", "--out", f"{name}.json", *flags).code == 0
    once, twice = (json.loads(Path(f"{name}.json").read_text()) for name in ("once", "twice"))
    assert once["prompts"] == twice["prompts"] == ["One.", "Another one."]
    assert [once[key] for key in ("nulls", "leader")] == [twice[key] for key in ("nulls", "leader")]
