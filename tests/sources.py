"""What the tests of text and data share: a tokenizer, a hub, other processes, and refusals in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import swlottery
from swlottery.errors import BadInput


def refusal(*args: Any, of: Any, **kwargs: Any) -> str:
    """The one line that `of` refuses its arguments with."""
    with pytest.raises(BadInput) as caught:
        of(*args, **kwargs)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs the code, with the package and these helpers in reach."""
    folders = (Path(swlottery.__file__).parents[1], Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> Any:
    """What the process printed, as JSON on its last line."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


class LedgerTokenizer:
    """A token a byte, at a pace; each call is told to a file: the process that it was in, and how its text begins.

    It imports nothing, so that a process which uses it is there at once.
    """

    eos_token_id = 256

    def __init__(self, ledger: str, seconds: float = 0.0) -> None:
        self.ledger, self.seconds = ledger, seconds

    def get_vocab(self) -> dict[str, int]:
        return {str(token): token for token in range(257)}

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        line = f"{os.getpid()} {texts[0][:8]}\n".encode()
        number = os.open(self.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(number, line)
        os.close(number)
        time.sleep(self.seconds)
        return {"input_ids": [list(text.encode()) for text in texts]}


class FakeHub:
    """Stands for ``datasets.load_dataset``: what it was asked, and the splits that it answers with."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.splits: dict[str, Any] = {"test": [{"text": "words"}]}
        self.commit: str | None = "a" * 40  # the newest; None: it cannot be asked
        self.read: list[str | None] = []  # the commits that were asked for

    def load_dataset(
        self, name: str, config: str | None, *, streaming: bool, revision: str | None = None
    ) -> dict[str, Any]:
        assert streaming
        self.asked.append((name, config))
        self.read.append(revision)
        return self.splits


def tokenizer_with(before: str = "", after: str = "", **settings: Any) -> Any:
    """A byte-level tokenizer with a token a byte, ``<s>`` (0) or ``</s>`` (1) put around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=258, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    inner.train_from_iterator(["words words"], trainer)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, **settings)
