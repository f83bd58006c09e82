"""One line for the many ways in which transformers, tokenizers and safetensors say that they cannot read something."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swlottery.errors import BadInput

_UNREACHABLE = {"ConnectionError", "ConnectError", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "ProxyError"}
_LONGEST = 300  # characters of a library's own words
_POINTER = b"version https://git-lfs"


@contextmanager
def in_one_line(name: str, local: bool) -> Iterator[None]:
    """Whatever goes wrong while a model is read is a `BadInput`: the readers' errors are of any type.

    What they warn of is left out: it would be more lines.

    name: what the user called the model. local: it is a file or a folder, not a hub id.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadInput:
        raise
    except BaseException as error:
        if not is_readers(error):
            raise
        raise BadInput(_why_not_read(name, local, error)) from None


def is_readers(error: BaseException) -> bool:
    """Whether an error is one of the readers'. A panic of a library in Rust is no Exception, and neither is Ctrl-C."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def refuse_pointer(file: Path) -> None:
    """Refuse what git leaves in a large file's place where git-LFS is not installed."""
    with file.open("rb") as start:
        if start.read(len(_POINTER)) == _POINTER:
            raise BadInput(f"{file} is not the file itself but git-LFS's pointer to it: get it with `git lfs pull`")


def words(error: BaseException) -> str:
    """An error's own words in one line: its first line, and what it introduces."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    end = next((n for n, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    said = " ".join(lines[: end + 1])[:_LONGEST]
    plain = isinstance(error, (OSError, ValueError, RuntimeError)) or type(error) is Exception
    return said if plain and said else f"{type(error).__name__}: {said}".removesuffix(": ")


def _why_not_read(where: str, local: bool, error: BaseException) -> str:
    kinds = set()
    cause: BaseException | None = error
    while cause is not None:
        kinds.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    first = words(error)
    if "GatedRepoError" in kinds:
        return f"the model '{where}' is gated: accept its licence on the hub and log in with `hf auth login`"
    if "RevisionNotFoundError" in kinds:
        return f"the model '{where}' has no such revision: {first}"
    if "RepositoryNotFoundError" in kinds:
        return f"there is no model '{where}' on the hub (or it is private): check the name"
    if type(error).__name__ == "SafetensorError":
        return f"the weights of {where} are damaged ({first}): get them again"
    if isinstance(error, RuntimeError) and "mismatch" in str(error).lower():
        return f"the weights of {where} do not fit its config.json: get them again"
    if local:
        return f"cannot load {where}: {first}"
    if kinds & _UNREACHABLE or "couldn't connect" in str(error).lower() or "offline" in str(error).lower():
        return (
            f"cannot reach the hub for the model '{where}' and it is not in the local cache: check the name and the "
            "network, or fetch it first on a machine with network (hf download) and set HF_HUB_OFFLINE=1"
        )
    return f"cannot load the model '{where}': {first}"
