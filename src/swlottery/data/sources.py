"""Sources of text to train on, as streams of documents: no source is held in memory whole.

A document is a docstring of the built-in text, a file, a row of a hub data set; of WikiText, whose rows are lines, an
article. A long file comes in pieces.
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
from swlottery.data.evaluation import BLANK_LINE, not_utf8, text_files, unreadable
from swlottery.errors import BadInput

PIECE = 1 << 16  # bytes of a file that are read at once; tokenising one piece takes a thousand times its size
ARTICLE = re.compile(r" = [^=].* = \n")  # the heading of a WikiText article; its sections have more signs

Piece = tuple[str, bool]  # a stretch of a document, and whether the document ends with it


class Stream:
    """The pieces of a source in their order, from the first one on or from where an earlier reading has left off."""

    def __init__(self, start: Callable[[], Iterator[Piece]]) -> None:
        self._start = start

    def begin(self, skip: int = 0, place: Any = None) -> Iterator[Piece]:
        """The pieces behind the first ``skip``. place: what `place` said there, if it is known."""
        return itertools.islice(self._start(), skip, None)

    def place(self) -> Any:
        """Where the reading stands, as JSON, if it can go on there without reading what came before; else None."""
        return None


class RowStream(Stream):
    """The pieces of a data set whose rows are documents. The library knows how to go on in the middle."""

    def __init__(self, rows: hub.Texts) -> None:
        super().__init__(lambda: _whole(rows.read()))
        self._rows = rows

    def begin(self, skip: int = 0, place: Any = None) -> Iterator[Piece]:
        return _whole(self._rows.read()) if skip and self._rows.go_to(place) else super().begin(skip)

    def place(self) -> Any:
        return self._rows.place()


@dataclass(frozen=True)
class Opened:
    """The documents of a source, in their order; and its own validation documents, where it has some."""

    train: Stream
    validation: Stream | None = None
    bytes: int | None = None  # of the UTF-8 of train, as far as it is known
    revision: str | None = None  # of a data set on the hub: the commit that is read, as far as it is known


@dataclass(frozen=True)
class Source:
    """What a source is called, by what it is known again, and how it is opened (which may need the network)."""

    name: str
    identity: str  # the hash of its documents; of a data set on the hub, whose documents are not at hand, its name
    open: Callable[[str | None], Opened]  # at this commit, of a data set on the hub
    on_hub: bool = False


def is_on_hub(source: str) -> bool:
    """Whether ``source`` names a data set on the hub, and neither the built-in text nor a file or folder."""
    return source != "builtin" and not os.path.exists(os.path.expanduser(source))


def find_source(source: str) -> Source:
    """The source that ``source`` names, in the order of `swlottery.data.evaluation.read_text`: built-in, file, folder, hub.

    Files are read once, for their hash. Raises `BadInput` for a source that does not exist or cannot be read.
    """
    if source == "builtin":
        return _builtin()
    path = Path(os.path.expanduser(source))
    if source and os.path.isdir(path):
        files = text_files(path)
        return _files(f"{source} ({len(files)} files)", files)
    if source and os.path.exists(path):
        return _files(source, {"": path})
    name = hub.hub_id(source)
    return Source(name, f"hub {name}", lambda revision: _open_hub(name, revision), on_hub=True)


def _builtin() -> Source:
    documents = builtin.docstrings()
    name = "builtin (docstrings of Python {} and torch {})".format(*builtin.versions())
    digest = hashlib.sha256(json.dumps(documents).encode()).hexdigest()
    size = sum(len(document.encode()) for document in documents)
    return Source(name, f"text {digest}", lambda _: Opened(Stream(lambda: _whole(documents)), bytes=size))


def _files(name: str, files: dict[str, Path]) -> Source:
    """Known by the files' contents and order: a copy elsewhere is the same source, a file written anew is another."""
    digest, size = hashlib.sha256(), 0
    for path in files.values():
        if not path.is_file():
            raise BadInput(f"{path} is no regular file: copy what it holds into one")
        try:
            with path.open("rb") as file:
                content = hashlib.sha256()
                while block := file.read(PIECE):
                    content.update(block)
                    size += len(block)
        except OSError as error:
            raise unreadable(path, error) from error
        digest.update(content.digest())

    def pieces() -> Iterator[Piece]:
        return itertools.chain.from_iterable(_document(_read_pieces(path)) for path in files.values())

    return Source(name, f"text {digest.hexdigest()}", lambda _: Opened(Stream(pieces), bytes=size))


def _open_hub(name: str, revision: str | None) -> Opened:
    at = revision or hub.newest(name)
    splits = hub.open_set(name, at)
    train = hub.choose_split(name, splits, "train")
    validation = _rows(name, splits["validation"]) if "validation" in splits else None
    info = getattr(splits[train], "info", None)  # of a set whose card has no such numbers, nothing is known
    size = getattr((getattr(info, "splits", None) or {}).get(train), "num_bytes", None)
    return Opened(_rows(name, splits[train]), validation, size or None, at)


def _rows(name: str, rows: hub.Rows) -> Stream:
    texts = hub.Texts(name, rows)
    if name.startswith("Salesforce/wikitext:"):
        return Stream(lambda: _whole(_articles(texts.read())))  # an article ends where the next one's row is read
    return RowStream(texts)


def _articles(lines: Iterable[str]) -> Iterator[str]:
    article: list[str] = []
    for line in lines:
        if ARTICLE.fullmatch(line):
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)


def _whole(documents: Iterable[str]) -> Iterator[Piece]:
    return ((document, True) for document in documents if document.strip())


def _document(pieces: Iterator[str]) -> Iterator[Piece]:
    """The pieces of one document, its last marked; none of a document without text."""
    before, parts = next(pieces, ""), 1
    for piece in pieces:
        yield before, False
        before, parts = piece, parts + 1
    if parts > 1 or before.strip():
        yield before, True


def _read_pieces(path: Path) -> Iterator[str]:
    """A file in pieces of about `PIECE` bytes, cut before a blank line; else before a line's end, a blank, anywhere.

    Before white space GPT-2's tokenizer splits anyway, so the tokens of the pieces are those of the whole.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, read, block = "", 0, bytes(PIECE)
    try:
        with path.open("rb") as file:
            while len(block) == PIECE:
                block = file.read(PIECE)
                held += decoder.decode(block, final=len(block) < PIECE)
                read += len(block)
                cut = _cut(held) if len(block) == PIECE else len(held)
                yield held[:cut]
                held = held[cut:]
    except UnicodeDecodeError as error:  # of the block and what was left of the one before
        raise not_utf8(path, read + len(block) - len(error.object) + error.start, error.reason) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _cut(text: str) -> int:
    for space in (BLANK_LINE, "\n", " "):
        if cut := len(text[: max(text.rfind(space), 0)].rstrip()):
            return cut
    return len(text)
