"""A small byte-level BPE tokenizer, for networks that start from scratch where no tokenizer can be downloaded."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from swlottery.data.evaluation import builtin_text
from swlottery.runtime import files, sums

VOCABULARY, SMALLEST = 8192, 257  # tokens; a byte-level one has one for each byte, and END
END = "<|endoftext|>"
_TRAINING_CHARACTERS = 4_000_000


def builtin_tokenizer(size: int = VOCABULARY) -> Any:
    """A ``PreTrainedTokenizerFast`` of ``size`` tokens, trained on the built-in text at first use and then cached.

    Other versions of Python and torch have other docstrings, so the cached file is named by the text's hash. As in
    GPT-2's tokenizer, the only special token is ``<|endoftext|>``, for both ends of a text; it is not added by itself.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = builtin_text()
    path = files.cache_folder() / f"bpe-{size}-{text.sha256[:16]}.json"
    tokenizer = None
    with contextlib.suppress(Exception):  # absent or damaged: trained again
        tokenizer = Tokenizer.from_str(json.dumps(sums.read_sealed(path)))
    if tokenizer is None:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([text.content[:_TRAINING_CHARACTERS]], trainer)
        with contextlib.suppress(OSError):
            files.write_json(path, sums.sealed(json.loads(tokenizer.to_str())))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)
