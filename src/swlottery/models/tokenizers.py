"""Reading a model's tokenizer with transformers, from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.models import configuration
from swlottery.models.refusals import in_one_line, is_readers, refuse_pointer, words

_UNREAD = ("tokenizer_config.json", "tokenizer.model", "tekken.json", "spiece.model")
"""Where a folder has these alone, the readers' words mislead: they propose packages that do not help."""
_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", *_UNREAD)


def load(where: str | Path, revision: str | None, name: str) -> tuple[Any, Any]:
    """(tokenizer, config) of a GGUF file, a folder or a hub id. Raises `BadInput` where there is none.

    name: what the user called it.
    """
    local = isinstance(where, Path)
    options: dict[str, Any] = {"revision": revision, "local_files_only": local}
    if isinstance(where, Path) and where.is_file():
        from swlottery.models import gguf

        return gguf.read_tokenizer(where)
    with in_one_line(name, local):
        config = configuration.read(where, options)
        return read(where, config, options | {"revision": config._commit_hash}), config


def load_alone(where: str | Path) -> Any:
    """The tokenizer of a folder or a hub id, with a model or without one. Raises `BadInput` where there is none."""
    local = isinstance(where, Path)
    with in_one_line(str(where), local):
        return read(where, None, {"revision": None, "local_files_only": local})


def read(where: str | Path, config: Any, options: dict[str, Any]) -> Any:
    """The tokenizer that belongs to a config, or to none. Raises `BadInput` for a folder where there is none."""
    from transformers import AutoTokenizer

    there = [name for name in _FILES if isinstance(where, Path) and (where / name).is_file()]
    for name in there:
        refuse_pointer(Path(where, name))
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, config=config, trust_remote_code=False, **options)
        tokenizer("")  # some faults show only here
        if len(tokenizer) > len(tokenizer.all_special_tokens):
            return tokenizer
        cause = "it has no tokens but special ones"
    except BaseException as error:
        if not isinstance(where, Path) or not is_readers(error):
            raise
        cause = words(error)
    if isinstance(where, Path) and "tokenizer.json" not in there:
        cause = "" if {*there} <= {*_UNREAD} else f": {cause}"
        instead = f" (only {', '.join(there)}{cause})" if there else ""
        raise BadInput(
            f"no tokenizer in {where}{instead}: put the model's tokenizer.json there, which `save_pretrained` of its "
            "tokenizer writes"
        )
    raise BadInput(
        f"cannot read the tokenizer of {where} ({cause}): it is damaged, or of a newer release: get its files again, "
        "or update transformers and tokenizers"
    )
