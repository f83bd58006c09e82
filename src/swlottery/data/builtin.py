"""The built-in text, there on every machine: the docstrings of the running Python's standard library and of torch."""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

BUILTIN_FORMAT = 2  # goes up whenever a change below makes other docstrings of the same sources, or stores them anew
MIN_DOCSTRING = 200  # characters; shorter ones are labels rather than prose
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3"}  # and *vendor*


def versions() -> tuple[str, str]:
    """Of the Python and the torch whose docstrings these are; other versions have others."""
    import platform
    from importlib.metadata import version

    return platform.python_version(), version("torch")


def docstrings() -> list[str]:
    """The documents of the built-in text: each docstring of the standard library, then each of the installed torch.

    They are read from source, nothing is imported: module after module by path, in source order, without those under
    `MIN_DOCSTRING` characters and without repetitions. That takes some 20 s, so they are kept in `cache_folder`;
    where that cannot be written they are collected anew each time.
    """
    python, torch = versions()
    cached = cache_folder() / f"builtin-python{python}-torch{torch}-format{BUILTIN_FORMAT}.json"
    with contextlib.suppress(OSError, ValueError):  # absent; neither UTF-8 nor JSON
        kept = json.loads(cached.read_bytes().decode("utf-8"))
        if isinstance(kept, list) and kept and all(isinstance(docstring, str) for docstring in kept):
            return kept
    with warnings.catch_warnings(), _without_collector():
        warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
        found = dict.fromkeys(docstring for module in _modules() for docstring in _docstrings(module))
    documents = [docstring.encode("utf-8", "replace").decode("utf-8") for docstring in found]  # no UTF-8 for "\ud800"
    _store(cached, json.dumps(documents, ensure_ascii=False).encode("utf-8"))
    return documents


def cache_folder() -> Path:
    """Where swlottery keeps what it can make again: $SWLOTTERY_CACHE, $XDG_CACHE_HOME/swlottery, ~/.cache/swlottery."""
    if own := os.environ.get("SWLOTTERY_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swlottery"


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Syntax trees are made and dropped by the million, none of them in a cycle: looking for cycles is a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
