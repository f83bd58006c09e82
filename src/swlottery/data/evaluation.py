"""Text to evaluate on, and the windows of tokens made of it.

A source (the built-in text, a file, a folder, a data set on the Hugging Face hub) becomes one `Text`; a `Text` becomes
windows of tokens. The windows of an evaluation are its *documents*: the unit over which its bootstrap draws.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.data import builtin, hub
from swlottery.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

MAX_CHARACTERS = 8_000_000  # of a hub data set, see `read_text`
BLANK_LINE = "\n\n"

MIN_DOCUMENTS = 30  # fewer show too little of the spread between documents for a bootstrap over them
MIN_WINDOW = 16  # tokens; less context says little about a model made for much more
CHARACTERS_PER_TOKEN = 40  # ten times the usual four: so long a text surely has the tokens that are wanted of it


@dataclass(frozen=True)
class Text:
    """A text, where it came from, and the hash of its UTF-8 by which two runs know that they read the same."""

    name: str
    content: str
    sha256: str

    @property
    def characters(self) -> int:
        return len(self.content)


def _text(name: str, content: str) -> Text:
    if not content.strip():
        raise BadInput(f"{name} holds no text: give another file, folder or data set, or 'builtin'")
    return Text(name, content, hashlib.sha256(content.encode()).hexdigest())


def read_text(source: str, split: str = "test") -> Text:
    """The text that ``source`` names: ``builtin``; else a file; else a folder; else a data set on the hub.

    A folder is its .txt, .md and .rst files, at any depth, in the order of their relative paths. A data set is
    ``wikitext``, ``openwebtext``, ``owner/name`` or ``owner/name:config``; its rows are streamed from ``split`` (from
    validation or train where it has no such split) up to `MAX_CHARACTERS`: about two million tokens, more than an
    evaluation reads, out of sets that may hold terabytes. Blank lines join files, and rows.

    Raises `BadInput` for a source that does not exist, cannot be reached or read, is not UTF-8, or holds no text.
    """
    if source == "builtin":
        return builtin_text()
    path = Path(os.path.expanduser(source))
    if source and os.path.isdir(path):
        files = text_files(path)
        return _text(f"{source} ({len(files)} files)", BLANK_LINE.join(map(_read_utf8, files.values())))
    if source and os.path.exists(path):
        return _text(source, _read_utf8(path))
    name = hub.hub_id(source)
    splits = hub.open_set(name)
    chosen = hub.choose_split(name, splits, split, "validation", "train")
    content = _join(hub.texts(name, splits[chosen]))
    cut = f", first {MAX_CHARACTERS:,} characters" if len(content) == MAX_CHARACTERS else ""
    return _text(f"{name} ({chosen}{cut})", content)


def builtin_text() -> Text:
    """The built-in text: the docstrings of `swlottery.data.builtin`, joined by blank lines. Other versions, other text."""
    python, torch = builtin.versions()
    return _text(f"builtin (docstrings of Python {python} and torch {torch})", BLANK_LINE.join(builtin.docstrings()))


def text_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that hold text, by their relative paths and in the order of these; `BadInput` for none."""
    paths = (path for path in folder.rglob("*") if path.suffix in hub.TEXT_SUFFIXES)
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    if not found:
        raise BadInput(f"folder {folder} holds no {', '.join(hub.TEXT_SUFFIXES)} file: give a file, or another folder")
    return {name: found[name] for name in sorted(found)}


def _read_utf8(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error.start, error.reason) from error
    except OSError as error:
        raise unreadable(path, error) from error


def not_utf8(path: Path, byte: int, reason: str) -> BadInput:
    return BadInput(f"{path} is not UTF-8 (byte {byte}: {reason}): convert it to UTF-8")


def unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"{path} cannot be read ({error.strerror}): check its permissions, or give another")


def _join(rows: Iterable[str]) -> str:
    """All rows, empty ones too, as in the guide to perplexity of transformers: its figures on WikiText compare."""
    pieces: list[str] = []
    characters = 0
    for row in rows:
        pieces.append(row)
        characters += len(row) + len(BLANK_LINE)
        if characters >= MAX_CHARACTERS + len(BLANK_LINE):  # no blank line follows the last piece
            break
    return BLANK_LINE.join(pieces)[:MAX_CHARACTERS]


def windows(ids: Sequence[int], count: int, length: int, prefix: Sequence[int] = ()) -> Tensor:
    """``count`` documents of one text: a LongTensor (count, length) whose rows do not overlap, in the text's order.

    Each row is ``prefix`` (what the tokenizer puts at a start, as BOS) and then text, ``length`` tokens in all. The
    first row starts where the text does, the last ends where it ends, the rest lie evenly between.

    A bootstrap draws these rows. They are equally long, so that the mean over documents is the mean over tokens, and
    apart from each other, so that they are nearly independent. Raises `BadInput` for a text too short.
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
    """Where ``count`` stretches of ``size`` start, evenly spread over ``total`` ≥ count × size: from 0 to its end."""
    return [i * (total - size) // max(count - 1, 1) for i in range(count)]


def evaluation_windows(text: Text, tokenizer: Any, tokens: int, context: int, documents: int = 32) -> Tensor:
    """The documents of an evaluation: a LongTensor (documents, length) of at most ``tokens`` tokens.

    There are ``documents`` (never fewer than `MIN_DOCUMENTS`), as long as ``tokens`` and the model's ``context``
    allow; and more where ``tokens`` fill more windows of the whole context. Raises `BadInput` for windows under
    `MIN_WINDOW` tokens and for a text too short.
    """
    documents = max(documents, MIN_DOCUMENTS)
    length, shortest = min(context, tokens // documents), min(context, MIN_WINDOW)
    if length < shortest:
        raise BadInput(
            f"{tokens} tokens are too few for {documents} documents of at least {shortest}: "
            f"set --eval-tokens to {documents * shortest} or more"
        )
    count = max(documents, tokens // context)
    # Tokenising 8 MB takes a dozen seconds, nearly all for tokens that no window shows. So a long text is first thinned
    # to as many passages as windows, evenly spread and far longer than a window: these still come from all over it.
    # Some windows then hold a seam between two passages, as there is one wherever files meet.
    content, size = text.content, CHARACTERS_PER_TOKEN * length
    if len(content) > count * size:
        content = BLANK_LINE.join(content[start : start + size] for start in evenly(len(content), size, count))
    # verbose=False: without the warning that the whole text is longer than the model's context, as it may well be.
    ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
    return windows(ids, count, length, _start_tokens(tokenizer))


def _start_tokens(tokenizer: Any) -> list[int]:
    """The special tokens before a text, without those after it; seen around a letter, as OPT's are one and the same."""
    letter, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return list(whole[: next((i for i in range(len(whole)) if whole[i : i + len(letter)] == letter), 0)])
