"""A small byte-level BPE tokenizer of our own, for networks that start from scratch where nothing can be fetched."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import Any

from swlottery.data.builtin import cache_folder
from swlottery.data.evaluation import builtin_text

VOCABULARY = 8192
END = "<|endoftext|>"
_TRAINING_CHARACTERS = 4_000_000


def builtin_tokenizer() -> Any:
    """A ``PreTrainedTokenizerFast`` of 8,192 tokens, trained on the built-in text at first use and then cached.

    Other versions of Python and torch have other docstrings, so the cache is named by the text's hash. Like GPT-2's,
    its only special token ``<|endoftext|>`` both begins and ends a text, and is not put there unasked.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = builtin_text()
    path = cache_folder() / f"bpe-{VOCABULARY}-{text.sha256[:16]}.json"
    tokenizer = None
    with contextlib.suppress(Exception):  # absent or damaged: made again
        tokenizer = Tokenizer.from_file(str(path))
    if tokenizer is None:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([text.content[:_TRAINING_CHARACTERS]], trainer)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            tokenizer.save(str(unfinished))
            os.replace(unfinished, path)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)
