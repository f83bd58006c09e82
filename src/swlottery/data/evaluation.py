"""Text to evaluate on, and the windows of tokens made of it.

A source (the built-in text, a file, a folder, a data set on the Hugging Face hub) becomes one `Text`. A `Text` becomes
windows of tokens. The windows of an evaluation are its *documents*: the units that its bootstrap draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.data import builtin, hub
from swlottery.data.sources import BLANK_LINE, builtin_name, local_files, no_text, read_pieces
from swlottery.data.vocabulary import tokenizing, unknown_share
from swlottery.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

MAX_CHARACTERS = 8_000_000  # of a hub data set, see `read_text`
DOCUMENTS = 32  # of an evaluation, at least; fewer than 30 show too little of their spread for a bootstrap
MIN_WINDOW = 16  # tokens; less context says little about a model made for much more
CHARACTERS_PER_TOKEN = 40  # ten times the usual four, so that a text of this length has enough tokens


@dataclass(frozen=True)
class Text:
    """A text, where it came from, and the hash of its UTF-8, which shows whether two runs read the same text.

    note: what of a folder is left out.
    """

    name: str
    content: str
    sha256: str
    note: str = ""


def _text(name: str, content: str, note: str = "") -> Text:
    if not content or content.isspace():
        raise no_text(name)
    return Text(name, content, hashlib.sha256(content.encode()).hexdigest(), note)


def read_text(source: str) -> Text:
    """The text that ``source`` names: ``builtin`` or a short name; else a file or folder; else a data set on the hub.

    A folder is its .txt, .md and .rst files, at any depth, in the order of their relative paths. A data set is
    ``wikitext``, ``openwebtext``, ``owner/name`` or ``owner/name:config``; its rows are streamed from the split
    test (validation or train where it has none) up to `MAX_CHARACTERS`, about two million tokens. An evaluation
    reads less, and a data set may hold terabytes. Blank lines join files, and rows.

    Raises `BadInput` for a source that does not exist, cannot be reached or read, is not UTF-8, or holds no text.
    """
    if source == "builtin":
        return builtin_text()
    if (local := local_files(source)) is not None:
        name, files, note = local
        return _text(name, BLANK_LINE.join("".join(read_pieces(path)) for path in files), note)
    name = hub.hub_id(source)
    splits = hub.open_set(name)
    chosen = hub.choose_split(name, splits, "test", "validation", "train")
    content = _join(hub.Texts(name, splits[chosen]).read())
    cut = f", first {MAX_CHARACTERS:,} characters" if len(content) == MAX_CHARACTERS else ""
    return _text(f"{name} ({chosen}{cut})", content)


def builtin_text() -> Text:
    """The built-in text: the docstrings of `swlottery.data.builtin`, joined by blank lines."""
    return _text(builtin_name(), BLANK_LINE.join(builtin.docstrings()))


def _join(rows: Iterable[str]) -> str:
    """All rows, also empty ones, as in transformers' guide to perplexity, so that its numbers on WikiText compare."""
    pieces: list[str] = []
    characters = 0
    for row in rows:
        pieces.append(row)
        characters += len(row) + len(BLANK_LINE)
        if characters >= MAX_CHARACTERS + len(BLANK_LINE):  # no blank line follows the last piece
            break
    return BLANK_LINE.join(pieces)[:MAX_CHARACTERS]


def windows(ids: Sequence[int], count: int, length: int, prefix: Sequence[int] = ()) -> Tensor:
    """``count`` documents of one text: a LongTensor (count, length), in the text's order and without overlap.

    Each row is ``prefix`` (what the tokenizer puts before a text, such as BOS) and then text, ``length`` tokens in all.
    The first row starts where the text starts, the last ends where it ends, the rest lie evenly between.

    A bootstrap draws these rows. They are equally long, so the mean over documents is the mean over tokens. They do not
    overlap, so they are nearly independent. Raises `BadInput` for a text that is too short.
    """
    import torch

    body = length - len(prefix)
    if count < 1 or body < 1:
        raise ValueError(f"{count} windows of {length} tokens, {len(prefix)} of them a prefix")
    if len(ids) < count * body:
        raise BadInput(
            f"the text has {len(ids)} tokens, but {count} windows of {length} need {count * body}: "
            f"give a longer text, or ask for fewer tokens (--eval-tokens)"
        )
    rows = [[*prefix, *ids[start : start + body]] for start in evenly(len(ids), body, count)]
    return torch.tensor(rows, dtype=torch.long)


def evenly(total: int, size: int, count: int) -> list[int]:
    """The starts of ``count`` windows of ``size``, evenly spread over ``total`` ≥ count × size tokens."""
    return [i * (total - size) // max(count - 1, 1) for i in range(count)]


def evaluation_windows(text: Text, tokenizer: Any, tokens: int, context: int) -> Tensor:
    """The documents of an evaluation: a LongTensor (documents, length) of at most ``tokens`` tokens.

    There are `DOCUMENTS`, as long as ``tokens`` and the model's ``context`` allow. There are more where ``tokens`` fill
    more windows of the full context. Raises `BadInput` for windows under `MIN_WINDOW` tokens, and for a text that is
    too short, or of which the tokenizer knows nothing.
    """
    length, shortest = min(context, tokens // DOCUMENTS), min(context, MIN_WINDOW)
    if length < shortest:
        raise BadInput(
            f"{tokens} tokens are too few for {DOCUMENTS} documents of at least {shortest}: "
            f"set --eval-tokens to {DOCUMENTS * shortest} or more"
        )
    count = max(DOCUMENTS, tokens // context)
    # Tokenizing 8 MB takes a dozen seconds, nearly all for tokens that are in no window. So a long text is first cut
    # down to as many passages as windows, evenly spread and far longer than a window. Some windows then contain a seam
    # between two passages, as they may contain one between two files.
    content, size = text.content, CHARACTERS_PER_TOKEN * length
    if len(content) > count * size:
        content = BLANK_LINE.join(content[start : start + size] for start in evenly(len(content), size, count))
    # verbose=False: no warning that the text is longer than the model's context.
    with tokenizing(text.name):
        ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
        start = _start_tokens(tokenizer)[: length - 1]
    if unknown_share(ids, tokenizer) == 1:
        raise BadInput(f"the tokenizer knows nothing of {text.name}: give --eval-text a text that it knows")
    return windows(ids, count, length, start)


def _start_tokens(tokenizer: Any) -> list[int]:
    """The special tokens before a text, without those after it (OPT has the same one): what comes before a letter."""
    letter, text = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return list(text[: next((i for i in range(len(text)) if text[i : i + len(letter)] == letter), 0)])
