"""Text, and the tokens made of it.

A source (the built-in text, a file, a folder, a data set on the Hugging Face hub) becomes one `Text`; a `Text` becomes
windows of tokens. The windows of an evaluation are its *documents*: the unit over which its bootstrap draws.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import textwrap
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

MAX_CHARACTERS = 8_000_000  # of a hub data set, see `read_text`
TEXT_SUFFIXES = (".txt", ".md", ".rst")
BLANK_LINE = "\n\n"
HUB_SETS = {"wikitext": "Salesforce/wikitext:wikitext-2-raw-v1", "openwebtext": "Skylion007/openwebtext"}
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(:[^\s/]+)?")  # owner/name or owner/name:config

BUILTIN_FORMAT = 1  # goes up whenever a change below makes another built-in text of the same sources
MIN_DOCSTRING = 200  # characters; shorter ones are labels rather than prose
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3"}  # and *vendor*

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
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.suffix in TEXT_SUFFIXES}
        if not files:
            raise BadInput(f"folder {source} holds no {', '.join(TEXT_SUFFIXES)} file: give a file, or another folder")
        return _text(f"{source} ({len(files)} files)", BLANK_LINE.join(_read_utf8(files[key]) for key in sorted(files)))
    if source and os.path.exists(path):
        return _text(source, _read_utf8(path))
    hub_id = HUB_SETS.get(source, source)
    if not HUB_ID.fullmatch(hub_id) or hub_id.endswith(TEXT_SUFFIXES):
        raise BadInput(
            f"no such file or folder: {source!r} (a source of text is 'builtin', a file, a folder, "
            f"{', '.join(map(repr, HUB_SETS))}, or a hub data set as owner/name or owner/name:config)"
        )
    return _hub_text(hub_id, split)


def _read_utf8(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}: {error.reason}): convert it to UTF-8") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): check its permissions, or give another") from error


def _hub_text(hub_id: str, split: str) -> Text:
    from datasets import load_dataset

    name, _, config = hub_id.partition(":")
    try:
        splits = load_dataset(name, config or None, streaming=True)
        found = [wanted for wanted in (split, "validation", "train") if wanted in splits]
        if not found:
            raise BadInput(f"data set {hub_id} has no split {split}, only {', '.join(splits)}: give a file instead")
        content = _join_rows(hub_id, splits[found[0]])
    except BadInput:
        raise
    except Exception as error:  # network, hub, login, file formats: the library has no common exception for them
        load = f"datasets.load_dataset({', '.join(repr(part) for part in (name, config) if part)})"
        raise BadInput(
            f"data set {hub_id} cannot be read ({textwrap.shorten(str(error), 250)}): check its name, and your login "
            f"if it is gated; without network give a file, a folder or 'builtin', or run {load} on the login node "
            f"and then set HF_HUB_OFFLINE=1"
        ) from error
    cut = f", first {MAX_CHARACTERS:,} characters" if len(content) == MAX_CHARACTERS else ""
    return _text(f"{hub_id} ({found[0]}{cut})", content)


def _join_rows(hub_id: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """All rows, empty ones too, as in the guide to perplexity of transformers: its figures on WikiText compare."""
    pieces: list[str] = []
    column, characters = "", 0
    for row in rows:
        if not column:
            strings = [key for key, value in row.items() if isinstance(value, str)]
            if "text" not in row and len(strings) != 1:
                raise BadInput(f"data set {hub_id} has no column 'text' among {', '.join(row)}: save one as a file")
            column = "text" if "text" in row else strings[0]
        pieces.append(row[column] or "")
        characters += len(pieces[-1]) + len(BLANK_LINE)
        if characters >= MAX_CHARACTERS + len(BLANK_LINE):  # no blank line follows the last piece
            break
    return BLANK_LINE.join(pieces)[:MAX_CHARACTERS]


def builtin_text() -> Text:
    """The docstrings of the running Python's standard library and of the installed torch: text that is always there.

    They are read from source, nothing is imported: module after module by path, in source order, without those under
    `MIN_DOCSTRING` characters and without repetitions. That takes some 20 s, so the text is kept in `cache_folder`;
    where that cannot be written it is made anew each time. Other versions give another text, and another name.
    """
    import platform
    from importlib.metadata import version

    python, torch = platform.python_version(), version("torch")
    cached = cache_folder() / f"builtin-python{python}-torch{torch}-format{BUILTIN_FORMAT}.txt"
    content = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        content = cached.read_bytes().decode("utf-8")
    if not content:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
            docstrings = dict.fromkeys(docstring for module in _modules() for docstring in _docstrings(module))
        content = BLANK_LINE.join(docstrings).encode("utf-8", "replace").decode("utf-8")  # "\ud800" is not in UTF-8
        _store(cached, content.encode("utf-8"))
    return _text(f"builtin (docstrings of Python {python} and torch {torch})", content)


def cache_folder() -> Path:
    """Where swlottery keeps what it can make again: $SWLOTTERY_CACHE, $XDG_CACHE_HOME/swlottery, ~/.cache/swlottery."""
    if own := os.environ.get("SWLOTTERY_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swlottery"


def _store(path: Path, content: bytes) -> None:
    """Write the file whole or not at all, at first under a name of its own: two jobs may be doing the same."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _modules() -> Iterator[Path]:
    import sysconfig
    from importlib.util import find_spec

    torch = find_spec("torch")  # a top-level package is found without importing it
    assert torch is not None and torch.origin is not None, "swlottery requires torch"
    for folder in (Path(sysconfig.get_path("stdlib")), Path(torch.origin).parent):
        modules = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
        for name in sorted(modules):
            if not any(part in LEFT_OUT or "vendor" in part for part in name.split("/")[:-1]):
                yield modules[name]


def _docstrings(module: Path) -> Iterator[str]:
    try:
        stack: list[ast.AST] = [ast.parse(module.read_bytes())]
    except (OSError, SyntaxError, ValueError):  # unreadable, another Python's syntax, not text
        return
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""  # through inspect.cleandoc
            if len(docstring) >= MIN_DOCSTRING:
                yield docstring
        statements = ast.stmt | ast.excepthandler | ast.match_case  # no definition hides in an expression
        stack.extend(reversed([child for child in ast.iter_child_nodes(node) if isinstance(child, statements)]))


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
    rows = [[*prefix, *ids[start : start + body]] for start in _starts(len(ids), body, count)]
    return torch.tensor(rows, dtype=torch.long)


def _starts(total: int, size: int, count: int) -> list[int]:
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
        content = BLANK_LINE.join(content[start : start + size] for start in _starts(len(content), size, count))
    # verbose=False: without the warning that the whole text is longer than the model's context, as it may well be.
    ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
    return windows(ids, count, length, _start_tokens(tokenizer))


def _start_tokens(tokenizer: Any) -> list[int]:
    """The special tokens before a text, without those after it; seen around a letter, as OPT's are one and the same."""
    letter, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return list(whole[: next((i for i in range(len(whole)) if whole[i : i + len(letter)] == letter), 0)])
