"""Text to evaluate on, and the windows of tokens made of it.

A source (the built-in text, a file, a folder, a data set on the Hugging Face hub) becomes one `Text`. A `Text` becomes
windows of tokens. The windows of an evaluation are its *documents*: the units that its bootstrap draws.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
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
QUICK_TOKENS = {"cpu": 1024, "gpu": 65_536}  # of the protocol quick, unless another number is asked for
WIKITEXT2_CONTEXT, WIKITEXT2_TOKENS = 2048, 65_536  # of the protocol wikitext2: 32 windows


@dataclass(frozen=True)
class Text:
    """A text, where it came from, and the hash of its UTF-8, which shows whether two runs read the same text.

    note: what of a folder is left out.
    """

    name: str
    content: str
    sha256: str
    note: str = ""


@dataclass(frozen=True)
class Documents:
    """The windows of an evaluation, ``[documents, tokens]``, and the size of the text that is scored in them.

    Scored is each token but the first of a window, which has nothing in front of it. words: separated by white space,
    where a part of a word at the end of a window counts as one. bytes: of its UTF-8.
    """

    windows: Tensor
    words: int
    bytes: int


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


def evaluation_text(source: str, protocol: str) -> Text:
    """The text that a protocol evaluates on: `read_text`'s; under ``wikitext2`` the raw test split of WikiText-2.

    It is streamed from the hub, or read from a file of it that ``source`` names. A line of the file is a row of the
    data set there, and a blank line an empty row; so both give the same text. Raises `BadInput` for other sources.
    """
    if protocol == "quick":
        return read_text(source)
    name = "wikitext" if source == "builtin" else source
    if os.path.isdir(os.path.expanduser(name)) and name != "wikitext":
        raise BadInput(f"--protocol wikitext2 reads one text, and {name} is a folder: give --eval-text the test file")
    if (local := local_files(name)) is not None:
        content = "".join(read_pieces(local[1][0]))
        return _text(name, BLANK_LINE.join(row if row.strip() else "" for row in io.StringIO(content, newline=None)))
    if hub.hub_id(name) != hub.HUB_SETS["wikitext"]:
        raise BadInput(f"--protocol wikitext2 is about wikitext, not {name}: leave --eval-text away, or give its file")
    return read_text(name)


def builtin_text() -> Text:
    """The built-in text: the docstrings of `swlottery.data.builtin`, joined by blank lines."""
    return _text(builtin_name(), BLANK_LINE.join(builtin.docstrings()))


def _join(rows: Iterable[str]) -> str:
    """All rows, also empty ones, as in transformers' guide to perplexity, so that its numbers on WikiText compare."""
    pieces, characters = list[str](), -len(BLANK_LINE)  # none is in front of the first
    for row in rows:
        pieces.append(row)
        characters += len(BLANK_LINE) + len(row)
        if characters >= MAX_CHARACTERS:
            break
    return BLANK_LINE.join(pieces)[:MAX_CHARACTERS]


def evenly(total: int, size: int, count: int) -> list[int]:
    """The starts of ``count`` windows of ``size``, evenly spread over ``total`` ≥ count × size tokens."""
    return [i * (total - size) // max(count - 1, 1) for i in range(count)]


def quick(text: Text, tokenizer: Any, tokens: int, context: int) -> Documents:
    """The documents of an evaluation: at most ``tokens`` tokens, evenly spread over the text.

    There are `DOCUMENTS`, as long as ``tokens`` and the model's ``context`` allow. There are more where ``tokens`` fill
    more windows of the full context. Each begins as the tokenizer begins a text. The first starts where the text
    starts, the last ends where it ends. They are equally long, so the mean over documents is the mean over tokens. They
    do not overlap, so they are nearly independent, as a bootstrap takes them to be. Raises `BadInput` for windows under
    `MIN_WINDOW` tokens, and for a text that is too short, or of which the tokenizer knows nothing.
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
    encoded = _Encoded(Text(text.name, content, text.sha256), tokenizer, special=False)
    prefix = start_tokens(tokenizer)[: length - 1]
    total, body = len(encoded.ids), length - len(prefix)
    if total < count * body:
        raise BadInput(
            f"the text has {total} tokens, but {count} windows of {length} need {count * body}: "
            f"give a longer text, or ask for fewer tokens (--eval-tokens)"
        )
    return encoded.documents([range(start, start + body) for start in evenly(total, body, count)], prefix)


def wikitext2(text: Text, tokenizer: Any, context: int) -> Documents:
    """The documents of the protocol ``wikitext2``: the first 32 windows of 2,048 tokens, one after the other.

    The text is tokenized once and as a whole, so a tokenizer that puts BOS in front does so once, in the first window
    (as transformers' guide to perplexity does). A shorter ``context`` has the same tokens in more windows, less what
    does not fill one. Raises `BadInput` for a text that is too short, or of which the tokenizer knows nothing.
    """
    encoded, length = _Encoded(text, tokenizer, special=True), min(context, WIKITEXT2_CONTEXT)
    if len(encoded.ids) < WIKITEXT2_TOKENS:
        raise BadInput(
            f"{text.name} has {len(encoded.ids)} tokens, but --protocol wikitext2 takes {WIKITEXT2_TOKENS}: "
            "give --eval-text the whole test file"
        )
    places = [range(start, start + length) for start in range(0, WIKITEXT2_TOKENS - length + 1, length)]
    return encoded.documents(places)


class _Encoded:
    """A text's tokens. special: with the tokens that the tokenizer puts around a text."""

    def __init__(self, text: Text, tokenizer: Any, special: bool) -> None:
        fast = bool(getattr(tokenizer, "is_fast", False))
        # verbose=False: no warning that the text is longer than the model's context.
        with tokenizing(text.name):
            made = tokenizer(
                text.content,
                add_special_tokens=special,
                verbose=False,
                **({"return_offsets_mapping": True} if fast else {}),
            )
        self.content, self.tokenizer, self.ids = text.content, tokenizer, made["input_ids"]
        # Where each token ends in the text; a special token, which has no place there, where the one before it ends.
        self.ends = list(accumulate((end for _, end in made["offset_mapping"]), max)) if fast else []
        if unknown_share(self.ids, tokenizer) == 1:
            raise BadInput(f"the tokenizer knows nothing of {text.name}: give --eval-text a text that it knows")

    def documents(self, places: Sequence[range], prefix: Sequence[int] = ()) -> Documents:
        """places: of the text's tokens in each window. The first of them is scored only behind a ``prefix``."""
        import torch

        windows = torch.tensor([[*prefix, *self.ids[place.start : place.stop]] for place in places])
        texts = [self._text(place.start + (not prefix), place.stop) for place in places]
        return Documents(windows, sum(len(one.split()) for one in texts), sum(len(one.encode()) for one in texts))

    def _text(self, first: int, end: int) -> str:
        if self.ends:  # from the end of the token before: some tokenizers leave the space in front of a token out
            return self.content[self.ends[first - 1] if first else 0 : self.ends[end - 1]]
        decoded: str = self.tokenizer.decode(self.ids[first:end])
        return decoded


def start_tokens(tokenizer: Any) -> list[int]:
    """The special tokens before a text, without those after it (OPT has the same one): what comes before a letter."""
    letter, text = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return list(text[: next((i for i in range(len(text)) if text[i : i + len(letter)] == letter), 0)])
