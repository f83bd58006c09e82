"""The built-in text, available on every machine: docstrings of the running Python's standard library and of torch."""

from __future__ import annotations

import ast
import contextlib
import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

from swlottery.runtime import files, sums
from swlottery.runtime.files import cache_folder

BUILTIN_FORMAT = 2  # goes up whenever a change below finds other docstrings in the same sources, or stores them anew
MIN_DOCSTRING = 200  # characters; shorter ones are labels rather than prose
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3"}  # and *vendor*


def versions() -> tuple[str, str]:
    """The versions of Python and torch, which decide the docstrings."""
    import platform
    from importlib.metadata import version

    return platform.python_version(), version("torch")


def docstrings() -> list[str]:
    """The documents of the built-in text: each docstring of the standard library, then each of the installed torch.

    They are read from source without importing anything: modules by path, docstrings in source order, without
    repetitions and those under `MIN_DOCSTRING` characters. That takes some 20 s, so `cache_folder` keeps them; where it
    cannot be written, they are collected each time.
    """
    python, torch = versions()
    cached = cache_folder() / f"builtin-python{python}-torch{torch}-format{BUILTIN_FORMAT}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):  # absent; damaged
        kept = sums.read_sealed(cached)["docstrings"]
        if isinstance(kept, list) and kept and all(isinstance(docstring, str) for docstring in kept):
            return kept
    with warnings.catch_warnings(), _garbage_collection_off():
        warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
        found = dict.fromkeys(docstring for module in _modules() for docstring in _docstrings(module))
    documents = [docstring.encode("utf-8", "replace").decode("utf-8") for docstring in found]  # no UTF-8 for "\ud800"
    with contextlib.suppress(OSError):
        files.write_json(cached, sums.sealed({"docstrings": documents}))
    return documents


@contextlib.contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Syntax trees have millions of nodes and no cycles; looking for cycles takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _modules() -> Iterator[Path]:
    import sysconfig
    from importlib.util import find_spec

    torch = find_spec("torch")  # finds a top-level package without importing it
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
            docstring = ast.get_docstring(node) or ""  # dedented by inspect.cleandoc
            if len(docstring) >= MIN_DOCSTRING:
                yield docstring
        statements = ast.stmt | ast.excepthandler | ast.match_case  # expressions contain no definition
        stack.extend(reversed([child for child in ast.iter_child_nodes(node) if isinstance(child, statements)]))
