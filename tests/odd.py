"""Inputs that are a little wrong: a tiny model whose files a test changes, and both commands on it, in this process."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from swlottery.cli import main
from tiny import CONFIGS, shrunk_model

TEXT = "The quick brown fox jumps over the lazy dog, again and again.\n\n" * 100


class Said(NamedTuple):
    """What a command answered: its exit code, and its two streams."""

    code: int
    out: str
    err: str


def model(folder: Path, kind: str = "gpt2", tokenizer: bool = True, **changes: Any) -> Path:
    """A tiny random model of any architecture, with a tokenizer that has one token a byte, <s> and </s>."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    changes = {"vocab_size": 300, **changes}
    if kind in CONFIGS:
        name, shape = CONFIGS[kind]
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**shape, **changes}))
    else:
        network = shrunk_model(kind, **changes)
    network.save_pretrained(folder)
    if tokenizer:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        inner = Tokenizer(models.BPE(vocab={letter: token for token, letter in enumerate(alphabet)}, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def change(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file, such as a model's config.json."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def find(name: str | Path, *flags: str) -> Said:
    """``swlottery find`` on a model, with little text and few draws, in this process and the working folder."""
    text = _text()
    few = ["--eval-text", text, "--eval-tokens", "640", "--controls", "2", "--null-draws", "3", "--device", "cpu"]
    return run("find", "--model", str(name), *few, *flags)


def train(name: str | Path, *flags: str) -> Said:
    """``swlottery train`` on a model: one round of four steps."""
    sizes = ["--context", "32", "--micro-batch", "2", "--steps", "4", "--rounds", "1", "--eval-steps", "4"]
    few = [*sizes, "--eval-sequences", "2", "--threads", "1", "--device", "cpu"]
    return run("train", "--model", str(name), "--data", _text(), *few, *flags)


def run(*arguments: str) -> Said:
    """A command in this process. A traceback is the test's failure."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # where another test has imported tqdm already
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as exit:  # of argparse, and of a signal
            code = int(exit.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def refused(said: Said, *words: str) -> str:
    """Check that a command answered bad input: exit code 2, one line on stderr, with these words. Returns the line."""
    assert said.code == 2, said
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


def _text() -> str:
    path = Path("t.txt")
    if not path.exists():
        path.write_text(TEXT, encoding="utf-8")
    return str(path)
