"""Sources of text, read as streams of documents in pieces, so that no source is held in memory as a whole.

A source is the built-in text, a file, a folder, or a data set on the Hugging Face hub. A document is a docstring, a
file, a row of a data set; of WikiText, whose rows are lines, an article. A long file comes in several pieces.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.data import builtin, hub
from swlottery.data.folders import regular, text_files, unreadable
from swlottery.errors import BadInput
from swlottery.runtime.files import file_sha256

PIECE = 1 << 16  # bytes of a file that are read at once; tokenizing a piece takes a thousand times its size
BLANK_LINE = "\n\n"
ARTICLE = re.compile(r" = [^=].* = \n")  # the heading of a WikiText article; its sections have more signs

Piece = tuple[str, bool]
"""A part of a document, and whether it is the document's last."""


class Stream:
    """The pieces of a source, in order.

    start: returns them from the first one. rows: the rows of a data set, where each row is a document: the library can
    continue in their middle.
    """

    def __init__(self, start: Callable[[], Iterator[Piece]], rows: hub.Texts | None = None) -> None:
        self._start, self._rows = start, rows

    def pieces(self, skip: int = 0, place: Any = None) -> Iterator[Piece]:
        """The pieces after the first ``skip``. place: what `place` returned there, if that is known."""
        if skip and self._rows is not None and self._rows.go_to(place):
            return self._start()
        return itertools.islice(self._start(), skip, None)

    def place(self) -> Any:
        """Where the reading is, as JSON, if it can continue there without reading what comes before; else None."""
        return self._rows.place() if self._rows is not None else None


@dataclass(frozen=True)
class Opened:
    """The documents of a source; and of a data set on the hub its own validation documents, which may be none."""

    train: Stream
    validation: Stream | None = None
    bytes: int | None = None  # of train in UTF-8; None: not known
    revision: str | None = None  # the commit of a data set on the hub; None: not known


@dataclass(frozen=True)
class Source:
    """A source by its name."""

    name: str
    identity: str  # "text" and the hash of its documents; for a data set on the hub, "hub" and its name
    open: Callable[[str | None], Opened]  # with the commit of a data set on the hub; may need the network
    on_hub: bool = False
    note: str = ""  # what of a folder is left out


def is_on_hub(source: str) -> bool:
    """Whether ``source`` names a data set on the hub: a short name, or neither the built-in text nor a file or folder.

    A short name wins over a folder of that name, which is written ``./wikitext``.
    """
    return source in hub.HUB_SETS or (source != "builtin" and not os.path.exists(os.path.expanduser(source)))


def find_source(source: str) -> Source:
    """The source that ``source`` names, as `evaluation.read_text` says. Files are read once, for their hash.

    Raises `BadInput` for a source that does not exist or cannot be read.
    """
    if source == "builtin":
        return _builtin()
    if (local := local_files(source)) is not None:
        return _from_files(*local)
    name = hub.hub_id(source)
    return Source(name, f"hub {name}", lambda revision: _open_hub(name, revision), on_hub=True)


def local_files(source: str) -> tuple[str, list[Path], str] | None:
    """The name and the files of a source that is a file or a folder, and a note; None where it is neither."""
    if is_on_hub(source):
        return None
    path = Path(os.path.expanduser(source))
    if not path.is_dir():
        return source, [path], ""
    files, left_out = text_files(path)
    named = ", ".join(left_out[:3]) + ", …" * (len(left_out) > 3)
    read = f"only {', '.join(hub.TEXT_SUFFIXES)} are read, nothing hidden, and no folder twice"
    return f"{source} ({len(files)} files)", files, f"{len(left_out)} in {source} ({named}): {read}" * bool(left_out)


def builtin_name() -> str:
    """The name of the built-in text, with the versions that decide it."""
    return "builtin (docstrings of Python {} and torch {})".format(*builtin.versions())


def _builtin() -> Source:
    documents = builtin.docstrings()
    digest = hashlib.sha256(json.dumps(documents).encode()).hexdigest()
    size = sum(len(document.encode()) for document in documents)
    opened = Opened(Stream(lambda: _documents(documents)), bytes=size)
    return Source(builtin_name(), f"text {digest}", lambda _: opened)


def _from_files(name: str, files: list[Path], note: str) -> Source:
    """Identified by the files' contents and order: a copy elsewhere is the same source, a changed file another."""
    digest, size = hashlib.sha256(), 0
    for path in files:
        try:
            digest.update(bytes.fromhex(file_sha256(regular(path))))
            size += path.stat().st_size
        except OSError as error:
            raise unreadable(path, error) from error

    def pieces() -> Iterator[Piece]:
        return itertools.chain.from_iterable(_mark_last(read_pieces(path)) for path in files)

    return Source(name, f"text {digest.hexdigest()}", lambda _: Opened(Stream(pieces), bytes=size), note=note)


def _open_hub(name: str, revision: str | None) -> Opened:
    at = revision or hub.newest(name)
    splits = hub.open_set(name, at)
    train = hub.choose_split(name, splits, "train")
    info = getattr(splits[train], "info", None)  # absent where the data set's card has no sizes
    size = getattr((getattr(info, "splits", None) or {}).get(train), "num_bytes", None)
    validation = _stream(name, splits.get("validation", ()))
    return Opened(_stream(name, splits[train]), validation, size or None, at)


def _stream(name: str, rows: hub.Rows) -> Stream:
    texts = hub.Texts(name, rows)
    if name.startswith("Salesforce/wikitext:"):  # an article is known to end when the next one's row has been read
        return Stream(lambda: _documents(_articles(texts.read())))
    return Stream(lambda: _documents(texts.read()), texts)


def _articles(lines: Iterable[str]) -> Iterator[str]:
    article: list[str] = []
    for line in lines:
        if ARTICLE.fullmatch(line):
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)


def _documents(texts: Iterable[str]) -> Iterator[Piece]:
    """Documents of one piece each, without blank ones."""
    return ((text, True) for text in texts if text.strip())


def _mark_last(pieces: Iterator[str]) -> Iterator[Piece]:
    """The pieces of one document, the last one marked; nothing for a blank document."""
    before, count = next(pieces, ""), 1
    for piece in pieces:
        yield before, False
        before, count = piece, count + 1
    if count > 1 or before.strip():
        yield before, True


def read_pieces(path: Path) -> Iterator[str]:
    """A file in pieces of about `PIECE` bytes, cut before a blank line; else before a line end, a space, anywhere.

    GPT-2's tokenizer splits before white space anyway, so the pieces have the tokens of the uncut text.

    Raises `BadInput` for a file that cannot be read, is not UTF-8, or holds NUL bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, read, block = "", 0, bytes(PIECE)
    try:
        with path.open("rb") as file:
            while len(block) == PIECE:
                block = file.read(PIECE)
                held += decoder.decode(block, final=len(block) < PIECE)
                if (at := block.find(0)) >= 0:
                    raise BadInput(f"{path} is no text (byte {read + at} is NUL): give text, converted to UTF-8")
                read += len(block)
                cut = _cut(held) if len(block) == PIECE else len(held)
                yield held[:cut]
                held = held[cut:]
    except UnicodeDecodeError as error:  # error.object is what was left of the block before, and this block
        byte = read + len(block) - len(error.object) + error.start
        raise BadInput(f"{path} is not UTF-8 (byte {byte}: {error.reason}): convert it to UTF-8") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _cut(text: str) -> int:
    for space in (BLANK_LINE, "\n", " "):
        if cut := len(text[: max(text.rfind(space), 0)].rstrip()):
            return cut
    return len(text)


def no_text(name: str) -> BadInput:
    return BadInput(f"{name} holds no text: give another file, folder or data set, or 'builtin'")
